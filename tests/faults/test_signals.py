"""Killed, interrupted and ended by a scheduler, at random moments and at chosen ones."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from rig import certify, check_same, copied, stopped_and_resumed, wait_for_lines

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments_nothing_is_lost_and_nothing_is_twice(whole: Path, tmp_path: Path, number):
    """`python scripts/faults.py kills` does it hundreds of times."""
    draw = random.Random(number)
    runs, times = (3, 6) if number == signal.SIGKILL else (1, 6)
    alive = 0
    for i in range(runs):
        alive += stopped_and_resumed(whole, tmp_path / f"{i}", whole / "whole", draw, number, 0.8, times)[0]
    assert alive >= runs, "some were under way"


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(whole: Path, tmp_path: Path, number):
    home = copied(whole, tmp_path / "home")
    run = tmp_path / "run"
    process = certify(home, run)
    wait_for_lines(process, run, 3)
    assert process.send(number)
    process.end().said(CODES[number], "every finished clip is in", str(run), "--resume")
    assert certify(home, run, "--resume").end().code == 1
    check_same(run, certify_whole(home))


def certify_whole(home: Path) -> Path:
    """The copied home is another place, which run.json names: its own whole run."""
    assert certify(home, home / "whole").end().code == 1
    return home / "whole"
