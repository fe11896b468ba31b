"""What can be known of the GPU path without a GPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import soundcert as sc
from soundcert import sampling
from soundcert.classifier import BaseClassifier, Fastest, usable_device
from soundcert.errors import ConfigError, InputError, ModelError
from soundcert.policies import plan_of
from soundcert.randomness import GPU_BLOCK, NoiseKey, NoiseStream
from soundcert.runs.executors import _needs, _places
from soundcert.runs.work import Work
from soundcert.stages import GaussianNoise, Model, RmsNormalize

TESTS = Path(__file__).resolve().parents[1]
certifying: Any = importlib.import_module("soundcert.certify")  # the package has a function of that name


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 3)).eval()


def clip(seed: int = 0) -> sc.Clip:
    x = torch.randn(1, 100, generator=torch.Generator().manual_seed(seed)).numpy()
    return sc.Clip.from_array(x, 8000, f"{seed}")


def pipeline(module: torch.nn.Module | None = None) -> sc.Pipeline:
    return sc.Pipeline([GaussianNoise(0.5), Model(module=module or net())])


def test_on_another_device_counts_are_the_same_and_each_batch_is_asked_once() -> None:
    """A device that computes on the CPU and refuses to mix with it: see gpu_stand_in.py."""
    ran = subprocess.run(
        [sys.executable, str(TESTS / "gpu_stand_in.py")], capture_output=True, text=True, check=False, timeout=600
    )  # fmt: skip
    if ran.returncode and ("ImportError" in ran.stderr or "AttributeError" in ran.stderr):
        pytest.skip(f"not with torch {torch.__version__}: {ran.stderr.splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(found) == 26
    for facts in found:
        assert facts["equal"], facts
        # The votes come back; nothing else waits, and nothing is sent.
        assert facts["traffic"] == {"from the device": facts["batches"]}, facts


def test_rows_are_made_on_the_stream_that_uses_them_and_a_worker_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now: list[object] = [None]
    made: list[object] = []

    @contextmanager
    def on(stream: object) -> Any:
        now.append(stream)
        yield
        now.pop()

    empty = torch.empty

    def watched(*size: int, device: Any = None, **more: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            made.append(now[-1])
            device = None
        return empty(*size, **more)

    streams: list[object] = []

    def stream(_: torch.device) -> object:
        streams.append(object())
        return streams[-1]

    pipe = pipeline()
    bases = []
    for seed in range(3):
        route = pipe.route(clip(seed).space)
        base = BaseClassifier(route, 4)
        base.device = torch.device("cuda")
        bases.append(base)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch, "empty", watched)
    v = pipe.object_of(clip())
    jobs = [
        sampling.Task(b, v, 0, str(i), sampling.counting("estimation", 8, 3)) for i, b in enumerate(bases)
    ]
    assert [int(c.sum()) for c in sampling.run_tasks(jobs, workers=1)] == [8, 8, 8]
    assert len(streams) == 1
    assert made == streams * 3


def test_newer_switches_for_ten_bits_are_switched_off_too() -> None:
    """Found by a reviewer: torch.backends.fp32_precision = "tf32" outlived the older switches."""
    code = (
        "import torch; torch.backends.fp32_precision = 'tf32'; torch.cuda.is_available = lambda: True;"
        "from soundcert.classifier import usable_device; usable_device('cuda');"
        "b = torch.backends; parts = (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul);"
        "print({p.fp32_precision for p in parts})"
    )
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip(f"torch {torch.__version__} has the older switches alone")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{'ieee'}"


def test_a_card_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ConfigError, match="'cuda:7' asked for, but torch sees 2 CUDA devices here, counted from 0"
    ):
        usable_device("cuda:7")


def test_noise_of_a_batch_takes_few_launches() -> None:
    launches: list[int] = []

    def draw(out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        launches.append(len(out))
        return out.normal_(generator=generator)

    stream = NoiseStream(NoiseKey(0, "estimation", "clip"), draw)
    stream._fill_blocks(torch.empty(1024, 100))
    assert launches == [GPU_BLOCK] * (1024 // GPU_BLOCK)
    launches.clear()
    # Of a long object no more than 2²⁴ values at a time.
    NoiseStream(NoiseKey(0, "estimation", "clip"), draw)._fill_blocks(torch.empty(3, 2**23))
    assert launches == [2, 2]


def test_a_few_threads_feed_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifying, "cpu_count", lambda: 64)
    assert certifying.SmoothedClassifier(pipeline(), device="cuda")._workers == certifying.GPU_WORKERS
    assert certifying.SmoothedClassifier(pipeline(), device="cuda", workers=9)._workers == 9
    assert certifying.SmoothedClassifier(pipeline())._workers is None


def test_weights_are_looked_at_once_a_stream_and_again_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large network's digest takes longer than a clip's front."""
    looks = []
    digest = certifying.state_digest
    monkeypatch.setattr(certifying, "state_digest", lambda m: looks.append(1) or digest(m))
    module = net()
    smoothed = certifying.SmoothedClassifier(pipeline(module), workers=1)
    clips = [clip(seed) for seed in range(5)]
    before = smoothed.certify_many(clips, n0=20, n=50)
    assert len(looks) == 1
    with torch.no_grad():
        module[1].weight.neg_()  # type: ignore[index]
        module[1].bias.neg_()  # type: ignore[index]
    after = smoothed.certify_many(clips, n0=20, n=50)
    assert len(looks) == 2
    assert [c.candidate for c in before] != [c.candidate for c in after]


@pytest.mark.parametrize("p", [0.6, 0.9, 0.99, 1.0])
def test_larger_requests_decide_the_same(p: float) -> None:
    """What lies beyond the look that ends a test is not counted."""
    rng = torch.Generator().manual_seed(round(1000 * p))
    draws = (torch.rand(40_000, generator=rng) >= p).int().numpy()
    policy = sc.Decide(radii=(0.0, 0.25, 0.5, 1.0))

    def run(least: int) -> tuple[Any, int]:
        plan = plan_of(policy, classes=2, n0=20, n=5000, alpha=1e-3, sigma=0.5, least=least)
        places: dict[str, int] = {"selection": 20_000, "estimation": 0}
        asked, answers = next(plan), 0
        while True:
            count = max(asked.need, asked.upto)
            at = places[asked.purpose]
            places[asked.purpose] += count
            answers += 1
            try:
                asked = plan.send(draws[at : at + count])
            except StopIteration as end:
                return end.value, answers

    (one, many), (other, few) = run(1), run(128)
    assert (one.top, one.n, one.accepted, one.counts.tolist()) == (
        other.top, other.n, other.accepted, other.counts.tolist(),
    )  # fmt: skip
    assert few <= many


def test_on_ray_an_actor_has_a_card_to_itself() -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 32.0, "GPU": 2.0})
    assert (_needs("cuda"), _places(cluster, "cuda")) == ({"num_cpus": 1, "num_gpus": 1}, 2)
    assert (_needs("cpu"), _places(cluster, "cpu")) == ({"num_cpus": 1}, 32)
    without = SimpleNamespace(cluster_resources=lambda: {"CPU": 32.0})
    with pytest.raises(ConfigError, match="the Ray cluster offers no GPU"):
        _places(without, "cuda")


def test_a_silent_row_is_not_asked_about_elsewhere_than_on_a_cpu() -> None:
    """The question would wait for the device; its gain is NaN, which votes for no class."""
    assert RmsNormalize()(torch.zeros(2, 8, device="meta")).shape == (2, 8)
    with pytest.raises(InputError, match="silent"):
        RmsNormalize()(torch.zeros(2, 8))


def test_a_mode_that_changes_within_a_stream_is_seen() -> None:
    module = net()
    smoothed = certifying.SmoothedClassifier(pipeline(module), workers=1)
    sampling_ = certifying.Sampling(20, 50)

    def clips() -> Any:
        yield clip(0)
        module.train()
        yield clip(1)

    with pytest.raises(ModelError, match="training mode"):
        list(smoothed.certify_stream(clips(), sampling_))


def test_an_actor_sees_its_own_card_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    executors = importlib.import_module("soundcert.runs.executors")
    monkeypatch.setattr(executors, "_facts", lambda _: {})
    ray = SimpleNamespace(put=lambda work: work, remote=lambda **_: lambda cls: cls)
    work = Work("config", None, Fastest("torch", "fp32", 1024, {}, "cuda:1"))  # type: ignore[arg-type]
    assert executors._RayWorkers(ray, work, 1, 4)._work.engine.device == "cuda"
