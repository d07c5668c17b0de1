"""Faults put into the joint model one by one, each of which some test of it notices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.trainers.engine import test_absent as absent
from tests.trainers.models import test_joint as joint
from tests.trainers.models.test_gair_faults import Fault, put_in

MODEL, WEIGHTING = "trainers.models.joint.model", "trainers.models.joint.weighting"
CONTRASTS, ROWS, VIT = "trainers.models.joint.contrasts", "trainers.models.joint.rows", "trainers.models.vit"
SETTINGS, GAIR = "trainers.models.joint.settings", "trainers.models.gair.model"
LOOP, AVERAGES = "trainers.engine.loop", "trainers.engine.averages"
Check = Callable[..., Any]
SUM: Check = joint.check_sum
SHARED: Check = joint.test_the_image_encoder_is_stored_once
SUBSETS: Check = joint.check_subsets
NO_PHOTOS, NO_OBJECTS, NO_IMAGES = (partial(joint.check_absent, lacking=name) for name in joint.LACKING)
LEARNED: Check = joint.check_uncertainty
TURNS: Check = joint.check_turns
NAN: Check = lambda _root: absent.test_a_step_is_the_mean_of_what_its_micro_batches_have()  # noqa: E731
LINE: Check = lambda _root: absent.test_a_line_is_the_mean_over_the_steps_that_have_it()  # noqa: E731
NEAR: Check = joint.check_nearness
HAND: Check = joint.check_contrasts


def turns(root: Path) -> None:
    with TemporaryDirectory() as folder:
        absent.test_turns_follow_the_samples_and_are_logged_apart(root, Path(folder))


FAULTS = [
    Fault("two image encoders", MODEL, "PatchTokens(self.geolink.vit)",
          "PatchTokens(type(self.geolink.vit)(settings.vit))", SHARED),
    Fault("the image encoder stored twice", GAIR, 'object.__setattr__(self, "rs", rs)', "self.rs = rs", SHARED),
    Fault("the class token among the patches", VIT, "return self.vit(image)[:, 1:]", "return self.vit(image)[:, :-1]",
          SHARED),
    Fault("another norm for GAIR", SETTINGS, 'image_norm="statistics"', 'image_norm="unit"', SHARED),
    Fault("no task weights", MODEL, "getattr(w.task_weights, name) * loss", "1.0 * loss", SUM),
    Fault("one task's weight for both", MODEL, "getattr(w.task_weights, name) * loss", "w.task_weights.geolink * loss",
          SUM),
    Fault("weights of GAIR's losses ignored", MODEL, "replace(w.gair, gather=self.gather)",
          "replace(type(w.gair)(), gather=self.gather)", SUM),
    Fault("GeoLink without its gradient", MODEL, "total = total + (", "total = total.detach() + (", SUM),
    Fault("the encoder without GAIR's gradient", VIT, "return self.vit(image)[:, 1:]",
          "return self.vit(image)[:, 1:].detach()", SUM),
    Fault("absent losses are 0", MODEL, 'torch.full_like(value, float("nan"))', "torch.zeros_like(value)", NO_PHOTOS),
    Fault("padding photos make GAIR present", ROWS, "model.photo_mask(batch).sum()",
          "(batch.photo_valid | True).sum()", NO_PHOTOS),
    Fault("tiles without objects make the contrast present", ROWS, "(shown & objects).sum()", "shown.sum()",
          NO_OBJECTS),
    Fault("padding nodes make the tags present", ROWS, "(masked & counted).sum()", "counted.sum()", NO_OBJECTS),
    Fault("tiles without images are reconstructed", ROWS, "shown, found = batch.valid & batch.has_rs, {}",
          "shown, found = batch.valid, {}", NO_IMAGES),
    Fault("masked tiles meet their location", CONTRASTS, "batch.valid & (kinds > 0).any(1)",
          "batch.valid | (kinds > 0).any(1)", HAND),
    Fault("photos of masked tiles meet objects", CONTRASTS, "batch.photo_valid & tile & some",
          "batch.photo_valid & some", HAND),
    Fault("photos with nothing around them count", CONTRASTS, "batch.photo_valid & tile & some",
          "batch.photo_valid & tile", HAND),
    Fault("the sign of the variance", WEIGHTING, "torch.exp(-s) * loss + s", "torch.exp(s) * loss + s", LEARNED),
    Fault("variances that grow for nothing", WEIGHTING, "* loss + s, torch", "* loss, torch", LEARNED),
    Fault("an absent task moves its variance", WEIGHTING, "torch.where(present, ", "torch.where(present | True, ",
          LEARNED),
    Fault("always the first one's turn", MODEL, "turn(self.tasks, samples,", "turn(self.tasks, 0,", TURNS),
    Fault("turns by the step, whatever its samples", LOOP, "begin(self.stream.samples_seen)",
          "begin(self.step * self.settings.batch_size)", turns),
    Fault("absent losses in the mean of a step", AVERAGES, "seen = torch.where(there, share, zero).sum(0)",
          "seen = share.sum(0)", NAN),
    Fault("a loss that is not a number left out", AVERAGES, 'there[:, names.index("loss")] = True', "pass",
          lambda _root: absent.test_a_loss_that_is_not_a_number_stays_so()),
    Fault("absent losses in the mean of a line", AVERAGES, "there.sum(0).float()",
          "torch.ones_like(there).sum(0).float()", LINE),
    Fault("turns by the sample's parity", WEIGHTING, "position // alternate % len", "position % len", TURNS),
    Fault("turns in evaluation", MODEL, "self.due if self.training else self.tasks", "self.due", TURNS),
    Fault("objects of other tiles", CONTRASTS,
          "batch.node_valid & (batch.photo_sample[:, None] == batch.node_sample[None])",
          "batch.node_valid & batch.photo_valid[:, None]", NEAR),
    Fault("metres of the tile for those shown", CONTRASTS, "batch.window, 1)",
          "torch.tensor([0., 0., 1., 1.]).repeat(len(batch.window), 1), 1)", NEAR),
    Fault("an object's farthest anchor", CONTRASTS, "apart = (batch.photo_xy[:, None] - anchor[None])",
          "apart = (batch.photo_xy[:, None] - batch.anchors[None, :, 0])", NEAR),
    Fault("all objects in the radius alike", CONTRASTS, "(1 - nearest * side[:, None] / radius).clamp_min(0)",
          "((1 - nearest * side[:, None] / radius) > 0).float()", NEAR),
    Fault("a sum for a mean around a photo", CONTRASTS, "/ torch.where(total > 0, total, torch.ones_like(total))", "",
          HAND),
    Fault("near rows are negatives", CONTRASTS, "else self.lonlat) < radius", "else self.lonlat) < 0", HAND),
    Fault("locations of the corner", MODEL, "self.gair.location(batch.lonlat)", "self.gair.location(batch.bbox[:, :2])",
          HAND),
    Fault("objects with hidden tags", MODEL, "torch.zeros_like(batch.node_valid)",
          "torch.ones_like(batch.node_valid)", HAND),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_a_fault_of_the_joint_model_is_noticed(dataset: Path, fault: Fault) -> None:
    with put_in(fault), pytest.raises((AssertionError, RuntimeError, IndexError)):
        fault.seen_by(dataset)
