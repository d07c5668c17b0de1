"""Several dates of one tile to one grid of tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

#: How dates become one: their mean, or weights that each patch gives to its dates.
DatePooling = Literal["attention", "mean"]


class DatePool(nn.Module):
    """Tokens [B,T,P,D] of T dates, those that ``present`` bool[B,T] names, to [B,P,D]; 0 where a tile has none.

    With attention a patch may leave out the dates on which clouds cover it. It starts as the mean. A missing date
    reaches no value and no gradient.
    """

    def __init__(self, dim: int, kind: DatePooling) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False) if kind == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        held = present[:, :, None, None]
        tokens = torch.where(held, tokens, torch.zeros_like(tokens))
        score = tokens.new_zeros(()) if self.score is None else self.score(tokens)
        low = torch.finfo(torch.float32).min
        weight = torch.softmax(torch.where(held, score.float(), low), 1) * held  # over nothing: even, then 0
        return (tokens * weight.to(tokens.dtype)).sum(1)
