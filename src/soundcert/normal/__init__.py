"""Normal numbers from keyed bits: the same on every machine, bit by bit.

A row starts a generator of its own, SFC64 (Doty-Humphrey 2010, PractRand) from 192 bits of state. Each of its 64-bit
words makes two normal numbers by the method of Box and Muller (1958): the low half a radius, √(−2 ln u), the high half an
angle. Logarithm and sine are written out below as sums and products of float32, each rounded once as IEEE 754 says, so
that no library's or processor's own version of them comes in. numba compiles these steps (`compiled`); where it
cannot be had, numpy takes them one by one, with the same results, in five times the time for a second of sound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from soundcert.compiling import compile_checked
from soundcert.normal import plain

Fill = Callable[[np.ndarray, np.ndarray, np.float32], None]


def fill(states: np.ndarray, out: np.ndarray, sigma: float) -> None:
    """Fill rows with normal numbers of standard deviation `sigma`.

    states: `(rows, 3)` uint64, the generators' a, b and c. out: `(rows, size)` float32, in one piece. A row's first
    half are the cosines of its pairs, its second half the sines; of an odd size, the last sine is left out.
    """
    fastest()(states, out, np.float32(sigma))


@cache
def fastest() -> Fill:
    """Return the compiled `fill`, or numpy's where there is none, or none that draws the same."""
    expected = _sample(plain.fill)
    return compile_checked(_make, lambda made: _sample(made) == expected) or plain.fill


def _make(keep: bool) -> Fill:
    from soundcert.normal.compiled import make

    return make(keep)


def _sample(draw: Fill) -> bytes:
    states = np.arange(1, 16, dtype=np.uint64).reshape(5, 3) * np.uint64(0x9E3779B97F4A7C15)
    out = np.empty((5, 1001), np.float32)
    draw(states, out, np.float32(0.7))
    return out.tobytes()
