"""Runs read back: forgiving, and saying so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soundcert.errors import RunError
from soundcert.runs import find_runs, open_run
from soundcert.runs.reading import name_of

RECORD = {
    "clip": "a.wav", "status": "certified", "candidate": "yes", "label": "yes", "truth": "yes", "count": 99, "n": 100,
    "n0": 10, "alpha": 0.001, "seed": 0, "bound": "one-sided", "sigma": 0.5, "p_lower": 0.9, "ceiling": 0.75,
    "saturated": False, "object_norm": 126.0, "radius": 0.64, "views": {"snr_db": 45.9, "r_over_sigma": 1.28},
    "digest": "00",
}  # fmt: skip


def make(path: Path, *, records: list[dict] | None = None, tail: bytes = b"", **info: object) -> Path:
    path.mkdir(parents=True)
    records = [RECORD] if records is None else records
    facts = {"format": 1, "clips": len(records), "contract": {"perturbation_location": "waveform"}, **info}
    (path / "run.json").write_text(json.dumps(facts))
    lines = "".join(json.dumps(r) + "\n" for r in records).encode()
    (path / "certificates.jsonl").write_bytes(lines + tail)
    return path


def test_a_whole_run_reads_without_a_warning(tmp_path):
    wrong = {**RECORD, "clip": "b", "truth": "no"}
    run = open_run(
        make(tmp_path / "r", records=[RECORD, wrong, {"clip": "c", "status": "failed", "reason": "x"}])
    )
    assert run.warnings == ()
    assert run.name == "r"
    assert run.finished
    assert [r["clip"] for r in run.good] == ["a.wav"]
    assert len(run.usable) == 2
    assert run.summary["smoothed_accuracy"] == 0.5
    assert run.about_waveform


def test_what_is_torn_missing_or_new_is_left_out_and_said(tmp_path):
    run = open_run(make(tmp_path / "torn", tail=b'{"clip": "b", "sta', clips=3))
    assert len(run.records) == 1
    assert any("line 2, is torn" in w for w in run.warnings)
    assert any("1 of 3 clips" in w for w in run.warnings)

    (tmp_path / "torn" / "certificates.jsonl").unlink()
    assert any("missing" in w for w in open_run(tmp_path / "torn").warnings)

    new = open_run(make(tmp_path / "new", records=[{**RECORD, "loudness": 3}], format=2))
    assert any("format 2" in w for w in new.warnings)
    assert any("loudness" in w for w in new.warnings)

    half = {k: v for k, v in RECORD.items() if k != "radius"}
    assert any("no radius" in w for w in open_run(make(tmp_path / "half", records=[half])).warnings)
    assert open_run(tmp_path / "half").records == ()
    assert any("not a record" in w for w in open_run(make(tmp_path / "odd", tail=b"[1]\n")).warnings)


def test_no_run_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match=r"not a run directory: it has no run\.json"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        open_run(tmp_path)


def test_a_count_of_clips_that_is_none_is_not_believed(tmp_path):
    for number, told in enumerate(("many", True, -3, 0, 2.0, 10**9 + 1, 10**400)):
        assert (
            open_run(
                make(tmp_path / str(number), records=[RECORD, {**RECORD, "clip": "b"}], clips=told)
            ).total
            == 2
        )
    assert open_run(make(tmp_path / "r", clips=10**9)).total == 10**9


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kws", "kws"), ("a/run-2", "run-2"), ("cells/sigma-0.5/run", "sigma-0.5/run"),
        ("cells/sigma-0.5/validation", "sigma-0.5/validation"), ("cells/esc/fold-1/run", "esc/fold-1/run"),
        ("cells/esc/fold-1", "esc/fold-1"),
    ],
)  # fmt: skip
def test_a_name_that_every_cell_has_is_told_with_the_folder_above(tmp_path, path, name):
    assert open_run(make(tmp_path / "x" / path)).name == name


def test_a_run_has_a_name_wherever_it_lies():
    assert name_of(Path("/run")) == "run"
    assert name_of(Path("/")) == ""


def test_runs_are_found_under_a_folder(tmp_path):
    make(tmp_path / "x" / "one")
    make(tmp_path / "two")
    assert {p.name for p in find_runs(tmp_path)} == {"one", "two"}
    assert len(find_runs(tmp_path, limit=1)) == 1
