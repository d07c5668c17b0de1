"""Faults put into GAIR one by one, each of which some test of it notices: the release's own, and others like them.

A fault is a change of the source. The functions that it touches get the changed code while one test runs.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.streetview import test_pairing as pairing
from tests.trainers.models import test_by_hand as by_hand
from tests.trainers.models import test_croma as croma
from tests.trainers.models import test_facing as facing
from tests.trainers.models import test_gair_encoders as encoders
from tests.trainers.models import test_gair_objectives as objectives
from tests.trainers.models import test_gair_whole as whole
from tests.trainers.models import test_location as location
from tests.trainers.models import test_query as query
from tests.trainers.models import test_trainers_models as parts

GAIR, PAIRS, LOSSES = "trainers.models.gair.model", "trainers.models.gair.pairs", "trainers.models.losses"
FACING = "trainers.models.gair.facing"
NILI, PHOTO, CROMA = "trainers.models.gair.nili", "trainers.models.gair.photo", "trainers.models.gair.croma"
DATES, LOCATION = "trainers.models.gair.dates", "trainers.models.gair.location"
SAMPLE, AUGMENT = "trainers.stream.sample", "trainers.stream.augment"
Check = Callable[..., Any]
#: Tests that are given a dataset, and whether it is that of coordinates.
HAND: Check = by_hand.test_gair_s_losses_are_those_of_its_parts_put_together_by_hand
WHOLE: Check = whole.check_places
MASKED: Check = parts.test_a_masked_slot_has_no_influence_on_gair
DRAWN: Check = objectives.test_hard_negatives_follow_the_slot_alone
REBUILT: Check = objectives.test_reconstruction_is_that_of_the_hidden_patches_of_images_and_photos
KEPT: Check = objectives.test_distillation_holds_the_encoders_to_what_they_were_at_first
SHOWN: Check = facing.check_ahead
HIDDEN: Check = facing.test_headings_are_hidden_at_their_rate_in_training_alone
OWN: Check = objectives.test_its_own_place_is_never_a_negative
ONE_DATE: Check = encoders.test_a_tile_of_one_date_is_what_a_model_of_one_date_sees
GARBAGE: Check = encoders.test_garbage_in_a_missing_date_changes_no_loss_and_no_gradient


def beyond(root: Path) -> None:
    objectives.test_hard_negatives_lie_in_the_tile_beyond_the_radius(root, 40.0)


def tokens(_root: Path) -> None:
    croma.test_the_tokens_are_those_of_the_formulas_at_any_size_of_image(24)


def sides(_root: Path) -> None:
    query.test_the_ground_size_of_a_patch_is_the_root_of_its_area()


def kernels(_root: Path) -> None:
    location.test_features_follow_the_kernel_of_each_scale()


def ahead(_root: Path) -> None:
    facing.test_a_camera_reads_what_is_ahead_far_first_and_from_left_to_right()


def laid(_root: Path) -> None:
    facing.test_a_tile_laid_another_way_looks_the_same_to_its_cameras((False, True, False))


def outside(_root: Path) -> None:
    facing.test_outside_of_the_tile_there_is_nothing()


def unknown(_root: Path) -> None:
    facing.test_an_unknown_heading_adds_nothing_and_has_a_gradient_of_zero()


def aimed(_root: Path) -> None:
    pairing.check_cameras(3)


class Fault(NamedTuple):
    """A change of a module's source, and the test that notices it."""

    name: str
    module: str
    old: str
    new: str
    seen_by: Check


FAULTS = [
    Fault("cameras that look to their right", FACING, "(right, ahead), -1", "(ahead, right), -1", ahead),
    Fault("near and far exchanged", FACING, "AHEAD - (AHEAD", "BEHIND - (AHEAD", ahead),
    Fault("left and right exchanged", FACING, "(2 * middle - 1)", "(1 - 2 * middle)", ahead),
    Fault("ground by patch corners", NILI, "at * grid - 0.5", "at * grid", ahead),
    Fault("ground of another tile", NILI, "(sample * grid + place", "(sample * 0 + place", ahead),
    Fault("the tile goes on beyond its border", FACING, ", beyond=\"nothing\"", "", outside),
    Fault("a heading that is not known looks up", FACING, " * known[:, None]", "", unknown),
    Fault("hard negatives without a direction", GAIR, "xy.view(-1, 2), frame)", "xy.view(-1, 2))", HAND),
    Fault("no headings in training", GAIR, "< share", "< 1", HIDDEN),
    Fault("all headings in training", GAIR, "< share", "< 0", HIDDEN),
    Fault("headings hidden from evaluation", GAIR, "if not self.training or not share", "if not share", HIDDEN),
    Fault("headings clockwise from the image's up", SAMPLE, "info.heading + info.north", "info.heading", aimed),
    Fault("headings counted from east", SAMPLE, "[[c, s], [s, -c]]", "[[s, c], [c, -s]]", aimed),
    Fault("a metre of the whole tile in a window", SAMPLE, "metres[0] * (right - left)", "metres[0]", SHOWN),
    Fault("headings that do not turn with the tile", AUGMENT, "turn.directions(p.frame)", "p.frame", SHOWN),
    Fault("coordinates left in 0..1", GAIR, "gair_query(xy), take", "xy, take", WHOLE),
    Fault("x and y taken for row and column", GAIR, "gair_query(xy), take", "gair_query(xy.flip(-1)), take", WHOLE),
    Fault("places of one tile read in another", GAIR, "sample.clamp_max(len(tokens) - 1)", "(sample + 1) % 8", WHOLE),
    Fault("photos not in the crop's coordinates", SAMPLE, "(info.x - left) / (right - left)", "info.x", WHOLE),
    Fault("crop's height taken for its width", SAMPLE, "/ (bottom - top)\n", "/ (right - left)\n", WHOLE),
    Fault("photos stay where they were as the tile turns", AUGMENT, "x=float(x), y=float(y)", "x=p.x, y=p.y", WHOLE),
    Fault("the tile stays as its photos turn", AUGMENT, "else turn.image(sample.rs),", "else sample.rs,", WHOLE),
    Fault("weights of the near corners", NILI, "area.flip(1)", "area", WHOLE),
    Fault("row and column swapped in the neighbourhood", NILI, "place[..., 1, None, None] + tap[:",
          "place[..., 0, None, None] + tap[:", WHOLE),
    Fault("photos of another sample", GAIR, "self.sv_head(features).float(), found",
          "self.sv_head(features).float().roll(1, 0), found", WHOLE),
    Fault("red for blue", GAIR, "(self.sv_norm(batch.photos))", "(self.sv_norm(batch.photos.flip(1)))", HAND),
    Fault("mean pooling for the class token", PHOTO, "self.vit(image)[:, 0]", "self.vit(image).mean(1)", HAND),
    Fault("the pooler without its tanh", PHOTO, "torch.tanh(self.pooler(token))", "self.pooler(token)", HAND),
    Fault("images without their norm", GAIR, "encode(self.rs_norm(batch.rs))", "encode(batch.rs / 255)", HAND),
    Fault("patches of one size for all tiles", GAIR, "take(cell, sample)", "take(cell, sample * 0)", HAND),
    Fault("patch sizes of the tile for its window's", NILI, "(right - left) * (bottom - top)", "1", sides),
    Fault("attention that grows with distance", CROMA, "bias.to(q.dtype)", "-bias.to(q.dtype)", tokens),
    Fault("attention without distance", CROMA, "bias.to(q.dtype)", "0 * bias.to(q.dtype)", tokens),
    Fault("patches with channels innermost", CROMA, "(0, 2, 4, 1, 3, 5)", "(0, 2, 4, 3, 5, 1)", tokens),
    Fault("no norm at the end", CROMA, "return self.norm_out(x)", "return x", tokens),
    Fault("a missing date has a share", DATES, "torch.where(held, score.float(), low)",
          "score.float().expand(*present.shape, 1, 1)", ONE_DATE),
    Fault("a missing date is looked at", DATES, "tokens = torch.where(held, tokens, torch.zeros_like(tokens))",
          "held = torch.ones_like(held)", GARBAGE),
    Fault("one date alone is encoded", GAIR, "batch.rs.flatten(0, 1)", "batch.rs[:, [0] * 3].flatten(0, 1)", GARBAGE),
    Fault("Fourier features of degrees", LOCATION, "equal_earth(lonlat), self", "lonlat, self", kernels),
    Fault("a drawn place for the photo's", GAIR, "float(), found[:, 0],", "float(), found[:, -1],", HAND),
    Fault("samples without an image count", GAIR, "batch.valid & batch.has_rs, batch.valid.new_zeros(1)",
          "batch.valid, batch.valid.new_zeros(1)", HAND),
    Fault("photos of masked samples count", GAIR, "return batch.photo_valid & tile[batch.photo_sample]",
          "return batch.photo_valid", HAND),
    Fault("the queue written before the loss", GAIR, "queued = self.queue.places.clone()",
          "self.queue.push(lonlat, valid); queued = self.queue.places.clone()", HAND),
    Fault("the queue written in evaluation", GAIR, "if self.training:", "if True:", HAND),
    Fault("the queue takes what does not count", GAIR, "gather_plain(pairs.lonlat), gather_plain(valid)",
          "gather_plain(pairs.lonlat), gather_plain(valid) | True", HAND),
    Fault("the queue takes nothing", GAIR, "self.queue.push(gather_plain", "(lambda *_: None)(gather_plain", HAND),
    Fault("empty rows of the queue as negatives", GAIR, "allowed = self.queue.valid()[None] & ", "allowed = ", HAND),
    Fault("near places of the queue as negatives", GAIR, " & (great_circle(lonlat, queued) >= self.secl_radius)",
          " & (great_circle(lonlat, queued) >= 0)", HAND),
    Fault("near places of the batch as negatives", GAIR, "far = great_circle(lonlat, places) >= self.secl_radius",
          "far = great_circle(lonlat, places) >= 0", HAND),
    Fault("its own place as a negative", GAIR, "other = index[None] != index[first : first + count, None]",
          "other = index[None] >= 0", OWN),
    Fault("no places of the batch", GAIR, "if self.rules.in_batch:", "if False:", HAND),
    Fault("masked places of the batch as negatives", GAIR, "seen[None] & other & far", "other & far", MASKED),
    Fault("near photos as negatives", GAIR, "near = great_circle(pairs.lonlat, others) < self.incl_radius",
          "near = great_circle(pairs.lonlat, others) < 0", HAND),
    Fault("only near photos as negatives", GAIR, "near = great_circle(pairs.lonlat, others) < self.incl_radius",
          "near = great_circle(pairs.lonlat, others) >= self.incl_radius", HAND),
    Fault("SECL without the image", GAIR, "for a in (pairs.photo, pairs.place)", "for a in (pairs.photo,) * 2", HAND),
    Fault("SECL without the photo", GAIR, "for a in (pairs.photo, pairs.place)", "for a in (pairs.place,) * 2", HAND),
    Fault("SECL twice as large", GAIR, "return (terms[0] + terms[1]) / 2", "return terms[0] + terms[1]", HAND),
    Fault("weights that are not used", GAIR, "getattr(self.weights, name) * value", "value", HAND),
    Fault("INCL one way", LOSSES, "(forward + backward) / 2", "forward", HAND),
    Fault("lengths count in INCL", LOSSES, "a, b = normalise(blank(a, valid)), normalise(blank(b, valid))",
          "a, b = blank(a, valid), blank(b, valid)", HAND),
    Fault("temperature multiplies", LOSSES, "similarity / temperature, first", "similarity * temperature, first", HAND),
    Fault("a mean over padding, too", LOSSES, "/ count.clamp_min(1)", "/ len(values)", HAND),
    Fault("longitude for latitude in distances", LOSSES, "torch.cos(a[..., 1])", "torch.cos(a[..., 0])", HAND),
    Fault("near drawn places as negatives", LOSSES, "torch.cat((allowed, self.allowed), 1)",
          "torch.cat((allowed, torch.ones_like(self.allowed)), 1)", HAND),
    Fault("no drawn places", LOSSES, "torch.cat((allowed, self.allowed), 1)",
          "torch.cat((allowed, torch.zeros_like(self.allowed)), 1)", HAND),
    Fault("the same places for all photos of a tile", PAIRS, "number[:, None] * 2 * count + index", "index", DRAWN),
    Fault("places by the row in the batch", PAIRS, "- torch.searchsorted(sample, sample)", "", DRAWN),
    Fault("drawn places outside of the tile", PAIRS, "* (high - low)", "* 2 * (high - low)", beyond),
    Fault("distances in a tile by its longer side", PAIRS, "torch.minimum(width,", "torch.maximum(4 * width,", beyond),
    Fault("away from the first encoders", GAIR, 'parts["dist"] = -(', 'parts["dist"] = (', KEPT),
    Fault("the first encoders are the present ones", GAIR, 'self.photo_features(batch, self.first["sv"])',
          "self.photo_features(batch).detach()", KEPT),
    Fault("photos are not reconstructed", GAIR, "return (image + photo) / 2", "return image", REBUILT),
    Fault("one mask for all photos of a tile", GAIR, "hash32(seed, number, PHOTO_MASK)", "seed", REBUILT),
    Fault("images that are missing are reconstructed", GAIR, "images = (batch.valid & batch.has_rs)",
          "images = (batch.valid | batch.has_rs)", REBUILT),
]  # fmt: skip


def functions_of(space: Any, module: str) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions and methods that a module's source defines, by qualified name."""
    for value in list(vars(space).values()):
        if isinstance(value, type) and value.__module__ == module:
            yield from functions_of(value, module)
        value = value.fget if isinstance(value, property) else value
        inner = (
            inspect.unwrap(getattr(value, "__func__", value)) if callable(value) or hasattr(value, "__func__") else 0
        )
        if isinstance(inner, types.FunctionType) and inner.__module__ == module:
            yield inner.__qualname__, inner


@contextmanager
def put_in(fault: Fault) -> Iterator[None]:
    """The fault in the functions that it is in, for all who hold them."""
    live = importlib.import_module(fault.module)
    assert live.__file__
    source = Path(live.__file__).read_text()
    assert source.count(fault.old) >= 1, f"{fault.name}: the source has changed"
    other = types.ModuleType(fault.module)
    other.__file__ = live.__file__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, fault.module, other)
        exec(compile(source.replace(fault.old, fault.new), live.__file__, "exec"), other.__dict__)
    changed = dict(functions_of(other, fault.module))
    before = {}
    for name, function in functions_of(live, fault.module):
        code = changed[name].__code__
        if code.co_code != function.__code__.co_code or code.co_consts != function.__code__.co_consts or (
            code.co_names != function.__code__.co_names
        ):  # fmt: skip
            before[function] = function.__code__
            function.__code__ = code
    assert before, f"{fault.name}: nothing has changed"
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_a_fault_of_gair_is_noticed(dataset: Path, coordinates: Path, fault: Fault) -> None:
    root = coordinates if fault.seen_by in (WHOLE, SHOWN) else dataset
    with put_in(fault), pytest.raises((AssertionError, RuntimeError, IndexError)):
        fault.seen_by(root)


@pytest.mark.parametrize("check", list(dict.fromkeys(f.seen_by for f in FAULTS)), ids=lambda c: c.__name__)
def test_without_a_fault_nothing_is_noticed(dataset: Path, coordinates: Path, check: Check) -> None:
    check(coordinates if check in (WHOLE, SHOWN) else dataset)


coordinates = whole.coordinates
