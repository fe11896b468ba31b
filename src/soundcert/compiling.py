"""What numba compiles, taken only where it is seen to be right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

F = TypeVar("F")


def compile_checked(make: Callable[[bool], F], right: Callable[[F], bool]) -> F | None:
    """Return what `make` compiles, or None where there is no numba for this Python, or what it made is not right.

    make: called with whether to keep what was compiled on the disk, or to take it from there. What lies there may be
    of another version, damaged, or have no place: then all is compiled anew, which takes seconds, and not kept.
    """
    for keep in (True, False):
        with suppress(Exception):
            made = make(keep)
            if right(made):
                return made
    return None
