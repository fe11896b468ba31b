"""Measure certification speed side by side, in one process and on one thread, and write README.md here.

    python benchmarks/run.py            # about three minutes
    python benchmarks/run.py --quick    # a rough look, nothing written

What is compared, on the bundled DS-CNN, log-mel in the loop, one-second clips:

- the published algorithm (Cohen et al. 2019): a batch of copies, torch.randn_like, the plain module,
  argmax, counts; at batch 400 and at its best batch;
- soundcert: keyed noise in place, folded network, channels last, micro-batches;
- the limits: soundcert's front end and model alone on noise made beforehand, and the model alone.

Runs alternate, and the median over rounds of CPU time is reported, so that a drifting machine moves
all alike. The ratio is what to quote.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import soundcert as sc
from soundcert.demo import demo_folder
from soundcert.randomness import NoiseKey
from soundcert.sampling import BaseClassifier, Job, count_votes

BATCHES = (8, 16, 32, 64, 128, 400)


def published(
    stages: list[Callable[[torch.Tensor], torch.Tensor]], v: torch.Tensor, sigma: float, n: int, batch: int
) -> torch.Tensor:
    """The counting loop of Cohen et al., as published (smoothing/code/core.py, _sample_noise), for audio."""
    counts = torch.zeros(10, dtype=torch.long)
    with torch.no_grad():
        while n > 0:
            size = min(batch, n)
            n -= size
            x = v.repeat((size, *([1] * v.dim())))
            x = x + torch.randn_like(x) * sigma
            for stage in stages:
                x = stage(x)
            counts += torch.bincount(x.argmax(1), minlength=10)
    return counts


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(n: int, rounds: int) -> tuple[dict[str, float], int]:
    """Return passes per CPU-second by name, and the micro-batch."""
    torch.set_num_threads(1)
    pipe = sc.Pipeline.from_yaml(demo_folder() / "waveform.yaml")
    clip = sc.load_clip(next(iter(sorted(demo_folder().glob("*.flac")))))
    route = pipe.route(clip.space)
    v = pipe.object_of(clip).float()
    sigma = float(route.noise.sigma)
    plain = [*route.base[:-1], route.base[-1].network_part()]  # type: ignore[attr-defined]
    base = BaseClassifier(route)
    size = base.micro_batch
    noisy = v + torch.randn(size, *v.shape) * sigma
    features = base._below(noisy)

    def limit(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for _ in range(n // size):
                    run(x)

        return work

    works: dict[str, tuple[Callable[[], object], int]] = {
        f"published, batch {b}": ((lambda b=b: published(plain, v, sigma, max(n, b), b)), max(n, b))
        for b in BATCHES
    }
    works["soundcert"] = (
        lambda: count_votes(base, [Job(v, NoiseKey(0, "probe", clip.digest), n)], workers=1),
        n,
    )
    works["limit: front end and model, noise made beforehand"] = (limit(base, noisy), n // size * size)
    works["limit: model alone, features made beforehand"] = (limit(base._net, features), n // size * size)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, (work, _) in works.items():
            seconds = cpu_seconds(work)
            if number:  # the first round warms up
                times[name].append(seconds)
    return {name: works[name][1] / statistics.median(t) for name, t in times.items()}, size


def memory_growth() -> float:
    """Return the growth of peak memory in MB when n goes from 1000 to 20 000."""
    pipe = sc.Pipeline.from_yaml(demo_folder() / "features.yaml")
    clip = sc.load_clip(next(iter(sorted(demo_folder().glob("*.flac")))))
    sc.certify(pipe, clip, n=1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sc.certify(pipe, clip, n=20_000)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def page(rates: dict[str, float], size: int, n: int, rounds: int, growth: float) -> str:
    worst = rates["published, batch 400"]
    best_name = max((k for k in rates if k.startswith("published")), key=lambda k: rates[k])
    best = rates[best_name]
    ours = rates["soundcert"]
    front = rates["limit: front end and model, noise made beforehand"]
    model = rates["limit: model alone, features made beforehand"]
    lines = [
        "# Speed of certification",
        "",
        "Written by `python benchmarks/run.py`. Passes per CPU-second on one thread, with the bundled keyword",
        "spotter (DS-CNN on 40-band log-mel, waveform contract) on a bundled one-second clip; "
        f"{n} passes a run (one batch at least), median of {rounds} alternating rounds.",
        "",
        "| | passes per CPU-second | × published, batch 400 |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {rate:.0f} | {rate / worst:.2f} |" for name, rate in rates.items()]
    lines += [
        "",
        f"soundcert (micro-batch {size}) makes **{ours / worst:.1f} times** the passes of the published algorithm at "
        f"batch 400, and **{ours / best:.2f} times** those at its best batch ({best_name.split()[-1]}).",
        f"It reaches {ours / front:.0%} of the rate of front end and model on noise made beforehand, and "
        f"{ours / model:.0%} of the model alone on features made beforehand.",
        f"Peak memory grew by {growth:.1f} MB from n = 1000 to n = 20 000.",
        "",
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, "
        f"Python {platform.python_version()}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer passes; print, do not write")
    options = parser.parse_args()
    n, rounds = (400, 1) if options.quick else (1600, 5)
    rates, size = measure(n, rounds)
    text = page(rates, size, n, rounds, memory_growth())
    print(text)
    if not options.quick:
        (Path(__file__).parent / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
