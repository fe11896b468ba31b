"""Normal numbers from bits: the same everywhere, right to the last places, and normal."""

from __future__ import annotations

import math
import sys
from hashlib import blake2b

import numpy as np
import pytest
from scipy.stats import chisquare, kstest, norm

from soundcert import normal
from soundcert.normal import plain
from soundcert.normal.numbers import CHUNK

_64 = 2**64 - 1


def states(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, _64, (rows, 3), dtype=np.uint64, endpoint=True)


def drawn(draw: normal.Fill, rows: int, size: int, sigma: float = 1.0, seed: int = 0) -> np.ndarray:
    out = np.full((rows, size), np.nan, np.float32)
    draw(states(rows, seed), out, np.float32(sigma))
    return out


def words_in_plain_integers(state: np.ndarray, count: int) -> list[int]:
    """SFC64 as its author wrote it."""
    a, b, c = (int(x) for x in state)
    out = []
    for counter in range(1, count + 1):
        x = (a + b + counter) & _64
        a, b, c = b ^ (b >> 11), (c + (c << 3)) & _64, ((((c << 24) | (c >> 40)) & _64) + x) & _64
        out.append(x)
    return out


def pair_in_doubles(word: int) -> tuple[float, float]:
    """Box and Muller with the library's functions: the angle goes once round the circle over bit 31 and the high half."""
    low, high = word & 0xFFFFFFFF, word >> 32
    radius = math.sqrt(-2 * math.log(((low & 0x7FFFFFFF) + 0.5) / 2**31))
    angle = (high - (high >> 31 << 32)) / 2**32 * math.pi + (low >> 31) * math.pi
    return radius * math.cos(angle), radius * math.sin(angle)


fills = pytest.mark.parametrize("draw", [plain.fill, normal.fill], ids=["numpy", "fastest"])


@fills
@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_numbers_are_box_and_mullers_of_the_generators_words(draw, size):
    got = drawn(draw, 5, size)
    for state, row in zip(states(5), got, strict=True):
        pairs = [pair_in_doubles(w) for w in words_in_plain_integers(state, (size + 1) // 2)]
        expected = [c for c, _ in pairs] + [s for _, s in pairs]
        np.testing.assert_allclose(row, expected[:size], rtol=0, atol=2e-6)


# Every corner of a word: least and greatest radius, ends of the circle and of the logarithm's range.
CORNERS = [0, 1, 2**24 - 1, 2**24, 2**24 + 1, 0x5A82799A, 0x5A827999, 2**30, 2**31 - 1, 2**31, 2**32 - 1]


def test_words_at_every_corner_are_right():
    words = np.array([low | high << 32 for low in CORNERS for high in CORNERS], dtype=np.uint64)
    halves = words.view("<i4")
    cosines, sines = plain._Room(len(words)).pairs(halves[0::2], halves[1::2], np.float32(1))
    expected = np.array([pair_in_doubles(int(w)) for w in words])
    far = np.linalg.norm(expected, axis=1) > 0.01
    got = np.stack([cosines, sines], 1)
    np.testing.assert_allclose(got[far], expected[far], rtol=0, atol=3e-6)
    # u has 24 bits just below 1, so that the least radii are 0 or 3.5e-4: one pair in thirty million.
    np.testing.assert_allclose(got[~far], expected[~far], rtol=0, atol=2.5e-4)
    assert not far.all()
    assert np.abs(expected).max() > 6.6  # the radius of k = 0


def test_compiled_and_plain_are_equal_bit_by_bit():
    made = pytest.importorskip("soundcert.normal.compiled").make(keep=True)
    for rows, size in [(1, 1), (1, 2), (3, 5), (4, 16), (5, 17), (9, 1000), (2, 2 * CHUNK - 1),
                       (4, 2 * CHUNK), (3, 2 * CHUNK + 1), (5, 5 * CHUNK + 3)]:  # fmt: skip
        for sigma in (1.0, 0.3, 7e-5):
            one, two = (drawn(d, rows, size, sigma, seed=size) for d in (plain.fill, made))
            assert one.tobytes() == two.tobytes()


def test_compiled_and_plain_agree_on_every_corner_too():
    compiled = pytest.importorskip("soundcert.normal.compiled")
    words = np.array([low | high << 32 for low in CORNERS for high in CORNERS], dtype=np.uint64)
    count, halves = len(words), words.view("<i4")
    expected = plain._Room(count).pairs(halves[0::2], halves[1::2], np.float32(0.7))
    u, r, cosines, sines = (np.empty(count, np.float32) for _ in range(4))
    compiled._pairs(words, u, r, np.float32(0.7), cosines, sines)
    assert (cosines.tobytes(), sines.tobytes()) == tuple(e.tobytes() for e in expected)


@pytest.fixture
def anew():
    normal.fastest.cache_clear()
    yield
    normal.fastest.cache_clear()


@pytest.mark.usefixtures("anew")
def test_the_compiled_ones_are_used():
    pytest.importorskip("numba")
    assert normal.fastest() is not plain.fill


@pytest.mark.usefixtures("anew")
def test_without_numba_numpy_draws_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundcert.normal.compiled", None)
    monkeypatch.delattr("soundcert.normal.compiled", raising=False)
    assert normal.fastest() is plain.fill
    got = np.empty((3, 40), np.float32)
    normal.fill(states(3), got, 0.5)
    assert got.tobytes() == drawn(plain.fill, 3, 40, 0.5).tobytes()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("wrong", [{True}, {True, False}])
@pytest.mark.parametrize("how", ["raises", "draws otherwise"])
def test_what_is_damaged_or_of_other_numbers_is_compiled_anew_or_left(monkeypatch, wrong, how):
    compiled = pytest.importorskip("soundcert.normal.compiled")
    real, asked = compiled.make, []

    def make(keep: bool) -> normal.Fill:
        asked.append(keep)
        if keep not in wrong:
            return real(keep)
        if how == "raises":
            raise EOFError("Ran out of input")
        return lambda states, out, sigma: plain.fill(states, out, sigma * np.float32(1.0001))

    monkeypatch.setattr(compiled, "make", make)
    chosen = normal.fastest()
    assert asked == [True, False]
    assert (chosen is plain.fill) == (len(wrong) == 2)
    assert drawn(chosen, 3, 40).tobytes() == drawn(plain.fill, 3, 40).tobytes()


@fills
def test_every_machine_gives_these_rows(draw):
    told = blake2b(drawn(draw, 7, 33_333, 0.7).astype("<f4").tobytes(), digest_size=16).hexdigest()
    assert told == "0110fe1481df449573a32f6eda254158"


def test_no_row_and_no_value_are_no_error():
    for shape in ((0, 5), (3, 0)):
        for draw in (plain.fill, normal.fill):
            draw(states(shape[0]), np.empty(shape, np.float32), 1.0)


# --- the law ---------------------------------------------------------------------------------------


def test_four_million_numbers_are_normal_in_body_and_tails():
    values = drawn(normal.fill, 400, 10_000, seed=3).ravel().astype(np.float64)
    assert kstest(values, "norm").pvalue > 1e-3
    edges = [-np.inf, -4.5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 4.5, np.inf]
    seen = np.histogram(values, edges)[0]
    assert chisquare(seen, np.diff(norm.cdf(edges)) * len(values)).pvalue > 1e-3
    for power, mean, square in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)):
        spread = math.sqrt((square - mean**2) / len(values))
        assert abs((values**power).mean() - mean) < 4.5 * spread


def test_the_two_of_a_pair_and_neighbours_are_independent():
    values = drawn(normal.fill, 200, 10_000, seed=4).astype(np.float64)
    cosines, sines = values[:, :5000].ravel(), values[:, 5000:].ravel()
    chance = 4.5 / math.sqrt(len(cosines))
    later, loud = cosines[1:], np.abs(sines[:-1])
    for a, b in ((cosines, sines), (cosines**2, sines**2), (later, cosines[:-1]), (np.abs(later), loud)):
        assert abs(np.corrcoef(a, b)[0, 1]) < chance
    angles = np.arctan2(sines, cosines) / (2 * math.pi) % 1
    assert kstest(angles, "uniform").pvalue > 1e-3
    assert kstest(np.exp(-(cosines**2 + sines**2) / 2), "uniform").pvalue > 1e-3
    seen = np.histogram2d(angles, np.exp(-(cosines**2 + sines**2) / 2), bins=16, range=[[0, 1], [0, 1]])[0]
    assert chisquare(seen.ravel()).pvalue > 1e-3
