"""Write the tables of docs/sampling.md: what the policies cost, computed from their law or simulated.

python scripts/sampling_tables.py        # about a minute
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import binom

from soundcert import bounds
from soundcert.config import Estimate
from soundcert.policies import Sampled, plan_of
from soundcert.sequential import decision_rule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sampling.md"
ALPHA, CAP = 1e-3, 100_000
DECIDE = [
    (0, 0.9),
    (0, 0.6),
    (0, 0.3),
    (1, 0.9),
    (1, 0.99),
    (2, 0.999),
    (3, 0.9999),
    (0.5, 0.7),
    (2.5, 0.995),
]
ESTIMATE = [0.6, 0.8, 0.95, 0.99, 0.999, 0.9999, 1.0]
RUNS = 300


def decide_table() -> str:
    lines = [
        "| radius | p | expected draws | accepted | accepted by the published test, always 100 000 draws |",
        "|---|---|---:|---:|---:|",
    ]
    for ratio, p in DECIDE:
        law = decision_rule(float(ratio), CAP, ALPHA).operating(p)
        # The published test certifies r from the smallest count whose bound reaches it.
        low, high = 0, CAP
        while low < high:
            middle = (low + high) // 2
            reached = (bounds.certified_radius(middle, CAP, ALPHA, 1.0) or -1.0) >= ratio
            low, high = (low, middle) if reached else (middle + 1, high)
        power = binom.sf(low - 1, CAP, p)
        lines.append(f"| {ratio:g}σ | {p:g} | {law.samples:,.0f} | {law.accepted:.4f} | {power:.4f} |")
    return "\n".join(lines)


def drive(p: float, rng: np.random.Generator) -> Sampled:
    """Run one clip's plan on simulated votes: class 0 with probability p."""
    plan = plan_of(Estimate(), classes=2, n0=100, n=CAP, alpha=ALPHA, sigma=1.0)
    draw = next(plan)
    while True:
        votes = (rng.random(draw.need) >= p).astype(np.int16)
        try:
            draw = plan.send(votes)
        except StopIteration as end:
            result: Sampled = end.value
            return result


def estimate_table() -> str:
    lines = [
        "| p | passes (mean) | radius, as a share of that of 100 000 draws (median; worst twentieth) |",
        "|---|---:|---|",
    ]
    rng = np.random.default_rng(0)
    for p in ESTIMATE:
        results = [drive(p, rng) for _ in range(RUNS)]
        radii = [
            bounds.certified_radius(int(r.counts[r.top]), r.n, ALPHA, 1.0) if r.n else None for r in results
        ]
        full = [bounds.certified_radius(int(k), CAP, ALPHA, 1.0) for k in rng.binomial(CAP, p, RUNS)]
        shares = np.array([r or 0.0 for r in radii]) / np.median([r or 0.0 for r in full])
        lines.append(
            f"| {p:g} | {np.mean([r.passes for r in results]):,.0f} | "
            f"{np.median(shares):.3f}; {np.quantile(shares, 0.05):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("decide", decide_table()), ("estimate", estimate_table())):
        begin, end = f"<!-- begin {name}: scripts/sampling_tables.py -->", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
        print(table)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
