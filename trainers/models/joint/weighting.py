"""How the losses of several tasks become one: by learned variances, or by turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Uncertainty(nn.Module):
    """A learned log variance s a task: a loss L counts exp(-s) L + s (Kendall et al. 2018, there half of it).

    At first s is 0, the plain sum; at its best exp(s) is L, so that every task pulls alike whatever its scale.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in tasks})

    def forward(self, name: str, loss: Tensor, present: Tensor) -> Tensor:
        """What a scalar ``loss`` counts; nothing, the variance included, unless ``present`` bool[]."""
        s = self.log_variance[name].squeeze()  # shards of weights want an axis
        return torch.where(present, torch.exp(-s) * loss + s, torch.zeros_like(loss))

    def scales(self) -> Mapping[str, Tensor]:
        """exp(-s) of each task, detached."""
        return {name: torch.exp(-s.detach().squeeze()) for name, s in self.log_variance.items()}


def turn(tasks: Sequence[str], position: int, alternate: int) -> tuple[str, ...]:
    """The tasks of the step that begins after ``position`` samples; each has its turn for ``alternate`` samples.

    >>> [turn(("a", "b"), position, 32) for position in (0, 16, 32, 64)]
    [('a',), ('a',), ('b',), ('a',)]
    """
    return (tasks[position // alternate % len(tasks)],) if alternate else tuple(tasks)
