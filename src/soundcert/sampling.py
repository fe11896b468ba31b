"""The hot loop: votes of a base classifier under keyed noise, for many clips at once.

Rows of all jobs are packed into micro-batches of one fixed shape; the last is padded, so that the model
always sees one shape. On a CPU a micro-batch stays small whatever the user asks to certify: activations
of large batches outgrow the caches, and at 400 rows a pass costs several times as much (benchmarks/).
Memory does not grow with n.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models import optimise
from soundcert.pipeline import Route
from soundcert.randomness import NoiseKey, NoiseStream
from soundcert.stages import Model, NoiseStage, Stage

MICRO_BATCH = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# Rows run alone and in company differ by float32 rounding, around 1e-6 of the logits' spread; a network
# that looks at its neighbours differs by far more.
ROW_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Job:
    """Count votes of `n` noisy copies of the object `v` `(*shape)`, noise rows `start` … under `key`."""

    v: Tensor
    key: NoiseKey
    n: int
    start: int = 0


class BaseClassifier:
    """The stages below the noise, made ready to run: optimised where that is verified, checked once.

    Calling it maps `(batch, *shape)` to logits `(batch, classes)`.
    """

    def __init__(self, route: Route, micro_batch: int | None = None) -> None:
        self.noise: NoiseStage = route.noise
        self.shape = route.object.shape
        self.micro_batch = micro_batch or MICRO_BATCH
        *between, model = route.base or (None,)
        if not isinstance(model, Model):
            raise ConfigError("the pipeline has no model below the noise: add `model` as the last stage")
        self._between: tuple[Stage, ...] = tuple(s for s in between if s is not None)
        self._net: Callable[[Tensor], Tensor] = model.network_part()
        for stage in route.stages:  # a model above the noise has to be a fixed map too
            if isinstance(stage, Model):
                refuse_training_mode(stage.network_part())
        self.classes = route.spaces[-1].shape[0]
        self.labels = model.labels or tuple(str(i) for i in range(self.classes))
        if isinstance(self._net, nn.Module):
            # A fixed example: whether the faster network is used must not depend on chance.
            example = torch.randn(self.micro_batch, *self.shape, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                self._net = optimise(self._net, self._below(example))

    def _below(self, x: Tensor) -> Tensor:
        for stage in self._between:
            x = stage(x)
        return x

    def __call__(self, x: Tensor) -> Tensor:
        return self._net(self._below(x))

    @property
    def optimised(self) -> bool:
        return isinstance(self._net, nn.Module) and any(
            isinstance(m, nn.Identity) for m in self._net.modules()
        )

    def check_rows(self, v: Tensor, key: NoiseKey) -> None:
        """Refuse a classifier whose answer for a row depends on the rest of the batch, or on chance.

        Each probe row is run alone, at another batch size, in a full batch of quite different companions
        and twice; a permutation alone would leave batch statistics unchanged and find nothing.
        """
        size = max(2, self.micro_batch)
        rows = NoiseStream(key, self.noise.perturb_).fill_(torch.empty(size, *self.shape)) + v
        middle = size // 2
        with torch.inference_mode():
            reference = self(rows.clone())
            # The spread of a usual class over the rows: a masked class (-inf, -1e9) must not widen it.
            finite = torch.isfinite(reference)
            high = torch.where(finite, reference, -torch.inf).amax(dim=0)
            low = torch.where(finite, reference, torch.inf).amin(dim=0)
            spreads = (high - low)[high > low]
            tolerance = ROW_TOLERANCE * max(float(spreads.median()) if len(spreads) else 0.0, 1e-6)

            def compare(batch: Tensor, kept: slice, expected: Tensor, how: str) -> None:
                try:
                    got = self(batch.clone())[kept]
                except (RuntimeError, ValueError) as error:
                    reason = str(error).strip().split("\n")[0]
                    raise ModelError(
                        f"the model fails {how}, so it is not a function of each row: {reason}"
                    ) from error
                same = torch.isclose(got, expected, rtol=1e-5, atol=tolerance, equal_nan=True)
                if not bool(same.all()):
                    worst = float((got - expected).abs().nan_to_num(float("inf")).max())
                    raise ModelError(
                        f"the model's answer for a row changes {how} (logits differ by {worst:.3g}): a certificate "
                        "needs a fixed function of each row. Look for batch statistics, normalisation over the "
                        "batch, dropout or other randomness"
                    )

            everything, first, one = slice(None), slice(0, 1), slice(middle, middle + 1)
            compare(rows, everything, reference, "when the same batch is run twice")
            compare(rows[first], everything, reference[first], "when it is run alone")
            compare(rows[one], everything, reference[one], "when it is run alone")
            part = slice(0, middle + 1)
            compare(rows[part], everything, reference[part], "with the size of the batch")
            loud = rows.flip(0).roll(1, 0) * 5.0 + rows.abs().amax()
            loud[middle] = rows[middle]
            compare(loud, one, reference[one], "with its companions in the batch")
            quiet = rows * 0.01
            quiet[0] = rows[0]
            compare(quiet, first, reference[first], "with its companions in the batch")


def refuse_training_mode(net: object) -> None:
    """Raise ModelError where a module, or a part of it, is in training mode."""
    if isinstance(net, nn.Module):
        for name, part in net.named_modules():
            # Only layers that behave differently while training matter; containers merely carry the flag.
            if part.training and (not list(part.children()) or name == ""):
                where = f"its layer {name!r} ({type(part).__name__})" if name else "it"
                raise ModelError(
                    f"the model is in training mode ({where}): call model.eval() before certifying"
                )


def votes(logits: Tensor) -> Tensor:
    """Return each row's class `(batch,)`, −1 where a logit is NaN: such a row votes for no class."""
    winner = logits.argmax(dim=1)
    return torch.where(torch.isnan(logits).any(dim=1), -1, winner)


def count_votes(base: BaseClassifier, jobs: Sequence[Job], *, workers: int | None = None) -> np.ndarray:
    """Return votes per job and class, `(jobs, classes)` int64.

    workers: threads that each run whole micro-batches on one torch thread; by default one a core. The
    counts do not depend on it, nor on the micro-batch, up to the model's own floating-point differences.
    """
    _keep_freed_memory()
    counts = np.zeros((len(jobs), base.classes), dtype=np.int64)
    parts = _split(jobs, workers or cpu_count(), base.micro_batch)
    if len(parts) == 1:
        with single_threaded():
            _run(base, parts[0], counts)
        return counts
    with single_threaded(), ThreadPoolExecutor(len(parts)) as pool:
        own = [np.zeros_like(counts) for _ in parts]
        for done in [pool.submit(_run, base, part, mine) for part, mine in zip(parts, own, strict=True)]:
            done.result()
        return np.asarray(np.sum(own, axis=0), dtype=np.int64)


@cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep freed activations instead of returning their pages after every layer.

    Getting the pages back costs a fault each, a quarter of a pass (benchmarks/). Elsewhere nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _split(jobs: Sequence[Job], workers: int, micro_batch: int) -> list[list[tuple[int, Job]]]:
    """Deal the rows of all jobs to workers in contiguous, nearly equal runs of whole micro-batches."""
    total = sum(job.n for job in jobs)
    share = -(-total // workers)
    share = max(micro_batch, -(-share // micro_batch) * micro_batch)
    parts: list[list[tuple[int, Job]]] = [[]]
    room = share
    for index, job in enumerate(jobs):
        start, left = job.start, job.n
        while left:
            if not room:
                parts.append([])
                room = share
            take = min(left, room)
            parts[-1].append((index, Job(job.v, job.key, take, start)))
            start, left, room = start + take, left - take, room - take
    return parts


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch on one thread a worker: small micro-batches gain nothing from splitting an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(base: BaseClassifier, jobs: Iterable[tuple[int, Job]], counts: np.ndarray) -> None:
    torch.set_num_threads(1)  # the setting belongs to the thread
    size = base.micro_batch
    rows = torch.zeros(size, *base.shape)
    owner = np.zeros(size, dtype=np.int64)
    filled = 0
    with torch.inference_mode():
        for index, job in jobs:
            stream = NoiseStream(job.key, base.noise.perturb_, job.start)
            left = job.n
            while left:
                take = min(left, size - filled)
                stream.fill_(rows[filled : filled + take]).add_(job.v)
                owner[filled : filled + take] = index
                filled, left = filled + take, left - take
                if filled == size:
                    _tally(base, rows, owner, filled, counts)
                    filled = 0
        if filled:
            rows[filled:] = rows[0]  # not zeros: a gain after the noise has no value for silence
            _tally(base, rows, owner, filled, counts)


def _tally(base: BaseClassifier, rows: Tensor, owner: np.ndarray, filled: int, counts: np.ndarray) -> None:
    winner = votes(base(rows)).numpy()[:filled]
    valid = winner >= 0
    np.add.at(counts, (owner[:filled][valid], winner[valid]), 1)
