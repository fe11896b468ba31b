"""Make a small table of radii in the form that locuslab/smoothing's certify.py writes. No model is behind it.

    python examples/lint/make_rs_table.py > examples/lint/synthetic-rs.tsv

The class probabilities are drawn from a Beta distribution, the counts from binomials, and each row follows the
published algorithm (Cohen, Rosenfeld, Kolter 2019, CERTIFY) with scipy: n0 = 100, n = 10 000, α = 0.001,
σ = 0.25. The file keeps none of these four numbers: the published code does not write them.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, norm

N0, N, ALPHA, SIGMA, CLASSES, ROWS, SKIP = 100, 10_000, 0.001, 0.25, 10, 200, 20


def main() -> None:
    rng = np.random.default_rng(0)
    print("idx\tlabel\tpredict\tradius\tcorrect\ttime")
    for i in range(ROWS):
        label = int(rng.integers(CLASSES))
        top = label if rng.random() < 0.9 else int(rng.integers(CLASSES))
        p = float(rng.beta(1.5, 0.15))
        rest = (1 - p) * rng.dirichlet(np.ones(CLASSES - 1))
        probabilities = np.insert(rest, top, p)
        guess = int(rng.multinomial(N0, probabilities).argmax())
        count = int(rng.binomial(N, probabilities[guess]))
        lower = float(beta.ppf(ALPHA, count, N - count + 1)) if count else 0.0
        predict, radius = (guess, float(SIGMA * norm.ppf(lower))) if lower >= 0.5 else (-1, 0.0)
        time = f"0:00:{1 + rng.random():09.6f}"
        print(f"{i * SKIP}\t{label}\t{predict}\t{radius:.3}\t{int(predict == label)}\t{time}")


if __name__ == "__main__":
    main()
