"""Noise-augmented training with the very pipeline that certifies: the noise stands at its own place.

The front is deterministic, so each clip's certified object is computed once, in float64. A step then
shifts it in time, adds the pipeline's own noise and runs the base classifier: what is trained is what is
certified. The best epoch is chosen on validation clips under noise. Progress is kept in a folder beside
the weights, so that a killed training resumes at its last finished epoch and ends the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soundcert.attack.fronts import straight_through
from soundcert.config import Config, TrainConfig
from soundcert.data import DataConfig, Item, load_items, without_roots
from soundcert.errors import ConfigError, InputError, ModelError
from soundcert.models import save_weights, take_weights
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.stages import Model, Stage, Windows


@dataclass(frozen=True)
class TrainResult:
    """What training ended with. `score` is the validation accuracy under noise of the best epoch."""

    weights: Path
    labels: tuple[str, ...]
    epoch: int
    epochs_run: int
    score: float
    seconds: float
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Set:
    """Certified objects `(clips, *shape)` in float32, their classes, and the stages below the noise, bound."""

    objects: Tensor
    targets: Tensor
    base: tuple[Stage, ...]


def train(
    config: Config,
    *,
    base: Path,
    out: Path | None = None,
    resume: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train the model of a configuration and write its weights.

    base: the folder that the config's paths are relative to. out: the weight file, by default the
    model stage's `weights`. resume: go on from the last finished epoch. progress: called with a record
    after each epoch.
    """
    settings = config.train or TrainConfig()
    if config.data is None:
        raise ConfigError("train: the config has no `data`")
    pipe = Pipeline.from_config(config, base, training=True)
    if pipe.model is None or pipe.model.network is None:
        raise ConfigError("train: the pipeline must end with a model stage that names its `network`")
    target = out or _weights_of(config, base)
    folder = target.with_suffix(".training")
    if any(isinstance(stage, Windows) for stage in pipe.base):
        raise ConfigError(
            "train: a model is trained on one window a clip: leave `windows` out of the training config, and cut long "
            "recordings with data: {cut: {seconds: …}}"
        )
    if any(stage.family == "model" for stage in pipe.front):
        raise ConfigError(
            "train: train the model with its noise at the input or the features first; "
            "noise between two parts is for certifying"
        )
    if folder.exists() and not resume:
        raise ConfigError(f"{folder} holds an unfinished or finished training: add --resume, or remove it")
    if target.exists() and not folder.exists():
        raise ConfigError(f"{target} exists already: remove it first, or choose another --out")

    start = None if settings.start is None else base / settings.start
    if start is not None and not start.is_file():
        raise ConfigError(f"train: no weights to start with at {start}: correct `start`, or leave it out")
    items, validation = split_items(config.data, settings, base)
    labels = pipe.model.labels or tuple(sorted({str(i.label) for i in items}))
    train_set, bad = _load(pipe, items, labels)
    valid_set, bad_valid = _load(pipe, validation, labels)
    torch.manual_seed(settings.seed)
    identity = _identity(config, labels, start, items, validation)
    trainer = _Trainer(pipe, labels, settings, train_set, valid_set, folder, identity)
    if start is not None:
        take_weights(trainer.net, start)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}; choose another --out") from None
    return trainer.run(target, resume, progress, (*bad, *bad_valid))


def _weights_of(config: Config, base: Path) -> Path:
    spec = config.pipeline[-1]
    fields: dict[str, Any] = {}
    if isinstance(spec, dict):
        (given,) = spec.values()
        fields = given or {}
    weights = fields.get("weights")
    if not isinstance(weights, str):
        raise ConfigError("train: the model stage names no `weights` to write; add it, or use --out")
    return base / weights


def split_items(data: DataConfig, settings: TrainConfig, base: Path) -> tuple[list[Item], list[Item]]:
    """Return the clips that a recipe trains with, and those that choose its epoch. ConfigError where they overlap."""
    if None in (settings.clips, settings.validation) and data.source in ("folder", "esc10", "esc50"):
        raise ConfigError(
            f"train: data of source {data.source!r} has no splits: name `clips` and `validation` under `train`, "
            "such as {source: esc10, root: …, folds: [3, 4, 5]}"
        )
    chosen = settings.clips or data.model_copy(update={"split": "training"})
    valid = settings.validation or data.model_copy(update={"split": "validation", "limit": None})
    items = load_items(chosen, base)
    for more in settings.extra:
        items += load_items(more, base)
    validation = load_items(valid, base)
    overlap = {i.path.resolve() for i in items} & {i.path.resolve() for i in validation}
    if overlap:
        raise ConfigError(
            f"train: {len(overlap)} clips are in training and validation, such as {min(overlap)}"
        )
    if any(i.label is None for i in (*items, *validation)):
        raise InputError(
            "train: every clip needs a label; use class folders or a manifest with a label column"
        )
    return items, validation


def _identity(config: Config, labels: Sequence[str], start: Path | None, *lists: Sequence[Item]) -> str:
    """Digest of everything that a resumed training must share with its beginning."""
    settings = without_roots(config.model_dump(mode="json", include={"data", "pipeline", "train"}))
    for name, field in TrainConfig.model_fields.items():  # a recipe is what it says: later fields change none
        if settings["train"] and settings["train"].get(name) == field.default:
            del settings["train"][name]
    clips = [[[item.name, item.label] for item in items] for items in lists]
    (settings["train"] or {}).pop("start", None)  # its bytes count, not its place
    begun = blake2b(start.read_bytes(), digest_size=16).hexdigest() if start else None
    text = json.dumps([settings, list(labels), begun, clips], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _load(pipe: Pipeline, items: Sequence[Item], labels: Sequence[str]) -> tuple[_Set, list[str]]:
    """Return the certified objects `(clips, *shape)` in float32; unreadable clips are listed, not fatal."""
    index = {label: i for i, label in enumerate(labels)}
    objects: list[Tensor] = []
    targets: list[int] = []
    bad: list[str] = []
    below: tuple[Stage, ...] = ()
    for item in items:
        if item.label not in index:
            raise ConfigError(
                f"train: clip {item.name} has label {item.label!r}, which the model does not name"
            )
        try:
            clip = item.load()
            v = pipe.object_of(clip).float()
        except InputError as error:
            bad.append(str(error))
            continue
        below = below or pipe.route(clip.space).base
        if objects and v.shape != objects[0].shape:
            raise ConfigError(
                f"train: clips reach the noise in different shapes, {tuple(objects[0].shape)} and "
                f"{tuple(v.shape)} ({item.name}): put `fit` into the pipeline"
            )
        objects.append(v)
        targets.append(index[item.label])
    if not objects:
        raise InputError("train: no usable clip" + (f"; the first problem: {bad[0]}" if bad else ""))
    return _Set(torch.stack(objects), torch.tensor(targets), below), bad


class _Trainer:
    def __init__(
        self,
        pipe: Pipeline,
        labels: tuple[str, ...],
        settings: TrainConfig,
        train_set: _Set,
        valid_set: _Set,
        folder: Path,
        identity: str,
    ) -> None:
        assert pipe.model is not None
        self.pipe, self.labels, self.settings = pipe, labels, settings
        self.train_set, self.valid_set = train_set, valid_set
        self.folder, self.identity = folder, identity
        # Depthwise convolutions train about twice as fast on a CPU in this layout.
        self.net = pipe.model.built(len(labels))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.noise = pipe.noise
        self.below = [stage for stage in train_set.base if not isinstance(stage, Model)]
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = -(-len(train_set.objects) // settings.batch)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.learning_rate, total_steps=steps * settings.epochs + 1, pct_start=0.25
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)

    def run(
        self,
        target: Path,
        resume: bool,
        progress: Callable[[dict[str, Any]], None] | None,
        bad: tuple[str, ...],
    ) -> TrainResult:
        started = time.monotonic()
        first, best, best_epoch = 0, -1.0, 0
        if resume and (self.folder / "checkpoint.pt").exists():
            first, best, best_epoch = self._restore()
        done = first
        while done < self.settings.epochs and done - best_epoch <= self.settings.patience:
            epoch = done
            clock = time.monotonic()
            loss = self._epoch(epoch)
            if not all(bool(t.isfinite().all()) for t in self.net.state_dict().values()):
                raise ModelError(
                    f"training diverged in epoch {epoch + 1} (loss {loss:g}): the weights are not finite any more. Lower "
                    "learning_rate, or the weight of consistency or adversarial"
                )
            score = self._validate()
            if score > best:
                best, best_epoch = score, epoch
                self._save(self.folder / "best.safetensors", epoch, score)
            done = epoch + 1
            self._checkpoint(done, best, best_epoch)
            record = {
                "epoch": done,
                "epochs": self.settings.epochs,
                "loss": round(loss, 5),
                "validation_accuracy": round(score, 5),
                "best": round(best, 5),
                "seconds": round(time.monotonic() - clock, 1),
            }
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            if progress:
                progress(record)
        partial = target.with_suffix(target.suffix + ".part")
        partial.write_bytes((self.folder / "best.safetensors").read_bytes())
        partial.replace(target)
        return TrainResult(target, self.labels, best_epoch + 1, done, best, time.monotonic() - started, bad)

    def _epoch(self, epoch: int) -> float:
        settings = self.settings
        self.net.train()
        rng = np.random.default_rng([settings.seed, epoch])
        torch.manual_seed((settings.seed << 20) + epoch)  # dropout
        order = rng.permutation(len(self.train_set.objects))
        level = min(1.0, (epoch + 1) / settings.warm_up) if settings.warm_up else 1.0
        stream = noise_stream(NoiseKey(settings.seed, "training", f"epoch {epoch}"), self.noise)
        total = 0.0
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            if len(rows) < 2:  # batch normalisation needs two
                continue
            batch = _augmented(self.train_set.objects[rows], settings.shift, settings.speed, rng)
            targets = self.train_set.targets[rows]
            partner = torch.from_numpy(rng.permutation(len(rows)))
            share = float(rng.beta(settings.mix, settings.mix)) if settings.mix else 1.0
            batch = share * batch + (1 - share) * batch[partner]
            # Copy after copy: rows i, i + clips, i + 2·clips, … are of one clip.
            copies = (settings.draws, *[1] * (batch.dim() - 1))
            noise = level * stream.fill_(torch.empty_like(batch.repeat(copies)))
            if settings.adversarial:
                wanted = F.one_hot(targets, len(self.labels)).float()
                wanted = share * wanted + (1 - share) * wanted[partner]
                batch = self._moved(
                    batch, noise, wanted, level * settings.adversarial * float(self.noise.sigma)
                )
            self.optimiser.zero_grad()
            seen = self._seen(batch.repeat(copies) + noise)
            if settings.mask:
                seen = _masked(seen, settings.mask, rng)
            logits = self._logits(seen)
            first, second = (t.repeat(settings.draws) for t in (targets, targets[partner]))
            loss = share * self.loss(logits, first) + (1 - share) * self.loss(logits, second)
            if settings.consistency:
                loss = loss + settings.consistency * disagreement(logits, settings.draws)
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            total += float(loss.detach()) * len(rows)
        return total / len(order)

    def _moved(self, batch: Tensor, noise: Tensor, wanted: Tensor, radius: float) -> Tensor:
        """Return the clips, each moved by `radius` in ℓ2 to where the smoothed network wants its label less.

        One step of SmoothAdv (Salman et al. 2019, arXiv 1906.04584, eq. 6) along the gradient of −log of the mean
        over noisy copies of the softmax, with the noise that the network is then trained with. A clip where that
        gradient is zero stays. batch: `(clips, *shape)`; noise: `(draws · clips, *shape)`; wanted: shares of the
        labels, `(clips, classes)`.
        """
        self.net.eval()  # statistics and dropout are for what is learnt from
        batch = batch.clone().requires_grad_()
        draws, last = len(noise) // len(batch), [1] * (batch.dim() - 1)
        seen = batch.repeat(draws, *last) + noise
        for stage in self.below:
            seen = straight_through(stage, seen)
        logs = self._logits(seen).log_softmax(1).view(draws, len(batch), -1)
        loss = -(wanted * logs.logsumexp(0)).sum()
        (slope,) = torch.autograd.grad(loss, batch)
        self.net.train()
        # By the largest entry first: the squares of a confident network's slopes are nothing in float32.
        slope = slope / slope.flatten(1).abs().amax(dim=1).view(-1, *last)
        slope = slope / torch.linalg.vector_norm(slope.flatten(1), dim=1).view(-1, *last)
        still = ~slope.flatten(1).isfinite().all(dim=1).view(-1, *last)
        moved: Tensor = batch + torch.where(still, 0.0, radius * slope)
        return moved.detach()

    def _logits(self, seen: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits: Tensor = self.net(seen)
        return logits.float()

    def _seen(self, batch: Tensor) -> Tensor:
        """Return what the network is given for noisy objects `(batch, *shape)`."""
        for stage in self.below:
            batch = stage(batch)
        return batch

    def _validate(self) -> float:
        """Share of correct noisy draws over validation clips: the mean of p for the true class."""
        self.net.eval()
        draws = self.settings.validation_draws
        stream = noise_stream(NoiseKey(self.settings.seed, "validation", "all"), self.noise)
        correct = 0
        with torch.inference_mode():
            for _ in range(draws):
                for start in range(0, len(self.valid_set.objects), 32):
                    v = self.valid_set.objects[start : start + 32]
                    out = self.net(self._seen(v + stream.fill_(torch.empty_like(v))))
                    correct += int((out.argmax(1) == self.valid_set.targets[start : start + 32]).sum())
        return correct / (draws * len(self.valid_set.objects))

    def _save(self, path: Path, epoch: int, score: float) -> None:
        model = self.pipe.model
        assert model is not None and model.network is not None
        meta = {
            "pipeline": self.pipe.describe(),
            "validation_accuracy_under_noise": score,
            "epoch": epoch + 1,
            "training_clips": len(self.train_set.objects),
            "validation_clips": len(self.valid_set.objects),
        }
        save_weights(
            path, self.net, network=model.network, labels=self.labels, options=model.options, meta=meta,
            half=self.settings.store == "fp16",
        )  # fmt: skip

    def _checkpoint(self, epoch: int, best: float, best_epoch: int) -> None:
        state = {
            "identity": self.identity,
            "epoch": epoch,
            "best": best,
            "best_epoch": best_epoch,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        partial = self.folder / "checkpoint.part"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def _restore(self) -> tuple[int, float, int]:
        """Take up the checkpoint; return the epochs done, the best score so far and its epoch.

        ConfigError where it is damaged, or of another training.
        """
        file = self.folder / "checkpoint.pt"
        try:
            if not file.is_file() or not (self.folder / "best.safetensors").is_file():
                raise ValueError("a file is missing, or is none")
            state = torch.load(file, weights_only=True)
            same = state["identity"] == self.identity
            if same:
                self.net.load_state_dict(state["net"])
                self.optimiser.load_state_dict(state["optimiser"])
                self.schedule.load_state_dict(state["schedule"])
                restored = int(state["epoch"]), float(state["best"]), int(state["best_epoch"])
        except Exception as error:  # a damaged file fails in as many ways as there are bytes
            raise ConfigError(
                f"{self.folder} holds no whole checkpoint of a training (checkpoint.pt, best.safetensors): remove it to "
                "start anew"
            ) from error
        if not same:
            raise ConfigError(
                f"{self.folder} was begun with another config or other clips: remove it to start anew"
            )
        return restored


def disagreement(logits: Tensor, draws: int) -> Tensor:
    """Return the mean over clips and copies of KL(mean of the copies' probabilities ‖ a copy's own), a scalar.

    logits: `(draws · clips, classes)`, copy after copy. The consistency regulariser of Jeong and Shin 2020
    (arXiv 2006.04062), without its entropy term.
    """
    logs = logits.log_softmax(1).view(draws, -1, logits.shape[1])
    middle = logs.exp().mean(0)
    return (middle * (middle.clamp_min(1e-12).log() - logs)).sum(2).mean()


def _masked(batch: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Blank one stripe along each axis of every row, up to `share` of it wide, with the row's mean.

    Source: SpecAugment, arXiv 1904.08779.
    """
    keep = torch.ones_like(batch)
    for axis in range(1, batch.dim()):
        length = batch.shape[axis]
        widths = rng.integers(0, int(share * length) + 1, len(batch))
        starts = rng.integers(0, length - widths + 1)
        for row, start, width in zip(keep, starts, widths, strict=True):
            row.narrow(axis - 1, int(start), int(width)).zero_()
    mean = batch.mean(dim=tuple(range(1, batch.dim())), keepdim=True)
    return batch * keep + mean * (1 - keep)


def _augmented(batch: Tensor, shift: float, speed: float, rng: np.random.Generator) -> Tensor:
    """Stretch each row in time by up to `speed` and move it by up to `shift` of its length, zeros moving in."""
    length = batch.shape[-1]
    limit = int(shift * length)
    if limit == 0 and speed == 0:
        return batch
    out = torch.zeros_like(batch)
    factors = 1 + rng.uniform(-speed, speed, len(batch))
    moves = rng.integers(-limit, limit + 1, len(batch))
    for row, source, factor, move in zip(out, batch, factors, moves, strict=True):
        lines = source.reshape(1, -1, length)
        if speed:
            lines = F.interpolate(
                lines, size=max(1, round(length * factor)), mode="linear", align_corners=False
            )
        start = (length - lines.shape[-1]) // 2 + int(move)
        first, last = max(0, start), min(length, start + lines.shape[-1])
        row.reshape(-1, length)[:, first:last] = lines[0, :, first - start : last - start]
    return out
