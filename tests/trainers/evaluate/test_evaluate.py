"""Promises of the evaluation: labels, protocols, reports."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainers.batches import GAIR as GAIR_SETTINGS
from tests.trainers.batches import GEOLINK, PLAIN, gair_batch
from tests.trainers.synthetic import CLASSES, SyntheticSettings, write_dataset
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main, parse
from trainers.engine.evaluation import EvaluationReport, principal
from trainers.engine.settings import Task
from trainers.evaluate.gair.evaluation import GairEvaluation
from trainers.evaluate.gair.losses import BesidePairs, split_losses
from trainers.evaluate.geolink import evaluate_geolink
from trainers.evaluate.labels import DENSITY, LAND_USE, ROADS, UNKNOWN, Legend, labels
from trainers.evaluate.protocols import Labelled, knn, linear_probe, majority, retrieval
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.models.losses import great_circle
from trainers.stream.stream import GeoStream
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK as TASK
from trainers.tasks.joint import JOINT

TEXT_OF = {c[0] for c in CLASSES}


@pytest.fixture(scope="module")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = ("train", "train", "train", "val")
    settings = SyntheticSettings(samples=96, size=48, splits=splits, photos=0)
    return write_dataset(tmp_path_factory.mktemp("val") / "d", settings)


@pytest.fixture(scope="module")
def with_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SyntheticSettings(samples=96, size=48, splits=("train", "train", "train", "val"), photos=2)
    return write_dataset(tmp_path_factory.mktemp("photos") / "d", settings)


def test_labels_equal_those_read_object_by_object(with_val: Path) -> None:
    stream = GeoStream(str(with_val), GeoLink.view(GEOLINK), batch_size=32, settings=PLAIN)
    batch = next(stream.batches())
    found = labels(batch, Legend.of([str(with_val)]))
    from schemas.tags import tag_id

    name = {tag_id(text): text for text in TEXT_OF}
    use = {text: k for k, texts in enumerate(LAND_USE.values()) for text in texts}
    road = {text: k for k, texts in enumerate(ROADS.values()) for text in texts}
    for i in range(len(batch)):
        own = [t for t in range(len(batch.tag_node)) if batch.node_sample[batch.tag_node[t]] == i]
        held = [(name[int(batch.tag_id[batch.tag_row[t]])], float(batch.extent[batch.tag_node[t]])) for t in own]
        areas = {k: sum(e for text, e in held if use.get(text) == k) for k in range(len(LAND_USE))}
        best = max(areas, key=lambda k: areas[k])
        assert int(found["land_use"][i]) == (best if areas[best] > 0 else UNKNOWN)
        built = sum(e for text, e in held if text == "building:building")
        level = sum(built > share for share in DENSITY)
        assert int(found["building_density"][i]) == (level if held else UNKNOWN)
        greatest = max((road[text] for text, _ in held if text in road), default=0)
        assert int(found["road_class"][i]) == (greatest if held else UNKNOWN)
    assert len(found["land_use"].unique()) > 2


def _clouds(seed: int, count: int = 120) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 3
    features = torch.randn(count, 8, generator=generator)
    features[torch.arange(count), classes] += 4
    return Labelled(features, classes)


def test_probes_find_what_is_there_and_nothing_where_there_is_none() -> None:
    train, test = _clouds(0), _clouds(1)
    for protocol in (knn, linear_probe):
        assert protocol(train, test) > 0.9
        blind = Labelled(torch.randn(120, 8, generator=torch.Generator().manual_seed(5)), test.classes)
        assert protocol(train, blind) < 0.6
    assert majority(train, test) == pytest.approx(1 / 3, abs=0.01)


def test_the_nearest_neighbour_counts_more_than_two_far_ones() -> None:
    train = Labelled(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.0, 1.0]]), torch.tensor([1, 0, 0]))
    assert knn(train, Labelled(torch.tensor([[1.0, 0.0]]), torch.tensor([1])), k=3) == 1


def test_a_probe_sees_test_features_as_it_saw_those_of_training() -> None:
    classes = torch.tensor([0, 1]).repeat(20)
    features = torch.stack((classes * 0.02 + 100, torch.linspace(-1, 1, 40) * 1e3), 1)
    assert linear_probe(Labelled(features, classes), Labelled(features, classes)) == 1


def test_a_report_that_goes_on_has_no_row_of_a_later_step(tmp_path: Path) -> None:
    for step in (2, 4, 6, 4):
        report = EvaluationReport({"loss": float(step)}, torch.randn(4, 3), torch.zeros(4).long(), ("a",), "")
        report.write(tmp_path, step)
    assert [row["step"] for row in json.loads((tmp_path / "evaluation.json").read_text())] == [2, 4]


def test_retrieval_of_equal_constant_and_random_rows() -> None:
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    assert retrieval(rows, rows)["r@1"] == 1
    assert retrieval(torch.ones(40, 16), torch.ones(40, 16))["r@1"] == 0
    assert retrieval(rows, rows.flip(0))["r@5"] < 0.4
    assert retrieval(rows, rows)["chance_r@5"] == pytest.approx(5 / 40)


def test_principal_axes_hold_most_of_the_spread() -> None:
    features = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 0.1, 0.1, 0.1])
    found = principal(features)
    assert found.shape == (50, 2)
    assert found.var(0).sum() / features.var(0).sum() > 0.99
    assert principal(features[:, :1]).shape == (50, 2)


def test_a_run_reports_on_the_validation_split_and_keeps_the_best(with_val: Path, tmp_path: Path) -> None:
    words = [f"data={with_val}", f"out={tmp_path}/r", "model=tiny", "batch_size=16", "steps=6", "eval.every=3"]
    words += ["log.tensorboard=false", "loss.cont=0.5", "--quiet"]
    assert main(TASK, words) == 0
    rows = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert [row["step"] for row in rows] == [3, 6]
    for name in ("rec", "cont", "cst", "cst_zero", "cst_mean", "r@1", "r@5", "chance_r@1", "land_use_knn"):
        assert name in rows[-1]
    assert 0 < rows[-1]["cst_mean"] < rows[-1]["cst_zero"]
    page = (tmp_path / "r" / "evaluation.html").read_text()
    assert page.count("<circle") == 24
    best = load_checkpoint(tmp_path / "r" / "best.pt")
    assert best["evaluation"]["best"] == min(row["loss"] for row in rows)
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "val/loss" in m] == [3, 6]


def test_gair_reports_on_the_validation_split_and_keeps_the_best(with_photos: Path, tmp_path: Path) -> None:
    words = [f"data={with_photos}", f"out={tmp_path}/r", "model=tiny", "batch_size=16", "steps=4", "eval.every=2"]
    assert main(GAIR, [*words, "log.tensorboard=false", "--quiet"]) == 0
    rows = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row["loss"] == pytest.approx(row["incl"] + row["secl"])
        assert row["photo_to_place/r@5.chance"] == pytest.approx(5 * row["photo_to_place/r@1.chance"])
        assert row["grid/error_m.floor"] < row["grid/error_m"] < 5_000_000
        assert all(math.isfinite(value) for value in row.values())
    assert [any(name.startswith(("probe/", "sampling_")) for name in row) for row in rows] == [
        False,
        True,
    ]  # at the end
    kept = [name for name in rows[0] if name.endswith((".untrained", ".colours", ".floor"))]
    assert len(kept) > 50
    assert [rows[1][name] for name in kept] == [rows[0][name] for name in kept]
    assert load_checkpoint(tmp_path / "r" / "best.pt")["evaluation"]["best"] == min(row["loss"] for row in rows)
    page = (tmp_path / "r" / "evaluation.html").read_text()
    assert page.count("<circle") == round(1 / rows[0]["photo_to_place/r@1.chance"]) > 16
    for title in ("Retrieval", "Localisation", "Moved queries", "Location encoder", "Ways to read", "Probes"):
        assert f"<h2>{title}" in page
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [m["val/grid/error_m"] for m in metrics if "val/loss" in m] == [row["grid/error_m"] for row in rows]


@pytest.mark.parametrize("name", ["samples", "batch_size", "train_samples", "photos", "grid"])
def test_an_evaluation_of_nothing_is_refused_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GAIR, [f"eval.{name}=0", "dry_run=true"]) == 2
    assert f"eval.{name}=0" in capsys.readouterr().err


@pytest.mark.parametrize(("near", "far"), [(150.0, 400.0), (0.0, 0.0)])
def test_gair_losses_of_a_split_equal_those_of_plain_softmaxes(near: float, far: float) -> None:
    generator = torch.Generator().manual_seed(0)
    photo, place, location = (torch.randn(11, 8, generator=generator) for _ in range(3))
    lonlat = torch.rand(11, 2, generator=generator).double() * 0.01  # a square of some 1.1 km
    model = Gair(GAIR_SETTINGS, "ours", GairLoss(2.0, 3.0))
    model.incl_radius, model.secl_radius = near, far
    found = split_losses(model, photo, place, location, lonlat, batch=4, beside={})
    apart = great_circle(lonlat, lonlat)

    def loss(a: torch.Tensor, b: torch.Tensor, i: int, others: list[int], radius: float) -> float:
        kept = [i, *(j for j in others if j != i and apart[i, j] >= radius)]
        logits = torch.cosine_similarity(a[i][None], b[kept]) / model.settings.temperature
        return float(-torch.log_softmax(logits, 0)[0])

    def batch(i: int) -> list[int]:
        return list(range(i // 4 * 4, min(11, i // 4 * 4 + 4)))

    incl = [(loss(photo, place, i, batch(i), near) + loss(place, photo, i, batch(i), near)) / 2 for i in range(11)]
    every = list(range(11))
    secl = [(loss(photo, location, i, every, far) + loss(place, location, i, every, far)) / 2 for i in range(11)]
    assert found["incl"] == pytest.approx(sum(incl) / 11, rel=1e-5)
    assert found["secl"] == pytest.approx(sum(secl) / 11, rel=1e-5)
    assert found["loss"] == pytest.approx(2 * found["incl"] + 3 * found["secl"], rel=1e-6)


def test_the_joint_model_is_measured_as_both(with_photos: Path, with_val: Path, tmp_path: Path) -> None:
    """By their own names, those of the models alone; without photos as GeoLink."""
    words = ["model=tiny", "batch_size=16", "steps=2", "log.tensorboard=false", "--quiet"]
    words += ["loss.task_weights.geolink=0.5", "loss.task_weights.gair=2", "loss.weighting=uncertainty"]
    words += ["loss.task_weights.osm_photo=0.1", "loss.task_weights.osm_location=0.1"]
    assert main(JOINT, [f"data={with_photos}", f"out={tmp_path}/r", *words]) == 0
    (row,) = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert row["loss"] == pytest.approx(0.5 * row["geolink/loss"] + 2 * row["gair/loss"])
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    assert state["evaluation"]["best"] == row["loss"]
    settings, _, _ = parse(JOINT, words)
    model = Joint.of(state["config"])
    model.load_state_dict(state["model"])
    model.eval()
    roots, cpu = [str(with_photos)], torch.device("cpu")
    gair = GairEvaluation(lambda given: JOINT.build(given).gair, settings, roots, cpu)
    for name, report in (
        ("geolink", evaluate_geolink(model.geolink, settings, roots, cpu)),
        ("gair", gair(model.gair, True)),
    ):
        assert report is not None
        assert {n: row[f"{name}/{n}"] for n in report.scores} == pytest.approx(report.scores, rel=1e-4)
    for name in ("osm_photo", "osm_location"):
        assert 0 < row[f"{name}/chance_r@1"] <= 1 / 16
        assert 0 <= row[f"{name}/r@1"] <= row[f"{name}/r@5"] <= 1
    page = (tmp_path / "r" / "evaluation.html").read_text()
    assert "geolink: cst beside" in page
    assert "gair: Every score stands beside" in page
    assert "Moved queries, all tiles" in page
    assert "gair/photo_to_place/r@1" in page
    assert main(JOINT, [f"data={with_val}", f"out={tmp_path}/q", *words]) == 0
    (row,) = json.loads((tmp_path / "q" / "evaluation.json").read_text())
    assert row["loss"] == pytest.approx(0.5 * row["geolink/loss"])
    assert "gair/loss" not in row


@torch.no_grad()
def test_gair_losses_without_pairs_are_those_of_training_however_a_split_is_cut(with_photos: Path) -> None:
    torch.manual_seed(0)
    settings = replace(GAIR_SETTINGS, decoder_dim=16, decoder_heads=2)
    model = Gair(settings, "ours", GairLoss(rec=1.0, dist=0.2)).eval()
    for parameter in (*model.rs.parameters(), *model.sv.parameters()):
        parameter.add_(0.05 * torch.randn_like(parameter))  # as after some steps
    whole = model(gair_batch(with_photos, 12))
    for size in (12, 5):
        beside, left = BesidePairs(model), 12
        for skip in range(-(-left // size)):
            batch = gair_batch(with_photos, size, skip)
            inside = torch.arange(size) + skip * size < 12
            list(beside.watch([replace(batch, valid=batch.valid & inside)], torch.device("cpu")))
        assert beside.values() == pytest.approx({n: float(whole[n]) for n in ("rec", "dist")}, rel=1e-5)


def test_the_criterion_of_best_holds_every_loss_that_is_trained(with_photos: Path, tmp_path: Path) -> None:
    """Of the MAE variant it is the reconstruction, and equal weights give equal values in every epoch."""
    words = [f"data={with_photos}", "model=tiny", "batch_size=16", "log.tensorboard=false", "--quiet", "eval.every=1"]
    words += ["steps=2", "optim.lr=1e-30", "loss.rec=2", "loss.incl=0", "loss.secl=0", "eval.full=never"]
    assert main(GAIR, [*words, f"out={tmp_path}/r"]) == 0
    rows = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert rows[0]["loss"] == pytest.approx(2 * rows[0]["rec"])
    assert rows[0]["rec"] > 0.5
    assert len({round(row["loss"], 4) for row in rows}) == 1 < len(rows)


@pytest.mark.parametrize("task", [TASK, GAIR, JOINT], ids=["geolink", "gair", "joint"])
def test_evaluation_leaves_training_as_it_was(task: Task, with_photos: Path, tmp_path: Path) -> None:
    words = [f"data={with_photos}", "model=tiny", "batch_size=16", "steps=4", "log.tensorboard=false", "--quiet"]
    assert main(task, [*words, f"out={tmp_path}/with", "eval.every=1"]) == 0
    assert main(task, [*words, f"out={tmp_path}/without", "eval.every=0"]) == 0
    a, b = (load_checkpoint(tmp_path / name / "checkpoint.pt")["model"] for name in ("with", "without"))
    assert all(torch.equal(a[k], b[k]) for k in a)
