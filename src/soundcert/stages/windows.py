"""Windows below the noise: a long recording is one certified object, and the model's answers for its parts vote.

Conventions: time is the last axis. A row `(batch, *shape, length)` becomes `count` windows, the windows of one
row following each other: `(batch·count, *shape, window)`. A Route runs what stands below on them and folds the
answers back to one a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from soundcert.errors import ConfigError, did_you_mean
from soundcert.spaces import Space
from soundcert.stages.base import Stage, register, require

Vote = Literal["mean", "probability", "majority", "any"]
Tail = Literal["keep", "drop"]

_VOTES = {
    "mean": "the mean of its logits over the windows is the answer",
    "probability": "the mean of its softmax over the windows is the answer",
    "majority": "the class that most windows answer is the answer",
    "any": "the largest logit of each class over the windows is the answer",
}


@register("windows")
@dataclass(frozen=True)
class Windows(Stage):
    """Cut a recording into windows below the noise; the model answers for each, and the answers vote.

    Give the length as `seconds` or `samples` of a waveform, or as `frames` of features, and `hop` in the same
    unit (by default the length: no overlap). tail="keep" fills the last window up with zeros, so that all of the
    recording is heard; "drop" leaves out what does not fill one. A recording shorter than a window is filled up.
    vote: "mean" of the logits, mean "probability" (softmax), "majority" of the windows' answers (the first class
    of a tie), or "any": the largest logit of each class, as for an event that may be anywhere.

    The noise is drawn once, over the whole recording, and all windows of one copy share it: windows and vote are
    part of the base classifier, and the certificate is about the recording.
    """

    seconds: float | None = None
    samples: int | None = None
    frames: int | None = None
    hop: float | None = None
    vote: Vote = "mean"
    tail: Tail = "keep"
    rate: int | None = field(default=None, repr=False)

    family = "window"
    always = ("hop", "vote")

    def __post_init__(self) -> None:
        given = [n for n in ("seconds", "samples", "frames") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ConfigError(
                "windows: give the length as one of seconds, samples and frames"
                + (f", got {' and '.join(given)}" if given else "")
            )
        (unit,) = given
        low = 0 if unit == "seconds" else 1
        for name in (unit, "hop"):
            value = getattr(self, name)
            if value is None:
                continue
            require(low < value < math.inf or value == low == 1, self, name, "positive and finite")
            if unit != "seconds":
                require(float(value).is_integer(), self, name, f"a whole number, as {unit} are")
        require(self.hop is None or self.hop <= getattr(self, unit), self, "hop", "at most the length")
        for name, known in (("vote", get_args(Vote)), ("tail", get_args(Tail))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ConfigError(f"windows: unknown {name} {value!r}{did_you_mean(value, known)}")

    def bind(self, before: Space) -> Self:
        if self.seconds is not None and before.rate is None:
            raise ConfigError("windows: seconds need a waveform with a sampling rate")
        return replace(self, rate=before.rate)

    def _steps(self, value: float) -> int:
        if self.seconds is None:
            return int(value)
        if self.rate is None:
            raise ConfigError("windows: the rate is not known; give samples, or use a Pipeline's route")
        return max(1, round(value * self.rate))

    @property
    def length(self) -> int:
        """Samples, or frames, of one window."""
        return self._steps(self.seconds or self.samples or self.frames or 0)

    @property
    def step(self) -> int:
        """Samples, or frames, from one window's start to the next one's."""
        return self.length if self.hop is None else self._steps(self.hop)

    def count(self, total: int) -> int:
        """Return how many windows a recording of `total` samples, or frames, has."""
        if total <= self.length:
            return 1
        whole, rest = divmod(total - self.length, self.step)
        return 1 + whole + (rest > 0 and self.tail == "keep")

    def space(self, before: Space) -> Space:
        wanted = "feature" if self.frames is not None else "waveform"
        if before.kind != wanted:
            unit = "seconds or samples" if before.kind == "waveform" else "frames"
            hint = f": give its length in {unit}" if before.kind in ("waveform", "feature") else ""
            raise ConfigError(f"windows cut a {wanted} here but stand on {before.name}{hint}")
        return before.evolve(shape=(*before.shape[:-1], self.length))

    def views(self, x: Tensor) -> Tensor:
        """Return `(batch, count, *shape, window)`; a view of x, or of a copy that is filled up with zeros."""
        count = self.count(x.shape[-1])
        needed = (count - 1) * self.step + self.length
        if needed > x.shape[-1]:
            x = torch.nn.functional.pad(x, (0, needed - x.shape[-1]))
        return x[..., :needed].unfold(-1, self.length, self.step).movedim(-2, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return self.views(x).flatten(0, 1)

    def run(self, x: Tensor, rest: Callable[[Tensor], Tensor], most: int | None = None) -> Tensor:
        """Return the vote of `rest` (windows to logits) over each row's windows, `(batch, classes)`.

        most: windows that `rest` is given at a time; always exactly that many (the last batch is filled up with
        copies), so that memory does not grow with the recording and an engine sees one size.
        """
        views = self.views(x)
        batch, count = views.shape[:2]
        if most is None:
            answers = rest(views.flatten(0, 1))
            return self.voted(answers.reshape(batch, count, -1))
        out = []
        for start in range(0, batch * count, most):
            index = torch.arange(start, start + most, device=views.device).clamp(max=batch * count - 1)
            out.append(rest(views[index // count, index % count]))
        return self.voted(torch.cat(out)[: batch * count].reshape(batch, count, -1))

    def voted(self, logits: Tensor) -> Tensor:
        """Return one answer of `(batch, count, classes)`, as `(batch, classes)`. NaN in any window stays NaN."""
        if self.vote == "mean":
            return logits.mean(dim=1)
        if self.vote == "probability":
            return logits.softmax(dim=2).mean(dim=1)
        if self.vote == "any":
            return logits.amax(dim=1)
        won = torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype)
        if logits.requires_grad:  # a vote has no slope; what an attack follows is that of the softmax
            soft = logits.softmax(dim=2)
            won = won + (soft - soft.detach())
        unknown = torch.where(logits.isnan().any(dim=2, keepdim=True), logits.new_tensor(torch.nan), 0.0)
        return (won + unknown).sum(dim=1)

    def length_words(self) -> str:
        """Return length and hop as words: "1 s every 0.5 s"."""
        unit = "s" if self.seconds is not None else "samples" if self.samples is not None else "frames"
        size = self.seconds or self.samples or self.frames or 0
        return f"{size:g} {unit}" + ("" if self.hop is None else f" every {self.hop:g} {unit}")

    def words(self) -> str:
        rest = "" if self.tail == "keep" else ", what does not fill one left out"
        return f"cut into windows of {self.length_words()}{rest}"

    def vote_words(self) -> str:
        """Return how the answers become one."""
        return _VOTES[self.vote]
