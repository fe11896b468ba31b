"""The small study of configs/, on real audio, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SOUNDCERT_DATA", ROOT.parent / "shared" / "data"))

needs_audio = pytest.mark.skipif(
    not all((DATA / name / "meta.csv").exists() for name in ("speech_commands", "esc10")),
    reason=f"needs speech_commands and esc10 in {DATA} (or set SOUNDCERT_DATA)",
)


@needs_audio
def test_the_small_study_runs_as_written(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "configs/study-small.yaml").read_text(encoding="utf-8"))
    for data in values["data"].values():
        data["clips"]["root"] = str(DATA / Path(data["clips"]["root"]).name)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "soundcert",
        "study",
        str(file),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    results = json.loads((tmp_path / "out/results/results.json").read_text(encoding="utf-8"))
    assert results["unfinished"] == []
    by_name = {c["name"]: c for c in results["cells"]}

    # Equal ceilings, and SNRs that differ by the lengths of the clips, whatever the models are.
    speech, sounds = (by_name[f"{d}-waveform-tiny-sigma-0.0025"]["testing"] for d in ("kws", "esc10"))
    assert speech["ceiling"] == sounds["ceiling"]
    assert (speech["contract"]["dimension"], sounds["contract"]["dimension"]) == (16_000, 80_000)
    # Displacement is a property of the clip and of σ; the paper has 230 to 351 at this σ.
    assert 150 < by_name["kws-clip-tiny-sigma-0.0025"]["testing"]["median_displacement"] < 400

    reached = {(r["data"], r["pipeline"]): r for r in results["targets_reached"]}
    assert set(reached) == {("kws", "waveform"), ("esc10", "waveform"), ("kws", "log-mel")}
    assert reached["kws", "waveform"]["per_target"]["60"]["total"] == 16
    assert reached["esc10", "waveform"]["per_target"]["60"]["total"] == 18
    # Four words, a minute of training: far above chance, and no claim beyond.
    assert reached["kws", "waveform"]["per_target"]["60"]["count"] >= 6
    page = (tmp_path / "out/results/README.md").read_text(encoding="utf-8")
    assert "yes, no, zero, two" in page
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert all("before" in line for line in again.stderr.splitlines() if line)
