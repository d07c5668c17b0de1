"""Runs of one task start another: what both have is taken whole, by part, or the start is refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.engine.checkpoint import load_checkpoint, save_checkpoint
from trainers.engine.cli import main
from trainers.engine.settings import Task
from trainers.models.handover import joint_name, part_of
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

#: GAIR with the image encoder of the others' tiny size.
LIKE = ["arch.rs_encoder=vit"]
TASKS: Mapping[str, tuple[Task, list[str]]] = {"geolink": (GEOLINK, []), "gair": (GAIR, LIKE), "joint": (JOINT, [])}


def run(name: str, data: Path, out: Path, *words: str) -> int:
    task, like = TASKS[name]
    common = [f"data={data}", f"out={out}", "model=tiny", "batch_size=4", "steps=1", "eval.every=0"]
    return main(task, [*common, "log.tensorboard=false", *like, *words])


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of each task, with another seed each."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(TASKS):
        assert run(name, dataset, folder / name, f"seed={seed + 1}", "--quiet") == 0
    return folder


def weights(path: Path, task: str) -> dict[str, Tensor]:
    """By what they are called in the joint model."""
    return {joint_name(task, n): v for n, v in load_checkpoint(path / "checkpoint.pt")["model"].items()}


def check_start(data: Path, runs: Path, out: Path, source: str, target: str) -> None:
    """All weights that both have are the source's before the first step; the others are as without it."""
    still = ["optim.lr=0", "--quiet", "seed=7"]
    assert run(target, data, out / "started", f"init.run={runs}/{source}/checkpoint.pt", *still) == 0
    assert run(target, data, out / "new", *still) == 0
    found, new, given = weights(out / "started", target), weights(out / "new", target), weights(runs / source, source)
    both = {n for n in found.keys() & given.keys() if part_of(n) != "gair.queue"}
    assert {"geolink.vit"} <= {part_of(n) for n in both}
    assert [n for n in both if not torch.equal(found[n], given[n])] == []
    assert [n for n in found.keys() - both if not torch.equal(found[n], new[n])] == []


@pytest.mark.parametrize(("source", "target"), [
    ("geolink", "joint"), ("gair", "joint"), ("joint", "geolink"), ("joint", "gair"), ("geolink", "gair"),
    ("gair", "geolink"), ("joint", "joint"),
])  # fmt: skip
def test_a_run_of_one_task_starts_another(dataset: Path, runs: Path, tmp_path: Path, source: str, target: str) -> None:
    check_start(dataset, runs, tmp_path, source, target)


def test_a_line_names_what_is_started_and_what_is_not(
    dataset: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "geolink" / "checkpoint.pt"
    assert run("joint", dataset, tmp_path / "r", f"init.run={path}", "dry_run=true") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("init.run")]
    begin, new = line.split("; ")
    assert begin.startswith(f"init.run={path} (geolink) starts geolink.aggregate, geolink.decoder, ")
    assert "geolink.vit" in begin
    assert new == "new: gair.facing, gair.location, gair.nili, gair.sv, gair.sv_head"
    assert run("geolink", dataset, tmp_path / "r", f"init.run={runs}/joint/checkpoint.pt", "dry_run=true") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("init.run"))
    assert line.endswith("; not needed: gair.facing, gair.location, gair.nili, gair.sv, gair.sv_head")


@pytest.mark.parametrize(("source", "words", "message"), [
    ("geolink", ["arch.vit.depth=2"], "has unknown geolink.vit.blocks.2"),
    ("geolink", ["arch.vit.image_size=64"], "has another shape of geolink.vit.pos_embed"),
    ("gair", ["arch.gair.dim=32"], "has another shape of gair."),
    ("none", [], "does not exist"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(
    dataset: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, words: list[str],
    message: str,
) -> None:  # fmt: skip
    where = f"{runs}/{source}/checkpoint.pt"
    assert run("joint", dataset, tmp_path / "r", f"init.run={where}", *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert where in line
    assert message in line
    assert not (tmp_path / "r").exists()


def test_another_encoder_and_another_task_are_refused(
    dataset: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{runs}/geolink/checkpoint.pt"
    assert run("gair", dataset, tmp_path / "r", f"init.run={path}", "arch.rs_encoder=croma") == 1
    assert "whose image encoder is a ViT" in capsys.readouterr().err
    state: dict[str, Any] = load_checkpoint(path)
    save_checkpoint(tmp_path / "c.pt", state | {"config": state["config"] | {"task": "other"}})
    assert run("gair", dataset, tmp_path / "r", f"init.run={tmp_path}/c.pt") == 1
    assert "is of the task other; give a run of geolink, gair, joint" in capsys.readouterr().err
