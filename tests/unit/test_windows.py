"""Windows below the noise: one object, one noise, one certificate; the answers for its windows vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import soundcert as sc
from helpers import FRONT, MODEL, NOISE, RATE, tone, write_tone_model, yaml_of
from soundcert.attack.fronts import straight_through
from soundcert.certify import KEPT, SmoothedClassifier
from soundcert.classifier import MICRO_BATCH, MOST_VALUES, BaseClassifier
from soundcert.config import load_config
from soundcert.contract import read_contract
from soundcert.errors import ConfigError, ModelError
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.stages import Windows
from soundcert.stages.windows import _VOTES
from soundcert.train import train


def naive(x: Tensor, length: int, hop: int, tail: str) -> list[Tensor]:
    """Windows of one row, one by one."""
    out, start, total = [], 0, x.shape[-1]
    while start == 0 or start + length <= total:
        piece = x[..., start : start + length]
        out.append(torch.cat([piece, piece.new_zeros(*piece.shape[:-1], length - piece.shape[-1])], dim=-1))
        start += hop
    covered = start - hop + length
    if tail == "keep" and covered < total:
        piece = x[..., start : start + length]
        out.append(torch.cat([piece, piece.new_zeros(*piece.shape[:-1], length - piece.shape[-1])], dim=-1))
    return out


@settings(deadline=None)
@given(
    total=st.integers(1, 60),
    length=st.integers(1, 20),
    data=st.data(),
    tail=st.sampled_from(["keep", "drop"]),
    inner=st.sampled_from([(), (3,)]),
)
def test_windows_are_the_parts_of_the_recording(total, length, data, tail, inner) -> None:
    hop = data.draw(st.integers(1, length))
    stage = Windows(frames=length, hop=hop, tail=tail)
    x = torch.randn(2, *inner, total, generator=torch.Generator().manual_seed(total))
    expected = [naive(row, length, hop, tail) for row in x]
    assert stage.count(total) == len(expected[0])
    assert torch.equal(stage.views(x), torch.stack([torch.stack(row) for row in expected]))
    assert torch.equal(stage(x), torch.cat([torch.stack(row) for row in expected]))


def test_lengths_come_in_seconds_samples_or_frames() -> None:
    file = sc.Space("file", "waveform", (40_000,), 8000)
    stage = Windows(seconds=1.0, hop=0.25).bind(file)
    assert (stage.length, stage.step) == (8000, 2000)
    assert stage.space(file).shape == (8000,)
    assert Windows(samples=500).bind(file).step == 500
    mel = sc.Space("log-mel", "feature", (40, 101), 16_000, "nats")
    assert Windows(frames=20, hop=5).bind(mel).space(mel).shape == (40, 20)


def answers(x: Tensor) -> Tensor:
    """Logits of three classes, not linear in the window."""
    return torch.stack([x[:, 0] * 5, x[:, 1].square(), x.sum(dim=1)], dim=1)


@pytest.mark.parametrize("vote", list(_VOTES))
@pytest.mark.parametrize("most", [None, 1, 3, 100])
def test_every_vote_is_that_of_the_windows_one_by_one(vote, most) -> None:
    stage = Windows(samples=4, hop=2, vote=vote)
    x = torch.randn(5, 11, generator=torch.Generator().manual_seed(1))
    each = torch.stack([torch.stack([answers(w[None])[0] for w in naive(row, 4, 2, "keep")]) for row in x])
    if vote == "mean":
        expected = each.sum(dim=1) / each.shape[1]
    elif vote == "probability":
        expected = (each.exp() / each.exp().sum(dim=2, keepdim=True)).sum(dim=1) / each.shape[1]
    elif vote == "any":
        expected = each.max(dim=1).values
    else:
        expected = torch.tensor([[float((row.argmax(1) == c).sum()) for c in range(3)] for row in each])
    sizes = []

    def rest(y: Tensor) -> Tensor:
        sizes.append(len(y))
        return answers(y)

    assert torch.allclose(stage.run(x, rest, most), expected, atol=1e-6)
    if most is not None:
        assert set(sizes) == {most}, "the model sees one size of batch, however long the recording is"


@pytest.mark.parametrize("vote", list(_VOTES))
def test_a_window_of_nan_votes_for_no_class(vote) -> None:
    logits = torch.tensor([[[1.0, 2.0], [torch.nan, 0.0]], [[1.0, 2.0], [0.0, 1.0]]])
    got = Windows(samples=1, vote=vote).voted(logits)
    assert got[0].isnan().any()
    assert int(got[1].argmax()) == 1


class Mean(nn.Module):
    """A linear classifier of a window: its score for the second class is w·x + b."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1.5, length))

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.w + 0.05
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_the_certificate_is_below_the_distance_that_a_linear_vote_has_in_closed_form() -> None:
    """The mean over windows of a linear model is linear in the whole recording: its margin is known exactly."""
    length, hop, total, sigma = 40, 20, 130, 0.2
    x = np.random.default_rng(0).normal(size=total) * 0.1
    pipe = sc.Pipeline(
        [sc.stages.GaussianNoise(sigma), Windows(samples=length, hop=hop), Mean(length).eval()]
    )
    w = Mean(length).w.detach().double()
    whole = torch.zeros(180, dtype=torch.float64)
    count = Windows(samples=length, hop=hop).count(total)
    for k in range(count):
        whole[k * hop : k * hop + length] += w / count
    whole = whole[:total]
    score = float(torch.tensor(x) @ whole + 0.05)
    distance = abs(score) / float(whole.norm())
    cert = sc.certify(pipe, sc.Clip.from_array(x, RATE), n0=50, n=20_000)
    assert cert.label == str(int(score > 0))
    assert not cert.saturated
    assert 0.9 * distance < cert.radius < distance


def test_votes_are_counted_over_one_noise_for_the_whole_recording() -> None:
    pipe = sc.Pipeline(
        [sc.stages.GaussianNoise(0.3), Windows(samples=40, hop=25, vote="majority"), Mean(40).eval()]
    )
    clip = sc.Clip.from_array(np.random.default_rng(1).normal(size=133) * 0.1, RATE)
    cert = sc.certify(pipe, clip, n0=30, n=500, seed=3)
    v = pipe.object_of(clip).float()
    noise = noise_stream(NoiseKey(3, "estimation", clip.digest), pipe.noise).fill_(torch.empty(500, *v.shape))
    model = Mean(40).eval()
    with torch.no_grad():
        logits = torch.stack([model(torch.stack(naive(row, 40, 25, "keep"))) for row in v + noise])
    wins = torch.nn.functional.one_hot(logits.argmax(dim=2), 2).sum(dim=1).argmax(dim=1)
    assert cert.count == int((wins == int(cert.candidate)).sum())


# --- the contract ----------------------------------------------------------------------------------

BASE = ["mono", {"gaussian_noise": {"sigma": 0.1}}]
CUT = {"windows": {"seconds": 0.1, "hop": 0.05, "vote": "any", "tail": "drop"}}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tones")
    write_tone_model(folder / "tones.safetensors")
    return folder


def built(folder, *below, front=BASE) -> sc.Pipeline:
    mel = {"log_mel": {"n_mels": 8, "n_fft": 256, "floor": 1.0}}
    model = {"model": {"weights": "tones.safetensors"}}
    return sc.Pipeline.from_specs([*front, *below, mel, model], folder)


def test_the_contract_says_that_the_windows_stand_below_the_noise(tones) -> None:
    route = built(tones, CUT, {"rms_normalize": {"target": 1.0}}).route(
        sc.Space("file", "waveform", (9000,), RATE)
    )
    contract = read_contract(route)
    assert contract.kind == "post-processed waveform smoothing"
    assert contract.gain_policy == "per window, after the noise: rms_normalize(target=1)"
    assert contract.dimension == 9000
    assert contract.windows == "0.1 s every 0.05 s, the rest left out"
    assert "largest logit" in contract.vote
    said = contract.statement()
    assert "reads the noisy object in windows of 0.1 s every 0.05 s" in said
    assert "one radius are about the whole object" in said
    assert "each window scaled to RMS 1" in said
    assert "Nothing about a single window" in said
    assert (
        "windows(seconds=0.1, hop=0.05, vote='any', tail='drop')" in contract.to_dict()["post_noise_stages"]
    )
    plain = read_contract(built(tones, CUT).route(sc.Space("file", "waveform", (9000,), RATE)))
    assert plain.kind == "fixed-gain waveform smoothing", (
        "reading it in windows changes nothing in the object"
    )
    without = read_contract(built(tones).route(sc.Space("file", "waveform", (1600,), RATE)))
    assert without.windows is without.vote is None
    assert "windows" not in without.to_dict()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([CUT, {"gaussian_noise": {"sigma": 0.1}}], r"below the noise.*data: \{cut: \{seconds"),
        ([*BASE, CUT, CUT], "once, got 2"),
        ([*BASE, {"windows": {}}], "one of seconds, samples and frames"),
        ([*BASE, {"windows": {"seconds": 1, "samples": 5}}], "got seconds and samples"),
        ([*BASE, {"windows": {"seconds": 0}}], "seconds must be positive"),
        ([*BASE, {"windows": {"samples": 10, "hop": 2.5}}], "hop must be a whole number"),
        ([*BASE, {"windows": {"samples": 10, "hop": 0}}], "hop must be positive"),
        ([*BASE, {"windows": {"samples": 10, "hop": 11}}], "hop must be at most the length"),
        ([*BASE, {"windows": {"seconds": 1, "vote": "max"}}], "vote"),
        ([*BASE, {"windows": {"seconds": 1, "length": 2}}], "unknown field 'length'"),
    ],
)
def test_bad_windows_are_told_in_one_line(stages, said) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        sc.Pipeline.from_specs(stages)
    assert "\n" not in str(error.value)


def test_windows_of_frames_do_not_stand_on_a_waveform(tones) -> None:
    space = sc.Space("file", "waveform", (9000,), RATE)
    with pytest.raises(ConfigError, match="give its length in seconds or samples"):
        built(tones, {"windows": {"frames": 10}}).route(space)


def test_windows_of_features(tones) -> None:
    """Features of the whole recording, read frame window by frame window: a window's frames hear its neighbours."""
    mel, model = (
        {"log_mel": {"n_mels": 8, "n_fft": 256, "floor": 1.0}},
        {"model": {"weights": "tones.safetensors"}},
    )
    pipe = sc.Pipeline.from_specs([*BASE, mel, {"windows": {"frames": 11, "hop": 5}}, model], tones)
    clip = sc.Clip.from_array(np.concatenate([tone(500.0, s) for s in range(4)]), RATE)
    cert = sc.certify(pipe, clip, n0=5, n=60)
    assert cert.contract.kind == "fixed-gain waveform smoothing"
    assert cert.contract.windows == "11 frames every 5 frames"
    # Without a route the length of the recording is not known.
    with pytest.raises(ConfigError, match="route"):
        pipe(torch.zeros(1, 6400))
    x = torch.randn(3, 6400, generator=torch.Generator().manual_seed(0))
    assert pipe.route(clip.space).run(x).shape == (3, 2)


@pytest.mark.parametrize("vote", list(_VOTES))
def test_an_attack_follows_the_vote(tones, vote) -> None:
    pipe = built(tones, {"windows": {"seconds": 0.1, "hop": 0.05, "vote": vote}})
    route = pipe.route(sc.Space("file", "waveform", (4000,), RATE))
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = route.run(x, straight_through)
    (slope,) = torch.autograd.grad(y[:, 1].sum(), x)
    assert slope.isfinite().all()
    assert bool((slope != 0).any())


def test_a_model_is_not_trained_through_windows(tmp_path) -> None:
    text = yaml_of(
        [
            *FRONT,
            NOISE,
            "windows: {seconds: 0.1}",
            "log_mel: {n_mels: 8}",
            MODEL.replace("}", ", network: ds_cnn}"),
        ]
    )
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"leave `windows` out.*cut"):
        train(load_config(tmp_path / "c.yaml"), base=tmp_path)


# --- memory ----------------------------------------------------------------------------------------


def test_long_recordings_take_smaller_micro_batches(tones) -> None:
    pipe = built(tones, {"windows": {"seconds": 0.1}})
    for samples, expected in (
        (16_000, MICRO_BATCH),
        (MOST_VALUES["cpu"] // 4, 4),
        (2 * MOST_VALUES["cpu"], 1),
    ):
        base = BaseClassifier(pipe.route(sc.Space("file", "waveform", (samples,), RATE)))
        assert (base.micro_batch, base.rows) == (expected, MICRO_BATCH)
    route = pipe.route(sc.Space("file", "waveform", (MOST_VALUES["cpu"],), RATE))
    assert BaseClassifier(route, 64).micro_batch == 64, "who asks for more knows why"


class OfItsBatch(nn.Module):
    """Looks at the windows beside its own."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.square().mean(1, keepdim=True)
        return torch.cat([(level - level.mean(0)).abs() - 0.02, torch.zeros_like(level)], 1)


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 6, 8, 12, 24, 48])
def test_a_network_that_looks_at_the_windows_beside_its_own_is_refused(micro_batch) -> None:
    """Also where batches end with the recording, so that windows of two recordings never meet."""
    loud = np.repeat(np.where(np.arange(24) < 12, 0.1, 0.6), 100)
    clip = sc.Clip.from_array(
        (np.random.default_rng(0).standard_normal(2400) * loud).astype(np.float32), 8000
    )
    stages = [
        sc.stages.GaussianNoise(0.05),
        Windows(samples=100),
        sc.stages.Model(module=OfItsBatch().eval(), labels=("a", "b")),
    ]
    classifier = SmoothedClassifier(sc.Pipeline(stages), micro_batch=micro_batch, workers=1)
    with pytest.raises(ModelError, match="answer for a row changes"):
        classifier.certify(clip, n0=10, n=100, alpha=0.01)


def test_recordings_of_many_lengths_share_the_network_and_leave_nothing_behind(tones) -> None:
    classifier = SmoothedClassifier(built(tones, {"windows": {"seconds": 0.1, "hop": 0.1}}))
    engines = []
    for number in range(KEPT + 4):
        clip = sc.Clip.from_array(np.resize(tone(500.0), 3000 + 100 * number), RATE)
        cert = classifier.certify(clip, n0=5, n=30)
        assert cert.candidate == "low"
        engines += [base.engine for base in classifier._bases.values()]
    assert len(classifier._bases) == KEPT
    assert len({id(engine) for engine in engines}) == 1, "a window is a window: one network is prepared, once"


def test_a_model_of_any_length_keeps_few_lengths_ready(tones) -> None:
    classifier = SmoothedClassifier(built(tones))
    for number in range(KEPT + 3):
        clip = sc.Clip.from_array(np.resize(tone(500.0), 1600 + 160 * number), RATE)
        classifier.certify(clip, n0=5, n=30)
    assert len(classifier._bases) == len(classifier._engines) == KEPT


def test_the_passes_of_a_long_recording_stay_small(tones) -> None:
    """The largest tensor that the model's part sees is a batch of windows, not the recording's windows."""
    pipe = built(tones, {"windows": {"seconds": 0.1, "hop": 0.05}})
    clip = sc.Clip.from_array(np.resize(tone(500.0), 160_000), RATE)
    base = SmoothedClassifier(pipe, micro_batch=2).base(
        pipe.route(clip.space), pipe.object_of(clip).float(), 0, clip.digest
    )
    seen = []
    run = base.engine._run
    base.engine._run = lambda x: (seen.append(x.shape[0]), run(x))[1]
    with torch.inference_mode():
        base(torch.zeros(2, 160_000).normal_(generator=torch.Generator().manual_seed(0)))
    assert set(seen) == {2}
    assert sum(seen) >= 2 * 199
