"""A loss that a batch has no row for is absent: in no mean of a step, of a line of the log, or of the processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.averages import of_step, of_window
from trainers.engine.cli import main
from trainers.tasks.joint import JOINT

NAN = math.nan


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_step_is_the_mean_of_what_its_micro_batches_have() -> None:
    parts = [scalars(loss=1.0, a=2.0, b=NAN, c=NAN), scalars(loss=3.0, a=4.0, b=5.0, c=NAN)]
    found = {n: float(v) for n, v in of_step(parts, [torch.tensor(0.75), torch.tensor(0.25)]).items()}
    assert (found["loss"], found["a"], found["b"]) == (1.5, 2.5, 5.0)
    assert math.isnan(found["c"])
    (short,) = [of_step([scalars(loss=2.0)], [torch.tensor(0.5)])]  # a process with half its share of the samples
    assert float(short["loss"]) == 1.0


def test_a_loss_that_is_not_a_number_stays_so() -> None:
    found = of_step([scalars(loss=NAN), scalars(loss=1.0)], [torch.tensor(0.5)] * 2)
    assert math.isnan(found["loss"])


def test_a_line_is_the_mean_over_the_steps_that_have_it() -> None:
    rows = [scalars(loss=1.0, a=NAN), scalars(loss=2.0, a=4.0), scalars(loss=3.0, b=7.0, c=NAN)]
    assert of_window(rows) == {"loss": 2.0, "a": 4.0, "b": 7.0}


def lines(data: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    common = [f"data={data}", f"out={out}", "model=tiny", "batch_size=8", "log_every=1", "eval.every=0"]
    assert main(JOINT, [*common, "log.tensorboard=false", "--quiet", *words]) == 0
    return [json.loads(line, parse_constant=pytest.fail) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_dataset_without_photos_trains_and_logs_nothing_of_gair(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", SyntheticSettings(samples=16, size=64, photos=0))
    for line in lines(root, tmp_path / "r", "steps=2"):
        assert [name for name in line if name.startswith("gair/")] == []
        assert line["loss"] == pytest.approx(line["geolink/loss"])
    for line in lines(root, tmp_path / "turns", "steps=4", "loss.alternate=8", "log_every=2"):
        assert "gair/loss" not in line
        assert line["loss"] == pytest.approx(line["geolink/loss"] / 2)  # the mean of a step with it and one of nothing


def test_turns_follow_the_samples_and_are_logged_apart(dataset: Path, tmp_path: Path) -> None:
    """Of 53 samples the seventh step has five: the turn goes by samples, so it is longer, whatever the step."""
    rows = lines(dataset, tmp_path / "r", "epochs=2", "loss.alternate=16")
    tasks = ["gair" if "gair/loss" in row else "geolink" for row in rows]
    begins = [0, *(row["samples"] for row in rows[:-1])]
    assert tasks == [("geolink", "gair")[begin // 16 % 2] for begin in begins]
    assert all(("geolink/loss" in row) != ("gair/loss" in row) for row in rows)
    lines(dataset, tmp_path / "q", "epochs=2", "loss.alternate=16", "stop_after=5")
    again = lines(dataset, tmp_path / "q", "epochs=2", "loss.alternate=16", "resume=auto")
    same = [{n: v for n, v in row.items() if "/" in n or n == "loss"} for row in rows]
    assert same == [{n: v for n, v in row.items() if "/" in n or n == "loss"} for row in again]
