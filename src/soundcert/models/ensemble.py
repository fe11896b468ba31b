"""Several networks that answer together, each on features of its own.

Noise makes networks err at different draws. Averaging them takes variance out of the base classifier's answer, so that
its top class wins more draws: Horváth et al. 2022, "Boosting Randomized Smoothing with Variance Reduced Classifiers"
(arXiv 2106.06946). What is certified is the average, one fixed function like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


class Ensemble(nn.Module):
    """The mean of its members' log-probabilities: `(batch, *shape)` to `(batch, classes)`.

    members: for each, the steps that make its features, in order, and its network, `(batch, ...)` to logits.
    consensus: where so many members, from the first, have the same top class for a row, their mean is its answer and
    the others are not asked; where they differ, the answer is the mean of all (K-consensus, ibid.). None asks all.
    Either way the answer is a function of the row alone.
    """

    def __init__(
        self, members: Sequence[tuple[Sequence[Step], nn.Module]], consensus: int | None = None
    ) -> None:
        super().__init__()
        if consensus is not None and not 2 <= consensus < len(members):
            raise ValueError(f"consensus must be from 2 to {len(members) - 1}, got {consensus}")
        self.features = [tuple(steps) for steps, _ in members]
        self.networks = nn.ModuleList(network for _, network in members)
        self.consensus = consensus
        self.training = any(network.training for network in self.networks)

    def seen(self, x: Tensor) -> list[Tensor]:
        """Return what each network is given for x."""
        return [self._seen(number, x) for number in range(len(self.features))]

    def _seen(self, number: int, x: Tensor) -> Tensor:
        for step in self.features[number]:
            x = step(x)
        return x

    def mean(self, x: Tensor, networks: Sequence[Step]) -> Tensor:
        """Return the answer for x with the members' networks, or with what runs them."""

        def asked(numbers: range, rows: Tensor) -> Tensor:
            return torch.stack([networks[i](self._seen(i, rows)).log_softmax(dim=1) for i in numbers])

        everyone = range(len(networks))
        first = asked(everyone[: self.consensus], x)
        answer = first.mean(dim=0)
        if self.consensus is None:
            return answer
        others, winners = everyone[self.consensus :], first.argmax(dim=2)
        apart = (winners != winners[0]).any(dim=0)
        if not _one_by_one(x):
            return torch.where(apart.unsqueeze(1), torch.cat((first, asked(others, x))).mean(dim=0), answer)
        answers = list(answer)
        for row in apart.nonzero().flatten().tolist():
            both = torch.cat((first[:, row : row + 1], asked(others, x[row : row + 1])))
            answers[row] = both.mean(dim=0)[0]
        return torch.stack(answers) if answers else answer

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x, list(self.networks))


def _one_by_one(x: Tensor) -> bool:
    """Whether the others are asked about the rows in dispute alone, and not about all.

    Each of them alone, since the last bits of an answer may hang on the size of a batch, and how many are in dispute
    hangs on a row's companions. On an accelerator, waiting for their number costs more than asking everyone.
    """
    return x.device.type == "cpu"
