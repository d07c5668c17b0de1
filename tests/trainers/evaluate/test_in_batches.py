"""Evaluations read a split in batches: what they find is that of the split as one, and of the model as it is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.trainers.batches import GAIR as GAIR_SETTINGS
from tests.trainers.batches import GEOLINK
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.cli import parse
from trainers.engine.evaluation import EvaluationReport
from trainers.evaluate.gair.evaluation import GairEvaluation
from trainers.evaluate.geolink import evaluate_geolink
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.stream.augment import AugmentSettings
from trainers.stream.stream import GeoStream, StreamSettings
from trainers.tasks.gair import GAIR, _build
from trainers.tasks.geolink import GEOLINK as TASK

CPU = torch.device("cpu")
STORED = StreamSettings(split="val", shuffle="none", augment=AugmentSettings(enabled=False))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    settings = SyntheticSettings(samples=84, size=48, splits=("train", "train", "train", "val"), photos=2)
    return str(write_dataset(tmp_path_factory.mktemp("batches") / "d", settings))


def asked(task: Any, *words: str) -> Any:
    return parse(task, ["model=tiny", *words])[0]


def test_geolink_is_measured_the_same_in_batches_of_any_size(data: str) -> None:
    torch.manual_seed(0)
    model = GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 0.0, 0.0)).eval()
    whole, parts = (evaluate_geolink(model, asked(TASK, f"eval.batch_size={n}"), [data], CPU) for n in (64, 8))
    assert whole is not None
    assert parts is not None
    assert len(whole.features) == 21
    for name in ("rec", "loss", "r@1", "r@5", "chance_r@1", "land_use_knn", "land_use_linear", "land_use_majority"):
        assert parts.scores[name] == pytest.approx(whole.scores[name], rel=1e-4), name
    assert torch.equal(parts.classes, whole.classes)
    torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=1e-4)
    batch = next(GeoStream(data, GeoLink.view(GEOLINK), batch_size=21, settings=STORED).batches())
    mean, deviation = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[:, None, :, None, None]
    with torch.no_grad():
        tokens = model.vit((batch.rs.float() - mean) / deviation)
        torch.testing.assert_close(whole.features, tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-4)
        assert whole.scores["rec"] == pytest.approx(float(model(batch)["rec"]), rel=1e-4)
    few = evaluate_geolink(model, asked(TASK, "eval.samples=10"), [data], CPU)
    assert few is not None
    assert len(few.features) == 10


def test_gair_is_measured_the_same_in_batches_of_any_size(data: str) -> None:
    arch = replace(GAIR_SETTINGS, photos=2)
    torch.manual_seed(0)
    model = Gair(arch, loss=GairLoss(hard_negatives=0)).eval()

    def measured(batch_size: int) -> EvaluationReport:
        settings = replace(asked(GAIR, f"eval.batch_size={batch_size}", "seed=0"), arch=arch)
        report = GairEvaluation(_build, settings, [data], CPU)(model, True)
        assert report is not None
        return report

    whole, parts = measured(64), measured(8)
    assert measured(64).scores == whole.scores
    assert set(parts.scores) == set(whole.scores)
    for name in set(whole.scores) - {"incl", "loss"}:  # incl is over the photos of a batch
        assert parts.scores[name] == pytest.approx(whole.scores[name], rel=1e-4, abs=1e-5), name
    for name in (name for name in whole.scores if name.endswith(".untrained")):
        assert whole.scores[name] == whole.scores[name.removesuffix(".untrained")], (
            name
        )  # the model is untrained itself
    batch = next(GeoStream(data, Gair.view(model.settings), batch_size=21, settings=STORED).batches())
    kept = batch.photo_valid
    assert len(whole.features) == int(kept.sum())
    with torch.no_grad():
        photo, place = model.encode_photos(batch)[kept], model.localise(model.encode_tiles(batch), batch)[kept]
        assert whole.scores["incl"] == pytest.approx(float(model(batch)["incl"]), rel=1e-4)
    torch.testing.assert_close(whole.features, photo, atol=1e-5, rtol=1e-4)
    near = torch.cosine_similarity(photo[:, None], place[None], dim=-1)
    for name, s in (("photo_to_place", near), ("place_to_photo", near.T)):
        right = float((s.argmax(1) == torch.arange(len(s))).float().mean())
        assert whole.scores[f"{name}/r@1"] == pytest.approx(right, abs=1e-6)
