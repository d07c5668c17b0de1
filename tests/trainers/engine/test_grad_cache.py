"""Micro-batches as one contrast: the losses and gradients are those of one large batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.errors import ConfigError
from trainers.engine.cli import parse
from trainers.engine.loop import Trainer
from trainers.engine.settings import Task
from trainers.stream.datasets import parse_datasets
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

WORDS = ["model=tiny", "batch_size=16", "steps=4", "optim.clip=0", "arch.photos=2", "eval.every=0"]
WORDS += ["loss.dist=0.2", "arch.temperature_learned=true", "loss.hard_negatives=2"]


def trainer(dataset: Path, *words: str, task: Task = GAIR) -> Trainer:
    settings, _, _ = parse(task, [*(WORDS if task is GAIR else WORDS[:4]), *words])
    return Trainer(task, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True)


def second_step(dataset: Path, *words: str) -> tuple[dict[str, float], dict[str, Tensor], Tensor]:
    """Losses, gradients and queue of the second step; the first has filled the queue. Weights stay."""
    made = trainer(dataset, *words)
    found: dict[str, Tensor] = {}

    def keep() -> None:
        found.update({n: p.grad.clone() for n, p in made.plain_model.named_parameters() if p.grad is not None})

    made.optimizer.step = keep  # type: ignore[method-assign, assignment]
    batches = made.stream.batches(steps=2)
    made._step(batches)
    held = {name: float(value) for name, value in made._step(batches).values.items()}
    return held, found, made.plain_model.queue.places.sort(0).values


@pytest.mark.parametrize("variant", ["ours", "released"])
def test_cached_micro_batches_equal_one_large_batch(dataset: Path, variant: str) -> None:
    words = [f"fidelity={variant}", "arch.bands=[R,G,B]"]
    losses, expected, queue = second_step(dataset, *words)
    for pieces in (1, 2, 8):
        again, found, held = second_step(dataset, *words, "accumulate_contrast=true", f"accumulate={pieces}")
        assert again == pytest.approx(losses, rel=1e-5, abs=1e-5)
        assert {n for n, g in found.items() if g.any()} == {n for n, g in expected.items() if g.any()}
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-5 * max(1.0, float(gradient.norm())), name
        torch.testing.assert_close(held, queue)
    apart, _, _ = second_step(dataset, *words, "accumulate=2")
    assert apart["incl"] < losses["incl"] - 0.1  # fewer negatives: no larger batch


def test_what_is_no_contrast_alone_is_refused(dataset: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate_contrast"):
        trainer(dataset, "accumulate_contrast=true", "loss.rec=1")
    for task in (GEOLINK, JOINT):
        with pytest.raises(ConfigError, match="accumulate_contrast"):
            trainer(dataset, "accumulate_contrast=true", task=task)
