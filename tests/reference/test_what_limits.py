"""scripts/what_limits.py: the slope of a set of failures, and the radius that it would give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import norm

import soundcert as sc
from soundcert.certify import SmoothedClassifier
from soundcert.stages import GaussianNoise, Model

SCRIPT = Path(__file__).parents[2] / "scripts" / "what_limits.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("what_limits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def most_failures(share: float, slope: float, shift: float) -> float:
    """The largest probability, after a shift, of a set of that share and at most that slope: a linear program."""
    edges = np.linspace(-8, 8, 3201)
    at = (edges[:-1] + edges[1:]) / 2
    mass, moment = np.diff(norm.cdf(edges)), -np.diff(norm.pdf(edges))
    after = np.diff(norm.cdf(edges - shift))
    limit = slope * norm.pdf(norm.ppf(share))
    found = linprog(-after, A_ub=[moment], b_ub=[limit], A_eq=[mass], b_eq=[share], bounds=[(0, 1)] * len(at))
    assert found.status == 0
    return float(-found.fun)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8, 1.0])
def test_the_worst_set_of_a_share_and_a_slope_is_found_by_a_linear_program_too(
    share: float, slope: float
) -> None:
    ratio = script().ratio_with_slope(share, slope)
    assert most_failures(share, slope, ratio) == pytest.approx(0.5, abs=2e-3)
    if slope == 1:
        assert ratio == pytest.approx(norm.isf(share), rel=1e-9)
    if slope == 0:  # two equal tails
        assert norm.cdf(norm.ppf(share / 2) - ratio) + norm.cdf(ratio - norm.isf(share / 2)) == pytest.approx(
            0.5, abs=1e-9
        )


class Apart(torch.nn.Module):
    """Fails on one side of a plane, on both sides of a slab, or outside a ball."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1) / 2
        score = {
            "half-space": 2.0 - z[:, 0],
            "slab": 2.3 - z[:, 0].abs(),
            "ball": 66.0 - z.square().sum(1),
        }[self.kind]
        return torch.stack([score, torch.zeros_like(score), torch.full_like(score, -9e9)], dim=1)


@pytest.mark.parametrize(("kind", "slope"), [("half-space", 1.0), ("slab", 0.0), ("ball", 0.0)])
def test_the_slope_of_failures_that_are_known(kind: str, slope: float) -> None:
    clip = sc.Clip.from_array(np.zeros((1, 48), dtype=np.float32), 8000, "zero")
    item = SimpleNamespace(name="zero", label="0", load=lambda: clip)
    pipe = sc.Pipeline([GaussianNoise(2.0), Model(module=Apart(kind).eval())])
    found = script().failures(SmoothedClassifier(pipe), item, 60_000, "diagnostics")
    assert found.rival == 1.0
    assert 0.015 < found.share < 0.06
    # By a square without bias: near 0 it may have either sign.
    assert found.slope * abs(found.slope) == pytest.approx(slope, abs=0.06)


def test_a_slope_does_not_fix_the_radius() -> None:
    """Two half-spaces at right angles, which the page names: their slope is 0.77, and the radius 12 % above the bound."""
    share = 0.02
    edge = norm.ppf(np.sqrt(1 - share))
    slope = np.sqrt(2) * norm.pdf(edge) * norm.cdf(edge) / norm.pdf(norm.ppf(share))
    radius = edge - norm.ppf(0.5 / norm.cdf(edge))  # along one of the two normals, where it is least
    assert slope == pytest.approx(0.775, abs=0.005)
    assert radius / norm.isf(share) == pytest.approx(1.125, abs=0.005)
    assert script().ratio_with_slope(share, slope) / norm.isf(share) < 1.03
