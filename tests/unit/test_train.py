"""Training: it learns, and a killed one ends as if it had not been."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import soundcert
from helpers import FRONT, HIGH, LOW, RATE, write
from soundcert.cli import run as command_line
from soundcert.config import Config, load_config
from soundcert.errors import ConfigError, InputError, ModelError
from soundcert.models import build_network, load_weights
from soundcert.pipeline import Pipeline
from soundcert.train import TrainResult, _Trainer, disagreement, train

MODEL = "model: {network: ds_cnn, options: {width: 8, blocks: 2}, weights: out/tones.safetensors}"
SETTINGS = "epochs: 5, batch: 8, learning_rate: 0.01"


def noisy_tone(frequency: float, seed: int) -> np.ndarray:
    """A tenth of a second, the tone at the level of the noise around it."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 10) / RATE
    samples = 0.15 * np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6)) + 0.1 * rng.standard_normal(len(t))
    return np.round(samples * 2**15).astype(np.int16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`training` and `validation` folders of classes, and `list.csv` of both with a split column."""
    root = tmp_path_factory.mktemp("train")
    lines = ["file,label,split"]
    for split, count, first in (("training", 16, 0), ("validation", 6, 500)):
        for label, frequency in (("low", LOW), ("high", HIGH)):
            for i in range(count):
                name = f"{split}/{label}/{i:02}.wav"
                write(root / name, noisy_tone(frequency, first + i + int(frequency)))
                lines.append(f"{name},{label},{split}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def home(clips: Path, tmp_path: Path) -> Path:
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    return tmp_path


def yaml_text(
    settings: str = SETTINGS, *, model: str = MODEL, data: str = "{source: manifest, root: list.csv}"
) -> str:
    stages = [*FRONT, "gaussian_noise: {sigma: 0.3}", "log_mel: {n_mels: 12, n_fft: 256, floor: 1.0}", model]
    lines = [f"data: {data}", "pipeline:", *(f"  - {stage}" for stage in stages), f"train: {{{settings}}}"]
    return "\n".join([*lines, "certify: {n0: 5, n: 30, alpha: 0.001}"]) + "\n"


def config(home: Path, settings: str = SETTINGS, **kwargs: Any) -> Config:
    (home / "kws.yaml").write_text(yaml_text(settings, **kwargs))
    return load_config(home / "kws.yaml")


FOLDERS = "{source: folder, root: training}"
WITH_FOLDERS = "clips: {source: folder, root: training}, validation: {source: folder, root: validation}"


def test_disagreement_of_noisy_copies():
    """Two clips, two copies: equal copies disagree by nothing, others by the Jensen-Shannon divergence."""
    equal = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
    assert float(disagreement(equal, 2)) == pytest.approx(0.0, abs=1e-7)
    p, q = 0.9, 0.4
    logits = torch.tensor([[p, 1 - p], [q, 1 - q]]).log()  # two copies of one clip
    m = (p + q) / 2

    def kl(a: float, b: float) -> float:
        return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))

    assert float(disagreement(logits, 2)) == pytest.approx((kl(m, p) + kl(m, q)) / 2, rel=1e-5)


def test_consistency_needs_copies(home):
    with pytest.raises(ConfigError, match="draws to 2 or more"):
        config(home, SETTINGS + ", consistency: 1")


def test_copies_of_a_clip_lie_apart_by_the_number_of_clips(home, monkeypatch):
    """With equal noise in every copy the disagreement is none: copies are compared with their own clip's."""
    seen = []
    monkeypatch.setattr(
        "soundcert.train.disagreement",
        lambda logits, _draws: seen.append(logits.detach()) or logits.sum() * 0,
    )
    monkeypatch.setattr("soundcert.randomness.NoiseStream.fill_", lambda _self, out: out.zero_())
    model = MODEL.replace("blocks: 2", "blocks: 2, dropout: 0.0")
    train(config(home, SETTINGS + ", draws: 3, consistency: 1", model=model), base=home)
    for logits in seen:
        first, *others = logits.chunk(3)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)


def smoothed_loss(trainer, x, noise, wanted):
    """−log of the mean over copies of the softmax, in evaluation mode; by another way than the trainer's."""
    modes = [(part, part.training) for part in trainer.net.modules()]
    trainer.net.eval()
    draws = noise.view(-1, *x.shape)
    mean = torch.stack([trainer.net(trainer._seen(x + eta)).softmax(1) for eta in draws]).mean(0)
    for part, mode in modes:
        part.training = mode
    return -(wanted * mean.log()).sum(1)


def test_an_adversarial_step_is_the_gradients_and_has_its_length(home, monkeypatch):
    real, seen = _Trainer._moved, []

    def watched(self, batch, noise, wanted, radius):
        before = {key: value.clone() for key, value in self.net.state_dict().items()}
        out = real(self, batch, noise, wanted, radius)
        assert self.net.training
        assert not out.requires_grad
        assert all(torch.equal(value, before[key]) for key, value in self.net.state_dict().items())
        x = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(smoothed_loss(self, x, noise, wanted).sum(), x)
        expected = radius * slope / torch.linalg.vector_norm(slope, dim=1, keepdim=True)
        torch.testing.assert_close(out - batch, expected, rtol=1e-3, atol=1e-3 * radius)
        seen.append(radius)
        return out

    monkeypatch.setattr(_Trainer, "_moved", watched)
    train(config(home, SETTINGS + ", draws: 2, adversarial: 0.5, warm_up: 2, mix: 0.3"), base=home)
    assert set(seen) == {0.5 * 0.3 / 2, 0.5 * 0.3}


@pytest.mark.parametrize("gap", [1.0, 40.0, 60.0, 200.0])
def test_an_adversarial_step_of_a_confident_network_is_no_longer(home, monkeypatch, gap):
    """Its slopes are so small that their squares are nothing in float32."""
    trainers = []
    monkeypatch.setattr(_Trainer, "run", lambda self, *_: trainers.append(self))
    train(config(home, SETTINGS), base=home)
    (trainer,) = trainers
    trainer.below = []
    net = torch.nn.Linear(4, 2)
    net.weight.data = torch.tensor([[gap, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    net.bias.data.zero_()
    trainer.net = net
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    moved = trainer._moved(x, torch.zeros(4, 4), wanted, 0.5) - x
    lengths = torch.linalg.vector_norm(moved, dim=1)
    assert all(float(length) == pytest.approx(0.5) or float(length) == 0.0 for length in lengths)
    assert float(lengths[1]) == pytest.approx(0.5)
    net.weight.data.zero_()
    assert torch.equal(trainer._moved(x, torch.zeros(4, 4), wanted, 0.5), x), "no slope, no step"


def test_weights_stored_in_half_are_half_the_size_and_read_as_what_was_kept(home):
    train(config(home, SETTINGS + ", store: fp16"), base=home)
    small = (home / "out/tones.safetensors").stat().st_size
    module = load_weights(home / "out/tones.safetensors").module
    for weight in module.parameters():
        assert weight.dtype == torch.float32
        if weight.dim() > 1:
            assert torch.equal(weight, weight.half().float())
    shutil.rmtree(home / "out")
    train(config(home, SETTINGS), base=home)
    assert small < (home / "out/tones.safetensors").stat().st_size


# --- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["manifest", "folders"])
def test_two_tones_in_noise_are_learnt(home, layout):
    settings = (
        config(home)
        if layout == "manifest"
        else config(home, f"{SETTINGS}, seed: 1, {WITH_FOLDERS}", data=FOLDERS)
    )
    seen: list[dict[str, Any]] = []
    result = train(settings, base=home, progress=seen.append)
    assert result.weights == home / "out" / "tones.safetensors"
    assert result.score > 0.9
    assert result.skipped == ()
    assert 1 <= result.epoch <= result.epochs_run <= 5
    assert [record["epoch"] for record in seen] == list(range(1, result.epochs_run + 1))
    assert result.score == max(
        record["validation_accuracy"] for record in seen
    ) or result.score == pytest.approx(max(record["validation_accuracy"] for record in seen), abs=1e-5)
    assert seen[result.epoch - 1]["validation_accuracy"] == pytest.approx(result.score, abs=1e-5)

    loaded = load_weights(result.weights)
    assert loaded.labels == result.labels == ("high", "low")
    assert (loaded.network, dict(loaded.options)) == ("ds_cnn", {"width": 8, "blocks": 2})
    assert not loaded.module.training
    assert loaded.meta["epoch"] == result.epoch
    assert loaded.meta["validation_accuracy_under_noise"] == result.score
    assert (loaded.meta["training_clips"], loaded.meta["validation_clips"]) == (32, 12)
    assert loaded.meta["pipeline"] == Pipeline.from_yaml(home / "kws.yaml").describe()


def test_what_was_trained_certifies(home, capsys):
    config(home)
    assert command_line(["train", str(home / "kws.yaml"), "--json"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["labels"] == ["high", "low"]
    assert facts["validation_accuracy_under_noise"] > 0.9
    assert [line.split()[1] for line in err.splitlines()] == [
        f"{i}/5" for i in range(1, facts["epochs_run"] + 1)
    ]
    call = [
        "certify",
        str(home / "kws.yaml"),
        "--data",
        str(home / "validation"),
        "--out",
        str(home / "run"),
        "--json",
    ]
    assert command_line(call) == 0
    assert json.loads(capsys.readouterr().out)["smoothed_accuracy"] > 0.8


def test_a_model_keeps_the_labels_that_its_config_gives(home):
    result = train(
        config(home, "epochs: 1", model=MODEL.replace("weights", "labels: [low, high, other], weights")),
        base=home,
    )
    assert result.labels == ("low", "high", "other")
    assert load_weights(result.weights).labels == ("low", "high", "other")


def test_patience_ends_a_training_that_gets_no_better(home, monkeypatch):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.6, 0.9, 0.9])
    monkeypatch.setattr(_Trainer, "_validate", lambda _: next(scores))
    seen: list[dict[str, Any]] = []
    result = train(config(home, "epochs: 7, batch: 16, patience: 3"), base=home, progress=seen.append)
    # Three epochs after the best at 2 bring nothing better: 0.7 once more is not better.
    assert len(seen) == 5
    assert (result.epoch, result.score) == (2, 0.7)
    assert load_weights(result.weights).meta["epoch"] == 2


def test_the_epochs_that_ran_are_counted(home, monkeypatch):
    monkeypatch.setattr(_Trainer, "_validate", lambda _: 0.5)
    settings = config(home, "epochs: 6, batch: 16, patience: 1")
    seen: list[dict[str, Any]] = []
    result = train(settings, base=home, progress=seen.append)
    assert result.epochs_run == len(seen) == 2


def test_resuming_a_finished_training_runs_nothing_more(home):
    settings = config(home, "epochs: 2, batch: 16")
    first = train(settings, base=home)
    before = first.weights.read_bytes()
    again = train(settings, base=home, resume=True, progress=lambda _: pytest.fail("an epoch ran"))
    assert again.weights.read_bytes() == before
    assert (again.epoch, again.score) == (first.epoch, first.score)
    assert again.epochs_run == first.epochs_run == 2


# --- killed and resumed ----------------------------------------------------------------------------

EVERYTHING = (
    "epochs: 4, batch: 8, mix: 0.3, warm_up: 2, label_smoothing: 0.05, shift: 0.2, seed: 5, draws: 2, "
    "consistency: 2, precision: bf16, store: fp16"
)


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, bytes]:
    """A training that nobody interrupted."""
    home = tmp_path_factory.mktemp("whole")
    shutil.copytree(clips, home, dirs_exist_ok=True)
    result = train(config(home, EVERYTHING), base=home)
    return result, result.weights.read_bytes()


class Killed(BaseException):
    """No handler of the training catches this."""


def at_the_end_of(epoch: int) -> Callable[[dict[str, Any]], None]:
    def progress(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise Killed

    return progress


def log(home: Path) -> list[int]:
    lines = (home / "out" / "tones.training" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


@pytest.mark.parametrize("epochs", [(1,), (3,), (1, 2), (4,)], ids=str)
def test_a_training_killed_between_epochs_ends_with_the_same_weights(home, whole, epochs):
    settings = config(home, EVERYTHING)
    for number, epoch in enumerate(epochs):
        with pytest.raises(Killed):
            train(settings, base=home, resume=number > 0, progress=at_the_end_of(epoch))
        assert not (home / "out" / "tones.safetensors").exists()
    torch.manual_seed(12345)  # nothing outside may matter
    result = train(settings, base=home, resume=True)
    assert result.weights.read_bytes() == whole[1]
    assert (result.epoch, result.score) == (whole[0].epoch, whole[0].score)
    assert log(home) == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["_validate", "_save", "_checkpoint"])
def test_a_training_killed_inside_an_epoch_ends_with_the_same_weights(home, whole, monkeypatch, place):
    settings = config(home, EVERYTHING)
    real = getattr(_Trainer, place)
    calls: list[int] = []

    def killed(self: _Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, place, killed)
        try:
            train(settings, base=home)
        except Killed:
            assert not (home / "out" / "tones.safetensors").exists()
        else:
            assert place == "_save", "only a best epoch is saved, and the first may stay the best"
    result = train(settings, base=home, resume=True)
    assert result.weights.read_bytes() == whole[1]


@pytest.mark.long
def test_a_training_killed_by_the_system_ends_with_the_same_weights(home, whole):
    config(home, EVERYTHING)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(soundcert.__file__).parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    draw = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "soundcert", "train", str(home / "kws.yaml"), "--resume"],
            env=environment,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert command_line(["train", str(home / "kws.yaml"), "--resume"]) == 0
    assert (home / "out" / "tones.safetensors").read_bytes() == whole[1]


def test_an_interrupted_training_says_how_to_go_on(home, monkeypatch, capsys):
    def interrupted(_: _Trainer) -> float:
        raise KeyboardInterrupt

    config(home)
    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "_validate", interrupted)
        assert command_line(["train", str(home / "kws.yaml")]) == 130
    err = capsys.readouterr().err
    assert "--resume" in err
    assert err.count("\n") == 1


# --- refusals --------------------------------------------------------------------------------------


@pytest.fixture
def begun(home: Path) -> Path:
    with pytest.raises(Killed):
        train(config(home, "epochs: 3, batch: 16"), base=home, progress=at_the_end_of(1))
    return home


def test_an_unfinished_training_is_not_begun_anew_by_accident(begun):
    before = (begun / "out" / "tones.training" / "checkpoint.pt").read_bytes()
    with pytest.raises(ConfigError, match="holds an unfinished or finished training: add --resume"):
        train(load_config(begun / "kws.yaml"), base=begun)
    assert (begun / "out" / "tones.training" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("epochs: 3", "epochs: 4"),
        lambda text: text.replace("sigma: 0.3", "sigma: 0.4"),
        lambda text: text.replace("floor: 1.0", "floor: 2.0"),
        lambda text: text.replace("blocks: 2", "blocks: 2, dropout: 0.2"),
        lambda text: text.replace("batch: 16", "batch: 16, seed: 1"),
        lambda text: text.replace("root: list.csv", "root: list.csv, shuffle_seed: 1"),
    ],
    ids=["epochs", "sigma", "floor", "dropout", "seed", "data"],
)
def test_a_training_is_not_resumed_with_another_config(begun, change):
    text = (begun / "kws.yaml").read_text()
    assert change(text) != text
    (begun / "kws.yaml").write_text(change(text))
    with pytest.raises(ConfigError, match="was begun with another config or other clips"):
        train(load_config(begun / "kws.yaml"), base=begun, resume=True)
    (begun / "kws.yaml").write_text(text)
    train(load_config(begun / "kws.yaml"), base=begun, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [lines[0], lines[1].replace(",low,", ",high,"), *lines[2:]],
        lambda lines: lines[:-1],
    ],
    ids=["fewer", "relabelled", "fewer to validate"],
)
def test_a_training_is_not_resumed_with_other_clips(begun, change):
    lines = (begun / "list.csv").read_text().splitlines()
    assert change(lines) != lines
    (begun / "list.csv").write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(ConfigError, match="was begun with another config or other clips"):
        train(load_config(begun / "kws.yaml"), base=begun, resume=True)


def _without(file: Path, key: str) -> None:
    state = torch.load(file, weights_only=True)
    del state[key]
    torch.save(state, file)


def _of_another_shape(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["net"] = {name: tensor.reshape(1, -1) for name, tensor in state["net"].items()}
    torch.save(state, file)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1000]),
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"junk " * 100),
        lambda file: file.write_bytes(pickle.dumps(Path("x"))),
        lambda file: torch.save([1, 2], file),
        lambda file: _without(file, "identity"),
        lambda file: _without(file, "optimiser"),
        _of_another_shape,
        lambda file: file.with_name("best.safetensors").unlink(),
    ],
    ids=["torn", "short", "empty", "junk", "pickle", "list", "nameless", "part", "shapes", "no best"],
)
def test_a_damaged_checkpoint_is_one_line(begun, capsys, spoil):
    folder = begun / "out" / "tones.training"
    spoil(folder / "checkpoint.pt")
    capsys.readouterr()
    assert command_line(["train", str(begun / "kws.yaml"), "--resume"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert str(folder) in err and "remove it to start anew" in err


@pytest.mark.parametrize("resume", [False, True])
def test_weights_that_are_there_are_not_overwritten(home, resume):
    (home / "out").mkdir()
    (home / "out" / "tones.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already"):
        train(config(home), base=home, resume=resume)
    assert (home / "out" / "tones.safetensors").read_bytes() == b"precious"
    assert not (home / "out" / "tones.training").exists()
    # Another file may be written beside it.
    result = train(config(home, "epochs: 1, batch: 16"), base=home, out=home / "out" / "other.safetensors")
    assert result.weights.read_bytes() != b"precious"
    assert (home / "out" / "tones.safetensors").read_bytes() == b"precious"


def test_a_clip_in_training_and_validation_is_refused(home):
    (home / "both.csv").write_text("file,label,split\ntraining/low/00.wav,low,validation\n")
    extra = "extra: [{source: manifest, root: list.csv, split: validation}]"
    with pytest.raises(ConfigError, match=r"12 clips are in training and validation, such as .*wav"):
        train(config(home, f"{SETTINGS}, {extra}"), base=home)
    settings = f"{SETTINGS}, validation: {{source: manifest, root: both.csv}}"
    with pytest.raises(ConfigError, match="1 clips are in training and validation"):
        train(config(home, settings, data="{source: manifest, root: list.csv, split: training}"), base=home)
    assert not (home / "out").exists()


def test_a_clip_in_training_and_validation_is_found_under_another_spelling(home):
    (home / "both.csv").write_text("file,label\nvalidation/../training/low/00.wav,low\n")
    settings = f"{SETTINGS}, validation: {{source: manifest, root: both.csv}}"
    with pytest.raises(ConfigError, match="clips are in training and validation"):
        train(config(home, settings, data="{source: manifest, root: list.csv, split: training}"), base=home)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": MODEL.replace("width", "widht")}, "no option 'widht'.*did you mean 'width'"),
        ({"model": MODEL.replace("ds_cnn", "ds_cn")}, "unknown network 'ds_cn'.*did you mean 'ds_cnn'"),
        ({"model": MODEL.replace("network: ds_cnn, options: {width: 8, blocks: 2}, ", "")}, "network"),
        ({"model": MODEL.replace(", weights: out/tones.safetensors", "")}, "names no `weights` to write"),
        ({"model": MODEL.replace("weights", "labels: [low, hihg], weights")}, "label 'high'"),
        ({"data": "{source: esc10, root: esc}"}, "has no splits: name `clips` and `validation`"),
        ({"data": FOLDERS}, "has no splits: name `clips` and `validation`"),
    ],
)
def test_a_training_that_cannot_work_is_refused_before_it_begins(home, change, message):
    with pytest.raises(ConfigError, match=message):
        train(config(home, **change), base=home)
    assert not (home / "out").exists()


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "mix", "consistency", "adversarial"])
def test_numbers_without_limit_are_refused(home, field):
    with pytest.raises(ConfigError, match=f"{field}: .*finite"):
        config(home, f"{SETTINGS.replace(', learning_rate: 0.01', '')}, draws: 2, {field}: .inf")


def test_a_training_that_diverges_ends_and_writes_no_weights(home):
    settings = config(home, SETTINGS.replace("0.01", "1.0e30"))
    with pytest.raises(ModelError, match=r"diverged in epoch \d+ .*not finite any more"):
        train(settings, base=home)
    assert not (home / "out" / "tones.safetensors").exists()


def test_weights_that_are_not_finite_are_refused(home):
    train(config(home), base=home)
    file = home / "out" / "tones.safetensors"
    with safe_open(file, "pt") as held:
        tensors, header = {k: held.get_tensor(k) for k in held.keys()}, held.metadata()  # noqa: SIM118
    name = next(k for k, v in tensors.items() if v.is_floating_point())
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file, header)
    with pytest.raises(ModelError, match=f"{name}.*not finite: the training diverged"):
        load_weights(file)


def test_clips_without_labels_are_refused(home):
    (home / "list.csv").write_text(
        "file,split\ntraining/low/00.wav,training\nvalidation/low/00.wav,validation\n"
    )
    with pytest.raises(InputError, match="every clip needs a label"):
        train(config(home), base=home)


def test_noise_between_two_parts_is_not_trained(home):
    text = yaml_text()
    text = text.replace("  - gaussian_noise: {sigma: 0.3}\n", "")
    parts = "model: {network: ds_cnn, stop: 2}\n  - gaussian_noise: {sigma: 0.3}\n  - model: {network: ds_cnn, start: 2,"
    (home / "kws.yaml").write_text(text.replace("model: {network: ds_cnn,", parts))
    with pytest.raises(ConfigError, match="train the model with its noise at the input or the features"):
        train(load_config(home / "kws.yaml"), base=home)
    assert not (home / "out").exists()


def test_a_clip_that_cannot_be_read_is_skipped_and_named(home, capsys):
    (home / "training" / "low" / "00.wav").write_bytes(b"RIFF")
    config(home, "epochs: 1, batch: 16")
    assert command_line(["train", str(home / "kws.yaml"), "--json"]) == 0
    out, err = capsys.readouterr()
    (reason,) = json.loads(out)["skipped"]
    assert "training/low/00.wav" in reason
    assert f"soundcert: skipped: {reason}" in err


def test_clips_of_several_lengths_need_fit(home):
    write(home / "training" / "low" / "00.wav", noisy_tone(LOW, 1)[:900])
    (home / "kws.yaml").write_text(yaml_text().replace("  - fit: {seconds: 0.1}\n", ""))
    with pytest.raises(ConfigError, match="put `fit` into the pipeline"):
        train(load_config(home / "kws.yaml"), base=home)


def test_a_training_begins_with_the_weights_that_it_is_given(home):
    begun = build_network("ds_cnn", 2, {"width": 8, "blocks": 2}).state_dict()
    trunk = {name: torch.full_like(value, 0.01) for name, value in begun.items() if value.dim() == 4}
    save_file({**trunk, "of.another.network": torch.ones(3)}, home / "trunk.safetensors")
    seen = []

    def first(record: dict[str, Any]) -> None:
        seen.append(record)

    rate = 1e-9  # so small that nothing moves
    train(
        config(home, f"epochs: 1, learning_rate: {rate}, start: trunk.safetensors"), base=home, progress=first
    )
    assert len(seen) == 1
    kept = load_weights(home / "out" / "tones.safetensors").module.state_dict()
    for name, value in trunk.items():
        assert torch.allclose(kept[name], value, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("absent.safetensors", None, "no weights to start with at"),
        ("other.safetensors", {"of.another.network": torch.ones(3)}, "no layer of the same name and shape"),
        (
            "counter.safetensors",
            {"1.1.num_batches_tracked": torch.tensor(3)},
            "no layer of the same name and shape",
        ),
        ("nan.safetensors", {"6.weight": torch.full((2, 8), torch.nan)}, "not finite"),
    ],
)
def test_weights_that_cannot_be_begun_with_are_refused(home, name, tensors, message):
    if tensors is not None:
        save_file(tensors, home / name)
    with pytest.raises((ConfigError, ModelError), match=message):
        train(config(home, f"epochs: 1, start: {name}"), base=home)
    assert not (home / "out").exists()


def test_a_training_is_not_resumed_from_another_start(home):
    def start(value: float) -> None:
        shape = build_network("ds_cnn", 2, {"width": 8, "blocks": 2}).state_dict()["1.0.weight"].shape
        save_file({"1.0.weight": torch.full(shape, value)}, home / "trunk.safetensors")

    start(0.1)
    settings = "epochs: 2, batch: 8, start: trunk.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config(home, settings), base=home, progress=interrupt)
    start(0.2)
    with pytest.raises(ConfigError, match="begun with another config"):
        train(config(home, settings), base=home, resume=True)


def interrupt(_: dict[str, Any]) -> None:
    raise KeyboardInterrupt


def test_weights_that_cannot_be_written_are_refused(home, capsys):
    config(home, "epochs: 1, batch: 16")
    assert (
        command_line(["train", str(home / "kws.yaml"), "--out", str(home / "list.csv" / "x.safetensors")])
        == 2
    )
    assert capsys.readouterr().err.count("\n") == 1
