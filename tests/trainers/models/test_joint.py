"""The joint model is its parts: one image encoder, the sum of two gradients, and any of the four modalities missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.errors import ConfigError
from tests.trainers.batches import GAIR, GEOLINK, _batch, garble, mask_slot
from tests.trainers.models.test_by_hand import metres, named_first
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.geolink_settings import GeoLinkSettings
from trainers.models.joint.contrasts import nearness
from trainers.models.joint.model import Joint
from trainers.models.joint.settings import JointLoss, JointSettings, TaskWeights
from trainers.models.joint.weighting import turn
from trainers.stream.batch import TileBatch

SETTINGS = JointSettings(
    GEOLINK.vit, tag_width=GEOLINK.tag_width, gair=replace(GAIR, rs=type(GAIR)().rs),
    geolink=replace(GEOLINK, vit=GeoLinkSettings().vit, tag_width=GeoLinkSettings().tag_width),
)  # fmt: skip
PARTS = JointLoss(GeoLinkLoss(1.0, 0.5, 0.5), GairLoss(incl=0.7, secl=0.3))
BOTH = replace(PARTS, task_weights=TaskWeights(0.8, 0.6))
EVERY = replace(PARTS, task_weights=TaskWeights(0.8, 0.6, 0.4, 0.2))


def joint_model(loss: JointLoss = BOTH, settings: JointSettings = SETTINGS, variant: str = "ours") -> Joint:
    torch.manual_seed(0)
    return Joint(settings, variant, loss)


def joint_batch(root: Path, size: int = 16, skip: int = 0) -> TileBatch:
    return _batch(root, Joint.view(SETTINGS), size, skip)


def step(model: torch.nn.Module, batch: TileBatch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses, and gradients by name."""
    model.zero_grad(set_to_none=True)
    parts = model(batch)
    parts["loss"].backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in parts.items()}, found


def alone(model: Joint) -> tuple[GeoLink, Gair]:
    """The parts of a joint model as models of their own, each with its own image encoder."""
    state = model.state_dict()
    geolink = GeoLink(model.settings.for_geolink, model.fidelity, model.weights.geolink)
    geolink.load_state_dict(model.geolink.state_dict())
    gair = Gair(model.settings.for_gair, model.fidelity, model.weights.gair)
    vit = {f"rs.{n.removeprefix('geolink.vit.')}": v for n, v in state.items() if n.startswith("geolink.vit.")}
    gair.load_state_dict(vit | model.gair.state_dict())
    return geolink, gair


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm()) <= 1e-5 * max(1.0, float(expected.norm()))


def without_photos(batch: TileBatch, tiles: Tensor) -> TileBatch:
    kept = ~torch.cat((tiles, tiles.new_zeros(1)))[batch.photo_sample]
    return replace(batch, photo_valid=batch.photo_valid & kept)


def without_objects(batch: TileBatch, tiles: Tensor) -> TileBatch:
    """Nodes of these tiles are padding, whatever they hold."""
    gone = torch.cat((tiles, tiles.new_zeros(1)))[batch.node_sample]
    kept = batch.node_valid & ~gone
    at = batch.edges.clamp_max(len(gone) - 1)
    return replace(
        batch, node_valid=kept, edge_valid=batch.edge_valid & kept[at].all(0),
        tag_weight=torch.where(kept[batch.tag_node], batch.tag_weight, torch.zeros_like(batch.tag_weight)),
    )  # fmt: skip


def check_sum(root: Path) -> None:
    """Gradients of the joint loss are those of the tasks' own models, by their weights, on the same batch."""
    model, batch = joint_model(), joint_batch(root)
    w = model.weights.task_weights
    geolink, gair = alone(model)
    losses, found = step(model, batch)
    (one, ours), (other, theirs) = step(geolink, batch), step(gair, batch)
    assert losses["loss"] == pytest.approx(w.geolink * one["loss"] + w.gair * other["loss"], rel=1e-5)
    assert {n: v for n, v in losses.items() if n != "loss"} == pytest.approx(
        {f"geolink/{n}": v for n, v in one.items()} | {f"gair/{n}": v for n, v in other.items()}, rel=1e-4
    )
    names = set(found)
    assert names == {f"geolink.{n}" for n in ours} | {f"gair.{n}" for n in theirs if not n.startswith("rs.")}
    for name in found:
        task, _, rest = name.partition(".")
        if rest.startswith("vit."):
            expected = w.geolink * ours[rest] + w.gair * theirs["rs." + rest.removeprefix("vit.")]
            assert not close(w.geolink * ours[rest], expected) or "cls_token" in rest or not expected.any(), name
        else:
            expected = w.geolink * ours[rest] if task == "geolink" else w.gair * theirs[rest]
        assert close(found[name], expected), name


def test_gradients_are_the_sum_of_the_tasks(dataset: Path) -> None:
    check_sum(dataset)


def test_the_image_encoder_is_stored_once(dataset: Path) -> None:
    model = joint_model()
    names = set(model.state_dict())
    assert not [name for name in names if name.startswith("gair.rs.")]
    storages = [v.untyped_storage().data_ptr() for v in model.state_dict().values()]
    assert len(storages) == len(set(storages))
    with torch.no_grad():
        model.geolink.vit.norm.bias.add_(1.0)
    batch = joint_batch(dataset, 4)
    tokens = model.geolink.vit(model.geolink.norm(batch.rs))
    assert torch.equal(model.gair.encode_tiles(batch), tokens[:, 1:])  # one encoder, one norm, no class token


Change = Callable[[TileBatch], TileBatch]


def nobody(batch: TileBatch) -> Tensor:
    return torch.ones_like(batch.valid)


def no_images(batch: TileBatch) -> TileBatch:
    return replace(batch, has_rs=torch.zeros_like(batch.has_rs))


LACKING: dict[str, tuple[Change, set[str]]] = {
    "photos": (lambda b: without_photos(b, nobody(b)), {"gair/incl", "gair/secl", "gair/loss", "osm_photo/loss"}),
    "objects": (
        lambda b: without_objects(b, nobody(b)),
        {"geolink/cont", "geolink/cst", "osm_photo/loss", "osm_location/loss"},
    ),
    "images": (
        no_images,
        {"geolink/rec", "geolink/cont", "geolink/cst", "geolink/loss", "gair/incl", "gair/secl", "gair/loss"},
    ),
}


def check_absent(root: Path, lacking: str) -> None:
    """A batch without a modality: what needs it is absent, not 0, and the rest trains."""
    change, absent = LACKING[lacking]
    model, batch = joint_model(EVERY), joint_batch(root)
    full, _ = step(model, batch)
    assert all(math.isfinite(v) for v in full.values())
    losses, found = step(model, change(batch))
    assert {name for name, value in losses.items() if math.isnan(value)} == absent
    assert math.isfinite(losses["loss"])
    assert all(g.isfinite().all() for g in found.values())
    moved = {name.partition(".")[0] for name, g in found.items() if g.any()}
    assert moved >= {"photos": {"geolink"}, "objects": {"geolink", "gair"}, "images": {"osm_photo"}}[lacking]


@pytest.mark.parametrize("lacking", LACKING)
def test_what_a_batch_has_nothing_for_is_absent_and_the_rest_trains(dataset: Path, lacking: str) -> None:
    check_absent(dataset, lacking)


def check_subsets(root: Path) -> None:
    """Tiles without photos, objects or images count for the other losses alone: as if each task were given its own."""
    model, batch = joint_model(), joint_batch(root)
    tile = torch.arange(len(batch))
    batch = without_objects(without_photos(batch, tile % 4 == 1), tile % 4 == 2)
    batch.has_rs[tile % 4 == 3] = False
    geolink, gair = alone(model)
    losses, _ = step(model, batch)
    one, other = step(geolink, batch)[0], step(gair, batch)[0]
    assert losses["geolink/cont"] == pytest.approx(one["cont"], rel=1e-4)
    assert losses["gair/incl"] == pytest.approx(other["incl"], rel=1e-4)
    for slot in range(8):  # garbage in what is masked reaches nothing
        changed = garble(mask_slot(batch, slot), slot)
        (a, ga), (b, gb) = (step(joint_model(EVERY), x) for x in (mask_slot(batch, slot), changed))
        assert a == pytest.approx(b, rel=1e-5)
        assert all(torch.allclose(ga[name], gb[name], atol=1e-6) for name in ga)


def test_samples_that_hold_any_of_the_modalities_train_together(dataset: Path) -> None:
    check_subsets(dataset)


def test_a_task_without_a_weight_is_not_computed(dataset: Path) -> None:
    batch = joint_batch(dataset, 8)
    for name, other in (("geolink", "gair"), ("gair", "geolink")):
        model = joint_model(replace(PARTS, task_weights=TaskWeights(**{name: 0.5, other: 0.0})))
        losses, found = step(model, batch)
        assert {n.partition("/")[0] for n in losses} == {"loss", name}
        assert not [n for n in found if n.startswith(other) and not n.startswith("geolink.vit.")]
        assert losses["loss"] == pytest.approx(0.5 * losses[f"{name}/loss"])
        assert model.unused


def check_uncertainty(root: Path) -> None:
    """exp(-s) L + s by hand, its gradient, and that s finds log L."""
    model, batch = joint_model(replace(BOTH, weighting="uncertainty")), joint_batch(root, 8)
    plain, _ = step(joint_model(), batch)
    first, found = step(model, batch)
    assert first["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    for task, weight in (("geolink", 0.8), ("gair", 0.6)):
        assert float(found[f"uncertainty.log_variance.{task}"]) == pytest.approx(1 - weight * plain[f"{task}/loss"])
    values = {"geolink": 0.3, "gair": -0.7}
    with torch.no_grad():
        for task, value in values.items():
            model.uncertainty.log_variance[task].fill_(value)
    model.gair.queue.held.zero_()
    again, _ = step(model, batch)
    weights = {"geolink": 0.8, "gair": 0.6}
    expected = sum(math.exp(-s) * weights[t] * plain[f"{t}/loss"] + s for t, s in values.items())
    assert again["loss"] == pytest.approx(expected, rel=1e-4)
    assert again["gair/scale"] == pytest.approx(math.exp(0.7))
    model.gair.queue.held.zero_()
    none, found = step(model, without_photos(batch, nobody(batch)))  # a task without rows moves no variance
    assert none["loss"] == pytest.approx(math.exp(-0.3) * 0.8 * plain["geolink/loss"] + 0.3, rel=1e-4)
    assert float(found["uncertainty.log_variance.gair"]) == 0


def test_uncertainty_weighs_by_learned_variances(dataset: Path) -> None:
    check_uncertainty(dataset)


def check_turns(root: Path) -> None:
    """Tasks take turns by the samples consumed; evaluation sees all of them."""
    model, batch = joint_model(replace(EVERY, alternate=32)), joint_batch(root, 8)
    seen = []
    for position in (0, 8, 31, 32, 63, 64, 96, 128, 1000):
        model.begin(position)
        losses, found = step(model, batch)
        (task,) = {name.partition("/")[0] for name in losses} - {"loss"}
        seen.append(task)
        assert losses["loss"] == pytest.approx(getattr(EVERY.task_weights, task) * losses[f"{task}/loss"])
        assert (task == "geolink") == any(n.startswith("geolink.decoder") for n in found)
    names = ["geolink", "gair", "osm_photo", "osm_location"]
    assert seen == ["geolink"] * 3 + ["gair"] * 2 + ["osm_photo", "osm_location", "geolink", names[1000 // 32 % 4]]
    with torch.no_grad():
        losses = model.eval()(batch)
    assert {f"{task}/loss" for task in names} <= losses.keys()


def test_tasks_take_turns_by_the_samples_consumed(dataset: Path) -> None:
    check_turns(dataset)
    assert turn(("a", "b"), 7, 0) == ("a", "b")


def check_nearness(root: Path) -> None:
    """The share of the radius that is left between a photo and an object's nearest anchor, in metres on the ground."""
    batch = joint_batch(root)
    batch = replace(batch, window=torch.tensor([0.0, 0.0, 0.5, 0.5]).repeat(len(batch), 1))
    found, radius = nearness(batch, 120.0), 120.0
    some = 0
    for q in batch.photo_valid.nonzero().flatten().tolist():
        tile = int(batch.photo_sample[q])
        west, south, _, north = batch.bbox[tile]
        side = float(metres(torch.stack((west, south))[None], torch.stack((west, north))[None])) / 2  # half is shown
        for n in range(len(batch.node_valid)):
            own = bool(batch.node_valid[n]) and int(batch.node_sample[n]) == tile
            anchors = batch.anchors[n][~batch.anchors[n, :, 0].isnan()]
            apart = (anchors - batch.photo_xy[q]).norm(dim=-1).min() * side if own else math.inf
            expected = max(0.0, 1 - float(apart) / radius)
            assert float(found[q, n]) == pytest.approx(expected, abs=2e-3)
            some += 0 < expected < 0.9
    assert some > 20


def test_objects_around_a_photo_are_weighed_by_metres(dataset: Path) -> None:
    check_nearness(dataset)


@torch.no_grad()
def check_contrasts(root: Path) -> None:
    """Both further contrasts put together by plain sums."""
    model, batch = joint_model(EVERY), joint_batch(root)
    batch.valid[3] = False
    counted = [q for q in range(len(batch.photos)) if batch.photo_valid[q] and int(batch.photo_sample[q]) != 3]
    batch.photo_xy[counted[0]] = 9.0  # nothing is around it
    batch.photo_lonlat[counted[2:4]] = batch.photo_lonlat[counted[1]].clone()  # so near that they are no negatives
    losses = model(batch)
    nodes = model.geolink.encode_nodes(batch, torch.zeros_like(batch.node_valid))
    weight, photo = nearness(batch, 100.0), model.gair.encode_photos(batch)
    rows = [q for q in counted if weight[q].sum() > 0]
    assert 4 < len(rows) < len(counted)
    around = torch.stack([(weight[q][:, None] * nodes).sum(0) / weight[q].sum() for q in rows])
    a, b = model.osm_photo.head(around), photo[rows]
    far = metres(batch.photo_lonlat[rows], batch.photo_lonlat[rows]) >= model.gair.incl_radius
    assert float(losses["osm_photo/loss"]) == pytest.approx(symmetric(a, b, far), rel=1e-4)
    region, kinds = model.geolink.aggregate(nodes, batch)
    tiles = [t for t in range(len(batch)) if t != 3 and (kinds[t] > 0).any()]
    a, b = model.osm_location.head(region[tiles]), model.gair.location(batch.lonlat[tiles])
    far = metres(batch.lonlat[tiles], batch.lonlat[tiles]) >= model.gair.secl_radius
    assert float(losses["osm_location/loss"]) == pytest.approx(symmetric(a, b, far), rel=1e-4)


def symmetric(a: Tensor, b: Tensor, far: Tensor) -> float:
    rows = range(len(a))
    terms = [named_first(x[i], y[far[i]], y[i]) for x, y in ((a, b), (b, a)) for i in rows]
    return float(torch.stack(terms).mean())


def test_objects_meet_photos_and_locations_as_by_hand(dataset: Path) -> None:
    check_contrasts(dataset)


def test_gair_s_masked_images_share_the_encoder_too(dataset: Path) -> None:
    loss = replace(BOTH, gair=GairLoss(incl=0.0, secl=0.0, rec=1.0, dist=0.2))
    losses, found = step(joint_model(loss), joint_batch(dataset, 8))
    assert math.isfinite(losses["gair/rec"])
    assert any(n.startswith("gair.rs_decoder") for n in found)
    assert not [n for n in found if ".first." in n]


def refusals() -> list[tuple[Callable[[], Any], str]]:
    return [
        (lambda: replace(SETTINGS, geolink=GEOLINK), "arch.geolink.vit"),
        (lambda: replace(SETTINGS, gair=replace(SETTINGS.gair, dates=3)), "arch.gair.dates"),
        (lambda: replace(SETTINGS, gair=replace(SETTINGS.gair, rs_encoder="vit")), "arch.gair.rs_encoder"),
        (lambda: TaskWeights(0.0, 0.0), "all 0"),
        (lambda: TaskWeights(-1.0), "task_weights.geolink"),
        (lambda: JointLoss(gair=GairLoss(gather=True)), "loss.gair.gather"),
        (lambda: JointLoss(gair=GairLoss(dist=0.2), weighting="uncertainty"), "loss.gair.dist"),
        (lambda: JointLoss(alternate=-1), "loss.alternate"),
        (lambda: JointLoss(osm_photo_radius=0.0), "loss.osm_photo_radius"),
    ]


@pytest.mark.parametrize(("make", "message"), refusals())
def test_settings_that_contradict_each_other_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(("variant", "gather"), [("ours", True), ("paper", True), ("released", False)])
def test_the_parts_gather_alike(variant: str, gather: bool) -> None:
    model = joint_model(variant=variant)
    assert model.gather is model.geolink.gather is model.gair.gather is gather


@pytest.mark.parametrize("variant", ["ours", "paper", "released"])
def test_every_fidelity_trains(dataset: Path, variant: str) -> None:
    batch = _batch(dataset, Joint.view(SETTINGS, variant), 8, 0)
    losses, found = step(joint_model(EVERY, variant=variant), batch)
    assert all(math.isfinite(v) for v in losses.values())
    assert all(g.isfinite().all() for g in found.values())
