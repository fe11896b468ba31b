"""A certified-accuracy curve by `decide`, against the published algorithm at n = 100 000.

    python benchmarks/curve.py ../shared/data/speech_commands            # about a quarter of an hour

500 testing clips, ten radii, alpha = 0.001, at most 100 000 draws a clip. The published algorithm's CPU time is
measured on a few hundred passes at its batch of 400 and extrapolated. Its decisions are known without running
it wherever the two agree by law: the page gives how many decisions of the curve differ in expectation, from
each clip's own p. Writes docs/results/curve.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from run import Bench, cpu_seconds, plain_log_mel, published
from scipy.special import ndtr
from scipy.stats import binom

import soundcert as sc
from soundcert import bounds
from soundcert.certify import Sampling, SmoothedClassifier
from soundcert.data import DataConfig, load_items
from soundcert.demo import demo_folder
from soundcert.runs.directory import write_json
from soundcert.sequential import decision_rule

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("yes", "no", "up", "down", "left", "right", "go", "zero", "one", "two")
RATIOS = tuple(k / 4 for k in range(10))
CAP, ALPHA, BATCH = 100_000, 1e-3, 400


def published_seconds() -> float:
    """Return the published algorithm's CPU seconds a clip."""
    bench = Bench()
    stages = [plain_log_mel, bench.network]
    published(stages, bench.v, bench.sigma, BATCH, BATCH)  # warms up
    once = min(cpu_seconds(lambda: published(stages, bench.v, bench.sigma, BATCH, BATCH)) for _ in range(3))
    return once / BATCH * (CAP + 100)


def smallest_counts() -> list[int]:
    """Return, per radius, the smallest count of CAP with which the published algorithm certifies it."""
    out = []
    for ratio in RATIOS:
        low, high = 0, CAP
        while low < high:
            middle = (low + high) // 2
            reached = (bounds.certified_radius(middle, CAP, ALPHA, 1.0) or -1.0) >= ratio
            low, high = (low, middle) if reached else (middle + 1, high)
        out.append(low)
    return out


def expected_differences(p: float, counts: list[int]) -> float:
    """Return how many of the ten decisions the two algorithms make differently in expectation, at probability p.

    An upper bound: draws are independent, and both err on either side.
    """
    total = 0.0
    for ratio, count in zip(RATIOS, counts, strict=True):
        if abs(p - ndtr(ratio)) > 12 * (p * (1 - p) / CAP) ** 0.5 + 1e-3 * (1 - p):
            continue  # both know
        ours = decision_rule(ratio, CAP, ALPHA).operating(p).accepted
        theirs = float(binom.sf(count - 1, CAP, p))
        total += ours * (1 - theirs) + theirs * (1 - ours)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Speech Commands")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    theirs = published_seconds()
    pipe = sc.Pipeline.from_yaml(demo_folder() / "waveform.yaml")
    config = DataConfig(
        source="speech_commands", root=options.data, split="testing", labels=WORDS, limit=options.clips
    )
    items = load_items(config, Path())
    sigma = float(pipe.noise.sigma)
    policy = sc.Decide(radii=tuple(sigma * r for r in RATIOS))
    sampling = Sampling(n=CAP, alpha=ALPHA, seed=0, policy=policy)
    classifier = SmoothedClassifier(pipe, workers=options.workers)
    for ratio in RATIOS:
        decision_rule(ratio, CAP, ALPHA, policy.futility)
    clips = (sc.load_clip(item.path, name=item.name) for item in items)
    started, wall = time.process_time(), time.perf_counter()
    certificates = list(classifier.certify_stream(clips, sampling))
    ours, wall = time.process_time() - started, time.perf_counter() - wall
    counts = smallest_counts()
    differing = sum(expected_differences(c.count / c.n, counts) for c in certificates)
    good = [
        c.radius
        for c, item in zip(certificates, items, strict=True)
        if c.status == "certified" and c.label == item.label
    ]
    facts: dict[str, Any] = {
        "data": "Speech Commands, ten words (yes, no, up, down, left, right, go, zero, one, two), testing split",
        "clips": len(certificates),
        "alpha": ALPHA,
        "cap": CAP,
        "sigma": sigma,
        "curve": {f"{r:g}σ": sum(radius >= r * sigma for radius in good) / len(certificates) for r in RATIOS},
        "passes": sum(c.n + c.n0 for c in certificates),
        "cpu_seconds": ours,
        "wall_seconds": wall,
        "published_cpu_seconds_extrapolated": theirs * len(certificates),
        "ratio": theirs * len(certificates) / ours,
        "decisions": len(certificates) * len(RATIOS),
        "decisions_that_differ_in_expectation": differing,
        "torch": torch.__version__,
    }
    write_json(ROOT / "docs" / "results" / "curve.json", facts)
    print(json.dumps(facts, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
