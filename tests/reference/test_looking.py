"""Attempts that are thought of after seeing results, on the same noise: the figure of docs/theory.md, summed exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import binom

from soundcert.bounds import clopper_pearson_lower

FIRST, LEVEL = 1000, 0.0005


def fewest(n: int) -> int:
    """The fewest of n draws that certify at r = 0: P(Bin(n, ½) ≥ k) at most LEVEL."""
    k = int(binom.isf(LEVEL, n, 0.5)) - 1
    while binom.sf(k - 1, n, 0.5) > LEVEL:
        k += 1
    return k


def test_a_second_n_chosen_by_the_first_count_is_not_paid_for_by_half_of_alpha():
    assert clopper_pearson_lower(fewest(FIRST), FIRST, LEVEL) >= 0.5
    assert clopper_pearson_lower(fewest(FIRST) - 1, FIRST, LEVEL) < 0.5
    k = np.arange(FIRST + 1)
    false = (k >= fewest(FIRST)).astype(float)
    alone = float(binom.pmf(k, FIRST, 0.5) @ false)
    assert alone <= LEVEL
    for n in {*range(FIRST + 1, 1400), *np.geomspace(1400, 100_000, 60).astype(int).tolist()}:
        false = np.maximum(false, binom.sf(fewest(n) - 1 - k, n - FIRST, 0.5))
    both = float(binom.pmf(k, FIRST, 0.5) @ false)
    assert both > 2 * LEVEL, "the better of the two promises 0.001"
    assert f"{both:.5f}" == "0.00149"
    theory = Path(__file__).parents[2] / "docs" / "theory.md"
    assert "is false with probability 0.00149" in theory.read_text(encoding="utf-8")
