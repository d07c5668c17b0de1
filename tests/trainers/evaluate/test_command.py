"""``geoshards evaluate`` gives the scores that the run itself found, and those of other splits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cli.main import main as geoshards
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SyntheticSettings(samples=48, size=48, splits=("train", "val"), photos=2)
    return write_dataset(tmp_path_factory.mktemp("data") / "d", settings)


@pytest.mark.parametrize("task", [GEOLINK, GAIR, JOINT], ids=lambda task: task.name)
def test_the_scores_of_a_checkpoint_are_those_its_run_found(
    task: object, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [f"data={data}", f"out={run}", "model=tiny", "steps=1", "batch_size=8", "eval.samples=16", "--quiet"]
    assert main(task, words) == 0  # type: ignore[arg-type]
    capsys.readouterr()
    assert geoshards(["evaluate", str(run / "checkpoint.pt"), str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    own = json.loads((run / "evaluation.json").read_text())[-1]
    assert found["scores"] == own
    assert json.loads((run / "evaluation-val/evaluation.json").read_text()) == [own]
    assert (run / "evaluation-val/evaluation.html").exists()


def test_a_table_that_was_made_since_is_left_alone_and_one_of_its_own_is_needed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Vectors that the model has never seen would give scores, and wrong ones, or none."""
    run, later, words = tmp_path / "run", tmp_path / "later", ["model=tiny", "steps=1", "batch_size=8", "--quiet"]
    shutil.copytree(data, later)
    measured = ["eval.samples=16", "eval.train_samples=16"]
    assert main(GEOLINK, [f"data={later}", f"out={run}", *words, *measured]) == 0
    width = load_checkpoint(run / "checkpoint.pt")["config"]["arch"]["tag_width"]
    assert geoshards(["embed", str(later), "--encoder=hash", f"--width={2 * width}", "--quiet"]) == 0
    capsys.readouterr()
    assert geoshards(["evaluate", str(run / "checkpoint.pt"), str(later), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores == json.loads((run / "evaluation.json").read_text())[-1]
    assert main(GEOLINK, [f"data={later}", f"out={tmp_path / 'table'}", *words, *measured]) == 0
    checkpoint = str(tmp_path / "table/checkpoint.pt")
    assert geoshards(["evaluate", checkpoint, str(later), "--quiet"]) == 0
    capsys.readouterr()
    assert geoshards(["evaluate", checkpoint, str(data), "--quiet"]) == 1
    assert "the model was trained with hash" in capsys.readouterr().err


def test_a_split_without_samples_and_a_wrong_one_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(GEOLINK, [f"data={data}", f"out={run}", "model=tiny", "steps=1", "eval.every=0", "--quiet"]) == 0
    checkpoint = str(run / "checkpoint.pt")
    for split, status, reason in (
        ("test", 1, "has no sample of split test"),
        ("tset", 2, "choose of train, val, test"),
    ):
        assert geoshards(["evaluate", checkpoint, str(data), "--split", split]) == status
        assert reason in capsys.readouterr().err.strip().splitlines()[-1]
    assert geoshards(["evaluate", str(tmp_path / "none.pt"), str(data)]) == 1
    assert "does not exist" in capsys.readouterr().err
