"""Optimiser and schedule. Samples are counted, never steps, so that another batch size goes on with the same curve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainers.engine.settings import OptimSettings


def make_optimizer(model: nn.Module, settings: OptimSettings, device: torch.device) -> torch.optim.AdamW:
    """AdamW; parameters with one axis longer than 1 at most (biases, norms, tokens) are not decayed."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            vector = sum(size > 1 for size in parameter.shape) <= 1
            (plain if vector else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=device.type == "cuda" or None
    )


class CosineSchedule:
    """Linear warm-up, then half a cosine down to ``min_lr``, as a function of samples consumed."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: OptimSettings, total: int) -> None:
        self.optimizer, self.settings, self.total = optimizer, settings, max(1, total)
        warmup = settings.warmup_samples
        self.warmup = int(self.total * settings.warmup) if warmup is None else warmup
        self.samples = 0

    def rate(self, samples: int) -> float:
        """Learning rate for the step that ends at ``samples``."""
        s = self.settings
        if samples < self.warmup:
            return s.lr * samples / self.warmup
        done = min(1.0, (samples - self.warmup) / max(1, self.total - self.warmup))
        return s.min_lr + (s.lr - s.min_lr) * (1 + math.cos(math.pi * done)) / 2

    def set(self, samples: int) -> float:
        """Set the rate of every group for the step that ends at ``samples``; returns it."""
        self.samples = samples
        rate = self.rate(samples)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"samples": self.samples, "total": self.total, "warmup": self.warmup}
