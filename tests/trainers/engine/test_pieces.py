"""A step in pieces, and what is logged of several steps: the sums are those of the whole."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import GeoshardsError
from trainers.engine.checkpoint import load_checkpoint, rng_state, set_rng_state
from trainers.engine.cli import main, parse
from trainers.engine.loop import Trainer, train
from trainers.stream.batch import TileBatch
from trainers.stream.datasets import parse_datasets
from trainers.stream.order import Place
from trainers.tasks.geolink import GEOLINK

#: Pixels alone: their loss is a mean over samples, in whichever pieces.
WORDS = ["model=tiny", "batch_size=8", "loss.cont=0", "loss.cst=0", "stream.augment.enabled=false", "eval.every=0"]
WORDS += ["log.tensorboard=false", "optim.warmup=0"]


def rows_of(data: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    assert main(GEOLINK, [f"data={data}", f"out={out}", *WORDS, *words, "--quiet"]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_step_in_pieces_logs_the_losses_of_the_whole(dataset: Path, tmp_path: Path) -> None:
    """Over an epoch whose last batch has five samples of eight, with weights that stay: in one piece, in two, in four
    whose last has one; and one line for seven steps holds the mean of theirs."""
    still = ["epochs=1", "optim.lr=0", "log_every=1"]
    whole = rows_of(dataset, tmp_path / "one", *still)
    assert [row["samples"] for row in whole] == [8, 16, 24, 32, 40, 48, 53]
    for pieces in (2, 4):
        for a, b in zip(whole, rows_of(dataset, tmp_path / f"{pieces}", *still, f"accumulate={pieces}"), strict=True):
            assert {k: b[k] for k in ("step", "rec", "loss", "grad_norm", "samples")} == pytest.approx(
                {k: a[k] for k in ("step", "rec", "loss", "grad_norm", "samples")}, rel=1e-4
            )
    (line,) = rows_of(dataset, tmp_path / "line", *still, "log_every=7")
    for name in ("rec", "loss", "grad_norm"):
        assert line[name] == pytest.approx(sum(row[name] for row in whole) / 7, rel=1e-5)
    lines = rows_of(dataset, tmp_path / "lines", *still, "log_every=3")
    assert [row["step"] for row in lines] == [3, 6, 7]
    assert lines[1]["rec"] == pytest.approx(sum(row["rec"] for row in whole[3:6]) / 3, rel=1e-5)
    last = load_checkpoint(tmp_path / "one" / "checkpoint.pt")
    assert last["evaluation"]["best"] is None


def test_a_step_is_the_plain_one_of_adamw_at_the_rate_of_its_samples(dataset: Path, tmp_path: Path) -> None:
    """Three steps against torch's optimiser called by hand on the same gradients: clipped, at the scheduled rate, each
    from gradients of its own."""
    words = [*WORDS, "steps=3", "optim.lr=1e-3", "optim.min_lr=1e-4", "optim.clip=0.1", "optim.weight_decay=0.2"]
    settings, _, _ = parse(GEOLINK, words)
    trainer = Trainer(GEOLINK, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True)
    twin = GEOLINK.build(trainer.settings)
    twin.load_state_dict(trainer.plain_model.state_dict())
    used = {n for n, p in twin.named_parameters() if p.requires_grad}
    matrices = [p for n, p in twin.named_parameters() if n in used and sum(s > 1 for s in p.shape) > 1]
    others = [p for n, p in twin.named_parameters() if n in used and sum(s > 1 for s in p.shape) <= 1]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    rates = [1e-4 + 9e-4 * (1 + torch.tensor(torch.pi * n / 3).cos().item()) / 2 for n in (1, 2, 3)]
    given = trainer.stream.batches(steps=3)
    for rate in rates:
        batch = next(given)
        result = trainer._step(iter([batch]))
        plain.zero_grad()
        twin(batch)["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        assert float(result.values["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)
        assert norm > 0.1
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
    mine = dict(trainer.plain_model.named_parameters())
    assert all(torch.allclose(mine[n], p, atol=2e-6) for n, p in twin.named_parameters())


def test_pieces_of_a_step_draw_dropout_of_their_own_and_a_step_repeats_its_own(dataset: Path) -> None:
    settings, _, _ = parse(GEOLINK, [*WORDS, "steps=9", "accumulate=2", "optim.lr=0"])
    trainer = Trainer(GEOLINK, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True)
    drawn: list[float] = []
    trainer.plain_model.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
    for _ in range(2):
        trainer.stream.position = 0
        batches = trainer.stream.batches(steps=2)
        trainer._step(batches)
        trainer._step(batches)
    assert len(set(drawn[:4])) == 4
    assert drawn[:4] == drawn[4:]


def test_pieces_of_ranks_draw_what_as_many_of_one_process_do(dataset: Path) -> None:
    """Two ranks that accumulate twice: each piece of the step another draw, as those of a process alone."""

    def draws(accumulate: int, place: Place) -> list[float]:
        settings, _, _ = parse(GEOLINK, [*WORDS, "steps=9", f"accumulate={accumulate}", "optim.lr=0"])
        trainer = Trainer(GEOLINK, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True)
        batches = list(trainer.stream.batches(steps=1))
        trainer.stream.position, trainer.stream.place = 0, place
        drawn: list[float] = []
        trainer.plain_model.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
        trainer._step(iter(batches))
        return drawn

    first, second = (draws(2, Place(rank=rank, world=2)) for rank in (0, 1))
    alone = draws(4, Place())
    assert len(set(alone)) == 4
    assert [first[0], second[0], first[1], second[1]] == alone


def test_the_wait_for_data_is_that_of_all_pieces_of_all_steps(dataset: Path) -> None:
    settings, _, _ = parse(GEOLINK, [*WORDS, "steps=9", "accumulate=2"])
    trainer = Trainer(GEOLINK, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True)

    def late() -> Iterator[TileBatch]:
        for batch in trainer.stream.batches(steps=2):
            time.sleep(0.05)
            yield batch

    batches = late()
    for _ in range(2):
        trainer._step(batches)
    assert trainer.wait_seconds >= 4 * 0.05


def test_what_is_not_finite_is_neither_saved_nor_measured(dataset: Path, tmp_path: Path) -> None:
    """At a checkpoint between two lines of metrics, at an evaluation, and at the end: nothing of it is written."""
    words = [f"data={dataset}", *WORDS, "log_every=100", "optim.lr=1e30", "optim.clip=0", "precision=fp32", "--quiet"]
    for number, more in enumerate((["steps=40", "checkpoint_every=9"], ["steps=6"])):
        out = tmp_path / str(number)
        assert main(GEOLINK, [*words, f"out={out}", *more]) == 1
        assert not (out / "checkpoint.pt").exists()


def test_a_checkpoint_brings_back_all_that_a_run_goes_on_from(dataset: Path) -> None:
    settings, _, _ = parse(GEOLINK, [*WORDS, "steps=9"])
    one, other = (
        Trainer(GEOLINK, settings, parse_datasets(str(dataset)), torch.device("cpu"), quiet=True) for _ in range(2)
    )
    batches = one.stream.batches(steps=2)
    one._step(batches)
    one._step(batches)
    one.best = 0.25
    state = one.state()
    drawn = torch.rand(3)
    other.restore(state, "it")
    assert torch.equal(torch.rand(3), drawn)
    assert (other.best, other.step, other.stream.samples_seen) == (0.25, 2, 16)
    assert state["scheduler"] == {"samples": 16, "total": 69, "warmup": 0}
    a, b = one._step(one.stream.batches(steps=1)), other._step(other.stream.batches(steps=1))
    assert a.keys == b.keys
    assert torch.equal(a.values["loss"], b.values["loss"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generators_of_gpus_go_on_where_they_were() -> None:
    state = rng_state()
    drawn = torch.rand(3, device="cuda")
    set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), drawn)


def test_a_run_that_goes_on_counts_its_own_rate(dataset: Path, tmp_path: Path) -> None:
    rows_of(dataset, tmp_path / "r", "steps=6", "stop_after=4")
    row = rows_of(dataset, tmp_path / "r", "steps=6", "resume=auto", "log_every=6")[-1]
    assert row["samples"] == 48
    assert row["samples_per_second"] * row["seconds"] == pytest.approx(16, rel=0.05)


def test_a_run_that_is_stopped_keeps_nothing_that_is_not_finite(dataset: Path, tmp_path: Path) -> None:
    """Between two lines of metrics, where nobody has looked at the step yet."""

    def broken(settings: Any) -> torch.nn.Module:
        model = GEOLINK.build(settings)
        model.get_parameter("decoder.head.bias").data[0] = float("nan")
        return model

    settings, _, _ = parse(GEOLINK, [*WORDS, "steps=9"])
    with pytest.raises(GeoshardsError, match="not finite at step 1"):
        train(replace(GEOLINK, build=broken), settings, str(dataset), tmp_path, True, told=[signal.SIGTERM])
    assert not (tmp_path / "checkpoint.pt").exists()
