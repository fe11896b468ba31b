"""Whether a run goes on, and how far it is: told from outside, without disturbing who writes it.

A writer holds a lock on the run (`runs.directory.take_lock`). To try that lock, even for a moment, could make a
writer that starts just then give up; so locks are looked up in the system's own list, where it has one, and
elsewhere a run that wrote within the last seconds counts as going on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.report.words import duration
from soundcert.runs.directory import LOCK, RECORDS, RUN

_RECENT = 20.0
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True)
class State:
    """How a run stands: `state` is one of the constants, `words` says it for people, `changed` when it last wrote."""

    FINISHED = "finished"
    RUNNING = "running"
    STOPPED = "stopped"
    UNREADABLE = "unreadable"

    state: str
    words: str
    changed: float | None

    def to_dict(self) -> dict[str, Any]:
        return {"state": self.state, "state_words": self.words, "changed": self.changed}


def state_of(path: Path, card: Mapping[str, Any], now: float | None = None) -> State:
    """Return how a run stands, from what its card says of its clips."""
    now = time.time() if now is None else now
    changed = _changed(path)
    if not card["readable"]:
        return State(State.UNREADABLE, "cannot be shown", changed)
    done, total = card["done"], card["total"]
    if done >= total:
        return State(State.FINISHED, f"{total} clips", changed)
    age = None if changed is None else max(0.0, now - changed)
    if locked(path) or (age is not None and age < _RECENT):
        left = (total - done) * card["seconds"] if card["seconds"] else None
        more = f", about {duration(left)} left" if left is not None else ""
        return State(State.RUNNING, f"{done} of {total} clips{more}", changed)
    ago = f", last written {duration(age)} ago" if age is not None else ""
    return State(State.STOPPED, f"stopped at {done} of {total} clips{ago}", changed)


def _changed(path: Path) -> float | None:
    for name in (RECORDS, RUN):
        try:
            return (path / name).stat().st_mtime
        except OSError:
            continue
    return None


def locked(path: Path) -> bool:
    """Whether a process of this machine holds the run's lock, where the system tells."""
    try:
        status = (path / LOCK).stat()
        lines = _LOCKS.read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(" FLOCK " in line and f" {place} " in line for line in lines)
