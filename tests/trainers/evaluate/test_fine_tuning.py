"""Fine-tuning on tiles: at which rates what learns, how tiles are read, over how many batches scores are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.trainers.batches import geolink_model
from trainers.engine.cli import main as train
from trainers.evaluate.finetune import IGNORE, Segmenter, Tiles, fine_tune, held_out_scores, main, read_tiles
from trainers.tasks.geolink import GEOLINK


@pytest.fixture
def tiles() -> Tiles:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 9, (5, 48, 48), generator=generator)
    return Tiles(torch.randint(0, 255, (5, 3, 48, 48), generator=generator, dtype=torch.uint8), labels)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_head_learns_at_a_rate_that_falls_and_the_encoder_at_a_hundredth_of_it(tiles: Tiles, freeze: bool) -> None:
    model = Segmenter(geolink_model(), freeze, channels=8)
    rates: list[list[float]] = []

    def note(optimizer: Any, *_: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])

    hook = register_optimizer_step_pre_hook(note)
    before = [p.clone() for p in model.vit.parameters()]
    fine_tune(model, tiles, epochs=2, lr=1e-2, batch=8)
    hook.remove()
    expected = [[1e-2], [5e-3]] if freeze else [[1e-2, 1e-4], [5e-3, 5e-5]]
    assert [pytest.approx(rate) for rate in expected] == rates
    assert any(not torch.equal(a, b) for a, b in zip(before, model.vit.parameters(), strict=True)) is not freeze
    assert all(p.grad is None for p in model.vit.parameters()) is freeze


def test_scores_are_over_all_batches(tiles: Tiles) -> None:
    model = Segmenter(geolink_model(), True, channels=8)
    assert held_out_scores(model, tiles, batch=2) == held_out_scores(model, tiles, batch=5)


def test_labels_keep_their_classes_when_they_are_resized(tmp_path: Path) -> None:
    label = np.tile(np.array([[0, 8], [255, 4]], np.uint8), (32, 32))
    for folder, picture in (("img", np.zeros((64, 64, 3), np.uint8)), ("label", label)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
    found = read_tiles(tmp_path, 47).labels
    assert found.shape == (2, 47, 47)
    assert set(found.unique().tolist()) == {0, 4, 8, IGNORE}


def test_fine_tuning_on_tiles_in_the_released_layout(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        f"data={dataset}",
        f"out={tmp_path}/run",
        "model=tiny",
        "steps=1",
        "batch_size=4",
        "eval.every=0",
        "--quiet",
    ]
    made += ["arch.vit.dim=192", "arch.vit.image_size=48", "arch.vit.depth=6", "log.tensorboard=false"]
    assert train(GEOLINK, made) == 0
    rng = np.random.default_rng(0)
    for name in ("img", "label", "graph"):
        (tmp_path / name).mkdir()
    for i in range(8):
        label = np.repeat(np.repeat(rng.integers(0, 2, (3, 3)), 16, 0), 16, 1).astype(np.uint8)
        pixels = np.where(label[..., None] == 1, 200, 40) + rng.integers(0, 20, (48, 48, 3))
        label[:2] = 9 if i % 2 else 255  # "no class" in one city and in another
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "img" / f"t{i}.png")
        Image.fromarray(label).save(tmp_path / "label" / f"t{i}.png")
        (tmp_path / "graph" / f"t{i}.pt").write_bytes(b"a pickle that must not be opened")
    words = [
        f"{tmp_path}/run/checkpoint.pt",
        str(tmp_path),
        "--epochs=20",
        "--batch=4",
        "--channels=16",
        "--lr=3e-3",
        "--freeze",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train"], found["test"]) == (4, 4)
    assert found["accuracy"] > 0.7
    (tmp_path / "label" / "t3.png").unlink()
    assert main(words) == 1
    assert "give each image its label" in capsys.readouterr().err
