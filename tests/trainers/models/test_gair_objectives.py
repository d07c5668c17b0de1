"""What GAIR learns from: negatives, their places, temperature, distillation, reconstruction; what is switched off."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import ConfigError
from tests.trainers.batches import GAIR, gair_batch, gradients
from trainers.models.gair.model import Gair
from trainers.models.gair.pairs import locations_in_tile, photo_numbers, places_in_tile
from trainers.models.gair.settings import VARIANTS, GairLoss, GairSettings, choices
from trainers.models.gair.temperature import Temperature
from trainers.models.losses import distance, great_circle
from trainers.models.mae import mask_patches
from trainers.models.noise import hash32
from trainers.stream.batch import TileBatch

SETTINGS = replace(GAIR, decoder_dim=16, decoder_heads=2)


def model_of(loss: GairLoss, settings: GairSettings = SETTINGS, variant: str = "ours") -> Gair:
    torch.manual_seed(0)
    return Gair(settings, variant, loss)


def one_place_each(batch: TileBatch) -> TileBatch:
    """The batch with its photos a kilometre and more apart, in tiles that lie around them."""
    count = len(batch.photo_lonlat)
    lonlat = torch.stack((torch.arange(count) * 0.05, torch.full((count,), 45.0)), 1).double()
    return replace(batch, photo_lonlat=lonlat)


def test_secl_is_defined_from_the_first_step(dataset: Path) -> None:
    """The queue is empty; the other places of the batch are its negatives, and learn nothing of their own."""
    batch = one_place_each(gair_batch(dataset, 8))
    count = int(batch.photo_valid.sum())
    for variant, negatives in (("ours", count - 1), ("released", 64)):
        losses, _ = gradients(model_of(GairLoss(hard_negatives=0), variant=variant), batch)
        assert losses["secl"] > 0.8 * math.log(1 + negatives)
    losses, _ = gradients(model_of(GairLoss(hard_negatives=0, in_batch=False)), batch)
    assert losses["secl"] == 0  # what a queue that starts empty gives alone


def test_its_own_place_is_never_a_negative(dataset: Path) -> None:
    """Even where no distance leaves one out: a lone photo has none at all."""
    batch = gair_batch(dataset, 8)
    lone = replace(batch, photo_valid=batch.photo_valid & (torch.arange(len(batch.photo_valid)) == 0))
    losses, _ = gradients(model_of(GairLoss(hard_negatives=0, secl_radius=0.0)), lone)
    assert losses["secl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("radius", [0.0, 40.0, 1e6])
def test_hard_negatives_lie_in_the_tile_beyond_the_radius(dataset: Path, radius: float) -> None:
    batch = gair_batch(dataset, 12)
    xy, far = places_in_tile(batch, 200, radius)
    assert xy.min() >= 0
    assert xy.max() < 1
    cells = torch.histc(xy[..., 0], 4), torch.histc(xy[..., 1], 4)
    assert all(c.std() < 3 * c.mean().sqrt() for c in cells)  # everywhere in it
    lonlat, beyond = locations_in_tile(batch, 200, radius)
    for q in batch.photo_valid.nonzero().flatten().tolist():
        west, south, east, north = batch.bbox[int(batch.photo_sample[q])].tolist()
        lon, lat = lonlat[q].unbind(-1)
        assert (west <= lon).all()
        assert (lon <= east).all()
        assert (south <= lat).all()
        assert (lat <= north).all()
        metres = great_circle(batch.photo_lonlat[q : q + 1], lonlat[q])[0]
        assert torch.equal(beyond[q], metres >= radius)
        # A place of the image is where it is shown in the footprint, unless the tile is turned.
        at = torch.stack((west + xy[q, :, 0] * (east - west), north - xy[q, :, 1] * (north - south)), -1)
        here = torch.tensor([
            west + float(batch.photo_xy[q, 0]) * (east - west), north - float(batch.photo_xy[q, 1]) * (north - south)
        ])  # fmt: skip
        metres = distance(at, here)
        assert (metres[far[q]] >= radius * 0.98).all()
        assert far[q].any() == bool((metres > radius * 1.6).any())


def test_hard_negatives_follow_the_slot_alone(dataset: Path) -> None:
    """Neither the batch nor the place in it decides what is drawn; two photos of a tile have other places."""
    batch = gair_batch(dataset, 12)
    xy, _ = places_in_tile(batch, 3, 0.0)
    keep = batch.photo_sample == 5
    rows = keep.nonzero().flatten()
    alone = replace(
        batch, seed=batch.seed[5:6], bbox=batch.bbox[5:6], window=batch.window[5:6], photo_xy=batch.photo_xy[rows],
        photo_sample=torch.zeros(len(rows), dtype=torch.long), photo_lonlat=batch.photo_lonlat[rows],
    )  # fmt: skip
    assert torch.equal(places_in_tile(alone, 3, 0.0)[0], xy[rows])
    assert len(xy[batch.photo_valid].flatten().unique()) == xy[batch.photo_valid].numel()
    other = places_in_tile(replace(batch, seed=batch.seed + 1), 3, 0.0)[0]
    assert (other[batch.photo_valid] != xy[batch.photo_valid]).all()


def test_hard_negatives_make_both_losses_harder_and_only_those_beyond_the_radius_count(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    none, some, masked = (
        gradients(model_of(GairLoss(hard_negatives=n, incl_radius=r, secl_radius=r)), batch)[0]
        for n, r in ((0, 1e5), (8, 0.0), (8, 1e5))
    )
    plain = gradients(model_of(GairLoss(hard_negatives=0, incl_radius=0.0, secl_radius=0.0)), batch)[0]
    for name in ("incl", "secl"):
        assert some[name] > plain[name] + 0.05
        assert masked[name] == pytest.approx(none[name], abs=1e-6)


def test_a_learned_temperature_stays_within_its_bounds_and_comes_back_from_them(dataset: Path) -> None:
    learned = Temperature(0.07, True, (0.02, 0.2))
    assert float(learned().detach()) == pytest.approx(0.07)
    for step, bound in ((-50.0, 0.2), (50.0, 0.02)):
        with torch.no_grad():
            learned.log_scale.add_(step)
        learned.zero_grad()
        value = learned()
        assert float(value.detach()) == pytest.approx(bound)
        value.sum().backward()
        assert learned.log_scale.grad is not None
        assert float(learned.log_scale.grad.abs()) > 0
    model = model_of(GairLoss(), replace(SETTINGS, temperature_learned=True))
    found, _ = gradients(model, gair_batch(dataset, 8))
    assert found["temperature"] == pytest.approx(0.07)
    assert found["loss"] == pytest.approx(found["incl"] + found["secl"])
    assert model.temperature.log_scale.grad.abs().max() > 1e-3
    fixed = gradients(model_of(GairLoss()), gair_batch(dataset, 8))[0]
    assert fixed["incl"] == pytest.approx(found["incl"], rel=1e-5)
    assert "temperature" not in fixed


def test_distillation_holds_the_encoders_to_what_they_were_at_first(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    model = model_of(GairLoss(incl=0.0, secl=0.0, dist=0.2))
    losses, still = gradients(model, batch)
    assert losses["dist"] == pytest.approx(-2, abs=1e-5)
    assert losses["loss"] == pytest.approx(-0.4, abs=1e-5)
    assert still.abs().max() < 1e-4  # nothing pulls where nothing has changed
    first = {name: value.clone() for name, value in model.first.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    with torch.no_grad():
        for parameter in (*model.rs.parameters(), *model.sv.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    moved = gradients(model, batch)[0]["dist"]
    with torch.no_grad():
        photos = F.cosine_similarity(model.photo_features(batch), model.photo_features(batch, model.first["sv"]))
        now, before = (encoder(model.rs_norm(batch.rs)).mean(1) for encoder in (model.rs, model.first["rs"]))
    kept = photos[batch.photo_valid].mean(), F.cosine_similarity(now, before).mean()
    assert moved == pytest.approx(-float(sum(kept)), rel=1e-5)
    assert max(kept) < 0.995
    for _ in range(20):
        gradients(model, batch)
        optimizer.step()
    assert gradients(model, batch)[0]["dist"] < moved - 0.05
    assert all(torch.equal(value, first[name]) for name, value in model.first.state_dict().items())


def test_reconstruction_is_that_of_the_hidden_patches_of_images_and_photos(dataset: Path) -> None:
    """By hand from the decoders' predictions; and what is hidden reaches only the target."""
    batch = gair_batch(dataset, 6)
    batch.has_rs[2] = False
    model = model_of(GairLoss(incl=0.0, secl=0.0, rec=1.0)).eval()
    with torch.no_grad():  # so that images differ in their error
        for parameter in (*model.rs_decoder.parameters(), *model.sv_decoder.parameters()):
            parameter.normal_(0, 0.3)
    held: dict[str, torch.Tensor] = {}
    for name in ("rs_decoder", "sv_decoder"):
        getattr(model, name).decoder.register_forward_hook(lambda _m, _a, out, name=name: held.update({name: out}))
    found = float(model(batch)["rec"].detach())
    seed, number = photo_numbers(batch)
    terms = []
    for name, images, seeds, vit, kept, norm in (
        ("rs_decoder", batch.rs, batch.seed, GAIR.rs, [0, 1, 3, 4, 5], model.rs_norm),
        (
            "sv_decoder", batch.photos, hash32(seed, number, 203), GAIR.sv,
            model.photo_mask(batch).nonzero().flatten().tolist(), model.sv_norm,
        ),
    ):  # fmt: skip
        mask = mask_patches(seeds, vit.grid, 0.75)
        patches = F.unfold(norm(images), vit.patch, stride=vit.patch).transpose(1, 2)
        errors = []
        for i in kept:
            for row, patch in enumerate(mask.hidden[i].tolist()):
                truth = patches[i, patch].view(3, -1).T.reshape(-1)
                goal = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
                errors.append((held[name][i, row] - goal).square().mean())
        terms.append(torch.stack(errors).mean())
    assert found == pytest.approx(float(torch.stack(terms).mean().detach()), rel=1e-4)
    before = dict(held)
    hidden = mask_patches(batch.seed, GAIR.rs.grid, 0.75).hidden
    shown = torch.zeros(6, GAIR.rs.grid**2, dtype=torch.bool).scatter(1, hidden, value=True)
    area = shown.view(6, 1, GAIR.rs.grid, GAIR.rs.grid).repeat_interleave(8, 2).repeat_interleave(8, 3)
    model(replace(batch, rs=torch.where(area, 255 - batch.rs, batch.rs)))
    torch.testing.assert_close(held["rs_decoder"], before["rs_decoder"])


@pytest.mark.parametrize(
    ("loss", "parts", "learns", "rests"),
    [
        (GairLoss(secl=0.0), {"incl"}, ("rs.", "sv.", "nili.", "sv_head."), ("location.",)),
        (GairLoss(incl=0.0), {"secl"}, ("rs.", "sv.", "nili.", "sv_head.", "location."), ()),
        (GairLoss(incl=0.0, secl=0.0, rec=1.0), {"rec"}, ("rs.", "sv.", "rs_dec"), ("location.", "nili.", "sv_head.")),
        (GairLoss(rec=0.5, dist=0.1), {"incl", "secl", "rec", "dist"}, ("rs.", "sv.", "location."), ("first.",)),
    ],
    ids=["without location", "location alone", "masked autoencoder", "all"],
)
def test_what_is_switched_off_learns_nothing(
    dataset: Path, loss: GairLoss, parts: set[str], learns: tuple[str, ...], rests: tuple[str, ...]
) -> None:
    model = model_of(loss)
    found, _ = gradients(model, gair_batch(dataset, 8))
    assert set(found) == {"loss", *parts}
    assert found["loss"] == pytest.approx(sum(getattr(loss, name) * found[name] for name in parts), rel=1e-5)
    live = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(any(n.startswith(prefix) for n in live) for prefix in learns)
    assert not any(n.startswith(rests) for n in live if rests)
    silent = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert bool(silent) <= model.unused  # what DDP is told


def test_losses_that_leave_nothing_to_learn_are_refused() -> None:
    with pytest.raises(ConfigError, match="loss"):
        GairLoss(incl=0.0, secl=0.0)
    with pytest.raises(ConfigError, match=r"loss\.secl=-1"):
        GairLoss(secl=-1.0)
    with pytest.raises(ConfigError, match="temperature_range"):
        GairSettings(temperature_learned=True, temperature=0.6)


def test_a_setting_overrides_what_the_variant_chooses() -> None:
    assert choices(GAIR, "released") == VARIANTS["released"]
    found = choices(replace(GAIR, photo_fit="crop"), "released", GairLoss(gather=True, secl_radius=7.0))
    assert found == replace(VARIANTS["released"], photo_fit="crop", gather=True, secl_radius=7.0)
    assert choices(GAIR, "ours", GairLoss(hard_negatives=0, incl_radius=0.0, in_batch=False)) == replace(
        VARIANTS["ours"], hard_negatives=0, incl_radius=0.0, in_batch=False
    )


@torch.no_grad()
def test_a_step_is_one_graph_that_waits_for_no_value(dataset: Path) -> None:
    """What is compiled breaks nowhere, so nothing of a batch is read on the host."""
    model, batch = model_of(GairLoss(dist=0.2)), gair_batch(dataset, 8)
    plain = {name: float(value) for name, value in model.eval()(batch).items()}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert {name: float(value) for name, value in compiled(batch).items()} == pytest.approx(plain, rel=1e-4)
    torch.compiler.reset()
