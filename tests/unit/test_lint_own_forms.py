"""Our own reports under our own lint: of a correct run each form misses nothing but what it truly lacks."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers import IN_FEATURES, WAVEFORM, folder_of_tones, tone, write, write_tone_model, yaml_of
from soundcert.bounds import monte_carlo_ceiling
from soundcert.cli import run as cli
from soundcert.diagnostics import norm_ratio_db
from soundcert.lint import lint_report
from soundcert.lint.reading import read_report
from soundcert.report.accuracy import accuracy_rows
from soundcert.report.rows import table
from soundcert.report.stated import clock_of, stated
from soundcert.report.tables import contract_rows
from soundcert.report.terminal import summary_view
from soundcert.runs import open_run
from soundcert.runs.certify_run import data_facts
from soundcert.stages import FEATURE_STAGES
from synthetic import CONTRACT, many, record, write_run

#: What a form cannot say: a table of clips has no interval for the whole list.
LACKS = {"csv": {"interval for the data set"}}
FORMS = {"md": "report.md", "csv": "clips.csv", "model-index": "card.md", "in-toto": "report.intoto.json"}


ON_A_LATTICE = [*WAVEFORM[:4], "quantize: {log2_step: -18}", "lattice_noise: {sigma: 0.25}", *WAVEFORM[5:]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_tone_model(folder / "tones.safetensors")
    folder_of_tones(folder / "clips", each=3)
    for name, stages in (("waveform", WAVEFORM), ("features", IN_FEATURES), ("lattice", ON_A_LATTICE)):
        (folder / f"{name}.yaml").write_text(yaml_of(stages))
        call = [
            "certify",
            str(folder / f"{name}.yaml"),
            "--out",
            str(folder / name),
            "--report-in",
            "file",
            "--json",
        ]
        assert cli(call) == 0
    return folder


def found_in(path: Path) -> tuple[set[str], list[str]]:
    """Return the fields that are asked for, and what else is more than a note."""
    missing, others = set(), []
    for finding in lint_report(path)[1]:
        if finding.rule == "missing":
            missing.add(re.sub(r"^not (?:stated|found): |;.*", "", finding.message))
        elif finding.level != "note":
            others.append(f"{finding.rule}: {finding.message}")
    return missing, others


@pytest.mark.parametrize("form", ["run", "report.json", *FORMS])
@pytest.mark.parametrize("name", ["waveform", "features", "lattice"])
def test_a_correct_report_of_ours_passes(runs: Path, tmp_path: Path, name: str, form: str) -> None:
    run = runs / name
    if form == "run":
        path = run
    elif form == "report.json":
        path = run / "report.json"
    else:
        path = tmp_path / FORMS[form]
        assert cli(["report", str(run), "--format", form, "--out", str(path)]) == 0
    missing, others = found_in(path)
    assert missing == LACKS.get(form, set())
    assert others == []
    assert "sigma-unstated-noise" not in {f.rule for f in lint_report(path)[1]}


@pytest.mark.parametrize("form", ["run", "report.json", *FORMS])
def test_lengths_in_samples_and_clips_that_failed_pass_too(runs: Path, tmp_path: Path, form: str) -> None:
    text = (runs / "waveform.yaml").read_text().replace("fit: {seconds: 0.1}", "fit: {samples: 1600}")
    (runs / "samples.yaml").write_text(text)
    shutil.copytree(runs / "clips", clips := tmp_path / "clips")
    (clips / "low" / "words.wav").write_text("no audio")
    call = [
        "certify",
        str(runs / "samples.yaml"),
        "--data",
        str(clips),
        "--out",
        str(tmp_path / "run"),
        "--report-in",
        "file",
    ]
    assert cli(call) == 1
    path = tmp_path / "run" / ("" if form == "run" else "report.json")
    if form in FORMS:
        path = tmp_path / FORMS[form]
        assert cli(["report", str(tmp_path / "run"), "--format", form, "--out", str(path)]) == 0
    missing, others = found_in(path)
    assert missing == LACKS.get(form, set())
    assert others == []


def decided(clip: str, radius: float | None, **more: Any) -> dict[str, Any]:
    """A record under `decide` that asked about 0 and 0.3."""
    row = {**record(clip, 500 if radius is None else 990, **more), "policy": "decide", "radii": [0.0, 0.3]}
    row |= {"cap": 1000, "ceiling": 0.3, "saturated": radius == 0.3}
    if radius is not None:
        views = {"r_over_sigma": 2 * radius}
        row |= {"radius": radius, "views": views | ({"snr_db": norm_ratio_db(126.5, 0.3)} if radius else {})}
    return {key: value for key, value in row.items() if key != "spaces"}


def in_features(row: dict[str, Any]) -> dict[str, Any]:
    views = {"r_over_sigma": 1.0, "norm_ratio_db": 40.0}
    return {key: value for key, value in row.items() if key != "spaces"} | (
        {"views": views} if "views" in row else {}
    )


#: Right runs in which some figure does not exist, with the figures that there are.
ODD: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "certified at radius 0": lambda: [*(decided(f"{i}", 0.3) for i in range(3)), decided("0 it is", 0.0),
                                      decided("wrong", 0.0, truth="no"), decided("none", None)],
    "at radius 0 alone": lambda: [*(decided(f"{i}", 0.0) for i in range(3)), decided("none", None)],
    "failed clips": lambda: [*(record(f"{i}", 900 - 10 * i, truth="yes" if i < 17 else "no") for i in range(21)),
                             *({"clip": f"f{i}", "status": "failed", "reason": "empty", "truth": "yes"} for i in range(3))],
    "none correct": lambda: [*(record(f"{i}", 900 - i, truth="no") for i in range(4)), record("none", 500)],
    "none correct, of features": lambda: [in_features(record(f"{i}", 900 - i, truth="no")) for i in range(4)],
    "none certified": lambda: [record(f"{i}", 500) for i in range(4)],
    "budget": lambda: [{**record(f"{i}", 900 + i), "policy": "budget"} for i in range(4)],
    "no labels": lambda: [record(f"{i}", 900 + i, truth=None) for i in range(4)],
}  # fmt: skip


@pytest.mark.parametrize("form", ["run", "report.json", *FORMS])
@pytest.mark.parametrize("name", ODD)
def test_a_correct_report_in_which_a_figure_does_not_exist_passes(
    tmp_path: Path, name: str, form: str
) -> None:
    """Found by a reviewer: the page says that they pass in every form, and these did not."""
    if name == "no labels" and form == "model-index":
        pytest.skip("a model index is made of accuracies")
    certify: dict[str, Any] = {"n0": 100, "n": 1000, "alpha": 0.001, "seed": 0, "bound": "one-sided"}
    certify |= {"decide": {"radii": [0.0, 0.3]}} if "radius 0" in name else {}
    certify |= {"budget": {"passes": 5000}} if name == "budget" else {}
    steps = [{"resample": {"rate": 16_000}}, {"fit": {"seconds": 1.0}}]
    contract = {
        **CONTRACT,
        "pre_noise": ["resample(rate=16000)", "fit(seconds=1)"],
        "gain_policy": "none: the file's own",
    }
    if "features" in name:
        steps.append({"log_mel": {}})
        contract |= {"kind": "feature-space smoothing", "certified_object": "log-mel features", "unit": "nats",
                     "perturbation_location": "feature"}  # fmt: skip
    run = write_run(
        tmp_path / "run", ODD[name](), contract=contract, statement="What is certified: see the contract.",
        config={"data": {"source": "folder", "root": "clips"}, "pipeline": steps, "certify": certify},
        identity={"config": "0" * 32, "model": "1" * 32, "data": "2" * 32},
    )  # fmt: skip
    path = run
    if form == "report.json":
        path = run / form
        facts = {"format": 1, "contract": contract, "certify": certify, "summary": open_run(run).summary}
        path.write_text(json.dumps({**facts, "data": data_facts({"source": "folder", "root": "clips"})}))
    elif form in FORMS:
        path = tmp_path / FORMS[form]
        assert cli(["report", str(run), "--format", form, "--out", str(path)]) == 0
    missing, others = found_in(path)
    assert missing == LACKS.get(form, set())
    assert others == []


def test_radii_that_were_asked_about_are_no_certificates(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(
        json.dumps({"contract": {"sigma": 0.5}, "summary": {}, "certify": {"decide": {"radii": [0, 9]}}})
    )
    assert read_report(path).results[0].rows is None


def test_clips_of_several_lengths_are_said_to_be(runs: Path, tmp_path: Path) -> None:
    """And no figure is that of the first clip alone."""
    windows = "windows: {seconds: 0.1, hop: 0.1, vote: mean}"
    stages = [stage for stage in WAVEFORM if not stage.startswith("fit")]
    (runs / "any.yaml").write_text(yaml_of([*stages[:-2], windows, *stages[-2:]]))
    write(tmp_path / "clips" / "low" / "short.wav", tone(500.0, 1))
    write(tmp_path / "clips" / "low" / "long.wav", tone(500.0, 2, seconds=0.3))
    call = [
        "certify",
        str(runs / "any.yaml"),
        "--data",
        str(tmp_path / "clips"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli(call) == 0
    run = open_run(tmp_path / "run")
    assert {r["dimension"] for r in run.usable} == {1600, 4800}
    assert dict(stated(run))["Clip length"] == "0.1 s to 0.3 s"
    assert dict(contract_rows(run))["Dimension"] == "1600 to 4800"
    _, rows = table(run)
    assert {row["clip"]: row["clip.length"] for row in rows} == {
        "low/short.wav": "0.1 s",
        "low/long.wav": "0.3 s",
    }


def test_the_largest_radius_asked_about_is_not_called_the_ceiling(tmp_path: Path) -> None:
    """Found by a reviewer: under `decide` the forms gave it as the Monte-Carlo ceiling, which our own lint refused."""
    rows = [
        {**record(str(i), 1000), "policy": "decide", "radii": [0.0, 0.3], "cap": 1000, "radius": 0.3, "ceiling": 0.3,
         "views": {"r_over_sigma": 0.6}} for i in range(20)
    ]  # fmt: skip
    certify = {
        "n0": 100,
        "n": 1000,
        "alpha": 0.001,
        "seed": 0,
        "bound": "one-sided",
        "decide": {"radii": [0.0, 0.3]},
    }
    config = {"data": {"source": "folder", "root": "clips"}, "pipeline": ["mono"], "certify": certify}
    path = write_run(tmp_path / "r", rows, config=config)
    said = dict(stated(open_run(path)))
    assert said["Largest radius asked about"] == "0.299999"
    assert "Monte-Carlo ceiling" not in said
    out = tmp_path / "report.md"
    assert cli(["report", str(path), "--format", "md", "--out", str(out)]) == 0
    assert not any("ceiling" in text for text in found_in(out)[1])


def test_the_values_of_several_channels_are_no_longer_clip(tmp_path: Path) -> None:
    """Found by a reviewer: a second of stereo was called two."""
    pipeline = [{"resample": {"rate": 16_000}}, {"gaussian_noise": {"sigma": 0.5}}]
    contract = {**CONTRACT, "dimension": 32_000, "channels": 2}
    run = open_run(write_run(tmp_path / "r", many(3), contract=contract, config={"pipeline": pipeline}))
    assert dict(stated(run))["Clip length"] == "1 s"


def test_a_radius_that_was_asked_about_counts_who_has_it(tmp_path: Path) -> None:
    """Found by a reviewer: rounded to six digits and up, no clip had it."""
    asked = 0.1234565001
    rows = [
        {**record(str(i), 1000), "policy": "decide", "radii": [asked], "radius": asked, "ceiling": asked,
         "views": {"r_over_sigma": 0.2}} for i in range(10)
    ]  # fmt: skip
    (row,) = accuracy_rows(open_run(write_run(tmp_path / "r", rows)))["radius"]
    assert (row.level, row.count) == ("0.123456", 10)


def test_the_terminal_rounds_inward_too(tmp_path: Path) -> None:
    """Found by a reviewer: 200 of 206 was 97.09 %, and the upper end of its interval rounded down."""
    rows = [record(f"{i}", 1000, truth="yes" if i < 200 else "no") for i in range(206)]
    summary = open_run(write_run(tmp_path / "r", rows)).summary
    low, high = summary["smoothed_accuracy_interval_95"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_view(summary))
    text = console.export_text()
    assert "97.08% of 206 clips" in text
    found = re.search(r"95 % interval ([\d.]+)% to ([\d.]+)%", text)
    assert found
    assert 100 * low - 0.01 <= float(found[1]) <= 100 * low
    assert 100 * high <= float(found[2]) <= 100 * high + 0.01


def test_a_small_radius_keeps_its_exponent_and_what_is_left_its_band() -> None:
    """Found by a reviewer: 1.00000e-10 without the zeros at its end is 1.00000e-1."""
    summary = {
        "clips": 9, "certified": 9, "abstained": 0, "failed": 0, "saturated_share_of_certified": 0.0, "passes": 9,
        "smoothed_accuracy": 1.0, "smoothed_accuracy_over": 9, "smoothed_accuracy_interval_95": [0.6, 1.0],
        "certified_accuracy_at_radius": {"0": 1.0, "1.00000e-10": 1.0, "0.250000": 0.0, "0.5": 0.0},
        "certified_accuracy_band_95_at_radius": {
            "0": [0.5, 1.0], "1.00000e-10": [0.5, 1.0], "0.250000": [0.0, 0.3], "0.5": [0.0, 0.3],
        },
    }  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_view(summary))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["1.00000e-10", "100.0%", "50.0%", "to", "100.0%"] in rows
    assert ["0.25", "0.0%", "0.0%", "to", "30.0%"] in rows
    assert ["further", "0.0%", "0.0%", "to", "30.0%"] in rows


def test_what_a_run_did_not_record_is_asked_for(tmp_path: Path) -> None:
    """Negative control: the forms do not make up what is not there."""
    path = write_run(tmp_path / "r", many(20), contract={}, config={"pipeline": []})
    out = tmp_path / "report.md"
    assert cli(["report", str(path), "--format", "md", "--out", str(out)]) == 0
    missing, _ = found_in(out)
    assert {"certified object", "data set", "sampling rate", "clip length"} <= missing
    names = dict(stated(open_run(path)))
    assert "Certified object" not in names and "Sampling rate" not in names


@pytest.mark.parametrize(
    ("pipeline", "rate", "seconds"),
    [
        ([{"fit": {"seconds": 2.0}}, {"gaussian_noise": {"sigma": 1}}, {"log_mel": {}}], 16_000, 2.0),
        ([{"resample": {"rate": 8000}}, {"gaussian_noise": {"sigma": 1}}], 8000, 2.0),
        (["mono", {"gaussian_noise": {"sigma": 1}}], None, None),
        ([{"log_mel": {"rate": 22_050}}, {"gaussian_noise": {"sigma": 1}}], 22_050, 16_000 / 22_050),
    ],
)  # fmt: skip
def test_rate_and_length_are_read_off_the_pipeline(
    tmp_path: Path, pipeline: list[object], rate: object, seconds: object
) -> None:
    run = open_run(write_run(tmp_path / "r", many(3), config={"pipeline": pipeline}))
    assert clock_of(run) == (rate, seconds)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"policy": "budget"}, "a budget ties the clips together"),
        ({"recording": "long.wav"}, "clips cut from one recording are not independent"),
    ],
)  # fmt: skip
def test_why_there_is_no_interval_is_stated(tmp_path: Path, more: dict[str, str], reason: str) -> None:
    path = write_run(tmp_path / "r", [{**r, **more} for r in many(20)])
    assert dict(stated(open_run(path)))["Accuracy interval"].startswith(f"none: {reason}")
    out = tmp_path / "report.md"
    assert cli(["report", str(path), "--format", "md", "--out", str(out)]) == 0
    assert "interval for the data set" not in found_in(out)[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"source": "esc10", "folds": [1]}, "folds 1"),
        ({"source": "esc50", "folds": [4, 5]}, "folds 4, 5"),
        ({"source": "speech_commands", "split": "testing"}, "testing"),
        ({"source": "folder", "root": "clips"}, "all clips of the list"),
    ],
)  # fmt: skip
def test_which_part_of_the_data_it_is_is_read_off_the_run(
    tmp_path: Path, data: dict[str, object], words: str
) -> None:
    path = write_run(tmp_path / "r", many(20), config={"data": data})
    (result,) = read_report(path).results
    assert result.fields["split"].text == words
    assert "split" not in found_in(path)[0]
    nothing = write_run(tmp_path / "n", many(20), config={"data": {"source": "esc10"}})
    assert "split" in found_in(nothing)[0]


@pytest.mark.parametrize("stage", [*sorted(FEATURE_STAGES), {"kaldi_fbank": {"rate": 8000}}], ids=str)
def test_the_rate_is_that_of_any_feature_stage(tmp_path: Path, stage: object) -> None:
    path = write_run(tmp_path / "r", many(20), config={"pipeline": [stage, {"gaussian_noise": {"sigma": 1}}]})
    (result,) = read_report(path).results
    assert result.fields["rate"].text == ("8000 Hz" if isinstance(stage, dict) else "16000 Hz")


@pytest.mark.parametrize(
    ("change", "found"), [({}, set()), ({"set_aside": 5e-4}, {"radius-not-from-counts"})]
)
def test_radii_of_lattice_noise_are_checked_at_the_level_that_is_left(
    tmp_path: Path, change: dict[str, float], found: set[str]
) -> None:
    """A record that says it set half of alpha aside, and has the radius of all of it, is not from its counts."""
    rows = [{**record(f"{i}.wav", 1000 - i), **change} for i in range(1, 4)]
    path = write_run(tmp_path / "r", rows, contract={**CONTRACT, "noise": "lattice_noise"})
    assert {f.rule for f in lint_report(path)[1] if f.level == "error"} == found
    records = read_report(path).results[0].rows
    level = 0.001 - change.get("set_aside", 0.0)
    assert records is not None and records.ceiling is not None
    assert records.ceiling[0] == pytest.approx(monte_carlo_ceiling(0.5, 1000, level), rel=1e-12)
    assert (records.ceiling[0] < monte_carlo_ceiling(0.5, 1000, 0.001)) == bool(change)


def test_a_radius_above_the_ceiling_of_lattice_noise_is_found(tmp_path: Path) -> None:
    text = "noise: lattice_noise\nnorm: l2\nsigma: 0.5\nn: 1000\nalpha: 0.001\n"
    for radius, found in ((1.23, False), (1.31, True)):
        path = tmp_path / f"{radius}.yaml"
        path.write_text(f"{text}median radius: {radius}\n")
        assert ("radius-above-ceiling" in {f.rule for f in lint_report(path)[1]}) == found
