"""A clock that jumps, and two runs on one directory."""

from __future__ import annotations

import datetime
import random
import re
import time
from pathlib import Path

import pytest
from rig import certify, check_same

import soundcert
from helpers import records
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.runs import certify_run


def test_a_clock_that_jumps_changes_nothing(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Back by years, forward by days, at every look: times come from a clock that only goes on."""
    draw = random.Random(0)

    def jumping() -> float:
        return draw.choice((0.0, 1e9, 4e9, -1e8))

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(abs(jumping()), tz)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr("soundcert.runs.certify_run.datetime", Jumping, raising=False)
    config = load_config(whole / "kws.yaml")
    assert config.data is not None
    items = load_items(config.data, whole)
    for resume, part in ((False, items), (True, items)):
        certify_run(config, part, tmp_path / "run", base=whole, trust=True, watchdog=60, resume=resume)
    check_same(tmp_path / "run", whole / "whole")
    assert all(0 <= r["seconds"] < 60 for r in records(tmp_path / "run") if r["status"] != "failed")


def test_no_duration_is_taken_from_the_wall_clock():
    """But for the moment that a server names (Retry-After)."""
    source = Path(soundcert.__file__).parent
    found = [
        f"{file.relative_to(source)}: {line.strip()}"
        for file in source.rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if re.search(r"\btime\.time(_ns)?\(", line)
    ]
    # A moment that another names (Retry-After), and how long ago a run wrote its last line, by its file's own time.
    known = ("parsedate_to_datetime", "now = time.time() if now is None else now")
    assert [line for line in found if not any(k in line for k in known)] == []


def test_two_runs_on_one_directory(whole: Path, tmp_path: Path):
    """Started at the same moment on a directory that is not there: one of them makes the run."""
    for i in range(3):
        run = tmp_path / f"run{i}"
        both = [certify(whole, run, "--resume") for _ in range(2)]
        ended = sorted((process.end() for process in both), key=lambda e: e.code)
        assert ended[0].code == 1, ended
        if ended[1].code != 1:  # 1: it began when the other had ended, and had nothing to do
            ended[1].said(2, "being written by another process", "--out")
        check_same(run, whole / "whole")
