"""The validity suite in short: what docs/validity.md reports, on a fraction of the repetitions."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("validity_suite", ROOT / "scripts" / "validity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PARTS = {
    "counts": ("fixed_rows", 2000),
    "policies": ("policy_rows", 100),
    "end to end": ("end_to_end_rows", 40),
    "chains": ("chain_rows", 2),
    "data sets": ("dataset_rows", 2000),
    "controls": ("control_rows", 20_000),
}


@pytest.mark.parametrize("part", PARTS)
def test_no_more_is_false_than_alpha_allows_and_controls_are_caught(suite, part):
    name, size = PARTS[part]
    rows = list(getattr(suite, name)(size))
    assert rows
    assert suite.sound(rows) == []
    if part == "counts":  # and the truths are where it shows: at the edge, α is attained
        half = [r for r in rows if r.name.startswith("half-space, ") and r.alpha == 0.05]
        assert all(r.violations > 0.5 * 0.05 * r.tried for r in half)
    if part == "controls":
        assert all(r.control for r in rows)


def test_the_judgement_fails_where_it_should(suite):
    row = suite.Row("s", "n", 1000, 100, 0.05, 0.0)
    assert row.p_value < 1e-9
    assert suite.sound([row]) and suite.sound([suite.Row("s", "n", 9, 1, None, 0.0)])
    assert suite.sound(
        [suite.Row("s", "n", 1000, 40, 0.05, 0.0, control=True)]
    )  # a control that was not caught
    assert not suite.sound([suite.Row("s", "n", 1000, 60, 0.05, 0.0), suite.Row("s", "n", 9, 0, None, 0.0)])


def test_the_page_is_of_a_long_run_in_which_all_was_well():
    page = (ROOT / "docs" / "validity.md").read_text(encoding="utf-8")
    (count,) = re.findall(r"\*\*([\d,]+) certifications\*\*", page)
    assert int(count.replace(",", "")) >= 1_000_000
    assert re.search(r"carried radii were attacked: 0 violations", page)
    for line in page.splitlines():
        cells = [c.strip() for c in line.split("|")]
        if len(cells) > 6 and cells[3].replace(",", "").isdigit() and cells[6]:
            assert float(cells[6]) > 1e-6 or line in page.split("## Controls")[1], line
