"""The sampler of lattice noise against 60-digit arithmetic, against itself in Python integers, and against chance.

Three independent ways: the map from words to draws at every threshold (mpmath); the whole of it once more in
plain Python, from a Philox written out below; and statistics of what it draws.
"""

from __future__ import annotations

import math
from fractions import Fraction
from hashlib import blake2b

import mpmath as mp
import numpy as np
import pytest
from scipy.stats import chi2, norm

from soundcert import rounded_normal as module
from soundcert.errors import ConfigError
from soundcert.rounded_normal import RoundedNormal, phi, rounded_normal

SMALL = [2.0**-10, 0.3, 0.5, 1.0, 2.75, 7.3, 63.999, 64.0, 100.5]
LARGE = [8192.0, 1.3 * 2**17, 2.0**20 / 3, 2.0**22]
GRID = 2**80


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(60):
        yield


def exact_phi(x: Fraction) -> mp.mpf:
    return mp.erfc(-mp.mpf(x.numerator) / x.denominator / mp.sqrt(2)) / 2


def left(law: RoundedNormal, j: int) -> mp.mpf:
    """H(j), from the definition: what slots do not give to positions up to j."""
    half = len(law.owned) // 2
    given = Fraction(0)
    for number, owned in enumerate(law.owned.tolist()):
        first = (number - half) * law.width
        given += Fraction(owned * min(max(j - first + 1, 0), law.width), 2**16 * law.width)
    return (
        exact_phi(Fraction(2 * j + 1) / (2 * Fraction(law.scale)))
        - mp.mpf(given.numerator) / given.denominator
    )


def threshold(law: RoundedNormal, j: int) -> int:
    """The least V, in units of 2^-80, that leads beyond j; kept within what V can be."""
    most = (2**16 - law.given) * 2**64
    return min(max(int(mp.ceil(left(law, j) * GRID)), 0), most)


def drawn(law: RoundedNormal, v: int) -> int:
    return int(law.resolve(np.array([v >> 64]), np.array([v & (2**64 - 1)], dtype=np.uint64))[0])


# --- the exact numbers -----------------------------------------------------------------------------


def test_phi_is_exact_to_a_hundred_digits():
    with mp.workdps(130):
        assert abs(mp.mpf(str(module._PI)) - mp.pi) < mp.mpf(10) ** -115
        points = [
            Fraction(0),
            Fraction(1, 3),
            Fraction(7, 3),
            Fraction(-7, 3),
            Fraction(1, 10**9),
            Fraction(5),
        ]
        points += [
            Fraction(-12),
            Fraction(25, 2),
            Fraction(-13),
            Fraction(10**8 + 1, 10**8 + 7),
            Fraction(-512),
            Fraction(23),
        ]
        for x in points:
            assert abs(mp.mpf(str(phi(x))) - exact_phi(x)) < mp.mpf(10) ** -100, x


@pytest.mark.parametrize("scale", [*SMALL, *LARGE])
def test_no_position_is_given_more_than_its_probability(scale):
    law = RoundedNormal(scale)
    half = len(law.owned) // 2
    rows = range(0, len(law.owned), max(1, len(law.owned) // 150))
    for number in [*rows, half - 1, half]:
        first = (number - half) * law.width
        share = mp.mpf(int(law.owned[number])) / (2**16 * law.width)
        for j in {first, first + law.width - 1}:  # the density falls or rises through a cell: an end is least
            x = Fraction(2 * j + 1) / (2 * Fraction(scale))
            assert share <= exact_phi(x) - exact_phi(x - 1 / Fraction(scale)), (scale, j)
    assert law.given + math.ceil(0.02 * 2**16) > 2**16  # and little is left


# --- the map ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SMALL)
def test_every_threshold_is_kept_to_the_last_of_80_bits(scale):
    law = RoundedNormal(scale)
    most = (2**16 - law.given) * 2**64
    reach = math.ceil(10.4 * scale) + 1
    every = max(1, reach // 60)
    for j in range(-reach, reach + 1, every):
        edge = threshold(law, j)
        if edge > 1:  # V = 0 lies below every threshold: it is cut off where nothing else reaches
            assert drawn(law, edge - 1) <= j
        if edge < most:
            assert drawn(law, edge) > j


@pytest.mark.parametrize("scale", LARGE)
def test_thresholds_of_large_scales_and_at_the_edges_of_cells(scale):
    law = RoundedNormal(scale)
    rng = np.random.default_rng(1)
    places = [round(z * scale) for z in rng.standard_normal(12)]
    places += [law.width * k + o for k in (-200, -1, 0, 1, 77) for o in (-1, 0)]
    places += [int(z * scale) for z in (-9, -7.5, 6.5, 8.5, 10)]
    for j in places:
        edge = threshold(law, j)
        if 0 < edge < (2**16 - law.given) * 2**64:
            assert drawn(law, edge - 1) <= j < drawn(law, edge), (scale, j)


def test_without_exact_arithmetic_the_thresholds_are_missed(monkeypatch):
    """The negative control: double precision alone gets some of them wrong."""
    monkeypatch.setattr(module, "MARGIN", 0.0)
    law = RoundedNormal(7.3)
    wrong = 0
    for j in range(-40, 40):
        edge = threshold(law, j)
        wrong += (drawn(law, edge - 1) > j) + (drawn(law, edge) <= j)
    assert wrong > 20


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.3, 100.5])
def test_the_total_variation_of_the_law_as_drawn(scale):
    """All words at once: the probabilities that the words give, against the exact ones, tails included."""
    law = RoundedNormal(scale)
    half = len(law.owned) // 2
    reach = math.ceil(10.6 * scale) + 2
    distance = exact_phi(Fraction(-2 * reach + 1) / (2 * Fraction(scale))) * 2
    before = threshold(law, -reach)
    for j in range(-reach + 1, reach + 1):
        edge = threshold(law, j)
        number = j // law.width + half
        owned = int(law.owned[number]) if 0 <= number < len(law.owned) else 0
        have = mp.mpf(edge - before) / GRID + mp.mpf(owned) / (2**16 * law.width)
        x = Fraction(2 * j + 1) / (2 * Fraction(scale))
        distance += abs(have - (exact_phi(x) - exact_phi(x - 1 / Fraction(scale))))
        before = edge
    assert before == (2**16 - law.given) * 2**64
    assert distance / 2 <= law.total_variation
    assert law.total_variation < 2.0**-60  # it says something


class Counting:
    """Words 0, 1, 2, … of 32 bits, and then 64-bit ones that are `more`."""

    def __init__(self, words: np.ndarray, more: int) -> None:
        self._next = [words.astype("<u4").view("<u8"), None]
        self._more = more

    def random_raw(self, size: int) -> np.ndarray:
        first = self._next.pop(0)
        return np.full(size, self._more, dtype=np.uint64) if first is None else first[:size]


@pytest.mark.parametrize("scale", [7.3, 100.5, 4096.0])
def test_owned_slots_share_their_positions_alike(scale):
    """Every slot with every low bit that counts: each position comes up n_q times, exactly."""
    law = RoundedNormal(scale)
    slots, low = np.arange(2**16, dtype=np.uint64), np.arange(law.width, dtype=np.uint64)
    junk = np.uint64(law.width)  # a bit that means nothing
    words = ((slots[:, None] << np.uint64(16)) | low | (junk if law.bits < 16 else np.uint64(0))).reshape(-1)
    out = law.fill(np.empty((1, len(words)), dtype=np.int32), [Counting(words, 2**63)])[0]
    kept = out.reshape(2**16, law.width)[: law.given]
    half = len(law.owned) // 2
    counts = np.bincount(kept.reshape(-1) + half * law.width, minlength=len(law.owned) * law.width)
    np.testing.assert_array_equal(counts, np.repeat(law.owned, law.width))
    rest = out.reshape(2**16, law.width)[law.given :]
    assert (rest == rest[:, :1]).all()  # in other slots the low bits mean nothing
    i = (2**16 - law.given) // 2
    v = (i << 64) + 2**63
    assert left(law, int(rest[i, 0])) * GRID > v >= left(law, int(rest[i, 0]) - 1) * GRID


@pytest.mark.parametrize("scale", [0.5, 100.5, 2.0**22])
def test_the_ends_of_the_words_reach_no_further_than_promised(scale):
    law = RoundedNormal(scale)
    most = (2**16 - law.given) * 2**64
    for v in (0, 1, 2, most - 2, most - 1):
        j = drawn(law, v)
        assert -law.most < j <= law.most
        assert left(law, j) * GRID > v
        assert j == -law.most + 1 or left(law, j - 1) * GRID <= v


# --- once more, in plain Python --------------------------------------------------------------------

M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
W0, W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
MASK = 2**64 - 1


def philox(counter: int, key: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011), four 64-bit words of one counter."""
    c = [(counter >> (64 * i)) & MASK for i in range(4)]
    k0, k1 = key & MASK, key >> 64
    for _ in range(10):
        a, b = M0 * c[0], M1 * c[2]
        c = [(b >> 64) ^ c[1] ^ k0, b & MASK, (a >> 64) ^ c[3] ^ k1, a & MASK]
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c


def test_philox_written_out_gives_the_published_words():
    assert philox(0, 0) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox(2**256 - 1, 2**128 - 1) == [
        0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0,
    ]  # fmt: skip


@pytest.mark.parametrize("scale", [0.5, 7.3, 100.5, 8192.0, 1.3 * 2**17])
def test_rows_are_those_of_integers_alone(scale):
    """No floating point at all here but mpmath's for Φ: the same row, number by number."""
    law = RoundedNormal(scale)
    key, row, d = 0x1234_5678_9ABC_DEF0_0F1E_2D3C_4B5A_6978, 5, 401
    got = law.fill(np.empty((1, d), dtype=np.int32), [np.random.Philox(key=key, counter=row << 128)])[0]
    words = []
    for block in range(1, 300):  # numpy counts up before it draws
        words += philox((row << 128) + block, key)
    used = (d + 1) // 2
    halves = [half for word in words[:used] for half in (word & 0xFFFFFFFF, word >> 32)][:d]
    table = [number for number, owned in enumerate(law.owned.tolist()) for _ in range(owned)]
    half = len(law.owned) // 2
    want = []
    for word in halves:
        slot = word >> 16
        if slot < law.given:
            want.append((table[slot] - half) * law.width + word % law.width)
            continue
        v = ((slot - law.given) << 64) + words[used]
        used += 1
        low, high = -law.most, law.most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if left(law, middle) * GRID > v else (middle, high)
        want.append(high)
    assert got.tolist() == want


GOLDEN = {
    0.5: "1565d3959e3b67bf",
    100.5: "f6aa4c786e735666",
    8192.0: "cd2d296b4cdf07c0",
    1.3 * 2**17: "83ed38de252adb01",
    2.0**22: "39a863077cff9c8b",
}


@pytest.mark.parametrize("scale", GOLDEN)
def test_rows_are_the_same_on_every_machine(scale):
    sources = [np.random.Philox(key=2026, counter=row << 128) for row in range(4)]
    rows = rounded_normal(scale).fill(np.empty((4, 16_000), dtype=np.int32), sources)
    assert blake2b(rows.astype("<i4").tobytes(), digest_size=8).hexdigest() == GOLDEN[scale]


# --- chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.75, 63.999, 64.0, 100.5, 8192.0, 2.0**20 / 3, 2.0**22])
def test_what_is_drawn_has_the_law(scale):
    """Chi-square over bins of equal probability, and over the low bits, which no other bin would see."""
    law = rounded_normal(scale)
    rows, d = 40, 25_000
    sources = [np.random.Philox(key=[7, int(scale * 1000)], counter=r << 128) for r in range(rows)]
    x = law.fill(np.empty((rows, d), dtype=np.int32), sources).reshape(-1).astype(np.int64)
    edges = np.unique(np.floor(norm.ppf(np.linspace(0, 1, 202)[1:-1]) * scale).astype(np.int64))
    upper = norm.cdf((edges + 0.5) / scale)
    p = np.diff(np.concatenate([[0.0], upper, [1.0]]))
    counts = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(p))
    keep = p * len(x) > 5
    statistic = (((counts - p * len(x)) ** 2)[keep] / (p[keep] * len(x))).sum()
    assert chi2.sf(statistic, max(1, keep.sum() - 1)) > 1e-6
    for bits in (1, 4, 8):
        if scale > 30 * 2**bits:  # then the low bits are uniform, but for less than chance shows
            low = np.bincount(x & (2**bits - 1), minlength=2**bits)
            statistic = ((low - len(x) / 2**bits) ** 2).sum() / (len(x) / 2**bits)
            assert chi2.sf(statistic, 2**bits - 1) > 1e-6
    both = x.reshape(rows, d)
    if scale >= 1:  # neighbours, and neighbouring rows, have nothing to do with each other
        for a, b in ((both[:, 1:], both[:, :-1]), (both[1:], both[:-1])):
            r = np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]
            assert abs(r) < 5 / math.sqrt(a.size)


@pytest.mark.parametrize("scale", [7.3, 8192.0, 2.0**22])
def test_what_no_slot_owns_has_its_law_too(scale):
    """The rare path alone, a million times as often as it would come up: chi-square over cells and within them."""
    law = rounded_normal(scale)
    rng = np.random.default_rng(3)
    n = 100_000
    slots = rng.integers(0, 2**16 - law.given, n)
    x = law.resolve(slots, rng.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True))
    quantiles = np.sort(law.resolve(
        (np.arange(1, 200) * (2**16 - law.given)) // 200,
        np.zeros(199, dtype=np.uint64),
    ))  # fmt: skip
    edges = np.unique(quantiles)
    total = float(2**16 - law.given) / 2**16
    upper = np.array([float(left(law, int(j))) for j in edges]) / total
    p = np.diff(np.concatenate([[0.0], upper, [1.0]]))
    counts = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(p))
    statistic = ((counts - p * n) ** 2 / (p * n)).sum()
    assert chi2.sf(statistic, len(p) - 1) > 1e-6


def test_a_scale_that_cannot_be_drawn_is_refused():
    for scale, word in (
        (2.0**23, "larger"),
        (2.0**-11, "smaller"),
        (math.nan, "larger"),
        (math.inf, "larger"),
    ):
        with pytest.raises(ConfigError, match=f"choose a {word} step"):
            rounded_normal(scale)


def test_rows_may_be_empty_and_odd():
    law = rounded_normal(64.0)
    assert law.fill(np.empty((0, 5), dtype=np.int32), []).shape == (0, 5)
    one = law.fill(np.empty((1, 1), dtype=np.int32), [np.random.Philox(key=1)])
    assert one.shape == (1, 1)
