"""Fine-tuning on tiles: at which rates what learns, how labels are read, over how many batches scores are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.trainers.batches import geolink_model
from trainers.evaluate.finetune import IGNORE, Segmenter, Tiles, fine_tune, held_out_scores, read_tiles


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
