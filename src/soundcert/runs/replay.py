"""One clip's plan once more, on one thread, with an eye on votes that rounding could turn.

A network's last bits depend on machine, library and the shape of a batch. A draw whose two best logits are nearly
equal may vote otherwise there. They are counted, so that a difference between two runs can be told from a falsehood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from soundcert.classifier import BaseClassifier, votes
from soundcert.randomness import NoiseKey, NoiseStream, Purpose, noise_stream
from soundcert.sampling import Task, single_threaded

T = TypeVar("T")
#: Logits this near to each other, as a share of a row's usual spread, may change places; see classifier.ROW_TOLERANCE.
NEAR = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass
class Replay(Generic[T]):
    """What a plan gave, and how many votes of each purpose rounding could have turned."""

    result: T
    near: dict[Purpose, int] = field(default_factory=dict)


def replay(task: Task[T]) -> Replay[T]:
    """Run a task's plan as `run_tasks` would, row by row under the same keys, and count near ties."""
    near: dict[Purpose, int] = {}
    streams: dict[Purpose, NoiseStream] = {}
    with torch.inference_mode(), single_threaded():
        try:
            draw = next(task.plan)
            while True:
                purpose = draw.purpose
                if purpose not in streams:
                    key = NoiseKey(task.seed, purpose, task.digest)
                    streams[purpose] = noise_stream(key, task.base.noise, task.first)
                seen, close = _draw(task.base, task.v, streams[purpose], draw.need)
                near[purpose] = near.get(purpose, 0) + int((close >= 0).sum())
                draw = task.plan.send(seen)
        except StopIteration as end:
            return Replay(end.value, near)


def draws(task: Task[T], purpose: Purpose, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first votes of a purpose, whatever the plan asks for, and what rounding could have made of them.

    Both `(count,)` int32: the votes, and the class that a near tie would give instead, −1 where the vote is firm.
    """
    with torch.inference_mode(), single_threaded():
        stream = noise_stream(NoiseKey(task.seed, purpose, task.digest), task.base.noise, task.first)
        return _draw(task.base, task.v, stream, count)


def _draw(base: BaseClassifier, v: Tensor, stream: NoiseStream, count: int) -> tuple[np.ndarray, np.ndarray]:
    out = np.empty(count, dtype=np.int32)
    instead = np.full(count, -1, dtype=np.int32)
    done = 0
    rows = torch.zeros(base.micro_batch, *base.shape, device=base.device)
    while done < count:
        size = min(len(rows), count - done)
        stream.noisy_(rows[:size], v)
        rows[size:] = rows[0]
        logits = base(rows)[:size]
        out[done : done + size] = votes(logits).cpu().numpy()
        if logits.shape[1] > 1:
            second = logits.topk(2, dim=1).indices
            # Which of two equal logits counts as the best may differ from the vote's own choice.
            other = torch.where(second[:, 0] == votes(logits), second[:, 1], second[:, 0])
            near = near_ties(logits, NEAR[base.engine.precision])
            instead[done : done + size] = torch.where(near, other, -1).cpu().numpy()
        done += size
    return out, instead


def near_ties(logits: Tensor, share: float) -> Tensor:
    """Return which rows have two best logits within `share` of the usual spread, `(rows,)` bool.

    The usual spread: the median, over rows that have one, of that of the five best; a class that is masked with a huge
    negative logit is not among them.
    """
    if logits.shape[1] < 2:
        return torch.zeros(len(logits), dtype=torch.bool)
    best = logits.double().topk(min(5, logits.shape[1]), dim=1).values
    lowest = best.masked_fill(~torch.isfinite(best), torch.inf).amin(1)
    spreads = best[:, 0] - lowest
    spreads = spreads[torch.isfinite(spreads) & (spreads > 0)]
    spread = float(spreads.median()) if len(spreads) else 0.0
    return best[:, 0] - best[:, 1] <= share * spread
