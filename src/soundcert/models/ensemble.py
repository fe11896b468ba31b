"""Several networks that answer together, each on features of its own.

Noise makes networks err at different draws. Averaging them takes variance out of the base classifier's answer, so that
its top class wins more draws: Horváth et al. 2022, "Boosting Randomized Smoothing with Variance Reduced Classifiers"
(arXiv 2106.06946). What is certified is the average, one fixed function like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


class Ensemble(nn.Module):
    """The mean of its members' log-probabilities: `(batch, *shape)` to `(batch, classes)`.

    members: for each, the steps that make its features, in order, and its network, `(batch, ...)` to logits.
    """

    def __init__(self, members: Sequence[tuple[Sequence[Step], nn.Module]]) -> None:
        super().__init__()
        self.features = [tuple(steps) for steps, _ in members]
        self.networks = nn.ModuleList(network for _, network in members)
        self.training = any(network.training for network in self.networks)

    def seen(self, x: Tensor) -> list[Tensor]:
        """Return what each network is given for x."""
        out = []
        for steps in self.features:
            y = x
            for step in steps:
                y = step(y)
            out.append(y)
        return out

    def mean(self, x: Tensor, networks: Iterable[Step]) -> Tensor:
        """Return the answer for x with the members' networks, or with what runs them."""
        logits = [network(y) for network, y in zip(networks, self.seen(x), strict=True)]
        return torch.stack([one.log_softmax(dim=1) for one in logits]).mean(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x, self.networks)
