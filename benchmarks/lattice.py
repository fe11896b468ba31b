"""What lattice noise costs: passes of the bundled keyword spotter a CPU-second, beside plain Gaussian noise.

python benchmarks/lattice.py        # two minutes; the line in docs/noise.md

Both certify the same clip through the whole library on one worker, in turns; the best round of each counts, since
what else the machine does only ever slows a round down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import soundcert as sc
from soundcert.certify import SmoothedClassifier
from soundcert.config import load_config
from soundcert.demo import demo_folder
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream

ROUNDS, N = 5, 1600
PAGE = Path(__file__).resolve().parent.parent / "docs" / "noise.md"
BEGIN, END = "<!-- begin cost: benchmarks/lattice.py -->", "<!-- end cost -->"


def variants() -> dict[str, Pipeline]:
    """The demo's waveform pipeline as it is, and with lattice noise in the same place, by its step."""
    folder = demo_folder()
    specs: Sequence[Any] = load_config(folder / "waveform.yaml").pipeline
    out = {"gaussian_noise": Pipeline.from_specs(specs, folder)}
    for step in (-15, -17, -20):
        changed = []
        for spec in specs:
            if "gaussian_noise" in spec:
                changed += [{"quantize": {"log2_step": step}}, {"lattice_noise": spec["gaussian_noise"]}]
            else:
                changed.append(spec)
        out[f"lattice_noise, steps of 2^{step}"] = Pipeline.from_specs(changed, folder)
    return out


def main() -> None:
    clip = sc.load_clip(min(demo_folder().glob("*.flac")))
    ready = {name: SmoothedClassifier(pipe, workers=1) for name, pipe in variants().items()}
    passes: dict[str, list[float]] = {name: [] for name in ready}
    drawing: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(ROUNDS + 1):
        for name, classifier in ready.items():
            started = time.process_time()
            classifier.certify(clip, n0=100, n=N, seed=number)
            rate = (N + 100) / (time.process_time() - started)
            route = classifier.pipe.route(clip.space)
            held = route.noise.held(classifier.pipe.object_of(clip))
            stream = noise_stream(NoiseKey(number, "probe", clip.digest), route.noise)
            rows = torch.empty(16, *held.shape)
            started = time.process_time()
            for _ in range(20):
                stream.noisy_(rows, held)
            if number:  # the first round prepares
                passes[name].append(rate)
                drawing[name].append((time.process_time() - started) / 320 * 1e6)
    plain = max(passes["gaussian_noise"])
    lines = [
        "| noise | passes a CPU-second | of the plain path | noise and sum alone, µs a row |",
        "|---|---:|---:|---:|",
    ]
    for name in ready:
        best, alone = max(passes[name]), min(drawing[name])
        lines.append(f"| {name} | {best:.0f} | {best / plain:.0%} | {alone:.0f} |")
    spread = np.median(
        [
            a / b
            for a, b in zip(passes["lattice_noise, steps of 2^-17"], passes["gaussian_noise"], strict=True)
        ]
    )
    lines.append(
        f"\nMedian of the {ROUNDS} rounds' ratios at 2^-17: {spread:.0%}. torch fp32, one second at 16 kHz, σ = 0.5."
    )
    text = "\n".join(lines)
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
