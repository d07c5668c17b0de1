"""GAIR with each of its encoders: all of them train, dates and cells reach them, and first weights of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainers.batches import GAIR, gair_batch, gradients
from trainers.engine.cli import main, parse
from trainers.models.convnet import ConvNet
from trainers.models.gair.croma import Croma
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairInit, GairLoss, GairSettings
from trainers.models.vit import ViT, ViTSettings
from trainers.stream.batch import TileBatch
from trainers.tasks.gair import GAIR as TASK


def made(loss: GairLoss | None = None, variant: str = "ours", **arch: Any) -> Gair:
    torch.manual_seed(0)
    return Gair(replace(GAIR, **arch), variant, loss)


def three_dates(batch: TileBatch, present: torch.Tensor) -> TileBatch:
    """The batch with three images a tile, of which ``present`` bool[B,3] are there."""
    noise = torch.randint(0, 256, (2, *batch.rs.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    rs = torch.stack((batch.rs, *noise), 1) * present[:, :, None, None, None]
    planes = batch.rs_valid[:, None].expand(-1, 3, -1, -1)
    return replace(batch, rs=rs, rs_valid=planes, has_date=present, has_rs=present.any(1))


PRESENT = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [False, True, True]] * 2)


@pytest.mark.parametrize(
    "arch",
    [
        {"rs_encoder": "vit"},
        {"location": "sh_siren", "location_degree": 6},
        {"location_scales": (4.0, 64.0)},
        {"query": "bilinear", "pooler": False},
        {"query": "bicubic"},
        {"dates": 3},
        {"dates": 3, "date_pool": "mean", "rs_encoder": "vit"},
        {"rs_encoder": "conv", "sv_encoder": "conv"},
        {"heading": False},
    ],
    ids=str,
)
def test_every_parameter_of_every_choice_learns(dataset: Path, arch: dict[str, Any]) -> None:
    rec = 0.0 if "sv_encoder" in arch else 1.0  # a convnet cannot leave patches out
    model, batch = made(GairLoss(rec=rec, dist=0.2), **arch), gair_batch(dataset, 8)
    batch = three_dates(batch, PRESENT) if "dates" in arch else batch
    model(batch)
    losses, _ = gradients(model, batch)
    assert {"incl", "secl", "dist"} <= losses.keys()
    assert torch.tensor(list(losses.values())).isfinite().all()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []


def test_garbage_in_a_missing_date_changes_no_loss_and_no_gradient(dataset: Path) -> None:
    loss = GairLoss(rec=1.0, dist=0.2)
    batch = three_dates(gair_batch(dataset, 8), PRESENT)
    foul = torch.where(PRESENT[:, :, None, None, None], batch.rs, torch.full_like(batch.rs, 201))
    found = [gradients(made(loss, dates=3), b) for b in (batch, replace(batch, rs=foul))]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    other = torch.where(PRESENT[:, :, None, None, None], 255 - batch.rs, batch.rs)
    assert gradients(made(loss, dates=3), replace(batch, rs=other))[0] != found[0][0]


def test_a_tile_of_one_date_is_what_a_model_of_one_date_sees(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    one, three = made(), made(dates=3)
    three.load_state_dict(one.state_dict(), strict=False)
    first = torch.tensor([True, False, False]).expand(8, -1)
    torch.testing.assert_close(three.encode_tiles(three_dates(batch, first)), one.encode_tiles(batch))


@torch.no_grad()
def test_a_photo_reads_the_tile_at_its_resolution_and_released_knows_none(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    middle = (batch.bbox[:, :2] + batch.bbox[:, 2:]).repeat(1, 2) / 2
    wider = replace(batch, bbox=middle + 4 * (batch.bbox - middle))
    valid = batch.photo_valid
    for variant, differs in (("ours", True), ("released", False)):
        model = made(variant=variant)
        tokens = model.encode_tiles(batch)
        here, there = (model.localise(tokens, b)[valid] for b in (batch, wider))
        assert bool((here - there).abs().max() > 1e-4) is differs


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nili", "bilinear", "bicubic"])
def test_any_number_of_places_of_one_encoding(dataset: Path, kind: str) -> None:
    """A gallery over a tile holds the photos' own places: their rows are those of localise."""
    model, batch = made(query=kind), gair_batch(dataset, 8)
    tokens = model.encode_tiles(batch)
    sample = batch.photo_sample[batch.photo_valid]
    axis = (torch.arange(30) + 0.5) / 30
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
    xy = torch.cat((batch.photo_xy[batch.photo_valid], grid))
    frame = torch.cat((batch.photo_frame[batch.photo_valid], torch.full((900, 2, 2), torch.nan)))
    found = model.query(tokens, batch, torch.cat((sample, torch.full((900,), 2))), xy, frame)
    assert found.shape == (len(sample) + 900, GAIR.dim)
    torch.testing.assert_close(found[: len(sample)], model.localise(tokens, batch)[batch.photo_valid])


@torch.no_grad()
@pytest.mark.parametrize(("kind", "variant"), [("croma", "ours"), ("croma", "released"), ("vit", "ours")])
def test_tokens_of_loaded_weights_do_not_depend_on_the_norm_of_the_variant(
    dataset: Path, tmp_path: Path, kind: str, variant: str
) -> None:
    batch = gair_batch(dataset, 2)
    model = made(GairLoss(dist=0.2), variant, rs_encoder=kind)
    if kind == "croma":
        theirs = Croma(GAIR.rs, 12)
        torch.save({"s2_encoder": theirs.state_dict()}, tmp_path / "w.pt")
        image = torch.zeros(2, 12, 48, 48)
        image[:, [3, 2, 1]] = batch.rs.float() / 255  # red, green and blue are B4, B3 and B2
        expected = theirs(image)
        rest = torch.zeros(2, 12, 48, 48)
        assert not torch.allclose(theirs(rest), expected)
    else:
        vit = ViT(GAIR.rs)
        torch.save(vit.state_dict(), tmp_path / "w.pt")
        expected = vit(model.rs_norm(batch.rs))[:, 1:]
    model.load(GairInit(rs=str(tmp_path / "w.pt")))
    torch.testing.assert_close(model.encode_tiles(batch), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.encode_tiles(batch, model.first["rs"]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["rs", "sv"])
def test_first_weights_that_are_missing_end_a_run_in_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = [f"data={dataset}", f"out={tmp_path / 'run'}", "model=tiny", "steps=1", f"init.{name}={tmp_path}/none.pt"]
    assert main(TASK, words) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert "none.pt: there is no such file" in error


@torch.no_grad()
def test_a_convnet_sees_each_image_alone_and_its_tokens_where_they_lie() -> None:
    torch.manual_seed(0)
    encode, image = ConvNet(ViTSettings(64, 8, 32, 1, 2), 3), torch.randn(2, 3, 64, 64)
    tokens = encode(image)
    assert tokens.shape == (2, 64, 32)
    torch.testing.assert_close(encode(image[1:]), tokens[1:], atol=1e-5, rtol=1e-4)
    # Norms take means of a whole image, so a change is felt everywhere; it is felt most where it was made.
    other = image.clone()
    other[0, :, 40:48, 16:24] += 1
    change = (encode(other) - tokens)[0].abs().sum(1)
    assert int(change.argmax()) == 5 * 8 + 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("arch.rs_encoder=conv arch.rs.patch=12", "a patch of 2, 4, 8"),
        ("arch.sv_encoder=conv arch.sv.dim=36 arch.sv.heads=3", "a dim that 8 divides"),
        ("arch.rs_encoder=conv loss.rec=1", "set loss.rec=0"),
        ("arch.rs_encoder=conv init.rs=vit.pt", "arch.rs_encoder=conv; give init.run"),
        ("arch.sv_encoder=conv init.sv=vit.pt", "arch.sv_encoder=conv; give init.run"),
    ],
)
def test_what_a_convnet_cannot_do_is_said_in_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    run = [f"data={dataset}", f"out={tmp_path / 'run'}", "model=tiny", "steps=1", *words.split()]
    assert main(TASK, run) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert said in error


def test_settings_name_every_choice() -> None:
    settings, *_ = parse(TASK, ["arch.rs_encoder=vit", "arch.query=bicubic", "arch.location=sh_siren", "arch.dates=4"])
    arch: GairSettings = settings.arch  # type: ignore[attr-defined]
    assert (arch.rs_encoder, arch.query, arch.location, arch.dates) == ("vit", "bicubic", "sh_siren", 4)
    for word, said in (
        ("arch.location_scales=[]", "location_scales"), ("arch.dates=0", "dates=0 must"), ("arch.query=n", "nili, bil"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            parse(TASK, [word])


def test_at_base_size_the_release_has_its_number_of_parameters() -> None:
    """docs/papers/gair.md#encoders: 188.1 M in use."""
    with torch.device("meta"):
        ten = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
        model = Gair(GairSettings(bands=ten), "paper")
        parts = {n: sum(p.numel() for p in m.parameters()) / 1e6 for n, m in model.named_children()}
    expected = {"rs": 85.52, "sv": 86.39, "location": 10.24, "nili": 5.31, "sv_head": 0.59}
    assert {name: parts[name] for name in expected} == pytest.approx(expected, abs=0.04)
    assert sum(parts.values()) == pytest.approx(188.1, abs=0.1)
    assert model.settings.rs == ViTSettings(96, 8, 768, 12, 16)
