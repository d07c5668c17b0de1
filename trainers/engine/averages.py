"""Losses of micro-batches to those of a step, of steps to a line of the log; what is NaN was absent.

An absent loss counts nowhere. ``loss`` itself is never absent: where it is NaN something is wrong, and it stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainers.engine import ranks


def of_step(parts: Sequence[Mapping[str, Tensor]], shares: Sequence[Tensor]) -> dict[str, Tensor]:
    """Scalars of each micro-batch, the same names in each, weighted by their shares of the step."""
    names = list(parts[0])
    values = torch.stack([torch.stack([p[name].detach().float() for name in names]) for p in parts])
    share = torch.stack(list(shares))[:, None].expand_as(values)
    there = ~values.isnan()
    there[:, names.index("loss")] = True
    zero = torch.zeros_like(values)
    seen = torch.where(there, share, zero).sum(0)
    # All that there is stands for what is absent; over nothing it is 0/0.
    mean = torch.where(there, values * share, zero).sum(0) * (share.sum(0) / seen)
    return dict(zip(names, mean.unbind(), strict=True))


def of_window(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Means over steps and processes; a name that no step has a value of is left out.

    Steps may differ in their names; processes do not.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    nothing = torch.full_like(rows[0]["loss"], float("nan"))
    values = torch.stack([torch.stack([row.get(name, nothing) for name in names]) for row in rows])
    there = ~values.isnan()
    total = torch.where(there, values, torch.zeros_like(values)).sum(0)
    total, count = ranks.mean_over_ranks(torch.stack((total, there.sum(0).float()))).unbind()
    return {name: value for name, value in zip(names, (total / count).tolist(), strict=True) if value == value}
