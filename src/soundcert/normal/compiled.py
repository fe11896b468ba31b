"""`fill`, compiled by numba: the same steps in the same order, so the same numbers, bit by bit.

Four rows at a time, since a generator's next word waits for its last one, while four generators do not wait for each
other. numba rounds every step as numpy does: it joins no product with a sum unless asked to.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from soundcert.normal.numbers import (
    CHUNK,
    EXPONENT,
    FOUR,
    HALF,
    HALF_TURN,
    L0,
    L1,
    L2,
    LOW,
    MANTISSA,
    ONE,
    ROOT_HALF,
    S0,
    S1,
    S2,
    S3,
    SIGN,
    TWO_LN_2,
)

_ABREAST = 4
_11, _3, _24, _40, _32 = (np.uint64(n) for n in (11, 3, 24, 40, 32))
_FIRST = np.uint64(1)
_LOW_WORD = np.uint64(0xFFFFFFFF)
_23 = np.int32(23)


@numba.njit(nogil=True)
def _words(state: np.ndarray, first: int, out: np.ndarray, count: int) -> None:
    """Write the next words of four generators, `(4, count)`; each has given `first` words before."""
    a0, a1, a2, a3 = state[0, 0], state[1, 0], state[2, 0], state[3, 0]
    b0, b1, b2, b3 = state[0, 1], state[1, 1], state[2, 1], state[3, 1]
    c0, c1, c2, c3 = state[0, 2], state[1, 2], state[2, 2], state[3, 2]
    counter = np.uint64(first) + _FIRST
    for i in range(count):
        x0 = a0 + b0 + counter
        x1 = a1 + b1 + counter
        x2 = a2 + b2 + counter
        x3 = a3 + b3 + counter
        counter += _FIRST
        a0, a1, a2, a3 = b0 ^ (b0 >> _11), b1 ^ (b1 >> _11), b2 ^ (b2 >> _11), b3 ^ (b3 >> _11)
        b0, b1, b2, b3 = c0 + (c0 << _3), c1 + (c1 << _3), c2 + (c2 << _3), c3 + (c3 << _3)
        c0 = ((c0 << _24) | (c0 >> _40)) + x0
        c1 = ((c1 << _24) | (c1 >> _40)) + x1
        c2 = ((c2 << _24) | (c2 >> _40)) + x2
        c3 = ((c3 << _24) | (c3 >> _40)) + x3
        out[0, i], out[1, i], out[2, i], out[3, i] = x0, x1, x2, x3
    state[0, 0], state[1, 0], state[2, 0], state[3, 0] = a0, a1, a2, a3
    state[0, 1], state[1, 1], state[2, 1], state[3, 1] = b0, b1, b2, b3
    state[0, 2], state[1, 2], state[2, 2], state[3, 2] = c0, c1, c2, c3


@numba.njit(nogil=True, error_model="numpy")
def _pairs(
    words: np.ndarray, u: np.ndarray, r: np.ndarray, sigma: np.float32, cosines: np.ndarray, sines: np.ndarray
) -> None:
    """Write the words' pairs. u and r: room for as many float32 numbers. sines may be one shorter."""
    # One loop for each change between numbers and their bits: each is then done many values at a time.
    bits, turned = u.view(np.int32), r.view(np.int32)
    count = len(cosines)
    for i in range(count):
        u[i] = np.float32(np.int32(words[i] & _LOW_WORD) & LOW) + HALF
    for i in range(count):
        k = np.int32(bits[i] - ROOT_HALF)
        r[i] = np.float32(k >> _23)
        bits[i] = np.int32((k & MANTISSA) + ROOT_HALF)
    for i in range(count):
        s = (u[i] - ONE) / (u[i] + ONE)
        square = s * s
        log = (((square * L2 + L1) * square + L0) * square + FOUR) * s
        r[i] = np.sqrt(-((r[i] - EXPONENT) * TWO_LN_2 + log)) * sigma
    for i in range(count):
        turned[i] ^= np.int32(words[i] & _LOW_WORD) & SIGN
    for i in range(count):
        psi = np.float32(np.int32(words[i] >> _32)) * HALF_TURN
        square = psi * psi
        sine = (((square * S3 + S2) * square + S1) * square + S0) * psi
        cosine = sine * sine * -HALF + ONE
        cosines[i] = cosine * r[i]
        u[i] = np.sqrt(cosine * HALF + HALF) * sine * r[i]
    sines[:] = u[: len(sines)]


def _fill(states: np.ndarray, out: np.ndarray, sigma: np.float32) -> None:
    """See `soundcert.normal.fill`."""
    rows, size = out.shape
    pairs = (size + 1) // 2
    words = np.empty((_ABREAST, CHUNK), np.uint64)
    u, r = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    state = np.zeros((_ABREAST, 3), np.uint64)
    for first in range(0, rows, _ABREAST):
        some = min(_ABREAST, rows - first)
        state[:some] = states[first : first + some]
        for start in range(0, pairs, CHUNK):
            count = min(CHUNK, pairs - start)
            _words(state, start, words, count)
            for row in range(some):
                line = out[first + row]
                end = pairs + min(start + count, size - pairs)
                _pairs(words[row], u, r, sigma, line[start : start + count], line[pairs + start : end])


def make(keep: bool) -> Callable[[np.ndarray, np.ndarray, np.float32], None]:
    """Compile `fill`, which takes seconds; with `keep`, take what an earlier call left on the disk, or leave it there."""
    signature = "void(uint64[:,::1], float32[:,::1], float32)"
    made: Callable[[np.ndarray, np.ndarray, np.float32], None] = numba.njit(
        signature, nogil=True, cache=keep
    )(_fill)
    return made
