"""Break randomized smoothing in naive floating point, and fail to break it on a lattice: the table in docs/noise.md.

python scripts/floating_point_attack.py        # half a minute

Source of the idea: Voráček and Hein 2023, arXiv 2207.07209. The construction is ours.

Float32 numbers z with |z| ≥ T = 2^-k are multiples of T·2^-23, call it the grid; smaller ones need not be. The base
classifier answers "fine" if *any* of the d values that it hears is off the grid. Silence, v = 0, is heard as the
noise itself, and some of its values are small and off the grid. Now let every sample be s = 2T, a faint constant. If
|fl(s + η)| ≥ T, the sum is on the grid. If it is smaller, then η lies between −3T and −T, is on the grid itself, as
s is, and so is their sum, which is exact. The answer is "coarse", always. The two clips are s·√d apart, and the
larger d, the smaller s may be.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import soundcert as sc
from soundcert.bounds import format_down
from soundcert.stages import GaussianNoise, LatticeNoise, Quantize, Stage

PAGE = Path(__file__).resolve().parent.parent / "docs" / "noise.md"
RATE, SIZE = 16_000, 16_000
N, ALPHA = 10_000, 0.001
LOG2_T = -10
#: So that the Monte-Carlo ceiling is the radius of the published example, 1.26.
SIGMA = 1.2601 / sc.diagnostics.monte_carlo_ceiling(1.0, N, ALPHA)


class OffTheGrid(nn.Module):
    """Class "fine" where some value is no multiple of 2^(log2_t − 23), else "coarse"."""

    def __init__(self, log2_t: int) -> None:
        super().__init__()
        self.scale = 2.0 ** (23 - log2_t)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        steps = x * self.scale  # a power of two: exact
        fine = (steps != steps.round()).any(dim=1).float()
        return torch.stack((fine, torch.full_like(fine, 0.5)), dim=1)


class Louder(nn.Module):
    """The best that any classifier can do to tell v from v′ = v + s: is the mean nearer to v or to v′?"""

    def __init__(self, middle: float) -> None:
        super().__init__()
        self.middle = middle
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        above = x.double().mean(dim=1) - self.middle
        return torch.stack((-above, above), dim=1).float()


@dataclass(frozen=True)
class Outcome:
    """What is certified for silence, and what the smoothed classifier says of its neighbour at `distance`."""

    noise: str
    certified: str
    radius: float
    distance: float
    neighbour: str

    @property
    def broken(self) -> bool:
        """A false certificate: another label nearer than the certified radius."""
        return self.radius > self.distance and self.neighbour not in ("abstained", self.certified)


def clips(shift: float, size: int = SIZE) -> tuple[sc.Clip, sc.Clip]:
    """Return silence, and a constant of `shift` (full scale), as 16-bit PCM."""
    steps = round(shift * 2**15)
    assert steps == shift * 2**15
    first = sc.Clip.from_array(np.zeros(size, dtype=np.int16), RATE, "silence")
    return first, sc.Clip.from_array(np.full(size, steps, dtype=np.int16), RATE, "constant")


def attack(
    noise: list[Stage], model: nn.Module, *, n: int = N, shift: float = 2.0 ** (LOG2_T + 1)
) -> Outcome:
    """Certify silence, and let the smoothed classifier answer for the constant, by the library's own pipeline."""
    here, there = clips(shift)
    pipe = sc.Pipeline([*noise, model])
    certificate = sc.certify(pipe, here, n=n, alpha=ALPHA, seed=0)
    answer = sc.predict(pipe, there, n=1000, alpha=1e-6, seed=1)
    done = certificate.status == "certified"
    return Outcome(
        noise="`gaussian_noise`"
        if pipe.noise.lattice is None
        else f"`lattice_noise`, steps of 2^{math.log2(pipe.noise.lattice):g}",
        certified=f"{certificate.label}" if done else "abstained",
        radius=certificate.radius if done else 0.0,
        distance=shift * math.sqrt(SIZE),
        neighbour=answer.candidate if answer.status == "predicted" else "abstained",
    )


def published(model: nn.Module, x: Tensor, n: int, batch: int = 100) -> np.ndarray:
    """Count votes as the published code does: model(x + randn_like(x)·σ)."""
    counts = np.zeros(2, dtype=np.int64)
    for _ in range(n // batch):
        copies = x.repeat(batch, 1)
        counts += np.bincount(model(copies + torch.randn_like(copies) * SIGMA).argmax(1), minlength=2)
    return counts


def naive(n: int = N) -> Outcome:
    """The attack on the published algorithm itself, twenty lines of torch."""
    torch.manual_seed(0)
    here, there = (clip.tensor(torch.float32) for clip in clips(2.0 ** (LOG2_T + 1)))
    model = OffTheGrid(LOG2_T)
    with torch.inference_mode():
        counts, others = published(model, here[None], n), published(model, there[None], 1000)
    top = int(counts.argmax())
    radius = sc.bounds.certified_radius(counts[top], n, ALPHA, SIGMA) or 0.0
    names = ("fine", "coarse")
    return Outcome(
        "published code, `torch.randn_like`", names[top], radius,
        2.0 ** (LOG2_T + 1) * math.sqrt(SIZE), names[int(others.argmax())],
    )  # fmt: skip


def outcomes(n: int = N) -> list[Outcome]:
    grid = OffTheGrid(LOG2_T)
    named = {"0": "fine", "1": "coarse"}

    def words(o: Outcome) -> Outcome:
        return Outcome(o.noise, named.get(o.certified, o.certified), o.radius, o.distance,
                       named.get(o.neighbour, o.neighbour))  # fmt: skip

    out = [naive(n), words(attack([GaussianNoise(SIGMA)], grid, n=n))]
    out += [
        words(attack([Quantize(log2_step=step), LatticeNoise(SIGMA)], grid, n=n)) for step in (-15, -18, -20)
    ]
    # What is left to a classifier on the lattice: the best test there is. It flips where the proof says it may.
    far = 6 * 2.0 ** (LOG2_T + 1)
    lattice: list[Stage] = [Quantize(log2_step=-18), LatticeNoise(SIGMA)]
    best = attack(lattice, Louder(far / 2), n=n, shift=far)
    return [
        *out,
        Outcome(
            "steps of 2^-18, the best possible test", "nearer v", best.radius, best.distance / 2, "a tie"
        ),
    ]


def table(rows: list[Outcome]) -> str:
    lines = [
        "| noise | certified for silence | radius | the clip at | smoothed label there | certificate |",
        "|---|---|---:|---:|---|---|",
    ]
    for o in rows:
        verdict = "**false**" if o.broken else "true"
        figures = f"{format_down(o.radius, significant=4)} | {o.distance:.4g}"
        lines.append(f"| {o.noise} | {o.certified} | {figures} | {o.neighbour} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    rows = outcomes()
    text = table(rows)
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    begin, end = (
        "<!-- begin floating point: scripts/floating_point_attack.py -->",
        "<!-- end floating point -->",
    )
    head, rest = page.split(begin)
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    good = rows[0].broken and rows[1].broken and not any(o.broken for o in rows[2:])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
