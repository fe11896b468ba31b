"""Long recordings from the command line: windows below the noise, or cut into clips above it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import FEATURES, FRONT, MODEL, NOISE, records, tone, without_times, write, yaml_of


@pytest.fixture
def long(home: Path) -> Path:
    """`rec/low/*.wav` and `rec/high/*.wav` of 0.35 s, `cut.yaml` and `windows.yaml`."""
    for label, frequency in (("low", 500.0), ("high", 4000.0)):
        for i in range(2):
            write(
                home / "rec" / label / f"{i}.wav",
                np.concatenate([tone(frequency, 4 * i + k) for k in range(4)])[:5600],
            )
    data = "{source: folder, root: rec, cut: {seconds: 0.1, tail: drop}}"
    (home / "cut.yaml").write_text(yaml_of([*FRONT, NOISE, FEATURES, MODEL], data))
    windows = "windows: {seconds: 0.1, hop: 0.05, vote: probability}"
    whole = [FRONT[0], FRONT[1], FRONT[3], NOISE, windows, FEATURES, MODEL]
    (home / "windows.yaml").write_text(yaml_of(whole, "{source: folder, root: rec}"))
    return home


def test_windows_give_one_certificate_a_recording(long, cli) -> None:
    assert cli("certify", long / "windows.yaml", "--out", long / "run", "--report-in", "file").code == 0
    rows = records(long / "run")
    assert [(r["clip"], r["status"]) for r in rows] == [
        (f"{label}/{i}.wav", "certified") for label in ("high", "low") for i in range(2)
    ]
    assert all("recording" not in r and r["spaces"]["file"]["proven"] for r in rows)
    run = json.loads((long / "run" / "run.json").read_text())
    assert run["contract"]["windows"] == "0.1 s every 0.05 s"
    assert run["contract"]["dimension"] == 5600
    assert "Nothing about a single window" in run["statement"]
    assert cli("attack", long / "run", "--limit", 1, "--steps", 2, "--n", 50, "--goal", "flip").code == 0


def test_cut_gives_one_certificate_a_clip_and_no_interval(long, cli) -> None:
    ran = cli("certify", long / "cut.yaml", "--out", long / "run")
    assert ran.code == 0
    assert "not independent of each other" in " ".join(ran.out.split())
    rows = records(long / "run")
    assert [r["clip"] for r in rows[:4]] == [
        "high/0.wav#t=0,0.1", "high/0.wav#t=0.1,0.2", "high/0.wav#t=0.2,0.3", "high/1.wav#t=0,0.1"
    ]  # fmt: skip
    assert rows[0]["recording"] == "high/0.wav"
    assert len({r["digest"] for r in rows}) == 12, "each with noise of its own"
    run = json.loads((long / "run" / "run.json").read_text())
    assert run["contract"]["cut"] == "0.1 s, the rest left out"
    assert run["contract"]["dimension"] == 1600
    assert "no joint level" in run["statement"]
    # Everything that reads a run finds its clips again.
    assert cli("report", long / "run").code == 0
    page = (long / "run" / "report.html").read_text()
    assert "not independent of each other" in page
    assert "0.1 s, the rest left out" in page
    assert cli("attack", long / "run", "--limit", 1, "--goal", "leave", "--steps", 2, "--n", 50).code == 0
    assert cli("lint", long / "run").code in (0, 1)
    assert cli("certify", long / "cut.yaml", "--out", long / "other", "--seed", 1).code == 0
    found = cli("compare", long / "run", long / "other", "--json").json
    assert (found["grouped_by"], found["groups"], found["common"]) == ("recording", 4, 12)


def test_a_cut_run_that_was_stopped_goes_on(long, cli) -> None:
    assert cli("certify", long / "cut.yaml", "--out", long / "whole").code == 0
    assert cli("certify", long / "cut.yaml", "--out", long / "run").code == 0
    lines = (long / "run" / "certificates.jsonl").read_text().splitlines(keepends=True)
    (long / "run" / "certificates.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    assert cli("certify", long / "cut.yaml", "--out", long / "run", "--resume").code == 0
    assert without_times(long / "run") == without_times(long / "whole")


def test_other_data_is_cut_as_the_config_says_and_a_file_is_too(long, cli) -> None:
    audit = cli("audit", long / "cut.yaml", "--data", long / "rec" / "low", "--json").json
    assert [c["clip"] for c in audit["clips"]][:2] == ["0.wav#t=0,0.1", "0.wav#t=0.1,0.2"]
    answers = cli("predict", long / "cut.yaml", long / "rec" / "low" / "0.wav", "--n", 50, "--json").json
    assert [(a["clip"].rpartition("/")[2], a["label"]) for a in answers] == [
        (f"0.wav#t={start:g},{start + 0.1:g}", "low") for start in (0, 0.1, 0.2)
    ]
    assert cli("predict", long / "cut.yaml", long / "gone.wav").code == 2


def test_a_cut_run_is_verified_from_its_parts(long, cli) -> None:
    assert cli("certify", long / "cut.yaml", "--out", long / "run").code == 0
    assert cli("verify", long / "run").code == 0
