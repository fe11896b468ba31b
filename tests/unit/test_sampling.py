"""The hot loop: counts that depend on nothing but the key, and models that are refused for good reason."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import soundcert as sc
from soundcert.classifier import BaseClassifier, refuse_training_mode, votes
from soundcert.errors import ConfigError, ModelError
from soundcert.models import build_network, freeze, optimise
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.sampling import Job, count_votes
from soundcert.stages import GaussianNoise, LogMel, PeakNormalize, RmsNormalize, Stage, Standardize

SIZE = 12
SIGMA = 0.5


class Exact(nn.Module):
    """Five classes by integer arithmetic: a row's answer has no rounding, in whatever company."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weights = torch.randint(-50, 51, (5, SIZE), generator=generator)
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        lattice = torch.round(x.double() * 2**16).to(torch.int64)
        return (lattice[:, None, :] * self.weights).sum(dim=2).double()


def file(size: int = SIZE) -> sc.Space:
    return sc.Space("file", "waveform", (size,), 16_000)


def base_of(model, micro_batch: int | None = None, *, size: int = SIZE, between=()) -> BaseClassifier:
    if isinstance(model, nn.Module):
        model.eval()
    pipe = Pipeline([GaussianNoise(SIGMA), *between, model])
    return BaseClassifier(pipe.route(file(size)), micro_batch)


def key(digest: str = "a", seed: int = 0) -> NoiseKey:
    return NoiseKey(seed, "estimation", digest)


def point(seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size) * 0.2).float()


def noisy(job: Job) -> Tensor:
    return (
        noise_stream(job.key, GaussianNoise(SIGMA), job.start).fill_(torch.empty(job.n, *job.v.shape)) + job.v
    )


def counted_one_by_one(job: Job, model: nn.Module) -> np.ndarray:
    winners = [int(model(row[None]).argmax()) for row in noisy(job)]
    return np.bincount(winners, minlength=5)


JOBS = [Job(point(i), key(f"clip {i}", seed=i % 2), n) for i, n in enumerate((100, 1, 33, 16, 250, 7))]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return np.stack([counted_one_by_one(job, Exact()) for job in JOBS])


# --- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("micro_batch", [1, 7, 8, 16, 33])
def test_counts_do_not_depend_on_batches_or_workers(micro_batch, workers, expected):
    base = base_of(Exact(), micro_batch)
    np.testing.assert_array_equal(count_votes(base, JOBS, workers=workers), expected)
    assert (expected[4] > 0).sum() >= 3  # or there would be little to get wrong


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("micro_batch", [7, 16])
def test_counts_do_not_depend_on_company_or_order(micro_batch, workers, expected):
    base = base_of(Exact(), micro_batch)
    for index, job in enumerate(JOBS):
        np.testing.assert_array_equal(count_votes(base, [job], workers=workers)[0], expected[index])
    for seed in range(4):
        order = random.Random(seed).sample(range(len(JOBS)), len(JOBS))
        got = count_votes(base, [JOBS[i] for i in order], workers=workers)
        np.testing.assert_array_equal(got, expected[order])


def test_counts_of_two_stretches_add_up_to_the_whole(expected):
    base = base_of(Exact())
    job = JOBS[4]
    for cut in (1, 8, 13, 249):
        parts = [Job(job.v, job.key, cut), Job(job.v, job.key, job.n - cut, start=cut)]
        np.testing.assert_array_equal(count_votes(base, parts).sum(axis=0), expected[4])


def test_counts_depend_on_the_key_and_on_the_point(expected):
    base = base_of(Exact())
    job = JOBS[4]
    others = [
        Job(job.v, key("another"), 250),
        Job(point(99), job.key, 250),
        Job(job.v, job.key, 250, start=8),
    ]
    for counts in count_votes(base, others):
        assert (counts != expected[4]).any()
        assert counts.sum() == 250


def test_no_jobs_give_no_counts():
    assert count_votes(base_of(Exact()), []).shape == (0, 5)


# --- votes -----------------------------------------------------------------------------------------


class Undefined(nn.Module):
    """NaN in one logit of the rows whose first value is positive."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack((x[:, 1], x[:, 2], torch.full_like(x[:, 0], -9.0)), dim=1)
        logits[x[:, 0] > 0, 2] = float("nan")
        return logits


@pytest.mark.parametrize("workers", [1, 2])
def test_logits_with_nan_vote_for_nobody(workers):
    job = Job(point(), key(), 200)
    rows = noisy(job)
    valid = rows[rows[:, 0] <= 0]
    counts = count_votes(base_of(Undefined()), [job], workers=workers)[0]
    assert 0 < len(valid) < 200
    first = int((valid[:, 1] >= valid[:, 2]).sum())
    assert counts.tolist() == [first, len(valid) - first, 0]


def test_votes_marks_nan_rows_and_keeps_infinite_ones():
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, 1.0], [nan, 1.0], [1.0, nan], [inf, 0.0], [-inf, -inf], [nan, inf]])
    assert votes(logits).tolist() == [1, -1, -1, 0, 0, -1]


# --- shapes and memory -----------------------------------------------------------------------------


@dataclass
class Recorder:
    """A plain callable that notes what it is given."""

    seen: list[tuple[tuple[int, ...], int]]

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append((tuple(x.shape), x.data_ptr()))
        return x[:, :3]


@pytest.mark.parametrize("micro_batch", [1, 8, 16, 33])
def test_the_model_sees_one_shape_and_one_buffer_whatever_n(micro_batch):
    recorder = Recorder([])
    base = base_of(recorder, micro_batch)
    for n in (5, 100, 1001):
        recorder.seen.clear()
        counts = count_votes(base, [Job(point(), key(), n), Job(point(1), key("b"), 3)], workers=1)
        assert counts.sum() == n + 3
        assert len(recorder.seen) == -(-(n + 3) // micro_batch)
        assert {shape for shape, _ in recorder.seen} == {(micro_batch, SIZE)}
        assert len({place for _, place in recorder.seen}) == 1


def test_python_memory_does_not_grow_with_n():
    base = base_of(Recorder([]), 16)

    def peak(n: int) -> int:
        tracemalloc.start()
        count_votes(base, [Job(point(), key(), n)], workers=1)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        base.engine._run.seen.clear()
        return top

    peak(64)
    # The recorder's own list grows by a few hundred bytes a batch; a row more a draw would be far more.
    assert peak(3200) - peak(320) < 180 * 400


def test_the_threads_setting_is_put_back():
    before = torch.get_num_threads()
    count_votes(base_of(Exact()), [JOBS[0]], workers=1)
    count_votes(base_of(Exact()), [JOBS[0]], workers=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("gain", [PeakNormalize(), RmsNormalize(), Standardize()], ids=lambda s: s.name)
def test_the_padding_does_not_reach_the_stages_as_silence(gain):
    base = base_of(Exact(), 16, between=[gain])
    base.check_rows(point(), key())
    assert count_votes(base, [Job(point(), key(), 100)]).sum() == 100


# --- rows that depend on each other, or on chance --------------------------------------------------


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x[:, :4])


@dataclass(frozen=True)
class BatchCentred(Stage):
    """A stage, not a model, that looks at its neighbours."""

    family = "gain"

    def __call__(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True)


DEPENDENT = {
    "z-score over the batch": lambda x: (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=1e-3),
    "batch mean subtracted": lambda x: x - x.mean(0),
    "softmax over the batch": lambda x: x.softmax(dim=0),
    "divided by the batch's largest": lambda x: x / x.abs().max(),
    "batch median subtracted": lambda x: x - x.median(dim=0).values,
    "cumulative over the batch": lambda x: x.cumsum(0),
    "attention over the batch": lambda x: (x @ x.T).softmax(1) @ x,
    "sorted over the batch": lambda x: x.sort(dim=0).values,
    "compared with the first row": lambda x: x - 0.1 * x[:1],
    "the batch's size": lambda x: x + torch.arange(4) * float(len(x)),
}
RANDOM = {
    "functional dropout": lambda x: F.dropout(x, 0.5, training=True),
    "a little functional dropout": lambda x: F.dropout(x, 0.05, training=True),
    "noise": lambda x: x + 0.05 * torch.randn_like(x),
}


@pytest.mark.parametrize("micro_batch", [2, 7, 16, 33])
@pytest.mark.parametrize("name", [*DEPENDENT, *RANDOM])
def test_a_row_that_depends_on_the_batch_or_on_chance_is_refused(name, micro_batch):
    torch.manual_seed(0)  # a little dropout may drop nothing of so few values
    base = base_of(Function((DEPENDENT | RANDOM)[name]), micro_batch)
    with pytest.raises(ModelError, match="answer for a row changes"):
        base.check_rows(point(), key())


@pytest.mark.parametrize("micro_batch", [2, 16])
def test_batch_norm_without_running_statistics_is_refused_like_the_others(micro_batch):
    base = base_of(Function(nn.BatchNorm1d(4, track_running_stats=False)), micro_batch)
    with pytest.raises(ModelError):
        base.check_rows(point(), key())


def test_a_stage_below_the_noise_is_checked_with_the_model():
    base = base_of(Exact(), between=[BatchCentred()])
    with pytest.raises(ModelError, match="answer for a row changes"):
        base.check_rows(point(), key())


GRU = nn.GRU(1, 3, batch_first=True).eval()
INDEPENDENT = {
    "linear": lambda x: x @ torch.arange(16.0).reshape(4, 4),
    "layer norm": nn.LayerNorm(4),
    "instance norm": lambda x: F.instance_norm(x[:, None])[:, 0],
    "group norm": nn.GroupNorm(2, 4),
    "evaluated batch norm": nn.BatchNorm1d(4),
    "softmax over classes": lambda x: x.softmax(dim=1),
    "the row's own z-score": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "a constant": lambda x: x * 0.0,
    "a GRU": lambda x: GRU(x[:, :, None])[0][:, -1],
}


@pytest.mark.parametrize("micro_batch", [1, 2, 7, 16])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_fixed_function_of_each_row_is_accepted(name, micro_batch):
    base = base_of(Function(INDEPENDENT[name]), micro_batch)
    base.check_rows(point(), key())


def test_the_reference_networks_are_accepted():
    network = build_network("ds_cnn", 3, {"width": 8, "blocks": 3})
    feature = LogMel(n_mels=8, n_fft=64, hop=32, floor=1.0)
    base = base_of(network, size=800, between=[feature])
    base.check_rows(point(size=800), key())


def test_a_masked_class_does_not_hide_batch_statistics():
    def masked(x: Tensor) -> Tensor:
        scored = DEPENDENT["z-score over the batch"](x)
        return torch.cat((scored, torch.full((len(x), 1), -float("inf"))), dim=1)

    base = base_of(Function(masked))
    with pytest.raises(ModelError, match="answer for a row changes"):
        base.check_rows(point(), key())


@pytest.mark.parametrize("name", ["z-score over the batch", "batch mean subtracted"])
def test_a_class_masked_by_a_large_number_does_not_hide_batch_statistics(name):
    def masked(x: Tensor) -> Tensor:
        return torch.cat((DEPENDENT[name](x), torch.full((len(x), 1), -1e9)), dim=1)

    base = base_of(Function(masked))
    with pytest.raises(ModelError, match="answer for a row changes"):
        base.check_rows(point(), key())


def test_a_class_that_is_always_nan_is_refused():
    """No row would vote for any class."""
    base = base_of(Function(lambda x: torch.cat((x, torch.full((len(x), 1), float("nan"))), dim=1)))
    with pytest.raises(ModelError, match="returns NaN for every one"):
        base.check_rows(point(), key())


@pytest.mark.parametrize("mask", [-float("inf"), -1e9])
def test_a_masked_class_alone_is_accepted(mask):
    base_of(Function(lambda x: torch.cat((x, torch.full((len(x), 1), mask)), dim=1))).check_rows(
        point(), key()
    )


def test_a_model_that_writes_into_its_input_is_accepted():
    base_of(Function(lambda x: x.mul_(2.0))).check_rows(point(), key())


def test_the_check_uses_draws_of_its_own_and_leaves_the_global_generator_alone():
    base = base_of(Exact())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    base.check_rows(point(), NoiseKey(0, "probe", "a"))
    assert torch.equal(torch.get_rng_state(), before)


# --- training mode ---------------------------------------------------------------------------------


def test_training_mode_is_refused_wherever_it_hides():
    network = nn.Sequential(nn.Linear(SIZE, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.1)))
    with pytest.raises(ModelError, match=r"training mode .*model\.eval\(\)"):
        refuse_training_mode(network)
    network.eval()
    refuse_training_mode(network)
    network[1][0].train()
    with pytest.raises(ModelError, match=r"'1.0' \(BatchNorm1d\)"):
        refuse_training_mode(network)
    pipe = Pipeline([GaussianNoise(SIGMA), network])
    with pytest.raises(ModelError, match="training mode"):
        BaseClassifier(pipe.route(file()))


def test_a_pipeline_without_a_model_below_the_noise_is_refused():
    pipe = Pipeline([GaussianNoise(SIGMA), LogMel(n_fft=8, hop=4, n_mels=2)])
    with pytest.raises(ConfigError, match="no model below the noise"):
        BaseClassifier(pipe.route(file()))


# --- optimise --------------------------------------------------------------------------------------


def random_statistics(network: nn.Module, seed: int) -> nn.Module:
    """Give every batch normalisation statistics far from its initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.bias.data):
                tensor.normal_(0.0, 0.7, generator=generator)
            for tensor in (layer.running_var, layer.weight.data):
                tensor.uniform_(0.2, 3.0, generator=generator)
    return network.eval()


def images(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(16, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ds_cnn", "event_cnn", "res_cnn"])
def test_the_folded_network_equals_the_original(name, seed):
    torch.manual_seed(seed)
    network = random_statistics(build_network(name, 5, {"width": 8}), seed)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fast = optimise(network, images(1, 24, 30))
    assert fast is not network
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())
    with torch.inference_mode():
        fresh = images(2, 24, 30)
        expected = network(fresh)
        torch.testing.assert_close(fast(fresh), expected, rtol=1e-4, atol=1e-4)
        assert float(expected.std()) > 1e-3
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize("name", ["ds_cnn", "event_cnn", "res_cnn"])
def test_the_frozen_network_equals_the_original(name):
    torch.manual_seed(3)
    network = random_statistics(build_network(name, 5, {"width": 8}), 3)
    fast = optimise(network, images(1, 24, 30))
    program = freeze(fast, images(1, 24, 30))
    assert program is not fast
    with torch.inference_mode():
        for size in (1, 5, 16, 40):
            fresh = torch.randn(size, 24, 30, generator=torch.Generator().manual_seed(size))
            expected = network(fresh)
            torch.testing.assert_close(program(fresh.clone()), expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(program(fresh.clone()), program(fresh.clone()))


class Branches(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.abs().max()) < 5 else -x)


@pytest.mark.parametrize("kind", [Branches, nn.Sequential])
def test_only_a_network_without_branches_is_frozen(kind):
    network = kind(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2)).eval()
    fast = optimise(network, images(1, 1, 8, 8))
    assert (freeze(fast, images(1, 1, 8, 8)) is fast) == (kind is Branches)


def test_one_dimensional_and_shared_convolutions_fold_rightly():
    shared = nn.Conv1d(3, 3, 3, padding=1)
    network = nn.Sequential(
        shared, nn.BatchNorm1d(3), nn.ReLU(), shared, nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(60, 2)
    )
    random_statistics(network, 4)
    fast = optimise(network, images(1, 3, 20))
    assert sum(isinstance(layer, nn.Identity) for layer in fast.modules()) == 2
    with torch.inference_mode():
        torch.testing.assert_close(fast(images(2, 3, 20)), network(images(2, 3, 20)), rtol=1e-5, atol=1e-5)


class Skips(nn.Sequential):
    """A Sequential by name: its forward leaves the normalisation out, so folding would change it."""

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[0](x).flatten(1))


class Between(nn.Sequential):
    """Its forward has an activation between the convolution and the normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x).relu()).flatten(1))


@pytest.mark.parametrize("kind", [Skips, Between])
def test_a_network_that_folding_would_change_is_returned_as_it_is(kind):
    network = random_statistics(kind(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(72, 2)), 0)
    assert optimise(network, images(1, 1, 8, 8)) is network
    # The same layers in order are folded, so it is the equality that decides.
    plain = nn.Sequential(network[0], network[1], nn.Flatten(), network[2]).eval()
    assert optimise(plain, images(1, 1, 8, 8)) is not plain


def test_a_network_with_logits_that_are_not_finite_is_returned_as_it_is():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2)).eval()
    network[1].running_mean[0] = float("nan")
    assert optimise(network, images(1, 1, 8, 8)) is network


class Viewed(nn.Module):
    """What many published networks do before their last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.last = nn.Linear(108, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.convolution(x).view(x.size(0), -1))


def test_a_network_that_the_new_layout_breaks_still_runs():
    network = Viewed().eval()
    fast = optimise(network, images(1, 1, 8, 8))
    with torch.inference_mode():
        torch.testing.assert_close(fast(images(2, 1, 8, 8)), network(images(2, 1, 8, 8)))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_model_may_view_the_features(power):
    class Last(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(len(x), -1))

    feature = LogMel(n_mels=4, n_fft=16, hop=8, floor=1.0, power=power)
    base = base_of(Last(4 * 13, 2), size=100, between=[feature])
    base.check_rows(point(size=100), key())


class Uncopyable(nn.Linear):
    """Holds a tensor that is not a leaf, as modules with computed weights do."""

    def __init__(self) -> None:
        super().__init__(SIZE, 2)
        self.cached = self.weight * 2


def test_a_network_that_cannot_be_copied_is_returned_as_it_is():
    network = Uncopyable().eval()
    assert optimise(network, images(1, SIZE)) is network


def test_folding_shows_in_optimised_and_changes_no_counts():
    network = build_network("ds_cnn", 3, {"width": 8, "blocks": 2})
    random_statistics(network, 1)
    feature = LogMel(n_mels=8, n_fft=64, hop=32, floor=1.0)
    folded = base_of(network, size=800, between=[feature])
    plain = base_of(network.forward, size=800, between=[feature])
    assert folded.optimised
    assert not plain.optimised
    job = Job(point(size=800), key(), 64)
    assert np.abs(count_votes(folded, [job]) - count_votes(plain, [job])).max() <= 1
