"""Measure certification speed side by side, in one process and on one thread, and write README.md here.

    python benchmarks/run.py            # about three minutes
    python benchmarks/run.py --quick    # a rough look, nothing written

What is compared, on the bundled DS-CNN, log-mel in the loop, one-second clips:

- the published algorithm (Cohen et al. 2019): a batch of copies, torch.randn_like, log-mel as it is usually
  written, the plain module, argmax, counts; at several batches, and with soundcert's log-mel stage as well;
- soundcert: keyed noise in place, folded network, channels last, micro-batches;
- the limits: soundcert's front end and model alone on noise made beforehand, and the model alone.

Each side runs in processes of its own, since soundcert sets the allocator of its process. Processes
alternate, and the median over rounds of CPU time is reported, so that a drifting machine moves all alike.
The ratio is what to quote.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import soundcert as sc
from soundcert.demo import demo_folder
from soundcert.randomness import NoiseKey
from soundcert.classifier import BaseClassifier
from soundcert.sampling import Job, count_votes
from soundcert.stages.features import mel_filters

BATCHES = (8, 16, 64, 400)


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


def plain_log_mel(x: torch.Tensor) -> torch.Tensor:
    """40-band log-mel as it is usually written: torch.stft, squared magnitude, filters, logarithm."""
    window = torch.hann_window(512)
    spectrum = torch.stft(x, 512, 160, window=window, pad_mode="constant", return_complex=True).abs() ** 2
    filters = torch.from_numpy(mel_filters(16_000, 512, 40, 0.0, None, "htk", None).copy()).float()
    return torch.log(filters @ spectrum + 1.0)


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(side: str, n: int) -> tuple[dict[str, float], int]:
    """Return passes per CPU-second by name for one side, and the micro-batch."""
    torch.set_num_threads(1)
    pipe = sc.Pipeline.from_yaml(demo_folder() / "waveform.yaml")
    clip = sc.load_clip(next(iter(sorted(demo_folder().glob("*.flac")))))
    route = pipe.route(clip.space)
    v = pipe.object_of(clip).float()
    sigma = float(route.noise.sigma)
    network = route.base[-1].network_part()  # type: ignore[attr-defined]
    fronts = {"": plain_log_mel, " with soundcert's log-mel": route.base[0]}
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

    works: dict[str, tuple[Callable[[], object], int]]
    if side == "published":
        works = {
            f"published, batch {b}{name}": (
                (lambda b=b, f=front: published([f, network], v, sigma, max(n, b), b)),
                max(n, b),
            )
            for name, front in fronts.items()
            for b in BATCHES
        }
        published([plain_log_mel, network], v, sigma, 32, 16)  # warms up
    else:
        whole = n // size * size
        job = Job(v, NoiseKey(0, "probe", clip.digest), n)
        works = {
            "soundcert": (lambda: count_votes(base, [job], workers=1), n),
            "limit: front end and model, noise made beforehand": (limit(base, noisy), whole),
            "limit: model alone, features made beforehand": (limit(base._net, features), whole),  # type: ignore[arg-type]
        }
    rates = {}
    for name, (work, passes) in works.items():
        if side == "soundcert":
            work()  # warms up
        rates[name] = passes / cpu_seconds(work)
    return rates, size


def alternate(n: int, rounds: int) -> tuple[dict[str, float], int]:
    """Measure both sides in turn, each time in a new process; return the medians over rounds."""
    seen: dict[str, list[float]] = {}
    size = 0
    for _ in range(rounds):
        for side in ("published", "soundcert"):
            command = [sys.executable, __file__, "--side", side, "--n", str(n)]
            rates, size = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
            )
            for name, rate in rates.items():
                seen.setdefault(name, []).append(rate)
    return {name: statistics.median(values) for name, values in seen.items()}, size


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
    best_name = max(
        (k for k in rates if k.startswith("published") and k[-1].isdigit()), key=lambda k: rates[k]
    )
    own = "published, batch 400 with soundcert's log-mel"
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
        f"With soundcert's own log-mel stage in the published loop, the first ratio is {ours / rates[own]:.1f}.",
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
    parser.add_argument("--side", choices=("published", "soundcert"), help="measure one side, print JSON")
    parser.add_argument("--n", type=int, help="passes a run")
    options = parser.parse_args()
    n, rounds = (400, 1) if options.quick else (options.n or 800, 3)
    if options.side:
        print(json.dumps(measure(options.side, options.n or n)))
        return
    rates, size = alternate(n, rounds)
    text = page(rates, size, n, rounds, memory_growth())
    print(text)
    if not options.quick:
        (Path(__file__).parent / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
