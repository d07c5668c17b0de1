"""One model over several processes: copies of it (DDP) or shards of its weights (FSDP), and its state as a whole."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainers.engine import ranks
from trainers.engine.settings import TrainSettings
from trainers.models.vit import Block

#: A checkpoint holds whole tensors on the CPU, whatever the layout in memory: any other layout can go on from it.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_WHOLE = StateDictOptions(full_state_dict=True)
#: A weight that no loss has reached yet, as where one is switched off, has no moments.
_MOMENTS_FROM_WHOLE = StateDictOptions(full_state_dict=True, strict=False)


def shard(model: nn.Module, settings: TrainSettings) -> nn.Module:
    """The model, its weights sharded over the processes where ``parallel`` is fsdp; before an optimiser sees them."""
    if settings.parallel == "fsdp" and ranks.world() > 1:
        for module in model.modules():
            if isinstance(module, Block):
                fully_shard(module)
        fully_shard(model)
    return model


def replicate(model: nn.Module, settings: TrainSettings, device: torch.device, unused: bool) -> nn.Module:
    """The model to call in a step: compiled, and behind DDP where every process has a copy.

    Args:
        model: what :func:`shard` gave.
        settings: ``compile`` and ``parallel`` count.
        device: of this process.
        unused: whether some weights get no gradient.
    """
    if settings.compile:
        model.compile()
    if ranks.world() == 1 or isinstance(model, FSDPModule):
        return model
    ids = [device.index] if device.type == "cuda" else None
    # Every rank computes the same buffers. torch 2.13 renamed the setting that leaves them alone.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False, "find_unused_parameters": unused}
    return DistributedDataParallel(model, device_ids=ids, **options)


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """A context that leaves gradients alone until the ``last`` micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with the weights outside of blocks at hand on every process."""
    training = model.training
    model.eval()
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()
        model.train(training)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """State of the model and of the optimiser by names of weights, whole and on the CPU; every process takes part."""
    return (
        dict(get_model_state_dict(model, options=_WHOLE)),
        dict(get_optimizer_state_dict(model, optimizer, options=_WHOLE)),
    )


def load_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Any], moments: Mapping[str, Any]
) -> None:
    """Inverse of :func:`state_of`, for any number of processes and either layout."""
    set_model_state_dict(model, dict(weights), options=_FROM_WHOLE)
    set_optimizer_state_dict(model, optimizer, dict(moments), options=_MOMENTS_FROM_WHOLE)
    for name, weight in model.named_parameters():
        if name not in moments["state"]:
            optimizer.state.pop(weight, None)
