"""Floating point as an attacker: naive smoothing certifies what is false, lattice noise does not.

The construction and its proof stand in scripts/floating_point_attack.py.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import soundcert as sc
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.stages import Clip, GaussianNoise, LatticeNoise, PeakNormalize, Quantize

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "floating_point_attack.py"
    spec = importlib.util.spec_from_file_location("floating_point_attack", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_naive_smoothing_certifies_further_than_the_next_label(script):
    """The published loop, and our own Gaussian noise: radius at least 1.2 with another label at 0.25."""
    grid = script.OffTheGrid(script.LOG2_T)
    for outcome in (script.naive(2000), script.attack([GaussianNoise(script.SIGMA)], grid, n=2000)):
        assert outcome.broken
        assert outcome.radius > 1.0 > 4 * outcome.distance


def test_the_constant_is_never_off_the_grid_under_naive_noise(script):
    """The proof's second half, on a million sums, and the control: silence often is."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1000, 1000, generator=generator) * script.SIGMA
    shift = 2.0 ** (script.LOG2_T + 1)
    grid = script.OffTheGrid(script.LOG2_T)
    assert not bool(grid(noise + shift)[:, 0].any())
    assert float(grid(noise)[:, 0].mean()) > 0.5


@pytest.mark.parametrize("step", [-15, -18, -22])
def test_the_same_attack_fails_on_a_lattice(script, step):
    outcome = script.attack(
        [Quantize(log2_step=step), LatticeNoise(script.SIGMA)], script.OffTheGrid(script.LOG2_T), n=2000
    )
    assert not outcome.broken
    assert outcome.certified == outcome.neighbour == "1"  # both clips are heard on the grid, always


def test_a_classifier_that_looks_at_every_bit_still_gets_no_further(script):
    """The best test between two lattice points: its label changes beyond the certified radius, and not far beyond."""
    far = 6 * 2.0 ** (script.LOG2_T + 1)
    outcome = script.attack(
        [Quantize(log2_step=-18), LatticeNoise(script.SIGMA)], script.Louder(far / 2), shift=far
    )
    assert outcome.distance / 2 * 0.9 < outcome.radius < outcome.distance / 2


def test_one_sum_of_integers_is_heard_as_one_number():
    """The flaw of a published implementation, and its absence: how many floats one integer sum maps to.

    Where object and noise are rounded to float32 before they are added, one sum has several values.
    """
    noise = LatticeNoise(0.5, 2.0**-20)
    rng = np.random.default_rng(0)
    naive: dict[int, set[float]] = {}
    ours: dict[int, set[float]] = {}
    for number in range(40):
        k = torch.from_numpy(rng.integers(2**25, 2**25 + 64, 500).astype(np.int32))
        key = NoiseKey(number, "estimation", "0" * 32)
        n = noise_stream(key, noise).integers(1, 500)[0] >> 15  # few values, so that sums come up again
        heard = (k + n).float()  # what the stream does, after the same sum
        assert torch.equal(
            noise_stream(key, noise).noisy_(torch.empty(1, 500), k)[0],
            (k + noise_stream(key, noise).integers(1, 500)[0]).float() * 2.0**-20,
        )
        for total, one, two in zip(
            (k + n).tolist(), heard.tolist(), (k.float() + n.float()).tolist(), strict=True
        ):
            ours.setdefault(total, set()).add(one)
            naive.setdefault(total, set()).add(two)
    assert all(len(values) == 1 for values in ours.values())
    assert any(len(values) > 1 for values in naive.values())


def test_the_integer_sum_is_that_of_python():
    """Object plus noise, in int32 and in int64, against Python's integers and one rounding to float32."""
    step = 2.0**-17
    noise = LatticeNoise(0.5, step)
    for loud in (1.0, 2.0**12, 2.0**30):
        v = torch.from_numpy(np.round(np.random.default_rng(1).standard_normal(300) * loud / step) * step)
        held = noise.held(v)
        assert held.dtype == (torch.int64 if loud > 2.0**13 else torch.int32)
        key = NoiseKey(3, "prediction", "d")
        rows = noise_stream(key, noise, 7).noisy_(torch.empty(3, 300), held)
        steps = noise_stream(key, noise, 7).integers(3, 300)
        for row, drawn in zip(rows.tolist(), steps.tolist(), strict=True):
            want = [float(np.float32(k + n)) * step for k, n in zip(held.tolist(), drawn, strict=True)]
            assert row == want


def test_the_statement_says_which_perturbations_are_covered():
    class Sign(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(dim=1)
            return torch.stack((mean, -mean), dim=1)

    clip = sc.Clip.from_array(np.full(64, 3000, dtype=np.int16), 16_000, "c")
    pipe = sc.Pipeline(
        [PeakNormalize(0.5), Quantize(log2_step=-17), LatticeNoise(0.1), Clip(), Sign().eval()]
    )
    certificate = sc.certify(pipe, clip, n=500)
    text = str(certificate)
    assert "on the lattice of whole steps of 7.62939e-06" in text
    assert "from lattice point to lattice point" in text
    assert "what rounding in floating point does" not in text
    contract = certificate.contract.to_dict()
    assert contract["lattice_step"] == 2.0**-17 and contract["noise"] == "lattice_noise"
    # The chain to the file goes through `quantize`, and nothing is taken off for float32.
    chain = [s.stage for s in certificate.in_space("file").chain]
    assert chain[:2] == ["certificate", "quantize(log2_step=-17)"]
    naive = sc.certify(
        sc.Pipeline([PeakNormalize(0.5), GaussianNoise(0.1), Clip(), Sign().eval()]), clip, n=500
    )
    assert "`lattice_noise` closes that gap" in str(naive)
    assert naive.radius == pytest.approx(certificate.radius, rel=1e-6)
    assert math.isclose(certificate.radius, certificate.ceiling)
