"""The documentation: links, flag pages, configs, commands and examples that work, figures that are right.

python tests/unit/test_docs.py --write     writes the table of orders in docs/contracts.md
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor, nn

import soundcert as sc
from soundcert.audit import audit
from soundcert.cli import app
from soundcert.config import Config, load_config
from soundcert.contract import read_contract
from soundcert.demo import demo_folder
from soundcert.errors import ConfigError, TransportError
from soundcert.flags import FLAGS
from soundcert.report.terminal import VIEWS, shown
from soundcert.runs.schema import record_schema
from soundcert.stages import Model, Resample, Stage, known_stages
from soundcert.stages import base as stages_base
from soundcert.transport import carry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BEGIN, END = "<!-- begin: orders -->\n", "<!-- end: orders -->"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(page: Path, language: str) -> list[str]:
    """Return the contents of a page's fenced blocks whose info string is exactly `language`."""
    return re.findall(
        rf"^```{re.escape(language)}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M
    )


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.S | re.M)


# --- flags -----------------------------------------------------------------------------------------


@cache
def flag_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_flag_pages", ROOT / "scripts" / "make_flag_pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_flag_pages_are_those_of_the_flags() -> None:
    assert flag_pages().out_of_date() == []


def test_a_changed_flag_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = flag_pages()
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert len(module.out_of_date()) == len(FLAGS) + 1
    for path, text in module.pages().items():
        path.write_text(text, encoding="utf-8")
    assert module.out_of_date() == []
    (tmp_path / "gone.md").write_text("a flag of yesterday")
    (tmp_path / "cropped.md").write_text("edited by hand")
    assert module.out_of_date() == ["cropped.md is out of date", "gone.md belongs to no flag"]


@pytest.mark.parametrize("kind", FLAGS.values(), ids=FLAGS)
def test_every_flag_has_a_page_with_its_three_parts(kind) -> None:
    text = (ROOT / kind.page).read_text(encoding="utf-8")
    for part in ("**Raised if.**", "**What it means.**", "**What to do.**", kind.title, f"`{kind.id}`"):
        assert part in text


# --- links -----------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return GitHub's anchor of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(h) for h in re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.M)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_links_resolve(page: Path) -> None:
    if not page.is_file():
        pytest.skip("no README yet")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, place = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (place and place not in anchors(path)):
            broken.append(target)
    assert not broken


# --- configs and commands --------------------------------------------------------------------------


def configs() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = [b for b in fenced(page, "yaml") if "pipeline:" in b]
        found += [(f"{name_of(page)}:{i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("text", [t for _, t in configs()], ids=[i for i, _ in configs()])
def test_every_config_parses_and_its_stages_build(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    build(config).route(sc.Space("file", "waveform", (16_000,), 16_000))


def build(config: Config) -> sc.Pipeline:
    """Build a pipeline; where weights are bundled but not in this checkout, without the models."""
    try:
        return sc.Pipeline.from_config(config)
    except ConfigError as error:
        if "no bundled model" not in str(error):
            raise
    except sc.errors.ModelError as error:
        # Weights that the page has its reader train.
        if "no weights at" not in str(error):
            raise
    return sc.Pipeline.from_specs([s for s in config.pipeline if not (isinstance(s, dict) and "model" in s)])


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for language in ("", "sh", "console"):
            for block in fenced(page, language):
                lines = block.replace("\\\n", " ").splitlines()
                found += [line.split("  #")[0].strip() for line in lines if line.startswith("soundcert ")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_the_command_line_takes(command: str) -> None:
    words = re.split(r"[|>]", command)[0].split()
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


# --- examples --------------------------------------------------------------------------------------


def bundled_models() -> set[str]:
    folder = ROOT / "src" / "soundcert" / "models" / "zoo"
    return {path.stem for path in folder.glob("*.safetensors")}


def run_examples(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's `python run` blocks, in its order and in one namespace, beside its first config."""
    for block in [b for b in fenced(page, "yaml") if "pipeline:" in b][:1]:
        (folder / "kws.yaml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(folder)
    # What an example registers is gone after it.
    monkeypatch.setattr(stages_base, "_REGISTRY", dict(stages_base._REGISTRY))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(fenced(page, "python run")):
        exec(compile(block, f"{page.name}, example {number}", "exec"), namespace)


def test_the_guides_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "kws-waveform" not in bundled_models():
        pytest.skip("the bundled model kws-waveform is not in this checkout")
    run_examples(DOCS / "guide.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "certified 'yes' within radius" in printed
    assert "float32 rounding of the object" in printed
    assert "pre_emphasis(coefficient=0.97)" in printed


def test_a_radius_is_recomputed_from_its_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_examples(DOCS / "reading-a-certificate.md", tmp_path, monkeypatch)
    assert float(capsys.readouterr().out) == sc.bounds.certified_radius(990, 1000, 1e-3, 0.5)


def test_the_attack_found_is_no_less_than_what_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "kws-features" not in bundled_models():
        pytest.skip("the bundled model kws-features is not in this checkout")
    run_examples(DOCS / "attack.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "Smallest perturbation found that leaves the certified ball" in printed
    found, proven, violations = printed.splitlines()[-1].split(maxsplit=2)
    assert violations == "()"
    assert proven == "None" or float(proven) <= float(found) <= 1.3 * float(proven)


def test_every_page_with_examples_is_run() -> None:
    with_examples = {page.name for page in PAGES if fenced(page, "python run")}
    assert with_examples == {"attack.md", "guide.md", "reading-a-certificate.md"}


def test_the_guides_audit_is_what_the_audit_says() -> None:
    """Every line of the guide's excerpt: none of them depends on the model."""
    guide = DOCS / "guide.md"
    (excerpt,) = (b for b in fenced(guide, "text") if "Monte-Carlo ceiling" in b)
    lines = {" ".join(line.split()) for line in excerpt.strip().splitlines()}
    config = Config.model_validate({"pipeline": yaml_pipeline(guide)})
    pipe = sc.Pipeline.from_specs([s for s in config.pipeline if not (isinstance(s, dict) and "model" in s)])
    clips = [sc.load_clip(path) for path in sorted(demo_folder().glob("*.flac"))]
    result = audit(pipe, clips, n0=100, n=1000)
    medians = result.medians()
    known = {
        f"clips {len(result.clips)} usable, {len(result.failed)} not",
        f"Monte-Carlo ceiling {sc.bounds.format_down(medians['ceiling'], significant=6)} (no radius can be larger)",
        f"median gain ×{medians['gain']:.5g}",
        *(f"median ceiling: {VIEWS[v][0]} {shown(v, medians[v])}" for v in VIEWS if v in medians),
    }
    assert lines <= known
    assert len(lines) >= 6


def yaml_pipeline(page: Path) -> list[object]:
    import yaml

    return yaml.safe_load(next(b for b in fenced(page, "yaml") if "pipeline:" in b))["pipeline"]


# --- what the pages list ---------------------------------------------------------------------------


def test_every_field_and_every_view_is_explained() -> None:
    text = (DOCS / "reading-a-certificate.md").read_text(encoding="utf-8")
    for field in (*record_schema()["properties"], *VIEWS):
        assert f"`{field}`" in text, field


def test_every_stage_is_in_the_guide() -> None:
    text = (DOCS / "guide.md").read_text(encoding="utf-8")
    own = {name for name, cls in known_stages().items() if cls.__module__.startswith("soundcert.")}
    assert [name for name in sorted(own) if f"`{name}`" not in text] == []


def test_every_purpose_of_noise_is_explained() -> None:
    from typing import get_args

    from soundcert.randomness import BLOCK, NOISE, Purpose

    text = (DOCS / "noise.md").read_text(encoding="utf-8")
    assert [p for p in get_args(Purpose) if f"| `{p}` |" not in text] == []
    assert f"each block of {BLOCK} rows" in text
    assert f"(`noise: {NOISE}`)" in text and f'"soundcert noise {NOISE}|' in text
    # Each of them is drawn for something, and the page says what.
    assert "reserved" not in text


# --- the table of orders ---------------------------------------------------------------------------

SPECS: dict[str, dict[str, object] | None] = {
    "mono": None,
    "fit": {"seconds": 1.0},
    "resample": {"rate": 16_000},
    "fixed_gain": {"factor": 10.0},
    "gaussian_noise": {"sigma": 0.5},
    "quantize": {"bits": 8},
    "peak_normalize": {"target": 6.0},
    "log_mel": {"floor": 1.0},
    "mfcc": {"floor": 1.0},
}
ORDERS = (
    "gaussian_noise → log_mel → model",
    "mono → resample → fit → gaussian_noise → log_mel → model",
    "fit → fixed_gain → gaussian_noise → log_mel → model",
    "fit → rms_normalize → gaussian_noise → log_mel → model",
    "rms_normalize → fit → gaussian_noise → log_mel → model",
    "fit → standardize → gaussian_noise → model",
    "fit → quantize → gaussian_noise → log_mel → model",
    "fit → rms_normalize → gaussian_noise → clip → log_mel → model",
    "fit → rms_normalize → gaussian_noise → peak_normalize → log_mel → model",
    "fit → gaussian_noise → rms_normalize → log_mel → model",
    "fit → gaussian_noise → quantize → log_mel → model",
    "gaussian_noise → fit → log_mel → model",
    "fit → rms_normalize → log_mel → gaussian_noise → model",
    "fit → rms_normalize → log_mel → feature_standardize → gaussian_noise → model",
    "fit → rms_normalize → log_mel → gaussian_noise → feature_standardize → model",
    "fit → mfcc → gaussian_noise → model",
    "fit → log_mel → first part of the model → gaussian_noise → rest of the model",
)


def some_logits(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3]


def stages_of(order: str) -> list[Stage]:
    parts = nn.Sequential(nn.Flatten(), nn.Linear(4040, 8), nn.Linear(8, 3)).eval()
    models: dict[str, Callable[[], Stage]] = {
        "model": lambda: Model(module=some_logits),
        "first part of the model": lambda: Model(module=parts, stop=2),
        "rest of the model": lambda: Model(module=parts, start=2),
    }
    from soundcert.config import build_stages

    out: list[Stage] = []
    for word in order.split(" → "):
        out += [models[word]()] if word in models else build_stages([{word: SPECS.get(word)}])
    return out


def order_row(order: str) -> str:
    samples = torch.randn(16_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    clip = sc.Clip.from_array(samples, 16_000)
    pipe = sc.Pipeline(stages_of(order))
    route = pipe.route(clip.space)
    contract = read_contract(route)
    try:
        carry(route, pipe.front_trace(clip), 1.0, "file")
        file = "yes"
    except TransportError:
        file = "no"
    kind = contract.kind.removesuffix(" smoothing")
    return f"| {order} | {kind} | {contract.certified_object} | {contract.perturbation_location} | {file} |"


def orders_table() -> str:
    head = (
        "| stages, in order | contract | certified object | location | to the file |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(order_row(order) for order in ORDERS) + "\n"


def test_the_table_of_orders_is_what_the_code_says() -> None:
    text = (DOCS / "contracts.md").read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == orders_table()
    for kind in ("fixed-gain waveform", "post-processed waveform", "feature-space", "latent"):
        assert f"| {kind} |" in text


# --- figures ---------------------------------------------------------------------------------------

THEORY = (DOCS / "theory.md").read_text(encoding="utf-8") if (DOCS / "theory.md").is_file() else ""


@pytest.mark.parametrize("n", [100, 1000, 10_000, 100_000])
def test_the_ceilings(n: int) -> None:
    value = sc.bounds.format_down(sc.bounds.monte_carlo_ceiling(1.0, n, 1e-3), decimals=4)
    assert f"| {n:,} | {value} |".replace(",", " ") in THEORY


def test_the_published_figures() -> None:
    ceiling = sc.bounds.monte_carlo_ceiling(0.0025, 10_000, 1e-3)
    assert sc.bounds.format_down(ceiling, significant=6) == "0.00799644"
    assert sc.bounds.format_down(ceiling, decimals=6) == "0.007996"
    one, five = (sc.diagnostics.snr_db(math.sqrt(d), ceiling) for d in (16_000, 80_000))
    assert (f"{one:.3f}", f"{five:.3f}", f"{five - one:.2f}") == ("83.983", "90.973", "6.99")
    assert sc.bounds.minimum_samples(1e-3) == 10
    assert sc.bounds.minimum_samples(1e-3, "two-class") == 11
    for figure in ("0.00799644", "0.007996", "83.983 dB", "90.973\ndB", "6.99 dB", "n ≥ 10 at", "n ≥ 11"):
        assert figure.replace("\n", " ") in " ".join(THEORY.split())


@pytest.mark.parametrize(
    ("old", "new"), [(44_100, 16_000), (48_000, 16_000), (22_050, 16_000), (8000, 16_000), (32_000, 16_000)]
)
def test_the_resampling_bound_against_the_ideal_norm(old: int, new: int) -> None:
    norm = Resample(new, source_rate=old).operator_norm()
    assert f"{norm / math.sqrt(new / old) - 1:.1%}" == "0.7%"
    assert "Each is 0.7 % above √(N/M)" in THEORY
    assert f"| {old:,} | {new:,} | {norm:.4f} | 1.000".replace(",", " ") in THEORY


def test_the_end_of_the_noises_tails() -> None:
    from soundcert.normal.plain import _Room

    end = math.sqrt(2 * math.log(2**32))
    assert f"{end:.3f}σ" in THEORY
    beyond = 16_000 * 2 * float(ndtr(-end))
    assert f"{beyond:.1e}" == "4.4e-07" and "4.4·10⁻⁷" in THEORY
    halves = np.zeros(1, np.int32)  # the least u, and no angle
    (furthest,), _ = _Room(1).pairs(halves, halves, np.float32(1))
    assert furthest == pytest.approx(end, rel=1e-6)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    contracts = DOCS / "contracts.md"
    before, rest = contracts.read_text(encoding="utf-8").split(BEGIN)
    contracts.write_text(before + BEGIN + orders_table() + END + rest.split(END)[1], encoding="utf-8")
