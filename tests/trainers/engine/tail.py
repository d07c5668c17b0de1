"""Gradients of an epoch's last step, whose batch is short, on as many processes as run this module.

``python -m tests.trainers.engine.tail DATA OUT CASES`` writes OUT/NAME.pt for each NAME of CASES, a JSON mapping of
names to [trainer, words of its command line, gap]; a single process may call :func:`gradients` instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from trainers.engine import ranks
from trainers.engine.cli import parse
from trainers.engine.loop import Trainer
from trainers.stream.batch import TileBatch
from trainers.stream.datasets import parse_datasets
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

BATCH = 8
COMMON = ["model=tiny", f"batch_size={BATCH}", "epochs=1", "optim.clip=0", "stream.augment.enabled=false"]
CPU = torch.device("cpu")


def gradients(data: str, name: str, words: list[str], gap: bool) -> dict[str, Tensor]:
    """Gradients of the last step of an epoch, by parameter; the step before it has filled what a model remembers.

    With ``gap`` the second slot of both steps is masked, as if it could not be read.
    """
    task = {"geolink": GEOLINK, "gair": GAIR}[name]
    trainer = Trainer(task, parse(task, [*COMMON, *words])[0], parse_datasets(data), CPU, quiet=True)
    samples = trainer.stream.samples
    assert samples % 2 == 1, "two ranks would share the last batch evenly"
    assert samples % BATCH > 2, "the last batch is too short"
    trainer.stream.position = (samples // BATCH - 1) * BATCH
    found: dict[str, Tensor] = {}

    def keep() -> None:
        found.update({n: p.grad.clone() for n, p in trainer.plain_model.named_parameters() if p.grad is not None})

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


def main(data: str, out: str, cases: str) -> None:
    """Run every case; the first process writes."""
    torch.set_num_threads(1)
    with ranks.process_group(CPU):
        for name, (trainer, words, gap) in json.loads(cases).items():
            found = gradients(data, trainer, words, gap)
            if ranks.is_first():
                torch.save(found, Path(out) / f"{name}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
