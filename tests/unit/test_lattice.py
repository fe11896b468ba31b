"""Lattice noise in use: what is refused, what it takes from α, and that its counts depend on nothing but the key."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soundcert as sc
from helpers import HIGH, LOW, WAVEFORM, records, tone, without_times, write, write_tone_model, yaml_of
from soundcert import bounds
from soundcert.attack import Settings
from soundcert.certify import SmoothedClassifier, level_of, set_aside
from soundcert.config import Decide, Estimate, load_config
from soundcert.data import load_items
from soundcert.errors import ConfigError, InputError
from soundcert.pipeline import Pipeline
from soundcert.randomness import LatticeStream, NoiseKey, noise_stream
from soundcert.runs import attack_run, certify_run
from soundcert.runs.executors import LocalExecutor
from soundcert.stages import Fit, GaussianNoise, LatticeNoise, Quantize
from soundcert.stages.noise import NoiseStage, fine_step

STEP = 2.0**-18
STAGES = [*WAVEFORM[:4], "quantize: {log2_step: -18}", "lattice_noise: {sigma: 0.15}", *WAVEFORM[5:]]


class Sign(torch.nn.Module):
    """Class 0 where the first value is positive, which no rounding can turn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack((x[:, 0], -x[:, 0]), dim=1)


def clip_at(t: float, d: int = 16) -> sc.Clip:
    x = np.zeros(d)
    x[0] = t
    x[1:] = np.random.default_rng(0).standard_normal(d - 1)
    return sc.Clip.from_array(x, 16_000, "c")


def pipe_of(sigma: float = 0.25, step: int = -18) -> Pipeline:
    return Pipeline([Quantize(log2_step=step), LatticeNoise(sigma), Sign().eval()])


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([LatticeNoise(0.25)], r"add `- quantize: \{log2_step: -18\}`"),
        ([Fit(samples=16), LatticeNoise(0.25)], "needs `quantize` directly above it"),
        ([Quantize(step=0.1), LatticeNoise(0.25)], r"power of two, got 0.1: write `quantize: \{log2_step: -3\}`"),
        ([Quantize(bits=16), LatticeNoise(0.25, 2.0**-14)], "has step 6.103515625e-05, but `quantize` above it"),
        ([Quantize(log2_step=-30), LatticeNoise(0.25)], "choose a larger step"),
        ([Quantize(log2_step=20), LatticeNoise(0.25)], "choose a smaller step"),
        ([Quantize(step=1e-30), LatticeNoise(1e-30)], "a power of two"),
    ],
)  # fmt: skip
def test_a_lattice_that_cannot_be(stages, words):
    with pytest.raises(ConfigError, match=words):
        Pipeline([*stages, Sign().eval()])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": math.inf}, "sigma must be positive"),
        ({"sigma": 1.0, "step": 0.3}, "step must be a power of two"),
        ({"sigma": 1.0, "step": True}, "step must be a power of two"),
    ],
)
def test_fields_that_cannot_be(fields, words):
    with pytest.raises(ConfigError, match=words):
        LatticeNoise(**fields)


def test_a_stage_outside_a_pipeline_has_no_step():
    with pytest.raises(ConfigError, match="no step yet"):
        _ = LatticeNoise(0.25).law


@pytest.mark.parametrize(
    "given",
    [{}, {"bits": 8, "step": 0.1}, {"step": 0.1, "log2_step": 3}, {"log2_step": 61}, {"log2_step": -61}],
)
def test_quantize_takes_one_lattice(given):
    with pytest.raises(ConfigError, match=r"exactly one|log2_step must be from -60 to 60"):
        Quantize(**given)


def test_objects_off_the_lattice_and_beyond_its_integers_are_refused():
    noise = LatticeNoise(0.25, STEP)
    with pytest.raises(InputError, match="not on the lattice"):
        noise.held(torch.tensor([STEP / 2], dtype=torch.float64))
    with pytest.raises(InputError, match="too loud"):
        noise.held(torch.tensor([2.0**40], dtype=torch.float64))
    assert noise.held(torch.tensor([3 * STEP], dtype=torch.float64)).tolist() == [3]
    assert noise.value(torch.tensor([3, -5])).tolist() == [3 * STEP, -5 * STEP]


@pytest.mark.parametrize("sigma", [0.0025, 0.25, 0.5, 1.0, 7.0])
def test_the_step_that_is_proposed_is_fine_and_can_be_drawn(sigma):
    step = 2.0 ** fine_step(sigma)
    assert sigma / 2**17 < step <= sigma / 2**16
    assert LatticeNoise(sigma, step).law.scale == sigma / step


# --- what it takes from alpha ----------------------------------------------------------------------


def test_alpha_pays_for_the_sampler():
    pipe, clip = pipe_of(), clip_at(0.5)
    route = pipe.route(clip.space)
    aside = set_aside(route, 2000, 0.01)
    assert aside == math.nextafter(2000 * 16 * route.noise.law.total_variation, 1.0)
    cert = sc.certify(pipe, clip, n=2000, alpha=0.01)
    assert cert.set_aside == aside and cert.alpha == 0.01
    assert cert.p_lower == bounds.clopper_pearson_lower(cert.count, 2000, level_of(0.01, aside))
    assert cert.to_dict()["set_aside"] == aside
    gaussian = sc.certify(Pipeline([GaussianNoise(0.25), Sign().eval()]), clip, n=100)
    assert gaussian.set_aside is None and "set_aside" not in gaussian.to_dict()


@pytest.mark.parametrize("policy", [None, Decide(radii=(0.0, 0.1)), Estimate(rel_width=0.3)])
def test_every_policy_pays_for_all_the_draws_it_might_make(policy):
    cert = sc.certify(pipe_of(), clip_at(0.6), n=1000, policy=policy)
    assert cert.set_aside == set_aside(pipe_of().route(clip_at(0.6).space), 1000, 0.001)
    assert cert.status == "certified"


def test_an_alpha_that_the_sampler_would_use_up_is_refused(monkeypatch):
    pipe, clip = pipe_of(), clip_at(0.5)
    monkeypatch.setattr(NoiseStage, "error", lambda self, coordinates: 1e-6 * coordinates)  # noqa: ARG005
    for call in (
        lambda: sc.certify(pipe, clip, n=100, alpha=0.002),
        lambda: sc.predict(pipe, clip, n=100, alpha=0.002),
    ):
        with pytest.raises(ConfigError, match=r"adds up to 0\.0016"):
            call()
    # And what it takes, it takes from predictions too: here two fifths of the level.
    p = sc.predict(pipe, clip_at(10.0), n=12, alpha=5e-4)
    assert p.count == 12 and p.p_value < 5e-4 and p.status == "abstained"


# --- the counts depend on nothing but the key ------------------------------------------------------


@pytest.mark.parametrize("noise", [GaussianNoise(0.25), LatticeNoise(0.25, STEP)])
def test_rows_are_the_same_from_any_start_and_in_any_portions(noise):
    key = NoiseKey(1, "estimation", "ab")
    whole = noise_stream(key, noise).fill_(torch.empty(21, 3, 7))
    for portions in ((1,) * 21, (4, 17), (20, 1), (5, 0, 16)):
        stream = noise_stream(key, noise)
        parts = [stream.fill_(torch.empty(p, 3, 7)) for p in portions]
        assert torch.equal(torch.cat(parts), whole)
    for start in (1, 8, 13):
        assert torch.equal(
            noise_stream(key, noise, start).fill_(torch.empty(4, 3, 7)), whole[start : start + 4]
        )
    assert not torch.equal(
        noise_stream(NoiseKey(2, "estimation", "ab"), noise).fill_(torch.empty(1, 3, 7)), whole[:1]
    )


def test_streams_of_different_purposes_seeds_and_clips_share_no_key():
    keys = [
        NoiseKey(s, p, d).philox() for s in (0, 1) for p in ("selection", "estimation") for d in ("a", "b")
    ]  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**128 for k in keys)


def test_fresh_noise_for_gradients_and_training_has_the_law_too():
    noise = LatticeNoise(0.25, STEP)
    drawn = noise.perturb_(torch.empty(200, 500), torch.Generator().manual_seed(3))
    again = noise.perturb_(torch.empty(200, 500), torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)
    assert torch.equal(drawn / STEP, (drawn / STEP).round())
    assert abs(float(drawn.std()) / 0.25 - 1) < 0.01
    x = torch.zeros(2, 5)
    assert not torch.equal(noise(x), noise(x))


MATRIX = list(itertools.product([GaussianNoise(0.25), LatticeNoise(0.25, STEP)], [None, Decide(radii=(0.0, 0.1)),
                                                                                Estimate(rel_width=0.3)]))  # fmt: skip


@pytest.mark.parametrize(("noise", "policy"), MATRIX)
def test_counts_are_the_same_on_any_batch_size_and_worker_count(noise, policy):
    """A classifier that no rounding can turn: all that is left to differ is the noise and the bookkeeping."""
    clips = [
        sc.Clip.from_array(clip_at(t, 24).tensor().numpy(), 16_000, str(t)) for t in (-0.3, 0.05, 0.2, 0.4)
    ]
    found = set()
    for micro_batch, workers, order in ((1, 1, 1), (16, 1, -1), (7, 3, 1), (64, 2, -1)):
        pipe = Pipeline([Quantize(log2_step=-18), noise, Sign().eval()])
        smoothed = SmoothedClassifier(pipe, micro_batch=micro_batch, workers=workers)
        out = smoothed.certify_many(clips[::order], n0=20, n=300, policy=policy)
        found.add(tuple(sorted((c.clip, c.candidate, c.count, c.n, c.n0, c._radius or -1.0) for c in out)))
    assert len(found) == 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lattice")
    write(root / "clips" / "low" / "even.wav", write_tone_model(root / "tones.safetensors"))
    for i in range(2):
        write(root / "clips" / "high" / f"{i}.wav", tone(HIGH, i))
        write(root / "clips" / "low" / f"{i}.wav", tone(LOW, i))
    (root / "kws.yaml").write_text(yaml_of(STAGES, n=100))
    return root


def run(home: Path, out: Path, **kwargs: Any) -> list[dict[str, Any]]:
    settings = load_config(home / "kws.yaml")
    assert settings.data is not None
    certify_run(settings, load_items(settings.data, home), out, base=home, report_in=("file",), **kwargs)
    return records(out)


def test_a_run_is_the_same_resumed_and_on_any_number_of_workers(home, tmp_path):
    whole = run(home, tmp_path / "whole", executor=LocalExecutor(1))
    assert {r["status"] for r in whole} == {"certified", "abstained"} or len(whole) == 5
    assert all(r["set_aside"] > 0 for r in whole)
    run(home, tmp_path / "three", executor=LocalExecutor(3))
    torn = tmp_path / "torn"
    run(home, torn)
    lines = (torn / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (torn / "certificates.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:9])
    run(home, torn, resume=True)
    for other in ("three", "torn"):
        assert without_times(tmp_path / other) == without_times(tmp_path / "whole")


def test_counts_of_a_network_are_the_same_on_every_machine(home, tmp_path):
    """Noise equal to the bit and sure votes: these counts hold on any machine."""
    sure = [r for r in run(home, tmp_path / "run") if not r["clip"].endswith("even.wav")]
    assert [(r["clip"], r["label"], r["count"]) for r in sure] == [
        ("high/0.wav", "high", 100), ("high/1.wav", "high", 100), ("low/0.wav", "low", 100), ("low/1.wav", "low", 100),
    ]  # fmt: skip
    rows = LatticeStream(NoiseKey(0, "estimation", "0" * 32), LatticeNoise(0.15, STEP).law, STEP)
    assert rows.integers(2, 4).tolist() == GOLDEN


#: In steps of 2^-18, for σ = 0.15: what every machine draws under this key.
GOLDEN = [[8364, -37205, 51874, 46268], [4179, -54159, 58899, -30397]]


def test_the_radius_in_the_file_loses_only_what_the_lattice_costs(home, tmp_path):
    for row in run(home, tmp_path / "run"):
        if row["status"] == "certified":
            chain = {s["stage"]: s["radius"] for s in row["spaces"]["file"]["chain"]}
            cost = row["radius"] - chain["quantize(log2_step=-18)"]
            assert 0 < cost < STEP * math.sqrt(1600)
            assert "float32 rounding of the object" not in chain


def test_an_attack_stays_on_the_lattice_and_within_the_ball(home, tmp_path):
    out = tmp_path / "run"
    run(home, out)
    summary = attack_run(out, Settings(space="object", steps=4, draws=8, n=50), base=home, limit=2)
    assert summary["failed"] == 0
    for line in (out / "attacks.jsonl").read_text().splitlines():
        inside = json.loads(line).get("inside")
        assert inside is None or not inside["violated"]


def test_a_pipeline_says_its_lattice_and_is_rebuilt_from_its_words():
    pipe = pipe_of()
    assert pipe.noise.describe() == f"lattice_noise(sigma=0.25, step={STEP!r})"
    specs = [s for s in pipe.to_specs() if "model" not in s]
    assert specs == [{"quantize": {"log2_step": -18}}, {"lattice_noise": {"sigma": 0.25, "step": STEP}}]
    assert Pipeline.from_specs(specs).noise == pipe.noise
    assert "rounded to steps of 3.8147e-06" in Quantize(log2_step=-18).words()
    assert Quantize(bits=8).words() == "rounded to 8 bits"


def test_lsb_files_keep_their_radius(tmp_path):
    """A PCM file with nothing before `quantize`: every file of its format is on the lattice, and nothing is lost."""
    samples = np.random.default_rng(0).integers(-2000, 2000, 16).astype(np.int16)
    samples[0] = 30_000
    clip = sc.load_clip(write(tmp_path / "a.wav", samples))
    cert = sc.certify(pipe_of(step=-15), clip, n=500)
    assert cert.in_space("file").radius == cert.radius
    coarse = sc.certify(pipe_of(step=-12), clip, n=500)  # files of 16 bits are not on this one
    assert coarse.in_space("file").radius < coarse.radius
    floats = sc.Clip.from_array(clip.tensor().numpy(), 16_000, "floats")
    assert sc.certify(pipe_of(step=-15), floats, n=500).in_space("file").radius < cert.radius
