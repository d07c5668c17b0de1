"""A contrast over all micro-batches of a step in the memory of one (GradCache, Gao et al. 2021).

Every micro-batch is encoded without a graph; the losses over all of their rows give each row's gradient; then each is
encoded once more, with a graph that takes the gradients of its rows. Loss and gradients are those of one large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.errors import ConfigError
from trainers.engine import ranks
from trainers.engine.settings import TrainSettings
from trainers.stream.batch import TileBatch


class Contrast(Protocol):
    """What a model has to offer; ``represent`` gives rows that know how to be joined and to hand gradients on."""

    def represent(self, batch: TileBatch) -> Any:
        """The rows of a batch that the losses see."""

    def contrast(self, rows: Any) -> dict[str, Tensor]:
        """The losses between rows."""

    def weighted(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and the parts."""


def check(model: nn.Module, settings: TrainSettings) -> None:
    """Whether the model's micro-batches can be one contrast.

    Raises:
        ConfigError: it has none, some loss of it is of single images, or its weights are in shards.
    """
    if not settings.accumulate_contrast:
        return
    if not getattr(model, "contrast_alone", False):
        raise ConfigError(
            "accumulate_contrast=true: there is no contrast between rows alone; it is for GAIR with loss.rec=0. "
            "Leave it out: accumulate=N is exact for the other losses"
        )
    if settings.parallel == "fsdp" and ranks.world() > 1:
        raise ConfigError("accumulate_contrast=true needs whole weights: use parallel=ddp")


def cached_step(
    model: Contrast, batches: Sequence[TileBatch], share: Tensor, begin: Callable[[int], Any]
) -> dict[str, Tensor]:
    """Gradients into the model's weights, of this process's rows alone; returns the losses, detached.

    Args:
        model: it is called on each batch twice.
        batches: micro-batches of one step.
        share: what the losses count in the step.
        begin: given the number of a micro-batch, makes a context whose random draws are the same each time.
    """
    leaves = []
    for number, batch in enumerate(batches):
        with torch.no_grad(), begin(number):
            rows = model.represent(batch)
        leaves.append(rows.leaves())
    parts = model.weighted(model.contrast(type(leaves[0]).joined(leaves)))
    (parts["loss"] * share).backward()
    for number, batch in enumerate(batches):
        with begin(number):
            rows = model.represent(batch)
        rows.backward(leaves[number])
    return {name: value.detach() for name, value in parts.items()}


def share_gradients(model: nn.Module) -> None:
    """The mean of the gradients over the processes, as DDP makes it when a batch goes through it."""
    if ranks.world() == 1:
        return
    found = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in found])
    dist.all_reduce(flat)
    for gradient, mean in zip(found, (flat / ranks.world()).split([g.numel() for g in found]), strict=True):
        gradient.copy_(mean.view_as(gradient))
