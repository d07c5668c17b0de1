"""Weights that others trained: a file of tensors to a module, whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, Protocol, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from schemas.errors import ConfigError, DatasetError
from storage.store import place_of

#: Names that a message gives of those that do not fit.
_SHOWN = 3


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a path or URL, on the CPU; names within groups are joined by dots.

    ``.safetensors`` is read as such, all else as a file of torch.save with tensors and mappings alone.

    Raises:
        ConfigError: there is no such file, or it holds anything else.
    """
    store, name = place_of(path)
    if not store.exists(name):
        raise ConfigError(f"weights {path}: there is no such file; give the path or URL of one")
    data = store.read(name)
    try:
        held = load(data) if name.endswith(".safetensors") else _torch(data)
        return _flat(held, path)
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, UnpicklingError, SafetensorError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"weights {path} cannot be read ({first}); give a file of safetensors or torch.save"
        ) from None


def _torch(data: bytes) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of pickles, in several lines
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _flat(group: Any, path: str) -> dict[str, Tensor]:
    if not isinstance(group, Mapping):
        raise ValueError(f"it holds a {type(group).__name__}, no tensors by name")
    found: dict[str, Tensor] = {}
    for name, value in group.items():
        if isinstance(value, Tensor):
            found[str(name)] = value
        else:
            found |= {f"{name}.{rest}": tensor for rest, tensor in _flat(value, path).items()}
    return found


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], where: str, way_out: str) -> None:
    """Fill ``module`` with ``weights``, in its own types; each of its tensors and each of theirs is used.

    Args:
        where: what they are called in a message.
        way_out: what the user can do where they do not fit.

    Raises:
        ConfigError: names or shapes differ; the module is as it was.
    """
    own = module.state_dict()
    faults = {
        "lacks": sorted(own.keys() - weights.keys()),
        "has unknown": sorted(weights.keys() - own.keys()),
        "has another shape of": [
            f"{n} {list(weights[n].shape)} for {list(own[n].shape)}"
            for n in own
            if n in weights and weights[n].shape != own[n].shape
        ],
    }
    found = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if found:
        raise ConfigError(f"weights {where} do not fit the model: it {', it '.join(found)}; {way_out}")
    module.load_state_dict(dict(weights))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class _Model(Protocol):
    """A model that settings describe."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The model of plain values of its settings; its weights are new."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """As nn.Module."""

    def eval(self) -> Self:
        """As nn.Module."""


M = TypeVar("M", bound=_Model)


def restored(cls: type[M], task: str, checkpoint: Mapping[str, Any], name: str) -> M:
    """The model of a checkpoint called ``name``, of the trainer ``task``, ready for inference.

    Raises:
        DatasetError: it is one of another trainer.
    """
    config = checkpoint["config"]
    if config.get("task") != task:
        raise DatasetError(f"{name} is no checkpoint of {cls.__name__}; only those can be used here")
    model = cls.of(config)
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with ``prefix``, without it.

    >>> under({"a.b": 1, "c": 2}, "a.")
    {'b': 1}
    """
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
