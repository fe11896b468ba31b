"""Ensembles: the mean of the members' log-probabilities, whatever runs them; and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import soundcert as sc
from helpers import FRONT, NOISE, RATE, tone, yaml_of
from soundcert.certify import Sampling, SmoothedClassifier
from soundcert.classifier import BaseClassifier
from soundcert.config import load_config
from soundcert.errors import ConfigError, ModelError, SoundcertError
from soundcert.models import build_network, save_weights
from soundcert.models.ensemble import Ensemble
from soundcert.runs.certify_run import identity_of
from soundcert.spaces import Space
from soundcert.stages import FeatureStandardize, GaussianNoise, LogMel, Model, RmsNormalize
from soundcert.stages.base import Stage
from soundcert.train import train

LABELS = ("high", "low")
SIZE = {"blocks": 1, "width": 8}
NARROW, WIDE = "log_mel: {n_mels: 8, n_fft: 256, floor: 1.0}", "log_mel: {n_mels: 12, n_fft: 512, floor: 0.1}"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two untrained networks, a.safetensors and b.safetensors, and a third whose labels stand the other way round."""
    for seed, (name, labels) in enumerate({"a": LABELS, "b": LABELS, "c": LABELS[::-1]}.items()):
        torch.manual_seed(seed)
        net = build_network("ds_cnn", 2, SIZE).eval()
        save_weights(tmp_path / f"{name}.safetensors", net, network="ds_cnn", labels=labels, options=SIZE)
    return tmp_path


def member(features: str, weights: str) -> str:
    return f"[{{{features}}}, {{model: {{weights: {weights}.safetensors}}}}]"


def written(zoo: Path, *members: str, more: str = "") -> Path:
    text = yaml_of([*FRONT, NOISE, f"model: {{ensemble: [{', '.join(members)}]{more}}}"], data=None)
    (zoo / "c.yaml").write_text(text)
    return zoo / "c.yaml"


def clip() -> sc.Clip:
    return sc.Clip.from_array(tone(500.0, 0), RATE, name="tone")


def test_the_answer_is_the_mean_of_the_members_log_probabilities(zoo):
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    assert pipe.labels == LABELS
    route = pipe.route(clip().space)
    x = torch.randn(5, *route.object.shape, generator=torch.Generator().manual_seed(0))
    nets = [Model(weights=str(zoo / f"{n}.safetensors")).module for n in "ab"]
    features = [LogMel(n_mels=8, n_fft=256, floor=1.0), LogMel(n_mels=12, n_fft=512, floor=0.1)]
    with torch.inference_mode():
        parts = [net(f(x)).softmax(1) for net, f in zip(nets, features, strict=True)]
        expected = ((parts[0] * parts[1]) ** 0.5).log()
        torch.testing.assert_close(route.base[-1](x), expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(parts[0].argmax(1), parts[1].argmax(1)) or not torch.allclose(*parts)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_members_run_on_any_engine(zoo, engine):
    if engine != "torch":
        pytest.importorskip(engine, reason=f"{engine} is not installed")
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    route = pipe.route(clip().space)
    base = BaseClassifier(route, engine=engine)
    x = torch.randn(5, *route.object.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(base(x), route.base[-1](x), rtol=1e-3, atol=1e-3)
    assert base.engine.engine == engine
    assert base.optimised is (engine == "torch")


def test_an_ensemble_certifies_and_says_what_it_is(zoo):
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    certificate = sc.certify(pipe, clip(), n0=10, n=60)
    said = certificate.contract.to_dict()["model"]
    assert said.startswith("model(ensemble of ds_cnn on log_mel(n_mels=8,")
    assert " and ds_cnn on log_mel(n_mels=12, floor=0.1)" in said
    again = sc.Pipeline.from_specs(pipe.to_specs())
    assert again.model.digest == pipe.model.digest
    assert again.describe() == pipe.describe()


def test_a_run_is_the_same_wherever_its_members_lie(zoo, tmp_path_factory):
    """Otherwise an ensemble's run could neither be resumed nor verified from another folder."""
    file = written(zoo, member(NARROW, "a"), member(WIDE, "b"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(zoo, elsewhere)

    def identity(config: Path) -> dict[str, str]:
        sampling = Sampling.of(load_config(config).certify)
        return identity_of(sc.Pipeline.from_yaml(config), [], sampling, (), "torch fp32")

    here = identity(file)
    assert identity(elsewhere / file.name) == here
    written(zoo, member(NARROW, "a"), member(WIDE.replace("0.1", "0.2"), "b"))
    assert identity(file)["config"] != here["config"]


def test_the_digest_is_of_every_part(zoo):
    def digest(*members: str) -> str:
        return str(sc.Pipeline.from_yaml(written(zoo, *members)).model.digest)

    first = digest(member(NARROW, "a"), member(WIDE, "b"))
    others = [
        digest(member(NARROW, "b"), member(WIDE, "a")),
        digest(member(WIDE, "b"), member(NARROW, "a")),
        digest(member(NARROW, "a"), member(NARROW, "b")),
        digest(member(NARROW, "a"), member(WIDE, "b"), member(WIDE, "b")),
    ]
    assert len({first, *others}) == 5


def test_the_digest_is_of_statistics_that_a_description_cuts_short(zoo):
    net = Model(weights=str(zoo / "a.safetensors"))

    def digest(last: float) -> str | None:
        stage = FeatureStandardize(mean=(0.0,) * 7 + (last,))
        return Model(members=((LogMel(n_mels=8, n_fft=256), stage, net), (LogMel(n_mels=8), net))).digest

    assert digest(0.0) == digest(0.0)
    assert digest(0.0) != digest(1.0)


def test_gradients_go_through_every_member(zoo):
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    route = pipe.route(clip().space)
    x = torch.randn(2, *route.object.shape).requires_grad_()
    (slope,) = torch.autograd.grad(route.run(x)[:, 0].sum(), x)
    assert bool(slope.abs().sum() > 0)


def test_a_changed_member_is_prepared_anew(zoo):
    """As any network: one may be trained between two calls."""
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    first = sc.certify(pipe, clip(), n0=10, n=60)
    with torch.no_grad():
        for network in pipe.model.module.networks:
            last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
            last.bias.copy_(torch.tensor([0.0, 50.0] if first.candidate == "high" else [50.0, 0.0]))
    assert sc.certify(pipe, clip(), n0=10, n=60).candidate != first.candidate


def test_a_member_in_training_mode_is_refused(zoo):
    pipe = sc.Pipeline.from_yaml(written(zoo, member(NARROW, "a"), member(WIDE, "b")))
    pipe.model.module.networks[1].train()
    with pytest.raises(ModelError, match="training mode"):
        sc.certify(pipe, clip(), n0=10, n=60)


class Lookup(nn.Module):
    """Log-probabilities by the row's first sample, a whole number; notes the batches that it is given."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table))
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return self.table[x[:, 0].long()].log()


def lookups() -> list[Lookup]:
    """Four members and five rows: the first two agree on rows 0, 1 and 4, the first three on rows 0 and 4."""
    return [
        Lookup([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]]).eval(),
        Lookup([[0.6, 0.2, 0.2], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3], [0.1, 0.3, 0.6]]).eval(),
        Lookup([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.1, 0.4, 0.5]]).eval(),
        Lookup(
            [[0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.6, 0.3], [0.9, 0.05, 0.05]]
        ).eval(),
    ]


@pytest.mark.parametrize(("consensus", "agreed"), [(2, [0, 1, 4]), (3, [0, 4])])
def test_where_the_first_members_agree_the_others_are_not_asked(consensus, agreed):
    """Against the rule written out row by row."""
    members = lookups()
    ensemble = Ensemble([((), m) for m in members], consensus)
    x = torch.arange(5.0).unsqueeze(1)
    got = ensemble(x)
    for row in range(5):
        logs = [m.table[row].log() for m in members]
        tops = [int(one.argmax()) for one in logs[:consensus]]
        asked = logs[:consensus] if len(set(tops)) == 1 else logs
        assert (len(set(tops)) == 1) is (row in agreed)
        torch.testing.assert_close(got[row], sum(asked) / len(asked))
        torch.testing.assert_close(ensemble(x[row : row + 1])[0], got[row])  # whatever its companions
    shuffled = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(ensemble(x[shuffled]), got[shuffled])
    everyone = Ensemble([((), m) for m in members])(x)
    assert not torch.allclose(everyone[0], got[0])
    apart = [row for row in range(5) if row not in agreed]
    torch.testing.assert_close(everyone[apart], got[apart])


def test_the_others_hear_only_the_rows_in_dispute():
    """And each alone, so that no bit of an answer hangs on how many others are in dispute."""
    members = lookups()
    Ensemble([((), m) for m in members], 2)(torch.arange(5.0).unsqueeze(1))
    assert [m.asked for m in members] == [[5], [5], [1, 1], [1, 1]]
    Ensemble([((), m) for m in members], 2)(torch.tensor([[0.0], [4.0]]))
    assert [m.asked for m in members] == [[5, 2], [5, 2], [1, 1], [1, 1]]


def test_an_accelerator_asks_everyone_and_answers_the_same(monkeypatch):
    members = lookups()
    ensemble = Ensemble([((), m) for m in members], 2)
    x = torch.arange(5.0).unsqueeze(1)
    expected = ensemble(x)
    monkeypatch.setattr("soundcert.models.ensemble._one_by_one", lambda _: False)
    torch.testing.assert_close(ensemble(x), expected)
    assert members[3].asked[-1] == 5


def test_a_member_that_says_nan_votes_for_nobody_even_in_a_consensus():
    members = lookups()
    members[1].table[0] = float("nan")
    got = Ensemble([((), m) for m in members], 2)(torch.arange(5.0).unsqueeze(1))
    assert got[0].isnan().all()
    assert got[1:].isfinite().all()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_consensus_certifies_says_so_and_is_part_of_the_digest(zoo, engine):
    if engine != "torch":
        pytest.importorskip(engine, reason=f"{engine} is not installed")
    third = member("log_mel: {n_mels: 6, n_fft: 128, floor: 1.0}", "b")
    members = (member(NARROW, "a"), member(WIDE, "b"), third)
    everyone = sc.Pipeline.from_yaml(written(zoo, *members))
    pipe = sc.Pipeline.from_yaml(written(zoo, *members, more=", consensus: 2"))
    assert pipe.model.digest != everyone.model.digest
    said = pipe.model.describe()
    assert said.endswith(", where the first 2 agree those alone)")
    again = sc.Pipeline.from_specs(pipe.to_specs())
    assert (again.model.digest, again.model.consensus) == (pipe.model.digest, 2)
    route = pipe.route(clip().space)
    assert route.base[-1].module.consensus == 2
    networks = route.base[-1].module.networks
    x = torch.randn(64, *route.object.shape, generator=torch.Generator().manual_seed(1))
    heard = route.base[-1].module.seen(x)
    with torch.no_grad():
        for network, y in zip(networks, heard, strict=True):  # untrained ones say the same of any noise
            last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
            last.bias[1] += (network(y) @ torch.tensor([1.0, -1.0])).median()
    base = BaseClassifier(route, engine=engine)
    with torch.inference_mode():
        torch.testing.assert_close(base(x), route.base[-1](x), rtol=1e-3, atol=1e-3)
        answers = torch.stack([net(y).log_softmax(1) for net, y in zip(networks, heard, strict=True)])
        agree = answers[0].argmax(1) == answers[1].argmax(1)
        assert 0 < int(agree.sum()) < 64, "rows of both kinds"
        expected = torch.where(agree[:, None], answers[:2].mean(0), answers.mean(0))
        torch.testing.assert_close(route.base[-1](x), expected)
    found = sc.certify(pipe, clip(), n0=10, n=60)
    assert "where the first 2 agree" in found.contract.to_dict()["model"]


def test_gradients_go_through_a_consensus(zoo):
    third = member("log_mel: {n_mels: 6, n_fft: 128, floor: 1.0}", "b")
    pipe = sc.Pipeline.from_yaml(
        written(zoo, member(NARROW, "a"), member(WIDE, "b"), third, more=", consensus: 2")
    )
    route = pipe.route(clip().space)
    x = torch.randn(16, *route.object.shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (slope,) = torch.autograd.grad(route.run(x)[:, 0].sum(), x)
    assert bool((slope.abs().flatten(1).sum(1) > 0).all())


def test_members_may_be_made_in_python():
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    one = Model(module=Sum().eval(), labels=LABELS)
    features = FeatureStandardize(mean=1.0, std=2.0)
    both = Model(members=((LogMel(n_mels=4, n_fft=64), features, one), (one,)))
    pipe = sc.Pipeline([RmsNormalize(target=1.0), sc.stages.GaussianNoise(0.1), both])
    assert sc.certify(pipe, sc.Clip.from_array(np.arange(100, dtype=np.int16), RATE), n0=5, n=30).n == 30
    assert isinstance(both.module, Ensemble)


@pytest.mark.parametrize(
    ("members", "more", "message"),
    [
        ((member(NARROW, "a"),), "", "two members or more"),
        ((member(NARROW, "a"), "[{model: {network: ds_cnn}}]"), "", "member 2 of the ensemble must be a torch network"),
        ((member(NARROW, "a"), "[{log_mel: {n_mels: 8}}]"), "", "member 2 of the ensemble must end with a whole model"),
        ((member(NARROW, "a"), member("clip: {}", "b")), "", "changes what is certified: put it above"),
        ((member(NARROW, "a"), member("gaussian_noise: {sigma: 1}", "b")), "", "changes what is certified"),
        ((member(NARROW, "a"), member(WIDE, "c")), "", "other labels than the first"),
        ((member(NARROW, "a"), member("log_mle: {}", "b")), "", "member 2 of the ensemble.*log_mel"),
        ((member(NARROW, "a"), member(WIDE, "missing")), "", "missing.safetensors"),
        ((member(NARROW, "a"), member(WIDE, "b")), ", weights: a.safetensors", "its weights in its members"),
        ((member(NARROW, "a"), member(WIDE, "b")), ", network: ds_cnn", "its weights in its members"),
        ((member(NARROW, "a"), member(WIDE, "b")), ", classes: 2", "classes goes with"),
        ((member(NARROW, "a"), member(WIDE, "b")), ", consensus: 2", "from 2 to 1 with 2 members"),
        ((member(NARROW, "a"),) * 3, ", consensus: 3", "from 2 to 2 with 3 members.*got 3"),
        ((member(NARROW, "a"),) * 3, ", consensus: 1", "from 2 to 2 with 3 members.*got 1"),
        (("a", "b"), "", "list of lists"),
    ],
)  # fmt: skip
def test_what_is_no_ensemble_is_one_line(zoo, members, more, message):
    with pytest.raises(SoundcertError, match=message) as error:
        sc.Pipeline.from_yaml(written(zoo, *members, more=more))
    assert "\n" not in str(error.value)


def test_a_members_features_are_checked_where_the_clip_is_known(zoo):
    pipe = sc.Pipeline.from_yaml(
        written(zoo, member(NARROW, "a"), member("log_mel: {n_mels: 8, rate: 8000}", "b"))
    )
    with pytest.raises(ConfigError, match="member 2 of the ensemble: log_mel is set for 8000 Hz"):
        pipe.route(clip().space)


def test_an_ensemble_is_not_trained(zoo):
    path = written(zoo, member(NARROW, "a"), member(WIDE, "b"))
    path.write_text("data: {source: folder, root: clips}\n" + path.read_text())
    with pytest.raises(ConfigError, match="train its members one by one"):
        train(load_config(path), base=zoo)


@dataclass(frozen=True)
class Signed(Stage):
    """The samples, with another sign at another rate than 16 kHz: a stage that learns the rate, as `resample` does."""

    rate: int | None = field(default=None, repr=False)

    name = "signed"
    family = "feature"

    def bind(self, before: Space) -> Signed:
        return replace(self, rate=before.rate)

    def space(self, before: Space) -> Space:
        return Space("signed", "feature", (1, before.samples), before.rate, "x")

    def __call__(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if self.rate == 16_000 else -x.unsqueeze(1)


class Level(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        level = x.flatten(1).mean(1)
        return torch.stack([level, -level], 1)


def test_members_features_are_those_of_the_clips_own_rate():
    """Clips of one length and two rates share the shape of their rows, and not what stands on them."""
    member = (Signed(), Model(module=Level().eval(), labels=("up", "down")))
    classifier = SmoothedClassifier(sc.Pipeline([GaussianNoise(0.1), Model(members=(member, member))]))
    samples = np.full(4000, 0.5, dtype=np.float32)
    for rate, label in ((16_000, "up"), (8000, "down"), (16_000, "up")):
        found = classifier.certify(sc.Clip.from_array(samples, rate), n0=10, n=100, alpha=0.01)
        assert (found.status, found.label) == ("certified", label)
