"""`fill` in numpy, one step after another."""

from __future__ import annotations

from collections.abc import Sequence

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


def fill(states: np.ndarray, out: np.ndarray, sigma: np.float32) -> None:
    """See `soundcert.normal.fill`."""
    size = out.shape[1]
    pairs = (size + 1) // 2
    room = _Room(min(CHUNK, pairs))
    source = np.random.SFC64(0)
    for state, row in zip(states, out, strict=True):
        words = np.append(state, np.uint64(1))
        source.state = {"bit_generator": "SFC64", "state": {"state": words}, "has_uint32": 0, "uinteger": 0}
        for start in range(0, pairs, CHUNK):
            count = min(CHUNK, pairs - start)
            halves = source.random_raw(count).astype("<u8", copy=False).view("<i4")
            cosines, sines = room.pairs(halves[0::2], halves[1::2], sigma)
            row[start : start + count] = cosines
            row[pairs + start : pairs + start + count] = sines[: size - pairs - start]


class _Room:
    """Arrays that one chunk after another is worked out in."""

    def __init__(self, pairs: int) -> None:
        self._floats = np.empty((5, pairs), np.float32)
        self._whole = np.empty(pairs, np.int32)

    def pairs(self, low: np.ndarray, high: np.ndarray, sigma: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Return r·cos and r·sin for the words' halves, `(words,)` float32 each, good until the next call."""
        u, r, square, x, y = self._floats[:, : len(low)]
        whole, bits, turned = self._whole[: len(low)], u.view(np.int32), r.view(np.int32)

        np.copyto(u, np.bitwise_and(low, LOW, out=whole), casting="unsafe")
        u += HALF
        bits -= ROOT_HALF
        np.copyto(r, np.right_shift(bits, 23, out=whole), casting="unsafe")
        bits &= MANTISSA
        bits += ROOT_HALF  # u is m now
        np.add(u, ONE, out=x)
        u -= ONE
        u /= x
        np.multiply(u, u, out=square)
        _horner(square, (L2, L1, L0, FOUR), out=x)
        x *= u
        r -= EXPONENT
        r *= TWO_LN_2
        r += x
        np.sqrt(np.negative(r, out=r), out=r)
        r *= sigma
        turned ^= np.bitwise_and(low, SIGN, out=whole)  # the other half of the circle

        np.copyto(u, high, casting="unsafe")
        u *= HALF_TURN
        np.multiply(u, u, out=square)
        _horner(square, (S3, S2, S1, S0), out=x)
        x *= u
        np.multiply(x, x, out=y)
        y *= -HALF
        y += ONE
        np.multiply(y, HALF, out=u)
        u += HALF
        np.sqrt(u, out=u)
        u *= x
        u *= r
        y *= r
        return y, u


def _horner(x: np.ndarray, factors: Sequence[np.float32], out: np.ndarray) -> None:
    """Write the polynomial in x with these factors, the highest power's first."""
    highest, *others, last = factors
    np.multiply(x, highest, out=out)
    for factor in others:
        out += factor
        out *= x
    out += last
