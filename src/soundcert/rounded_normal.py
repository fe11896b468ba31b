"""A normal variable rounded to whole numbers, drawn exactly, from integers.

Conventions
-----------
- N = ⌊S·g + ½⌋ with g standard normal and S the *scale*, an exact double: P(N ≤ j) = Φ((j + ½)/S).
- A *word* is a uniform 32-bit integer. Its top 16 bits are a *slot*; positions are cut into *cells* of
  w = 2^m whole numbers, cell q being qw … qw + w − 1.

How it is drawn. Cell q owns n_q of the 65536 slots, as many as fit under its least probable position:
n_q ≤ 2^16·w·min p_j. In such a slot the low m bits of the word say which position, all alike, so that each
has been given n_q/(2^16·w) of its p_j, exactly. The slots that no cell owns, about one in a hundred, draw what is left,
by inversion: slot i of them and 64 more bits e make V = (i + e/2^64)/2^16, a multiple of 2^-80, and

    N = the least j with H(j) > V,    H(j) = Φ((j + ½)/S) − Σ_{j' ≤ j} n_{q(j')}/(2^16·w).

H never falls, since no p_j was given more than it has. Were V uniform on all reals from 0 to the left mass, N
would have its law exactly. V is cut to 80 bits, and N is another only if a value of H lies within its last bit:
`total_variation` bounds that, the tails included.

Which side of H(j) a V lies on is a question about exact numbers. Double precision answers it where V is further
from H(j) than `MARGIN`, a hundred times its error; else 110 decimal digits do. So the outcome is a function of
the words alone, on every machine. Proof and tests: docs/theory.md, tests/reference/test_rounded_normal.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np

from soundcert.errors import ConfigError

SLOT_BITS = 16
_SLOTS = 1 << SLOT_BITS
#: Bits of V, the slot's included.
_V_BITS = SLOT_BITS + 64
#: Distance of V from H(j) from which double precision decides. Its error is below 2^-50: Φ of scipy is good to
#: two units of 2^-53, its argument and the two differences to one each.
MARGIN = 2.0**-44
#: Cells a standard deviation, at least: more waste slots on cells' remainders, fewer waste them within cells.
_CELLS = 64
LARGEST_SCALE = 2.0**22
SMALLEST_SCALE = 2.0**-10
#: Φ(−12) < 2^-108: no V of 80 bits leads further out.
_REACH = 12

_DIGITS = Context(prec=110)
_PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651"
    "3282306647"
)


class Words(Protocol):
    """A source of uniform 64-bit words, such as a bit generator of numpy."""

    def random_raw(self, size: int) -> np.ndarray: ...


class RoundedNormal:
    """The law of ⌊scale·g + ½⌋. Use `rounded_normal`, which keeps the tables."""

    def __init__(self, scale: float) -> None:
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
            raise ConfigError(
                f"lattice noise needs σ of {SMALLEST_SCALE:g} to {LARGEST_SCALE:g} lattice steps, got {scale:g}: "
                f"choose a {'smaller' if scale < 1 else 'larger'} step"
            )
        self.scale = float(scale)
        self.bits = max(0, math.floor(math.log2(scale)) - int(math.log2(_CELLS)))
        self.width = 1 << self.bits
        self.most = math.ceil(_REACH * scale) + 1
        """No draw is further from 0."""
        self._exact_scale = Fraction(self.scale)
        side = math.ceil(6 * scale / self.width) + 1  # beyond six σ no cell owns a slot
        self._first = -side
        owned = self._owned(side)
        self.owned = owned
        """Slots of each cell, from cell −len/2 on."""
        self._before = np.concatenate([[0], np.cumsum(owned)])
        self.given = int(self._before[-1])
        """Slots that some cell owns: the first ones."""
        starts = (np.arange(-side, side) * self.width).astype(np.int32)
        self._table = np.zeros(_SLOTS, dtype=np.int32)
        self._table[: self.given] = np.repeat(starts, owned)
        # As 64 bits: with all slots owned the limit would not be a word.
        self._limit = np.uint32(self.given << SLOT_BITS)
        self._edges = self._left(np.arange(-side, side + 1) * self.width - 1)
        self._slope, self._curve = self._densities(starts)

    def _owned(self, side: int) -> np.ndarray:
        """Return n_q for cells −side … side − 1, rounded down from a lower bound of min p_j.

        p_j is the integral of the density over one step, which is least at the end further from 0; where cells
        are single positions, the difference of two values of Φ is a better bound.
        """
        from scipy.special import ndtr

        first = np.arange(-side, side) * self.width
        last = first + self.width - 1
        far = (np.maximum(np.abs(first), np.abs(last)) + 0.5) / self.scale
        least = np.exp(-0.5 * far**2) / math.sqrt(2 * math.pi) / self.scale * (1 - 1e-9)
        if self.width == 1:
            least = np.maximum(
                least, ndtr((first + 0.5) / self.scale) - ndtr((first - 0.5) / self.scale) - 1e-14
            )
        owned: np.ndarray = np.floor(_SLOTS * self.width * least).astype(np.int64)
        return owned

    def _densities(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what a first guess needs of each cell: density at its start, and its slope.

        The slope is that of the straight line which gives the cell its mass.
        """
        mass = np.diff(self._edges)
        slope = self._density(starts.astype(np.float64), self.owned)
        return slope, 2.0 * (mass - slope * self.width) / self.width**2

    def _density(self, j: np.ndarray, owned: np.ndarray) -> np.ndarray:
        x = j / self.scale
        density = np.exp(-0.5 * x * x) / (math.sqrt(2 * math.pi) * self.scale)
        left: np.ndarray = density - owned / (_SLOTS * self.width)
        return left

    @property
    def total_variation(self) -> float:
        """Upper bound of the total-variation distance between one draw and the exact law, its tails included.

        A V of 80 bits stands for the interval up to the next one; N is wrong only where a value of H lies inside.
        H(j) is within 2^-80 of its ends for |j + ½| > 10.3·S, and those j share the two outermost intervals.
        So at most 20.6·S + 3 of the intervals of 2^-80 are affected.
        """
        return (21.0 * self.scale + 4.0) * 2.0**-_V_BITS

    # --- drawing -----------------------------------------------------------------------------------

    def fill(self, out: np.ndarray, sources: Sequence[Words]) -> np.ndarray:
        """Fill `out` `(rows, d)` int32 with draws, each row from the words of its own source; `out` is returned.

        A row takes ⌈d/2⌉ 64-bit words (each is two words of 32 bits, the low one first), and then one for every slot that
        no cell owns, in order.
        """
        places, slots, more = [], [], []
        index = np.empty(out.shape[1], dtype=np.intp)
        low = np.uint32(self.width - 1)
        for number, (row, source) in enumerate(zip(out, sources, strict=True)):
            words = source.random_raw((len(row) + 1) // 2).astype("<u8", copy=False).view("<u4")[: len(row)]
            np.right_shift(words, SLOT_BITS, out=index)
            self._table.take(index, out=row, mode="clip")
            if self.bits:
                np.add(row, (words & low).view(np.int32), out=row)
            left = np.flatnonzero(words >= self._limit)
            places.append(left + number * out.shape[1])
            slots.append(index[left] - self.given)
            more.append(source.random_raw(len(left)))
        if len(out):
            out.reshape(-1)[np.concatenate(places)] = self.resolve(
                np.concatenate(slots), np.concatenate(more)
            )
        return out

    def resolve(self, slots: np.ndarray, more: np.ndarray) -> np.ndarray:
        """Return the draws for slots that no cell owns, numbered from 0, and 64 more bits each; `(k,)` int64."""
        v = (slots + more * 2.0**-64) * 2.0**-SLOT_BITS
        cell = np.clip(np.searchsorted(self._edges, v, side="right") - 1, 0, len(self.owned) - 1)
        start = (cell + self._first) * self.width
        out: np.ndarray = start + self._guess(v, cell, start)
        wrong = ~((self._left(out) > v + MARGIN) & (self._left(out - 1) <= v - MARGIN))
        for i in np.flatnonzero(wrong):
            out[i] = self._search(int(out[i]), (int(slots[i]) << 64) + int(more[i]))
        return out

    def _guess(self, v: np.ndarray, cell: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the likely position within each cell: a straight density, and one step of Newton's method."""
        if self.width == 1:
            return np.zeros_like(cell)
        rest = np.maximum(v - self._edges[cell], 0.0)
        slope, curve = self._slope[cell], self._curve[cell]
        root = np.sqrt(np.maximum(slope * slope + 2.0 * curve * rest, 0.0))
        at = np.clip(2.0 * rest / np.maximum(slope + root, 1e-300), 0.0, self.width - 1.0)
        for _ in range(1 if self.bits < 9 else 2):
            density = np.maximum(self._density(start + at, self.owned[cell]), 1e-300)
            at = np.clip(at - (self._left(start + at - 1.0) - v) / density, 0.0, self.width - 1.0)
        out: np.ndarray = np.floor(at).astype(np.int64)
        return out

    def _left(self, j: np.ndarray) -> np.ndarray:
        """Return H(j) in double precision; between whole numbers it goes on smoothly."""
        from scipy.special import ndtr

        cell = np.clip(np.floor_divide(j, self.width).astype(np.int64) - self._first, 0, len(self.owned) - 1)
        within = np.clip(j - (cell + self._first) * self.width + 1.0, 0.0, float(self.width))
        given = self._before[cell] + self.owned[cell] * (within / self.width)
        out: np.ndarray = ndtr((j + 0.5) / self.scale) - given * 2.0**-SLOT_BITS
        return out

    # --- exactly -----------------------------------------------------------------------------------

    def _search(self, near: int, v: int) -> int:
        """Return the least j with H(j) > v/2^80, from a guess: steps that double, then halves."""
        low = high = max(-self.most + 1, min(near, self.most))
        step = 1
        while high < self.most and not self.above(high, v):
            low, high, step = high, min(high + step, self.most), 2 * step
        if low == high:  # the guess was high enough: go down for a j that is not
            low, step = low - 1, 1
            while low > -self.most and self.above(low, v):
                low, high, step = max(low - step, -self.most), low, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.above(middle, v) else (middle, high)
        return high

    def above(self, j: int, v: int) -> bool:
        """Return whether H(j) > v/2^80: by double precision where it can tell, else by 110 digits."""
        near = float(self._left(np.array([float(j)]))[0]) - v * 2.0**-_V_BITS
        if abs(near) > MARGIN:
            return near > 0
        given = Fraction(self.given_up_to(j), _SLOTS * self.width)
        return phi(Fraction(2 * j + 1) / (2 * self._exact_scale)) > _decimal(
            Fraction(v, 1 << _V_BITS) + given
        )

    def given_up_to(self, j: int) -> int:
        """Return what owned slots give to positions up to j, in units of 1/(2^16·w)."""
        cell = min(max(j // self.width - self._first, 0), len(self.owned) - 1)
        within = min(max(j - (cell + self._first) * self.width + 1, 0), self.width)
        return int(self._before[cell]) * self.width + int(self.owned[cell]) * within


@lru_cache(maxsize=32)
def rounded_normal(scale: float) -> RoundedNormal:
    """Return the law of ⌊scale·g + ½⌋, g standard normal, made once for each scale."""
    return RoundedNormal(scale)


def phi(x: Fraction) -> Decimal:
    """Return Φ(x) with an error below 1e-100.

    Formula: Φ(x) = ½ + φ(x)·Σ_k x^{2k+1}/(1·3·5 … (2k+1)). All terms have one sign, so that rounding adds up to a few
    hundred units of 1e-110; the sum ends where the rest, below twice the next term, is smaller than that.
    Source: Abramowitz and Stegun 26.2.11.
    """
    if abs(x) > 22:  # Φ(−22) < 1e-106
        return Decimal(0 if x < 0 else 1)
    c = _DIGITS  # operators would round to the thread's own context, of 28 digits
    z = _decimal(x)
    square = c.multiply(z, z)
    term = total = z
    k = 0
    while c.abs(term) > Decimal("1e-112") or square > 2 * k:
        k += 1
        term = c.divide(c.multiply(term, square), Decimal(2 * k + 1))
        total = c.add(total, term)
    density = c.divide(c.exp(c.divide(c.minus(square), Decimal(2))), c.sqrt(c.multiply(Decimal(2), _PI)))
    return c.add(Decimal("0.5"), c.multiply(density, total))


def _decimal(x: Fraction) -> Decimal:
    return _DIGITS.divide(Decimal(x.numerator), Decimal(x.denominator))
