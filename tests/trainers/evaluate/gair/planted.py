"""A model whose embeddings are a known function of where things are: what an evaluation must find is known, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geometry.tiles import tile_to_lonlat
from schemas.keys import XyzKey
from tests.trainers.batches import GAIR as ARCH
from trainers.engine.cli import parse
from trainers.evaluate.gair.evaluation import GairEvaluation
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.models.losses import EARTH_RADIUS
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream, StreamSettings
from trainers.tasks.gair import GAIR, _build

CPU = torch.device("cpu")
#: The cosine of two places d metres apart is exp(-d² / 2 LENGTH²), to the noise of FEATURES random waves.
LENGTH, FEATURES = 60.0, 1536
ZOOM = 16


class Planted:
    """Photos, images and locations are embedded by where they are."""

    settings, fidelity, weights, incl_radius, secl_radius = ARCH, "ours", GairLoss(), 0.0, 0.0

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.waves = torch.randn(3, FEATURES, generator=generator, dtype=torch.float64) / LENGTH

    def location(self, lonlat: Tensor) -> Tensor:
        lon, lat = torch.deg2rad(lonlat.double()).unbind(1)
        place = torch.stack((lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()), 1) * EARTH_RADIUS
        angle = place @ self.waves
        return torch.cat((angle.cos(), angle.sin()), 1).float()

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        """Column and row of the tile, as its only token."""
        tiles = [XyzKey.parse(key) if key else XyzKey(ZOOM, 0, 0, 1) for key in batch.key]
        return torch.tensor([[[t.x, t.y]] for t in tiles], dtype=torch.float64)

    def encode_photos(self, batch: TileBatch) -> Tensor:
        return self.location(batch.photo_lonlat)

    def temperature(self) -> float:
        return ARCH.temperature

    def query(
        self, tokens: Tensor, batch: TileBatch, sample: Tensor, xy: Tensor, frame: Tensor | None = None
    ) -> Tensor:
        return self.location(lonlat_of(tokens[sample, 0], xy.double()))

    def photo_mask(self, batch: TileBatch) -> Tensor:
        return Gair.photo_mask(self, batch)  # type: ignore[arg-type]


def lonlat_of(tile: Tensor, xy: Tensor) -> Tensor:
    """Degrees f64[M,2] of normalised coordinates in tiles (column, row), both [M,2]."""
    return torch.from_numpy(tile_to_lonlat((tile + xy).numpy(), ZOOM))


def asked(*words: str, arch: Any = ARCH) -> Any:
    settings = parse(GAIR, ["model=tiny", *words])[0]
    return replace(settings, arch=arch)


def evaluation(data: str | Path, *words: str, arch: Any = ARCH) -> GairEvaluation:
    return GairEvaluation(_build, asked(*words, arch=arch), [str(data)], CPU)


def scores(model: Any, data: str | Path, *words: str) -> dict[str, float]:
    report = evaluation(data, *words)(model, True)
    assert report is not None
    return report.scores


def held_out(data: str | Path, photos: int = 8) -> dict[str, np.ndarray]:
    """Photos of the validation split in their order: tile f64[N,2] column and row, xy f64[N,2], lonlat f64[N,2]."""
    stored = StreamSettings(split="val", shuffle="none", augment=AugmentSettings(enabled=False))
    view = replace(Gair.view(ARCH), photos=photos)

    def rows() -> Iterator[tuple[np.ndarray, ...]]:
        for batch in GeoStream(str(data), view, batch_size=16, settings=stored).batches(until_epoch=1):
            kept = batch.photo_valid
            tiles = np.array([(t.x, t.y) for t in (XyzKey.parse(k) for k in batch.key if k)], float)
            yield (
                tiles[batch.photo_sample[kept]],
                batch.photo_xy[kept].double().numpy(),
                batch.photo_lonlat[kept].numpy(),
            )

    return dict(zip(("tile", "xy", "lonlat"), map(np.concatenate, zip(*rows(), strict=True)), strict=True))
