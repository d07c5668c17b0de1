"""Weights from one task to another: a run of GeoLink or GAIR starts a joint one, and the reverse.

Weights go by part: a part that both models have is taken whole or the start is refused; the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from schemas.errors import ConfigError
from trainers.models.weights import load_strictly

#: Where the weights of a task stand among those of the joint model, by beginnings of names; the first that fits counts.
HOMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "geolink": (("", "geolink."),),
    "gair": (("rs.", "geolink.vit."), ("", "gair.")),
    "joint": (("", ""),),
}
#: Parts that are of a run, not weights: places seen, frozen copies, variances of losses.
_OF_A_RUN = ("gair.queue", "gair.first", "uncertainty.log_variance")


def joint_name(task: str, name: str) -> str:
    """What a weight of a task is called in the joint model.

    >>> joint_name("gair", "rs.norm.bias"), joint_name("geolink", "vit.norm.bias"), joint_name("gair", "sv_head.bias")
    ('geolink.vit.norm.bias', 'geolink.vit.norm.bias', 'gair.sv_head.bias')
    """
    old, new = next(pair for pair in HOMES[task] if name.startswith(pair[0]))
    return new + name.removeprefix(old)


def part_of(name: str) -> str:
    """The part that a weight of the joint model belongs to: ``geolink.vit``, ``gair.location``."""
    return ".".join(name.split(".")[:2])


def _by_part(task: str, names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By part the names of its weights, by what they are called in the joint model."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        common = joint_name(task, name)
        if part_of(common) not in _OF_A_RUN:
            found.setdefault(part_of(common), {})[common] = name
    return found


def start_from(model: nn.Module, task: str, checkpoint: Mapping[str, Any], where: str) -> str:
    """Fill the parts that ``model`` of ``task`` has in common with a checkpoint called ``where``; says which.

    Raises:
        ConfigError: the checkpoint is of no task known here, has no such part, or one that does not fit.
    """
    other, weights = checkpoint["config"].get("task"), checkpoint["model"]
    if other not in HOMES:
        raise ConfigError(f"init.run={where} is of the task {other}; give a run of {', '.join(HOMES)}")
    mine, theirs = _by_part(task, model.state_dict()), _by_part(other, weights)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        raise ConfigError(f"init.run={where} has no part that {task} has; give a run of {', '.join(HOMES)}")
    back = {common: name for names in mine.values() for common, name in names.items()}
    given: dict[str, Tensor] = {n: v for n, v in model.state_dict().items() if part_of(joint_name(task, n)) not in both}
    for part in both:
        given |= {back.get(common, common): weights[name] for common, name in theirs[part].items()}
    load_strictly(model, given, where, "give the arch.* of that run, whose image encoder is a ViT")
    new, left = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    parts = [("new", new), ("not needed", left)]
    return "; ".join([f"init.run={where} ({other}) starts {', '.join(both)}"] + [
        f"{what}: {', '.join(names)}" for what, names in parts if names
    ])  # fmt: skip
