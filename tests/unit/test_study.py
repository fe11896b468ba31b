"""Studies: choices from validation clips alone, folds nested and pooled, finished work kept, mistakes in one line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import soundcert as sc
from helpers import HIGH, LOW, RATE, write
from soundcert.bounds import certified_radius
from soundcert.cli import run as command_line
from soundcert.config import CertifyConfig, load_config
from soundcert.data import load_items
from soundcert.errors import ConfigError, ModelError
from soundcert.models import build_network, save_weights
from soundcert.pipeline import Pipeline
from soundcert.runs.executors import LocalExecutor
from soundcert.study import collect, load_study, plan, run_study, running
from soundcert.study.cells import asks, cells_of, fits_of, target_radius
from soundcert.study.choosing import best_cells, choices
from soundcert.study.cost import expected_draws
from soundcert.study.joining import done_elsewhere
from soundcert.study.tables import _at, tables
from soundcert.study.words import explanations, published
from soundcert.study.writing import latex, markdown, write_study


def tone(frequency: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 10) / RATE
    samples = 0.2 * np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6)) + 0.05 * rng.standard_normal(len(t))
    return np.round(samples * 2**15).astype(np.int16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones in a list with splits, and the same clips in a list with three folds."""
    root = tmp_path_factory.mktemp("study")
    splits, folds = ["file,label,split"], ["file,label,fold"]
    for split, count in (("training", 12), ("validation", 4), ("testing", 4)):
        for label, frequency in (("low", LOW), ("high", HIGH)):
            for i in range(count):
                name = f"{split}/{label}/{i:02}.wav"
                write(root / name, tone(frequency, zlib.crc32(name.encode())))
                splits.append(f"{name},{label},{split}")
                folds.append(f"{name},{label},{i % 3 + 1}")
    (root / "splits.csv").write_text("\n".join(splits) + "\n")
    (root / "folds.csv").write_text("\n".join(folds) + "\n")
    return root


def study_values(**changes: Any) -> dict[str, Any]:
    train = {"epochs": 4, "batch": 8, "learning_rate": 0.01, "shift": 0, "validation_draws": 1}
    front = [
        "mono",
        {"resample": {"rate": RATE}},
        {"fit": {"seconds": "$seconds"}},
        {"rms_normalize": {"target": 1.0}},
    ]
    mel = {"log_mel": {"n_mels": 12, "n_fft": 256, "floor": 1.0}}
    noise = {"gaussian_noise": {"sigma": "$sigma"}}
    values: dict[str, Any] = {
        "title": "Tones",
        "certify": {"n0": 10, "n": 200, "alpha": 0.01},
        "targets": [40, 25, 15],
        "data": {
            "splits": {"title": "Split", "note": "Two tones | pipes.", "clips": {"source": "manifest", "root": "splits.csv"},
                       "set": {"seconds": 0.1}, "train": train},
            "folds": {"title": "Folded", "clips": {"source": "manifest", "root": "folds.csv"}, "folds": [1, 2, 3],
                      "set": {"seconds": 0.1}, "train": train},
        },
        "pipelines": {"waveform": [*front, noise, mel], "clip": [*front, noise, "clip", mel]},
        "models": {"tiny": {"network": "ds_cnn", "options": {"width": 8, "blocks": 2}}},
        "grid": [
            {"name": "fixed", "data": ["splits", "folds"], "pipeline": ["waveform", "clip"], "model": ["tiny"],
             "vary": {"sigma": [0.05]}, "folds": [], "testing_limit": 3},
            {"name": "chosen", "data": ["splits", "folds"], "pipeline": ["waveform"], "model": ["tiny"],
             "vary": {"sigma": [0.3, 3.0]}, "decide": {"targets": True}, "choose": 20, "test": "chosen"},
        ],
    }  # fmt: skip
    return {**values, **changes}


def save(home: Path, values: dict[str, Any]) -> Path:
    file = home / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def done(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, in `out` beside its config."""
    home = tmp_path_factory.mktemp("done")
    shutil.copytree(clips, home, dirs_exist_ok=True)
    file = save(home, study_values())
    assert command_line(["study", str(file), "--out", str(home / "out")]) == 0
    return home


def results_of(home: Path) -> dict[str, Any]:
    out: dict[str, Any] = json.loads((home / "out/results/results.json").read_text(encoding="utf-8"))
    return out


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines()]


# --- what a finished study says --------------------------------------------------------------------


def test_every_fold_is_tested_once_and_never_seen_before(done: Path) -> None:
    study = load_study(done / "study.yaml")
    cell = next(c for c in cells_of(study) if c.data == "folds" and c.block.name == "chosen")
    tested: list[str] = []
    for fit in fits_of(study, cell, done, done / "out"):
        train = fit.config.train
        assert train and train.clips and train.validation and fit.config.data
        used = [train.clips.folds, train.validation.folds, fit.config.data.folds]
        assert all(used)
        assert sorted(f for part in used for f in part or ()) == [1, 2, 3]
        if (fit.folder / "run").exists():
            tested += [r["clip"] for r in lines_of(fit.folder / "run")]
    assert len(tested) == len(set(tested))


def test_choices_are_what_the_validation_runs_say(done: Path) -> None:
    """Recompute every choice from the validation runs' lines: testing clips have no part in it."""
    study = load_study(done / "study.yaml")
    found = choices(study, cells_of(study), done / "out")
    assert {(c.data, c.split) for c in found} == {
        ("splits", ""), ("folds", "fold-1"), ("folds", "fold-2"), ("folds", "fold-3"),
    }  # fmt: skip
    for choice in found:
        if choice.target is None:
            continue
        shares = {}
        for sigma in ("0.3", "3"):
            cell = f"{choice.data}-waveform-tiny-sigma-{sigma}"
            rows = lines_of(done / "out/cells" / cell / choice.split / "validation")
            reached = [
                r for r in rows
                if r["status"] == "certified" and r["label"] == r["truth"]
                and r["views"].get("file_snr_db", math.inf) <= choice.target
            ]  # fmt: skip
            shares[cell] = len(reached) / len(rows)
        assert choice.score == max(shares.values())
        assert shares[choice.cell] == choice.score


def test_the_targets_count_testing_clips_of_the_chosen_fits(done: Path) -> None:
    results = results_of(done)
    assert {(r["data"], r["pipeline"]) for r in results["targets_reached"]} == {
        ("splits", "waveform"), ("folds", "waveform"),
    }  # fmt: skip
    for reached in results["targets_reached"]:
        for target, figure in reached["per_target"].items():
            chosen = [
                c for c in results["choices"]
                if c["data"] == reached["data"] and c["target"] == float(target)
            ]  # fmt: skip
            rows = [r for c in chosen for r in lines_of(done / "out/cells" / c["cell"] / c["split"] / "run")]
            good = [
                r for r in rows
                if r["status"] == "certified" and r["label"] == r["truth"]
                and r["views"].get("file_snr_db", math.inf) <= float(target)
            ]  # fmt: skip
            assert (figure["count"], figure["total"]) == (len(good), len(rows))
            low, high = figure["interval_95"]
            assert low <= figure["count"] / figure["total"] <= high
    folded = next(r for r in results["targets_reached"] if r["data"] == "folds")
    assert folded["per_target"]["40"]["total"] == 40  # every clip of every fold, once


def test_parts_of_one_recording_get_no_interval_anywhere(done: Path, tmp_path: Path) -> None:
    """As `data: {cut: …}` records it: the parts of a recording are no independent clips, in whichever fold."""
    home = shutil.copytree(done, tmp_path / "cut")
    for run in home.glob("out/cells/*folds-*/**/run"):
        rows = [{**row, "recording": "one.wav"} for row in lines_of(run)]
        (run / "certificates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = collect(load_study(home / "study.yaml"), home, home / "out")
    found = {
        r["data"]: [*r["per_target"].values(), *r["one_model"].values()] for r in results["targets_reached"]
    }
    assert all(f["interval_95"] is None and "one recording" in f["no_interval"] for f in found["folds"])
    assert all(f["interval_95"] and "no_interval" not in f for f in found["splits"])
    (table,) = (t for t in tables(results) if t.name == "targets-folds-waveform")
    assert {row[2] for row in table.rows} == {row[6] for row in table.rows} == {"none"}
    assert "No intervals of accuracy: clips cut from one recording" in table.caption
    files = {
        file.name: file.read_text(encoding="utf-8") for file in write_study(results, tmp_path / "page", "x")
    }
    assert json.loads(files["results.json"])["targets_reached"] == results["targets_reached"]
    assert "certified-accuracy-folds.svg" in files
    assert "interval holds at" in files["certified-accuracy-splits.svg"]
    assert "interval holds at" not in files["certified-accuracy-folds.svg"]


def test_tones_are_learnt_and_certified(done: Path) -> None:
    """The study's models are no better than their data: two tones in little noise are told apart."""
    results = results_of(done)
    cell = next(c for c in results["cells"] if c["name"] == "splits-waveform-tiny-sigma-0.05")
    assert cell["testing"]["clean_accuracy"] > 0.6
    assert cell["testing"]["clips"] == 3
    assert cell["testing"]["policy"] == "fixed"


def test_post_processing_has_its_geometry_and_no_other_contract_has(done: Path) -> None:
    for cell in results_of(done)["cells"]:
        if "testing" in cell:
            assert ("median_displacement" in cell["testing"]) == (cell["pipeline"] == "clip")


def test_the_page_names_its_data_and_escapes_it(done: Path) -> None:
    text = (done / "out/results/README.md").read_text(encoding="utf-8")
    assert "Two tones \\| pipes." in text
    assert "Why equal medians are the ceiling" in text
    assert "certified-accuracy-splits.svg" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") >= 3
    tex = (done / "out/results/tables.tex").read_text(encoding="utf-8")
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") > 3
    assert "<text" in (done / "out/results/certified-accuracy-splits.svg").read_text(encoding="utf-8")


# --- keeping what is finished ----------------------------------------------------------------------


def test_a_second_call_does_nothing_twice(done: Path) -> None:
    files = sorted((done / "out/cells").rglob("*.json*")) + sorted(
        (done / "out/cells").rglob("*.safetensors")
    )
    before = {f: f.stat().st_mtime_ns for f in files}
    told: list[str] = []
    run_study(load_study(done / "study.yaml"), done, done / "out", tell=told.append)
    assert {f: f.stat().st_mtime_ns for f in files} == before
    assert all("before" in line for line in told)
    assert all(
        cost.seconds == 0 or cost.tests_if_chosen
        for cost in plan(load_study(done / "study.yaml"), done, done / "out")
    )


def test_what_was_cut_off_ends_the_same(done: Path, tmp_path: Path) -> None:
    """Take away a run's last lines and its report, and a training's record: the figures come out as before."""
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    before = results_of(home)
    run = home / "out/cells/splits-waveform-tiny-sigma-0.05/run"
    lines = (run / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (run / "certificates.jsonl").write_bytes(lines[0] + lines[1][:20])
    (run / "report.json").unlink()
    (home / "out/cells/folds-waveform-tiny-sigma-0.05/fold-1/train.json").unlink()
    assert command_line(["study", str(home / "study.yaml"), "--out", str(home / "out"), "--json"]) == 0
    after = results_of(home)

    def timeless(values: dict[str, Any]) -> str:
        for cell in values["cells"]:
            cell["training"].pop("seconds", None)
            cell.get("testing", {}).pop("wall_seconds", None)
        return json.dumps(values)

    assert timeless(before) == timeless(after)


def test_a_testing_clip_that_trains_is_refused(clips: Path, tmp_path: Path) -> None:
    """Found by a reviewer: `extra` could name the testing clips."""
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    values = study_values()
    values["data"]["splits"]["extra"] = [{"source": "manifest", "root": "splits.csv", "split": "testing"}]
    values["grid"] = [{"name": "one", "data": ["splits"], "pipeline": ["waveform"], "model": ["tiny"],
                       "vary": {"sigma": [0.05]}}]  # fmt: skip
    study = load_study(save(tmp_path, values))
    with pytest.raises(ConfigError, match="of its testing clips are among what it trains with, such as"):
        run_study(study, tmp_path, tmp_path / "out")


def test_few_fits_that_are_left_have_the_workers_of_all(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of three fits is gone: it is done with three workers, and its certificates are what they were."""
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    run = home / "out/cells/splits-waveform-tiny-sigma-0.05/run"
    before = [{**line, "seconds": 0} for line in lines_of(run)]
    shutil.rmtree(run)
    asked: list[int | None] = []

    def executor(workers: int | None) -> LocalExecutor:
        asked.append(workers)
        return LocalExecutor(workers)

    @contextlib.contextmanager
    def here(_: int) -> Iterator[Any]:
        yield running._now

    monkeypatch.setattr(running, "LocalExecutor", executor)
    monkeypatch.setattr(running, "_workers", here)
    run_study(load_study(home / "study.yaml"), home, home / "out", jobs=3)
    assert asked == [3]
    assert [{**line, "seconds": 0} for line in lines_of(run)] == before
    assert [running._share(3, [None] * left) for left in (0, 1, 2, 3, 9)] == [3, 3, 1, 1, 1]  # type: ignore[list-item]


def wait_while_alive(group: int) -> None:
    """ProcessLookupError once no process of the group is left."""
    for _ in range(300):
        os.killpg(group, 0)
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_study(clips: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Their trainings, that would go on for hours, are taken up by the next call."""
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    values = study_values()
    values["data"]["splits"]["train"].update(epochs=100_000, patience=100_000)
    values["grid"] = [{"name": "long", "data": ["splits"], "pipeline": ["waveform", "clip"], "model": ["tiny"],
                       "vary": {"sigma": [0.05]}}]  # fmt: skip
    call = ["study", str(save(tmp_path, values)), "--out", str(tmp_path / "out"), "--jobs", "2"]
    # SIGINT to this process alone, as it may come from a scheduler; from a terminal it goes to all of them.
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
         f"from soundcert.cli.app import main; main({call!r})"],
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        logs = [
            tmp_path / f"out/cells/splits-{p}-tiny-sigma-0.05/model.training/log.jsonl"
            for p in ("waveform", "clip")
        ]
        while not all(log.exists() for log in logs):
            assert process.poll() is None, process.stderr
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 128 + number
            assert "the same command goes on" in said and said.count("soundcert: ") == 1
        with pytest.raises(ProcessLookupError):
            wait_while_alive(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_grown_grid_adds_only_what_is_new(done: Path, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    values = study_values()
    values["grid"][0]["vary"]["sigma"] = [0.05, 0.1]
    save(home, values)
    told: list[str] = []
    study = load_study(home / "study.yaml")
    run_study(study, home, home / "out", only=("fixed",), tell=told.append)
    new = [line for line in told if line.startswith("splits-waveform") and "sigma-0.1" in line]
    assert len(new) == 2
    assert all("before" in line for line in told if "sigma-0.05" in line)


def test_an_unfinished_study_is_written_and_says_so(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    shutil.rmtree(home / "out/cells/splits-clip-tiny-sigma-0.05")
    code = command_line(["study", str(home / "study.yaml"), "--out", str(home / "out"), "--write-only"])
    assert code == 1
    assert "splits-clip-tiny-sigma-0.05" in capsys.readouterr().err
    assert "Not finished" in (home / "out/results/README.md").read_text(encoding="utf-8")


def test_another_recipe_in_the_same_folder_is_refused(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    values = study_values()
    values["data"]["splits"]["train"]["epochs"] = 2
    file = save(home, values)
    assert command_line(["study", str(file), "--out", str(home / "out")]) == 2
    assert "another train" in capsys.readouterr().err


def test_a_finished_run_is_not_taken_for_one_with_other_settings(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    file = save(home, study_values(certify={"n0": 10, "n": 300, "alpha": 0.01}))
    assert command_line(["study", str(file), "--out", str(home / "out")]) == 2
    assert "another certify" in capsys.readouterr().err
    # What is only told of must be true as well: of no cell, worked on or not.
    for more in (["--write-only"], ["--only", "chosen"], ["--plan"]):
        page = (home / "out/results/README.md").read_text(encoding="utf-8")
        assert command_line(["study", str(file), "--out", str(home / "out"), *more]) == 2
        assert "another certify" in capsys.readouterr().err
        assert (home / "out/results/README.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v["models"]["tiny"]["options"].update(width=4), "another pipeline (pipeline"),
        (
            lambda v: v["pipelines"]["clip"][-1]["log_mel"].update(floor=2.0),
            "floor was 1.0, the config asks for 2.0)",
        ),
        (
            lambda v: v["data"]["folds"]["train"].update(epochs=2),
            "(train.epochs was ",
        ),
        (
            lambda v: v["grid"][0].update(testing_limit=2),
            "another data (data.limit was 3, the config asks for 2)",
        ),
        (lambda v: v["grid"][1].update(choose=30), "another certify (certify.n was "),
        (lambda v: v["grid"][1].update(certify={"alpha": 1e-6, "n": 300}), "(certify.n"),
    ],
)
def test_tables_are_not_written_of_what_was_made_otherwise(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, expected: str
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    change(values := study_values())
    assert command_line(["study", str(save(home, values)), "--out", str(home / "out"), "--write-only"]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("way", [["--write-only"], []])
def test_figures_are_of_the_clips_that_the_list_names_now(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: list[str]
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    command = ["study", str(home / "study.yaml"), "--out", str(home / "out"), *way]
    assert command_line(command) == 0
    told = _told(home)
    _swap_labels(home / "splits.csv", "testing")
    assert command_line(command) == 2
    assert "other labels" in capsys.readouterr().err
    # And neither are those of others, who had a list of that name.
    new = ["study", str(home / "study.yaml"), "--out", str(tmp_path / "new"), "--join", str(told), *way]
    assert command_line(new) == 2
    assert "other labels" in capsys.readouterr().err
    # A list that is not here any more cannot be compared: tables can still be written.
    (home / "splits.csv").unlink()
    (home / "folds.csv").unlink()
    assert command_line([*command[:4], "--write-only"]) == 0


def test_clips_without_noise_are_counted_anew_with_the_run(done: Path, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    cells = home / "out/cells"
    before = json.loads((cells / "splits-clip-tiny-sigma-0.05/clean.json").read_text())
    _swap_labels(home / "splits.csv", "testing")
    for folder in cells.glob("splits-*"):
        shutil.rmtree(folder / "run", ignore_errors=True)
    assert command_line(["study", str(home / "study.yaml"), "--out", str(home / "out")]) == 0
    after = json.loads((cells / "splits-clip-tiny-sigma-0.05/clean.json").read_text())
    assert after == {"right": before["total"] - before["right"], "total": before["total"]}


def test_validation_clips_that_nobody_asks_about_are_not_told_of(done: Path, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    values = study_values()
    del values["grid"][1]["choose"]
    values["grid"][1]["test"] = "all"
    command = ["study", str(save(home, values)), "--out", str(home / "out")]
    assert command_line([*command, "--write-only"]) in (0, 1)
    assert all("validation" not in split for c in results_of(home)["cells"] for split in c["splits"])
    assert command_line([*command, "--join", str(_told(done)), "--plan"]) == 0, "nor compared"


def test_a_list_or_a_config_that_is_damaged_is_not_taken_for_one_that_is_gone(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    command = ["study", str(home / "study.yaml"), "--out", str(home / "out"), "--write-only"]
    config = home / "out/cells/splits-clip-tiny-sigma-0.05/config.yaml"
    text = config.read_text()
    for damage in ("a: [", ""):
        config.write_text(damage)
        assert command_line(command) == 2
        assert "is no config: restore it" in capsys.readouterr().err
    config.write_text(text)
    run = config.parent / "run/run.json"
    facts = run.read_text()
    run.write_text(json.dumps({**json.loads(facts), "config": None}))
    assert command_line(command) == 2
    assert "does not say what the run was made with" in capsys.readouterr().err
    run.write_text(facts)
    weights = config.parent / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:100])
    assert command_line(command) == 2
    weights.write_bytes(kept)
    lines = (home / "splits.csv").read_text().splitlines()
    (home / "splits.csv").write_text("\n".join(line for line in lines if not line.endswith("testing")) + "\n")
    assert command_line(command) == 2


def test_what_is_the_same_on_another_machine_is_kept(done: Path, tmp_path: Path) -> None:
    """Places, last digits of radii and settings that came later do not count, nor does what was never begun."""
    home = tmp_path / "copy"
    shutil.copytree(done, home)
    for file in (home / "out/cells").rglob("run.json"):
        facts = json.loads(file.read_text())
        del facts["config"]["certify"]["device"]
        decide = facts["config"]["certify"].get("decide")
        if decide:
            decide["radii"] = [r * (1 + 4e-16) for r in decide["radii"]]
        facts["config"]["data"]["root"] = "/elsewhere/" + Path(facts["config"]["data"]["root"]).name
        file.write_text(json.dumps(facts))
    values = study_values()
    values["grid"].append({**values["grid"][0], "name": "later", "vary": {"sigma": [0.7]}})
    for folder in ("splits-clip-tiny-sigma-0.7", "splits-waveform-tiny-sigma-0.7"):
        (home / "out/cells" / folder).mkdir()
        (home / "out/cells" / folder / "config.yaml").write_text("pipeline: [mono]")
    assert command_line(["study", str(save(home, values)), "--out", str(home / "out"), "--write-only"]) == 1


def test_weights_that_a_training_begins_with_may_lie_elsewhere(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = study_values()
    values["models"]["tiny"]["train"] = {"start": "a/begin.safetensors"}
    values["grid"] = [{**values["grid"][0], "data": ["splits"], "pipeline": ["clip"]}]
    for name in ("here", "there"):
        shutil.copytree(clips, tmp_path / name)
        (tmp_path / name / "a").mkdir()
        net = build_network("ds_cnn", 2, {"width": 8, "blocks": 2})
        save_weights(tmp_path / name / "a/begin.safetensors", net, network="ds_cnn", labels=("high", "low"),
                     options={"width": 8, "blocks": 2})  # fmt: skip
    file = save(tmp_path / "here", values)
    assert command_line(["study", str(file), "--out", str(tmp_path / "here/out")]) == 0
    shutil.move(tmp_path / "here/out", tmp_path / "there/out")
    file = save(tmp_path / "there", values)
    command = ["study", str(file), "--out", str(tmp_path / "there/out"), "--write-only"]
    begin = tmp_path / "there/a/begin.safetensors"
    assert command_line(command) == 2, "but not others of the same name"
    assert "begin.safetensors is not what it began with" in capsys.readouterr().err
    shutil.copy(tmp_path / "here/a/begin.safetensors", begin)
    assert command_line(command) == 0
    (tmp_path / "here/a/begin.safetensors").unlink()
    assert command_line(command) == 0
    begin.rename(begin.with_name("other.safetensors"))
    values["models"]["tiny"]["train"] = {"start": "a/other.safetensors"}
    save(tmp_path / "there", values)
    assert command_line(command) == 2


def _swap_labels(file: Path, split: str) -> None:
    other = {"low": "high", "high": "low"}
    lines = [line.split(",") for line in file.read_text().splitlines()]
    label, part = lines[0].index("label"), lines[0].index("split")
    for line in lines[1:]:
        if line[part] == split:
            line[label] = other[line[label]]
    file.write_text("\n".join(",".join(line) for line in lines) + "\n")


@pytest.mark.parametrize("name", ["study.yaml", "study-small.yaml"])
def test_the_studies_of_the_repository_are_read(name: str) -> None:
    configs = Path(__file__).resolve().parents[2] / "configs"
    study = load_study(configs / name)
    for cell in cells_of(study):
        for fit in fits_of(study, cell, configs, Path("out")):
            if fit.trains:
                sc.Pipeline.from_config(fit.config, configs, training=True)
            else:
                with pytest.raises(ModelError, match="no weights at"):
                    sc.Pipeline.from_config(fit.config, configs)
    # Whatever a figure stands for is said beside it.
    assert all(data.note for data in study.data.values())


# --- the pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [84.0, 60.0, 45.0, 30.0, 20.0, 6.1])
@pytest.mark.parametrize("length", [1600, 16000])
def test_a_target_radius_reaches_its_snr_in_the_file(target: float, length: int) -> None:
    pipe = sc.Pipeline([sc.stages.RmsNormalize(target=1.0), sc.stages.GaussianNoise(1.0), lambda x: x[:, :2]])
    samples = torch.randint(-9000, 9000, (1, length), generator=torch.Generator().manual_seed(3))
    clip = sc.Clip.from_array(samples.double().numpy()[0] / 2**15, RATE)
    route = pipe.route(clip.space)
    radius = target_radius(target, math.sqrt(length))
    there = sc.transport.carry(route, pipe.front_trace(clip), radius, "file")
    assert target - 0.02 < there.snr_db <= target


FIT, RMS, NOISE = {"fit": {"seconds": 0.1}}, "rms_normalize", {"gaussian_noise": {"sigma": "$sigma"}}


@pytest.mark.parametrize(
    ("front", "norm"),
    [
        (["mono", {"resample": {"rate": 8000}}, FIT, RMS], math.sqrt(800)),
        (["mono", FIT, {"rms_normalize": {"target": 0.5}}], 0.5 * math.sqrt(1600)),
        ([{"resample": {"rate": 8000}}, {"fit": {"samples": 1000}}, RMS], math.sqrt(1000)),
        (["peak_normalize", FIT, RMS], math.sqrt(1600)),
    ],
)
def test_the_norm_of_an_object_is_that_of_its_clips(clips: Path, front: list[Any], norm: float) -> None:
    values = study_values(pipelines={"waveform": [*front, NOISE], "clip": [*front, NOISE]})
    study = load_study(save(clips, values))
    cell = next(c for c in cells_of(study) if c.block.name == "chosen" and c.sigma == 3.0)
    (fit, *_) = fits_of(study, cell, clips, clips / "out")
    assert fit.config.certify.decide is not None
    asked = list(fit.config.certify.decide.radii[1:])
    assert len(asked) >= 2  # a long clip's largest is more than the draws can prove
    assert asked == pytest.approx(sorted(target_radius(t, norm) for t in study.targets)[: len(asked)])
    pipe = sc.Pipeline.from_specs(fit.config.pipeline[: len(front) + 1])
    v = pipe.object_of(sc.load_clip(clips / "testing" / "low" / "00.wav"))
    assert float(torch.linalg.vector_norm(v)) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(
    "front",
    [
        ["mono", RMS, FIT],
        ["mono", FIT],
        ["mono", RMS],
        ["mono", FIT, {"resample": {"rate": 8000}}, RMS],
        ["mono", FIT, {"rms_normalize": {"floor": 0.01}}],
        *(["mono", FIT, RMS, stage] for stage in ("peak_normalize", {"fixed_gain": {"gain": 2.0}}, "clip",
                                                  {"quantize": {"bits": 8}}, "log_mel", "mfcc")),
    ],
)  # fmt: skip
def test_targets_have_no_radii_where_the_norm_does_not_follow_from_the_stages(
    clips: Path, front: list[Any]
) -> None:
    values = study_values(pipelines={"waveform": [*front, NOISE], "clip": [*front, NOISE]})
    study = load_study(save(clips, values))
    cell = next(c for c in cells_of(study) if c.block.name == "chosen")
    with pytest.raises(ConfigError, match="over_sigma"):
        fits_of(study, cell, clips, clips / "out")


@pytest.mark.parametrize(
    ("radius", "share"), [(0.0, 0.9), (1.0, 0.5), (0.99991, 0.7), (2 / 3, 0.6), (0.9, None), (1.0001, None)]
)
def test_a_share_stands_under_its_own_radius(radius: float, share: float | None) -> None:
    curve = [(0.0, 0.9), (0.66666, 0.65), (0.666666, 0.6), (0.99991, 0.7), (1.0, 0.5)]
    assert _at(curve, radius) == share


def test_one_cell_for_all_targets_has_the_best_mean() -> None:
    shares = {"a": [0.9, 0.5, 0.0], "b": [0.8, 0.6, 0.3], "c": [0.9, 0.2, 0.1]}
    assert best_cells(shares, [60, 40, 20]) == [
        (60, "a", 0.9),  # level with c, and the better over all targets
        (40, "b", 0.6),
        (20, "b", 0.3),
        (None, "b", pytest.approx(1.7 / 3)),
    ]


def test_a_target_is_served_by_a_cell_that_is_asked_about_it() -> None:
    shares = {"a": [0.9, 0.8], "b": [0.8, 0.7]}
    asked = {"a": [True, False], "b": [True, True]}
    assert best_cells(shares, [40, 20], asked)[:2] == [(40, "a", 0.9), (20, "b", 0.7)]
    nobody = {"a": [True, False], "b": [False, False]}
    assert best_cells(shares, [40, 20], nobody)[:2] == [(40, "a", 0.9), (20, "a", 0.8)]


@pytest.mark.parametrize("model", ["tiny", "both"])
def test_what_a_cell_is_asked_about_is_what_its_run_decides(tmp_path: Path, model: str) -> None:
    models = {
        "tiny": {"network": "ds_cnn"},
        "other": {"network": "ds_cnn"},
        "both": {"members": [{"model": "tiny"}, {"model": "other"}]},
    }
    shared = {"data": ["splits"], "pipeline": ["clip"], "vary": {"sigma": [0.3]}}
    grid = [
        {"name": name, "model": [name], **shared, "decide": {"targets": True, "most": 1.5}, "choose": 20}
        for name in models
    ]
    values = study_values(models=models, grid=grid, targets=[60, 40, 35, 30, 25, 20, 10])
    study = load_study(save(tmp_path, values))
    cell = next(c for c in cells_of(study) if c.model == model)
    (fit,) = fits_of(study, cell, tmp_path, tmp_path / "out")
    decide = fit.config.certify.decide
    assert decide is not None
    able = [asks(study, cell, target) for target in study.targets]
    assert sum(able) == len(decide.radii) - 1  # radius 0 is asked about as well
    assert able == sorted(able, reverse=True) and 0 < sum(able) < len(able)


def test_a_model_may_bring_its_features_and_the_weights_that_it_begins_with(tmp_path: Path) -> None:
    models = {
        "tiny": {"network": "ds_cnn"},
        "own": {
            "network": "ds_cnn",
            "features": {"mfcc": {"n_mfcc": 8, "floor": "$floor"}},
            "train": {"start": "../begun.safetensors"},
        },
    }
    grid = [
        {"name": "both", "data": ["splits"], "pipeline": ["waveform", "clip"], "model": ["tiny", "own"],
         "vary": {"sigma": [0.05], "floor": [2.0]}},
    ]  # fmt: skip
    study = load_study(save(tmp_path, study_values(models=models, grid=grid)))
    for cell in cells_of(study):
        (fit,) = fits_of(study, cell, tmp_path, tmp_path / "out")
        before, after = fit.config.pipeline[:-2], fit.config.pipeline[-2]
        assert before[4] == {"gaussian_noise": {"sigma": 0.05}}
        assert fit.config.train is not None
        if cell.model == "own":
            assert after == {"mfcc": {"n_mfcc": 8, "floor": 2.0}}
            assert fit.config.train.start == str(tmp_path.parent.resolve() / "begun.safetensors")
        else:
            assert list(after) == ["log_mel"]
            assert fit.config.train.start is None


def test_a_model_without_features_hears_the_waveform_and_joins_those_that_have_some(tmp_path: Path) -> None:
    models = {
        "tiny": {"network": "ds_cnn"},
        "heard": {"network": "moonshine", "features": "none"},
        "both": {"members": [{"model": "tiny"}, {"model": "heard"}]},
        "turned": {"members": [{"model": "heard"}, {"model": "tiny"}]},
    }
    grid = [
        {"name": "all", "data": ["splits"], "pipeline": ["clip"], "model": list(models),
         "vary": {"sigma": [0.05], "floor": [2.0]}},
    ]  # fmt: skip
    study = load_study(save(tmp_path, study_values(models=models, grid=grid)))
    made = {}
    for cell in cells_of(study):
        (fit,) = fits_of(study, cell, tmp_path, tmp_path / "out")
        made[cell.model] = fit.config.pipeline
    front = made["tiny"][:-2]
    assert "clip" in front
    assert made["heard"][:-1] == made["both"][:-1] == made["turned"][:-1] == front
    assert made["heard"][-1]["model"]["network"] == "moonshine"
    parts = [len(part) for part in made["both"][-1]["model"]["ensemble"]]
    assert parts == [2, 1]
    assert [len(part) for part in made["turned"][-1]["model"]["ensemble"]] == [1, 2]


def test_a_model_that_hears_waveforms_is_refused_where_noise_stands_at_the_features(tmp_path: Path) -> None:
    models = {"heard": {"network": "moonshine", "features": "none"}}
    values = study_values(models=models)
    pipeline = values["pipelines"]["clip"]
    noise = next(i for i, stage in enumerate(pipeline) if "gaussian_noise" in stage)
    values["pipelines"]["clip"] = [*pipeline[:noise], *pipeline[noise + 1 :], pipeline[noise]]
    values["grid"] = [
        {"name": "all", "data": ["splits"], "pipeline": ["clip"], "model": ["heard"],
         "vary": {"sigma": [0.05], "floor": [2.0]}},
    ]  # fmt: skip
    study = load_study(save(tmp_path, values))
    with pytest.raises(ConfigError, match="hears waveforms"):
        fits_of(study, cells_of(study)[0], tmp_path, tmp_path / "out")


ENSEMBLE = {
    "tiny": {"network": "ds_cnn", "options": {"width": 8, "blocks": 2}},
    "other": {"network": "ds_cnn", "options": {"width": 8, "blocks": 1},
              "features": {"mfcc": {"n_mfcc": 8, "n_fft": 256, "floor": "$floor"}}},
    "both": {"members": [{"model": "tiny"}, {"model": "other", "set": {"floor": 2}}]},
}  # fmt: skip


def ensemble_study(**changes: Any) -> dict[str, Any]:
    ask = {"decide": {"targets": True}, "choose": 20, "test": "chosen"}
    grid = [
        {"name": "joined", "data": ["splits", "folds"], "pipeline": ["clip"], "model": ["both"], "vary": {"sigma": [0.3]},
         "decide": {"targets": True}, "choose": 20},
        {"name": "tiny", "data": ["splits", "folds"], "pipeline": ["clip"], "model": ["tiny"],
         "vary": {"sigma": [0.3]}, **ask},
        {"name": "other", "data": ["splits", "folds"], "pipeline": ["clip"], "model": ["other"],
         "vary": {"sigma": [0.3], "floor": [2.0]}, "test": "none"},
    ]  # fmt: skip
    return study_values(models=ENSEMBLE, grid=grid, **changes)


def test_an_ensemble_joins_what_other_cells_train(clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    file = str(save(tmp_path, ensemble_study()))
    command = ["study", file, "--out", str(tmp_path / "out")]
    assert command_line([*command, "--plan"]) == 0
    assert command_line([*command, "--only", "tiny", "--only", "other"]) == 1, "the ensemble is not finished"
    assert command_line(command) == 0
    results = results_of(tmp_path)
    assert results["unfinished"] == []
    assert results["models"]["both"] == {"members": ["tiny", "other"]}
    for folder in (tmp_path / "out/cells").glob("*-other-*"):
        assert not list(folder.rglob("certificates.jsonl")), "members are trained alone"
    assert all(
        cost.seconds == 0
        for cost in plan(load_study(Path(file)), tmp_path, tmp_path / "out")
        if "other" in cost.cell
    )
    by_name = {c["name"]: c for c in results["cells"]}
    for data in ("splits", "folds"):
        cell = by_name[f"{data}-clip-both-sigma-0.3"]
        assert cell["training"] == {"trained_fits": 0}
        said = cell["testing"]["contract"]["model"]
        assert said.startswith("model(ensemble of ds_cnn on log_mel(n_mels=12,")
        assert "ds_cnn on mfcc(n_mfcc=8" in said
        assert cell["testing"]["contract"]["post_noise"], "what changes the object stands in the contract"
    # The same clips as the members', fold by fold; and a config that can be run by hand, where the study was moved.
    moved = tmp_path / "moved"
    (tmp_path / "out" / "cells").rename(moved)
    for fold in ("fold-1", "fold-2", "fold-3"):
        folder = moved / "folds-clip-both-sigma-0.3" / fold
        named = {line["clip"] for line in lines_of(folder / "run")}
        assert named == {item.name for item in load_items(load_config(folder / "config.yaml").data, folder)}
        pipe = Pipeline.from_config(load_config(folder / "config.yaml"), folder)
        digest = json.loads((folder / "run" / "run.json").read_text())["identity"]["model"]
        assert pipe.model is not None
        assert pipe.model.digest == digest
    page = (tmp_path / "out/results/README.md").read_text(encoding="utf-8")
    assert "| clip | σ = 0.3 (both) | – |" in page


def test_an_ensembles_figures_are_not_kept_for_members_that_were_trained_anew(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    file = str(save(tmp_path, ensemble_study()))
    command = ["study", file, "--out", str(tmp_path / "out")]
    assert command_line(command) == 0
    values = ensemble_study()
    values["models"]["other"]["train"] = {"seed": 5}
    save(tmp_path, values)
    for folder in (tmp_path / "out/cells").glob("*-other-*"):
        shutil.rmtree(folder)
    for folder in (tmp_path / "out/cells").glob("folds-clip-both-*/*"):
        shutil.rmtree(folder / "run")
    capsys.readouterr()
    assert command_line([*command, "--write-only"]) == 1, "weights that are not there cannot be compared"
    joining = ["study", file, "--out", str(tmp_path / "new"), "--join", str(_told(tmp_path))]
    assert command_line(joining) == 2, "and what they were made with is not known"
    assert "weights were gone" in capsys.readouterr().err
    assert command_line(command) == 2
    assert "both-sigma-0.3" in (error := capsys.readouterr().err)
    assert "with other weights: remove it" in error
    assert command_line(command) == 2, "and it stays refused"
    for folder in (tmp_path / "out/cells").glob("*-both-*"):
        shutil.rmtree(folder)
    assert command_line(command) == 0


def test_an_ensemble_without_its_members_is_one_line(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(save(clips, ensemble_study()))
    assert command_line(["study", file, "--out", str(tmp_path / "out"), "--only", "joined"]) == 2
    error = capsys.readouterr().err
    assert "no weights at" in error
    assert error.count("\n") == 1
    values = ensemble_study()
    values["grid"][2]["vary"]["floor"] = [1.0]
    assert command_line(["study", str(save(clips, values)), "--out", str(tmp_path / "out"), "--plan"]) == 2
    assert "needs the cell splits-clip-other-sigma-0.3-floor-2" in capsys.readouterr().err


def test_an_ensembles_members_share_what_is_above_their_features(tmp_path: Path) -> None:
    values = ensemble_study()
    values["pipelines"]["clip"][5] = {"clip": {"low": "$low"}}
    values["grid"][0]["vary"]["low"] = values["grid"][1]["vary"]["low"] = [-1.0]
    values["grid"][2]["vary"] = {"sigma": [0.3], "low": [-1.0, -2.0], "floor": [2.0]}
    study = load_study(save(tmp_path, values))
    assert all(fits_of(study, cell, tmp_path, tmp_path / "out") for cell in cells_of(study))
    values["models"] = {**ENSEMBLE, "both": {"members": [
        {"model": "tiny"}, {"model": "other", "set": {"floor": 2, "low": -2}}]}}  # fmt: skip
    study = load_study(save(tmp_path, values))
    with pytest.raises(ConfigError, match="one pipeline down to the features"):
        fits_of(study, cells_of(study)[0], tmp_path, tmp_path / "out")


# --- cells done elsewhere --------------------------------------------------------------------------


def _told(home: Path, *dropped: str) -> Path:
    """The results of a finished study, without some cells."""
    results = results_of(home)
    results["cells"] = [c for c in results["cells"] if c["name"] not in dropped]
    file = home / "told.json"
    file.write_text(json.dumps(results), encoding="utf-8")
    return file


def test_a_study_done_elsewhere_is_written_down_the_same(done: Path, tmp_path: Path) -> None:
    file, config = _told(done), str(done / "study.yaml")
    told: list[str] = []
    study = load_study(Path(config))
    elsewhere = done_elsewhere(study, done, tmp_path / "new", [file])
    run_study(study, done, tmp_path / "new", elsewhere=elsewhere, tell=told.append)
    assert told == []
    assert plan(study, done, tmp_path / "new", elsewhere=elsewhere) == []
    assert command_line(["study", config, "--out", str(tmp_path / "new"), "--join", str(file)]) == 0
    before, after = results_of(done), json.loads((tmp_path / "new/results/results.json").read_text())
    assert after.pop("joined") == [c["name"] for c in before["cells"]]
    assert before.pop("joined") == []
    assert after == before
    assert "8 of the 8 cells are not among them" in (tmp_path / "new/results/README.md").read_text(
        encoding="utf-8"
    )


def test_parts_done_here_and_elsewhere_choose_together(done: Path, tmp_path: Path) -> None:
    """A cell that is done here competes with those that others did, and no fit of theirs is needed here."""
    new = "folds-waveform-tiny-sigma-0.3"
    file, config = _told(done, new), str(done / "study.yaml")
    command = ["study", config, "--out", str(tmp_path / "new"), "--join", str(file)]
    assert command_line(command) == 0
    assert [f.name for f in (tmp_path / "new/cells").iterdir()] == [new]
    after, before = json.loads((tmp_path / "new/results/results.json").read_text()), results_of(done)
    assert after["joined"] == [c["name"] for c in before["cells"] if c["name"] != new]
    assert after["choices"] == before["choices"]
    assert after["targets_reached"] == before["targets_reached"]
    # What this folder has is never taken from elsewhere, but for a folder where nothing was begun.
    (empty := tmp_path / "new/cells/folds-clip-tiny-sigma-0.05/fold-1").mkdir(parents=True)
    (empty / "config.yaml").write_text("made by a run that was stopped")
    assert command_line([*command[:-1], str(_told(done))]) == 0
    assert new not in json.loads((tmp_path / "new/results/results.json").read_text())["joined"]


def test_a_block_that_is_named_is_done_here(done: Path, tmp_path: Path) -> None:
    study = load_study(done / "study.yaml")
    found = done_elsewhere(study, done, tmp_path, [_told(done)], only=("chosen",))
    assert len(found) == 4
    assert all(cell.name in found for cell in cells_of(study) if cell.block.name == "fixed")


def test_an_ensemble_needs_its_members_weights_here(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(file := save(clips, ensemble_study()))
    results = collect(study, clips, tmp_path)
    for cell in results["cells"]:
        if "-other-" in cell["name"]:
            cell["training"] = {"trained_fits": len(cell["splits"]), "epochs": [4], "best_epochs": [1], "seconds": 1.0,
                                "validation_accuracy_under_noise": 0.5}  # fmt: skip
    (told := tmp_path / "told.json").write_text(json.dumps(results))
    command = ["study", str(file), "--out", str(tmp_path / "new"), "--join", str(told)]
    assert command_line([*command, "--plan"]) == 0
    assert command_line([*command, "--write-only"]) == 1
    capsys.readouterr()
    assert command_line(command) == 2
    error = capsys.readouterr().err
    assert "splits-clip-both-sigma-0.3 needs the weights of splits-clip-other-sigma-0.3-floor-2" in error
    assert "--only other" in error
    assert done_elsewhere(study, clips, tmp_path, [told], only=("joined", "other")) == {}


def test_an_ensembles_settings_are_those_of_its_members_too(clips: Path, tmp_path: Path) -> None:
    def settings(values: dict[str, Any]) -> str:
        results = collect(load_study(save(clips, values)), clips, tmp_path)
        return next(c["settings"] for c in results["cells"] if "splits-clip-both" in c["name"])

    def changed(*way: str | int, to: Any) -> dict[str, Any]:
        values = json.loads(json.dumps(ensemble_study()))
        part = values
        for step in way[:-1]:
            part = part[step]
        part[way[-1]] = to
        return values

    others = [
        changed("models", "tiny", "options", "width", to=16),
        changed("data", "splits", "train", "epochs", to=5),
        changed("data", "splits", "validation_limit", to=2),
        changed("data", "splits", "clips", "root", to="folds.csv"),
        changed("data", "splits", "extra", to=[{"source": "manifest", "root": "splits.csv"}]),
        changed("grid", 0, "choose", to=30),
        changed("certify", "n", to=300),
    ]
    assert len({settings(v) for v in [ensemble_study(), *others]}) == 1 + len(others)
    three = [consensus_study(None), consensus_study(2)]
    assert len({settings(v) for v in three}) == 2, "what is asked when is a setting too"


def consensus_study(consensus: int | None) -> dict[str, Any]:
    """Three members, the last of them the first again."""
    values: dict[str, Any] = json.loads(json.dumps(ensemble_study()))
    both = values["models"]["both"]
    both["members"].append({"model": "tiny"})
    if consensus is not None:
        both["consensus"] = consensus
    return values


def test_a_consensus_reaches_the_cells_config(clips: Path, tmp_path: Path) -> None:
    for asked in (None, 2):
        study = load_study(save(clips, consensus_study(asked)))
        (cell,) = [c for c in cells_of(study) if c.name == "splits-clip-both-sigma-0.3"]
        (fit,) = fits_of(study, cell, clips, tmp_path)
        assert fit.config.pipeline[-1]["model"].get("consensus") == asked
        assert collect(study, clips, tmp_path)["models"]["both"].get("consensus") == asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"members": [{"model": "tiny"}, {"model": "other"}], "consensus": 2},
            "below the number of members, 2",
        ),
        ({"network": "ds_cnn", "consensus": 2}, "consensus goes with members"),
        ({"members": [{"model": "tiny"}] * 3, "consensus": 1}, "greater than or equal to 2"),
    ],
)
def test_a_consensus_that_is_none_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = ensemble_study()
    values["models"] = {**ENSEMBLE, "both": changes}
    with pytest.raises(ConfigError, match=message):
        load_study(save(tmp_path, values))


def test_a_cell_that_is_not_finished_elsewhere_is_done_here(done: Path, tmp_path: Path) -> None:
    study, results = load_study(done / "study.yaml"), results_of(done)
    cells = {c["name"]: c for c in results["cells"]}
    del cells["folds-waveform-tiny-sigma-0.05"]["splits"][1]["testing"]
    del cells["folds-waveform-tiny-sigma-0.3"]["splits"][2]["validation"]
    (file := tmp_path / "part.json").write_text(json.dumps(results))
    found = done_elsewhere(study, done, tmp_path, [file])
    assert set(cells) - set(found) == {"folds-waveform-tiny-sigma-0.05", "folds-waveform-tiny-sigma-0.3"}
    whole = done_elsewhere(study, done, tmp_path, [file, done / "out/results/results.json"])
    assert set(whole) == set(cells)


def test_targets_in_another_order_or_fewer_stand_under_their_names(done: Path, tmp_path: Path) -> None:
    values = study_values()
    before = {c["name"]: c for c in results_of(done)["cells"]}
    values["targets"] = [15, 40]
    values["grid"][1]["decide"] = {"over_sigma": [0.0, 1.0]}
    study = load_study(save(shutil.copytree(done, tmp_path / "copy"), values))
    told = json.loads(json.dumps(results_of(done)))
    now = {c["name"]: c["settings"] for c in collect(study, tmp_path / "copy", tmp_path / "none")["cells"]}
    for cell in told["cells"]:
        cell["settings"] = now[cell["name"]]
    (file := tmp_path / "told.json").write_text(json.dumps(told))
    elsewhere = done_elsewhere(study, tmp_path / "copy", tmp_path / "none", [file])
    results = collect(study, tmp_path / "copy", tmp_path / "none", elsewhere)
    table = next(t for t in tables(results) if t.name == "validation-splits")
    assert table.head[3:] == ("15 dB", "40 dB")
    name = "splits-waveform-tiny-sigma-0.3"
    shares = before[name]["validation_share_at_target"]
    assert table.rows[0][3:] == tuple(f"{100 * shares[t]:.1f} %" for t in ("15", "40"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["cells"][0].update(settings="0" * 16), "made with other settings"),
        (lambda r: r.update(targets=[40.0]), "no figures at 25 dB"),
        (lambda r: r.update(format=1), "has format 1"),
        (lambda r: r["cells"][0].pop("splits"), "not the results.json of a study"),
        (lambda r: r["cells"][0].update(name=["a"]), "not the results.json of a study"),
        (lambda r: r["cells"][-1]["splits"][0]["validation"].pop("40"), "not the results.json of a study"),
        (
            lambda r: r["cells"][-1]["splits"][0]["validation"].update({"40": 7.0}),
            "not the results.json of a study",
        ),
        (lambda r: r["cells"][0]["splits"][0].update(testing={}), "not the results.json of a study"),
        (lambda r: r["cells"][0]["training"].pop("seconds"), "not complete, or was changed"),
        (lambda r: r["cells"][0]["testing"].clear(), "not complete, or was changed"),
        (lambda r: r.clear(), "not the results.json of a study"),
        (None, "cannot read"),
    ],
)
def test_results_that_do_not_fit_are_one_line(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None] | None, message: str,
) -> None:  # fmt: skip
    file = tmp_path / "told.json"
    if change is not None:
        change(results := results_of(done))
        file.write_text(json.dumps(results), encoding="utf-8")
    command = [
        "study",
        str(done / "study.yaml"),
        "--out",
        str(tmp_path / "new"),
        "--join",
        str(file),
        "--plan",
    ]
    assert command_line(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_expected_draws() -> None:
    assert expected_draws(CertifyConfig(n0=100, n=5000), 1.0) == 5100
    settings = CertifyConfig.model_validate({"n0": 100, "n": 5000, "decide": {"radii": [0.0]}})
    assert 100 < expected_draws(settings, 1.0) < 5100


def test_radii_that_the_draws_cannot_reach_are_not_asked_about(clips: Path) -> None:
    values = study_values(targets=[60, 40, 20, 3])
    study = load_study(save(clips, values))
    for cell in cells_of(study):
        if cell.block.name != "chosen":
            continue
        settings = fits_of(study, cell, clips, clips / "out")[0].config.certify
        assert settings.decide is not None
        largest = certified_radius(settings.n, settings.n, settings.alpha, cell.sigma)
        assert largest is not None
        assert 0 == settings.decide.radii[0] < settings.decide.radii[-1] <= min(largest, 2.75 * cell.sigma)


def _replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    values = study_values()
    place: Any = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_replaced(("grid", 0, "model"), ["tinny"]), "'tinny'"),
        (_replaced(("grid", 0, "data"), ["speech"]), "'speech'"),
        (_replaced(("grid", 1, "vary"), {"sigma": [0.05]}), "twice"),
        (_replaced(("grid", 1, "vary"), {"floor": [0.05]}), "sigma"),
        (_replaced(("grid", 1, "choose"), None), "choose"),
        (_replaced(("grid", 1, "test"), "none"), "without `choose`"),
        (_replaced(("grid", 0, "folds"), [7]), "[7]"),
        (_replaced(("grid", 1, "name"), "fixed"), "one name"),
        (_replaced(("data", "folds", "folds"), [1, 2]), "three"),
        (_replaced(("data", "splits", "set"), {}), "$seconds"),
        (_replaced(("data", "splits", "train"), {"epoch": 3}), "epochs"),
        (_replaced(("certify",), {"alfa": 0.1}), "alpha"),
        (_replaced(("pipelines", "waveform"), ["mono", {"gaussian_noise": {"sigma": "$sigma"}}]), "over_sigma"),
        (_replaced(("pipelines", "clip"), ["mono", {"gaussian_noise": {"sigma": "$sigma"}}]), "cannot take"),
        (_replaced(("titel",), "x"), "title"),
        (_replaced(("targets",), [40, 0]), "above 0 dB"),
        (_replaced(("models", "tiny", "features"), {"mfcc": {}, "log_mel": {}}), "one stage"),
        (_replaced(("models", "tiny", "start"), "begun.safetensors"), "models.tiny.start"),
        (_replaced(("models", "tiny", "features"), {"log_mel": {"n_mel": 8}}), "n_mels"),
        (_replaced(("models", "tiny"), {}), "name a network"),
        (_replaced(("models", "two"), {"members": [{"model": "tiny"}]}), "two members"),
        (_replaced(("models", "two"), {"members": [{"model": "tiny"}, {"model": "tinny"}]}), "'tinny'"),
        (_replaced(("models", "two"), {"network": "ds_cnn", "members": [{"model": "tiny"}] * 2}), "nothing of its own"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    clips: Path, tmp_path: Path, values: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(clips, values)
    assert command_line(["study", str(file), "--out", str(tmp_path / "out"), "--plan"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unknown_block_and_jobs(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(save(clips, study_values()))
    assert command_line(["study", file, "--out", str(tmp_path), "--only", "fixd", "--plan"]) == 2
    assert "fixed, chosen" in capsys.readouterr().err
    assert command_line(["study", file, "--out", str(tmp_path), "--jobs", "0"]) == 2


def test_the_plan_counts_what_is_left(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(clips, study_values())
    assert command_line(["study", str(file), "--out", str(tmp_path / "out"), "--plan", "--json"]) == 0
    costs = {c["cell"]: c for c in json.loads(capsys.readouterr().out)}
    assert costs["splits-waveform-tiny-sigma-0.05"]["passes"] == 3 * 210
    assert costs["folds-waveform-tiny-sigma-0.3"]["to_train"] == 3
    assert costs["folds-waveform-tiny-sigma-0.3"]["testing_clips"] == 40
    assert all(c["train_seconds"] > 0 and c["test_seconds"] > 0 for c in costs.values())


def test_published_figures_stand_beside_ours(done: Path) -> None:
    study = load_study(done / "study.yaml")
    results = collect(study, done, done / "out")
    cell = next(c for c in results["cells"] if c["name"] == "splits-clip-tiny-sigma-0.05")["testing"]
    results["published"] = {
        "source": "A paper",
        "figures": {
            "splits/clip": {"displacement": 351, "median_radius": 0.007996},
            "other/clip": {"snr_db": 84},
        },
    }
    rows = published(results)
    assert rows[0] == ("splits, clip: displacement", "351", f"{cell['median_displacement']:.4g}")
    assert rows[2] == ("other, clip: snr db", "84", "not run")
    assert "| figure | published | here |" in markdown(results, [], "a command")


def test_nothing_finished_is_a_page_too(clips: Path, tmp_path: Path) -> None:
    study = load_study(save(clips, study_values()))
    results = collect(study, clips, tmp_path)
    assert len(results["unfinished"]) == 8
    assert explanations(results) == []
    assert [t.name for t in tables(results)] == ["cost"]
    assert "\\begin{table}" in latex(results, "a command")


def test_blocks_must_know_their_radii() -> None:
    with pytest.raises(ConfigError, match="targets: true or over_sigma"):
        sc.study.config.validate(sc.study.config.Reach, {"targets": False}, "decide")
