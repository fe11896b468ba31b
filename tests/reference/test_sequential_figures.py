"""What sequential tests cost and find: the figures that the boundary was chosen for, at alpha = 0.001.

Expected draws and power are exact (`DecisionRule.operating`, tests/reference/test_sequential_exact.py), with
at most 100 000 draws.
"""

from __future__ import annotations

import pytest

from soundcert.sequential import decision_rule

ALPHA, CAP = 0.001, 100_000


@pytest.mark.parametrize(
    ("ratio", "p", "draws"),
    [(0.0, 0.9, 35), (1.0, 0.9, 625), (1.0, 0.99, 80), (2.0, 0.999, 535), (3.0, 0.9999, 9000)],
)
def test_expected_draws(ratio, p, draws):
    found = decision_rule(ratio, CAP, ALPHA).operating(p)
    assert found.samples <= draws
    assert found.accepted > 0.99999


@pytest.mark.parametrize(("ratio", "p", "power"), [(0.5, 0.7, 0.99), (2.5, 0.995, 0.96)])
def test_power(ratio, p, power):
    found = decision_rule(ratio, CAP, ALPHA).operating(p)
    assert found.accepted >= power
    assert found.samples < 0.7 * CAP


@pytest.mark.parametrize(("ratio", "p"), [(0.0, 0.3), (0.5, 0.5), (1.0, 0.7), (2.0, 0.9), (3.0, 0.99)])
def test_hopeless_radii_are_given_up_soon(ratio, p):
    found = decision_rule(ratio, CAP, ALPHA).operating(p)
    assert found.rejected > 0.999
    assert found.samples < 2000


def test_what_docs_study_says_of_draws_near_the_ceiling():
    """20 dB of a unit-RMS second at σ = 4: how many of so many draws may miss."""
    for cap, missed in ((12_000, 0), (40_000, 14)):
        assert decision_rule(12.665020113030696 / 4, cap, 0.001, 0.003).accept[-1] == missed
