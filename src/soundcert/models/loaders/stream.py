"""Models with a state: a recording is fed to them in chunks, the state goes from one chunk to the next.

Each row begins with the state at zero, so that a row's answer depends on nothing but the row: state never passes from
one clip, or one noisy copy, to another. The answers for the chunks become one by `vote`. All of this is part of the
model, below the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from soundcert.errors import ConfigError, did_you_mean

StreamVote = Literal["mean", "any", "last"]
#: Options of a loader that describe a stream.
OPTIONS = ("state", "constants", "chunk", "context", "vote")
State = dict[str, Any]
#: A chunk `(batch, context + chunk, …)` and the state, to the model's answer `(batch, classes)` and the next state.
Step = Callable[[Tensor, State], tuple[Tensor, State]]

_WORDS = {
    "mean": "mean of the chunks",
    "any": "largest over the chunks",
    "last": "answer of the last chunk",
}


@dataclass(frozen=True)
class Stream:
    """How a recording is fed: `chunk` new samples (or frames) at a time, after the last `context` of the chunk before.

    state: each state's input by name, with the output that is its next value. constants: inputs that never change.
    Before the first chunk stand zeros; the last one is filled up with zeros. vote: "mean" of the model's outputs,
    the largest of each over the chunks ("any"), or those of the "last" chunk. frames: whether rows are features.
    """

    chunk: int
    state: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    context: int = 0
    vote: StreamVote = "any"
    frames: bool = False

    def words(self) -> str:
        """Return what a contract says of it."""
        context = f" after {self.context} of context" if self.context else ""
        unit = "frames" if self.frames else "samples"
        return f"in chunks of {self.chunk} {unit}{context}, state reset for each clip, {_WORDS[self.vote]}"

    def run(self, x: Tensor, start: State, step: Step) -> Tensor:
        """Return the vote over the chunks of rows `(batch, samples)` or `(batch, frames, …)`, from the state `start`."""
        missing = -x.shape[1] % self.chunk
        x = torch.nn.functional.pad(x, (*[0] * (2 * (x.dim() - 2)), self.context, missing))
        total, state = None, start
        count = (x.shape[1] - self.context) // self.chunk
        for number in range(count):
            at = number * self.chunk
            out, state = step(x[:, at : at + self.context + self.chunk].contiguous(), state)
            if total is None or self.vote == "last":
                total = out
            else:
                total = torch.maximum(total, out) if self.vote == "any" else total + out
        assert total is not None
        return total / count if self.vote == "mean" else total


def stream_of(options: Mapping[str, Any], axes: int) -> Stream | None:
    """Read a stream from a loader's options; None where there is none. ConfigError for what does not fit.

    axes: how many a row of the model's input has; of two or more the first is that of the frames.
    """
    given = {key: value for key, value in options.items() if key in OPTIONS}
    if not given:
        return None
    chunk = given.get("chunk")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ConfigError(f"model: a stream needs `chunk`, a whole number of samples, got {chunk!r}")
    context = given.get("context", 0)
    if isinstance(context, bool) or not isinstance(context, int) or context < 0:
        raise ConfigError(f"model: context must be a whole number of samples from 0, got {context!r}")
    vote = given.get("vote", "any")
    if vote not in get_args(StreamVote):
        raise ConfigError(f"model: unknown vote {vote!r}{did_you_mean(str(vote), get_args(StreamVote))}")
    for name, kinds, what in (
        ("state", str, "{input: output}"),
        ("constants", (int, float), "{input: number}"),
    ):
        table = given.get(name, {})
        if not isinstance(table, Mapping) or not all(isinstance(v, kinds) for v in table.values()):
            raise ConfigError(f"model: {name} must be a table, {what}, got {table!r}")
    return Stream(
        chunk, dict(given.get("state", {})), dict(given.get("constants", {})), context, vote, axes > 1
    )
