"""Gradients of an epoch's last step, whose batch is short: of a process alone, or of a group of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainers.engine import ranks
from trainers.engine.cli import parse
from trainers.engine.loop import Trainer
from trainers.stream.batch import TileBatch
from trainers.stream.datasets import parse_datasets
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

BATCH = 8
COMMON = ["model=tiny", f"batch_size={BATCH}", "epochs=1", "optim.clip=0", "stream.augment.enabled=false"]
CPU = torch.device("cpu")


def gradients(data: str, name: str, words: list[str], gap: bool) -> dict[str, Tensor]:
    """Gradients of the last step of an epoch, by parameter; the step before it has filled what a model remembers.

    With ``gap`` the second slot of both steps is masked, as if it could not be read.
    """
    task = {"geolink": GEOLINK, "gair": GAIR, "joint": JOINT}[name]
    trainer = Trainer(task, parse(task, [*COMMON, *words])[0], parse_datasets(data), CPU, quiet=True)
    samples = trainer.stream.samples
    assert samples % 2 == 1, "two ranks would share the last batch evenly"
    assert samples % BATCH > 2, "the last batch is too short"
    trainer.stream.position = (samples // BATCH - 1) * BATCH
    found: dict[str, Tensor] = {}

    def keep() -> None:
        for name, weight in trainer.plain_model.named_parameters():
            if weight.grad is not None:
                found[name] = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad.clone()

    trainer.optimizer.step = keep  # type: ignore[method-assign, assignment]  # weights stay as they are
    batches = _batches(trainer, gap)
    for _ in range(2):
        trainer._step(batches)
    return found


def _batches(trainer: Trainer, gap: bool) -> Iterator[TileBatch]:
    place, parts = trainer.stream.place, trainer.stream.parts
    for number, batch in enumerate(trainer.stream.batches(steps=2)):
        part = number % trainer.settings.accumulate * place.world + place.rank
        if gap and part == 1 % parts:
            batch.valid[1 // parts] = False
        yield batch


def write_gradients(data: str, out: Path, cases: dict[str, Any]) -> None:
    """Run every case in a process group that there is; the first process writes OUT/NAME.pt."""
    for name, (trainer, words, gap) in cases.items():
        found = gradients(data, trainer, words, gap)
        if ranks.is_first():
            torch.save(found, out / f"{name}.pt")
