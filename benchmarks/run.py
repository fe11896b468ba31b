"""Measure certification speed side by side, on one thread, and write README.md here.

    python benchmarks/run.py                        # about five minutes
    python benchmarks/run.py --peer build/art       # with ART, from its own folder of packages
    python benchmarks/run.py --quick                # a rough look, nothing written

    pip install --target build/art adversarial-robustness-toolbox     # the peer

What is compared, on the bundled DS-CNN, log-mel in the loop, one-second clips:

- the published algorithm (Cohen et al. 2019): a batch of copies, torch.randn_like, log-mel as it is usually
  written, the plain module, argmax, counts; at several batches, and with soundcert's log-mel stage as well;
- the adversarial-robustness-toolbox's PyTorchRandomizedSmoothing.certify on the same module;
- soundcert on every engine that is installed: keyed noise in place, micro-batches;
- the limits: the front end and model alone on noise made beforehand, and the model alone.

Each side runs in processes of its own, since soundcert sets the allocator of its process. Processes
alternate, and the median over rounds of CPU time is reported, so that a drifting machine moves all alike.
The ratio is what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ray_scaling import section
from torch import nn

import soundcert as sc
from soundcert.classifier import MICRO_BATCH, BaseClassifier
from soundcert.demo import demo_folder
from soundcert.engines import available
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.sampling import Job, count_votes
from soundcert.stages.mel import mel_filters

ROOT = Path(__file__).resolve().parent.parent
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


class Bench:
    """The bundled waveform model on a bundled clip."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.pipe = sc.Pipeline.from_yaml(demo_folder() / "waveform.yaml")
        self.clip = sc.load_clip(next(iter(sorted(demo_folder().glob("*.flac")))))
        self.route = self.pipe.route(self.clip.space)
        self.v = self.pipe.object_of(self.clip).float()
        self.sigma = float(self.route.noise.sigma)
        self.network: nn.Module = self.route.base[-1].network_part()  # type: ignore[attr-defined]


def rates_of_published(bench: Bench, n: int) -> dict[str, float]:
    fronts = {"": plain_log_mel, " with soundcert's log-mel": bench.route.base[0]}
    published([plain_log_mel, bench.network], bench.v, bench.sigma, 32, 16)  # warms up
    return {
        f"published, batch {b}{name}": max(n, b)
        / cpu_seconds(
            lambda b=b, f=front: published([f, bench.network], bench.v, bench.sigma, max(n, b), b)  # type: ignore[misc]
        )
        for name, front in fronts.items()
        for b in BATCHES
    }


def rates_of_art(bench: Bench, n: int) -> dict[str, float]:
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = bench.network(plain_log_mel(x))
            return out

    select = 100
    peer = PyTorchRandomizedSmoothing(
        model=Whole(), loss=nn.CrossEntropyLoss(), input_shape=(len(bench.v),), nb_classes=10,
        sample_size=select, scale=bench.sigma, alpha=1e-3, device_type="cpu",
    )  # fmt: skip
    x = bench.v.numpy()[None]
    peer.certify(x, n=32, batch_size=16)  # warms up
    return {
        f"ART, batch {b}": (n + select) / cpu_seconds(lambda b=b: peer.certify(x, n=n, batch_size=b))  # type: ignore[misc]
        for b in (16, 400)
    }


def rates_of_soundcert(bench: Bench, n: int, engine: str) -> dict[str, float]:
    name, precision = engine.split()
    base = BaseClassifier(bench.route, None, name, precision)  # type: ignore[arg-type]
    size = base.micro_batch
    noisy = bench.v + torch.randn(size, *bench.v.shape) * bench.sigma
    features = base._below(noisy)
    whole = n // size * size

    def repeated(run: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for _ in range(n // size):
                    run()

        return work

    stream = noise_stream(NoiseKey(0, "probe", bench.clip.digest), bench.route.noise)
    job = Job(bench.v, NoiseKey(0, "probe", bench.clip.digest), n)
    works: dict[str, tuple[Callable[[], object], int]] = {
        f"soundcert, {engine}": (lambda: count_votes(base, [job], workers=1), n),
        f"limit, {engine}: front end and model, noise made beforehand": (
            repeated(lambda: base(noisy)),
            whole,
        ),
        f"limit, {engine}: model alone, features made beforehand": (
            repeated(lambda: base.engine(features)),
            whole,
        ),
    }
    if engine == "torch fp32":
        works["part: noise"] = (repeated(lambda: stream.fill_(noisy)), whole)
        works["part: log-mel"] = (repeated(lambda: base._below(noisy)), whole)
    rates = {}
    for key, (work, passes) in works.items():
        work()  # warms up
        rates[key] = passes / cpu_seconds(work)
    return rates


def measure(side: str, n: int) -> dict[str, float]:
    """Return passes per CPU-second by name for one side."""
    bench = Bench()
    if side == "published":
        return rates_of_published(bench, n)
    return rates_of_art(bench, n) if side == "art" else rates_of_soundcert(bench, n, side)


def alternate(n: int, rounds: int, peer: Path | None) -> dict[str, list[float]]:
    """Measure all sides in turn, each time in a new process; return the rates of every round."""
    seen: dict[str, list[float]] = {}
    sides = ["published", *(f"{engine} {precision}" for engine, precision in available())]
    for _ in range(rounds):
        for side in [*sides, *(["art"] if peer else [])]:
            environment = dict(os.environ)
            if side == "art":
                environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(peer)])
            command = [sys.executable, __file__, "--side", side, "--n", str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            for name, rate in json.loads(done.stdout.splitlines()[-1]).items():
                seen.setdefault(name, []).append(rate)
    return seen


def memory() -> tuple[float, float]:
    """Return peak memory in MB above the loaded model after n = 1000, and its growth to n = 20 000."""
    pipe = sc.Pipeline.from_yaml(demo_folder() / "waveform.yaml")
    clip = sc.load_clip(next(iter(sorted(demo_folder().glob("*.flac")))))
    pipe.object_of(clip)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    loaded = peak()
    sc.certify(pipe, clip, n=1000)
    first = peak()
    sc.certify(pipe, clip, n=20_000)
    return first - loaded, peak() - first


def curve_section() -> list[str]:
    """Return what benchmarks/curve.py measured, where it has been run."""
    file = ROOT / "docs" / "results" / "curve.json"
    if not file.exists():
        return []
    facts = json.loads(file.read_text(encoding="utf-8"))
    curve = dict(sorted(facts["curve"].items(), key=lambda item: float(item[0].removesuffix("σ"))))
    return [
        "## A certified-accuracy curve",
        "",
        f"Written by `python benchmarks/curve.py`: {facts['clips']} clips of {facts['data']}; the bundled waveform model, "
        f"σ = {facts['sigma']:g}, `decide` over {len(curve)} radii, α = {facts['alpha']:g}, at most "
        f"{facts['cap']:,} draws a clip, torch fp32.",
        "",
        "| radius | " + " | ".join(curve) + " |",
        "|---|" + "---:|" * len(curve),
        "| certified accuracy | " + " | ".join(f"{share:.1%}" for share in curve.values()) + " |",
        "",
        f"It took {facts['passes']:,} passes, {facts['passes'] / facts['clips']:,.0f} a clip, and "
        f"{facts['cpu_seconds']:,.0f} CPU-seconds. The published algorithm at n = {facts['cap']:,} and batch 400 would take "
        f"{facts['published_cpu_seconds_extrapolated']:,.0f}, extrapolated from three measured batches: "
        f"**{facts['ratio']:.0f} times** as much. Of the {facts['decisions']:,} decisions, the two would make "
        f"{facts['decisions_that_differ_in_expectation']:.1f} differently in expectation, computed from each clip's share "
        "of draws.",
        "",
    ]


def ray_section() -> list[str]:
    """Return what benchmarks/ray_scaling.py measured, where it has been run."""
    file = ROOT / "docs" / "results" / "ray.json"
    return [section(json.loads(file.read_text(encoding="utf-8")))] if file.exists() else []


def page(seen: dict[str, list[float]], n: int, rounds: int, memory_mb: tuple[float, float]) -> str:
    rates = {name: statistics.median(values) for name, values in seen.items()}
    worst = rates["published, batch 400"]
    best_name = max(
        (k for k in rates if k.startswith("published") and k[-1].isdigit()), key=lambda k: rates[k]
    )
    shared_name = max((k for k in rates if k.endswith("with soundcert's log-mel")), key=lambda k: rates[k])
    ours = {k: v for k, v in rates.items() if k.startswith("soundcert")}
    fastest = max(ours, key=lambda k: ours[k])
    torch32 = ours["soundcert, torch fp32"]
    by_round = [
        own / other
        for own, other in zip(seen["soundcert, torch fp32"], seen["published, batch 400"], strict=True)
    ]
    lines = [
        "# Speed of certification",
        "",
        "Written by `python benchmarks/run.py`. Passes per CPU-second on one thread, with the bundled keyword",
        "spotter (DS-CNN on 40-band log-mel, waveform contract) on a bundled one-second clip; "
        f"{n} passes a run (one batch at least), median of {rounds} alternating rounds. soundcert's micro-batch is "
        f"{MICRO_BATCH}. *Published* is the loop of Cohen et al. (2019) with log-mel as it is usually written; *ART* "
        "is adversarial-robustness-toolbox's PyTorchRandomizedSmoothing.",
        "",
        "| | passes per CPU-second | × published, batch 400 |",
        "|---|---:|---:|",
        *(
            f"| {name} | {rate:.0f} | {rate / worst:.2f} |"
            for name, rate in rates.items()
            if not name.startswith(("part", "limit"))
        ),
        "",
        f"soundcert in torch fp32 makes **{torch32 / worst:.1f} times** the passes of the published algorithm at batch "
        f"400, and **{torch32 / rates[best_name]:.2f} times** those at its best batch ({best_name.split()[-1]}); on its "
        f"fastest engine here ({fastest.removeprefix('soundcert, ')}) **{ours[fastest] / worst:.1f} times** and "
        f"{ours[fastest] / rates[best_name]:.2f} times.",
        f"Against that loop with soundcert's own log-mel at batch {shared_name.split()[2]} it is "
        f"{torch32 / rates[shared_name]:.2f} times.",
        "Ratios drift with the machine, page faults most of all: in the single rounds the first was "
        f"{min(by_round):.1f} to {max(by_round):.1f}.",
        "",
        "How near that is to the limits, same engine and micro-batch:",
        "",
        "| engine | front end and model alone | soundcert reaches | the noise leaves about | model alone | "
        "soundcert reaches |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    noise = rates["part: noise"]
    for name, rate in ours.items():
        engine = name.removeprefix("soundcert, ")
        front = rates[f"limit, {engine}: front end and model, noise made beforehand"]
        model = rates[f"limit, {engine}: model alone, features made beforehand"]
        # Time adds up: what a pass would reach that cost its front end, its model and its noise alone.
        most = noise / (front + noise)
        lines.append(
            f"| {engine} | {front:.0f} | {rate / front:.0%} | {most:.0%} | {model:.0f} | {rate / model:.0%} |"
        )
    parts = {
        "noise": rates["part: noise"],
        "log-mel": rates["part: log-mel"],
        "model": rates["limit, torch fp32: model alone, features made beforehand"],
    }
    lines += [
        "",
        '"The noise leaves about" is what the noise alone leaves of that limit: every draw needs its own '
        f"{1e6 / noise:.0f} µs of normal numbers, so the faster the engine, the larger their share. Each figure is a median "
        "of its own: a point either way is drift.",
        "",
        "Where a pass goes (torch fp32, each part alone, µs): "
        + ", ".join(f"{name} {1e6 / rate:.0f}" for name, rate in parts.items())
        + f"; a whole pass {1e6 / torch32:.0f}.",
        "",
        f"Peak memory above the loaded model: {memory_mb[0]:.0f} MB after n = 1000; it grew by {memory_mb[1]:.1f} MB to "
        "n = 20 000.",
        "",
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, "
        f"Python {platform.python_version()}.",
        "",
        *curve_section(),
        *ray_section(),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer passes; print, do not write")
    parser.add_argument("--peer", type=Path, help="folder that holds adversarial-robustness-toolbox")
    parser.add_argument("--side", help="measure one side, print JSON")
    parser.add_argument("--n", type=int, help="passes a run")
    options = parser.parse_args()
    n, rounds = (400, 1) if options.quick else (options.n or 960, 5)
    if options.side:
        print(json.dumps(measure(options.side, options.n or n)))
        return
    text = page(alternate(n, rounds, options.peer), n, rounds, memory())
    print(text)
    if not options.quick:
        (Path(__file__).parent / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
