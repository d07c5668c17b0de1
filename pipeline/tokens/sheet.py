"""Tokens of footprints, each of which may have a CRS, a place and a size of its own.

``build_tokens`` takes footprints of one CRS and size at a time. Objects from vector files belong to their own chip, so
they are brought to its pixels first, CRS by CRS; then all chips of one size whose objects lie inside them are built
together, side by side on one sheet of pixels. Coordinates are whole multiples of 2^-28 px, so that moving a chip along
the sheet rounds nothing: its tokens are the same wherever it stands and whichever others stand beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.alignment import Placement, project
from pipeline.meridian import eastwards, run_on
from pipeline.osm.cells.cut import keep_dimension
from pipeline.osm.cells.near import blocks_of, coastline_of, features_near, newest_edit
from pipeline.osm.features import FeatureBatch
from pipeline.rules import PaintRules
from pipeline.tokens.build import BuiltTokens, build_tokens
from pipeline.tokens.config import TokensConfig
from schemas.footprint import Footprint, Footprints
from schemas.tokens import OsmTokens

Ints = NDArray[np.int64]

#: Steps a pixel on the sheet, which is less than 2^24 px wide: together 52 of the 53 bits that float64 has.
_STEPS = 2.0**28
#: The sheet's CRS: onto itself, EPSG:4326 is PROJ's no-operation, whatever the numbers are.
_SHEET = "EPSG:4326"
#: Degrees beyond a chip's bounds to which its objects may reach.
_REACH = 1.0
#: Pixels of class raster painted at once, and footprints built together.
_PIXELS = 1 << 24
_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class FootprintTokens:
    """Of one footprint."""

    tokens: OsmTokens
    raster: NDArray[np.uint8] | None  # [height,width]
    broken_coast: bool = False  # a coastline in it is broken, and its sea is left unpainted
    edited: str | None = None  # newest edit of its objects, ISO 8601


@dataclass(frozen=True)
class TokenMaker:
    """How tokens are made in this run."""

    config: TokensConfig
    paint: PaintRules

    def build(
        self,
        features: FeatureBatch,
        footprints: list[Footprint],
        gsd: NDArray[np.float64],
        at_sea: NDArray[np.bool_] | None = None,
    ) -> Iterator[FootprintTokens]:
        """Tokens of footprints of one CRS and size; ``gsd`` f64[T] metres a pixel, ``at_sea`` as for `build_tokens`."""
        settings = self.config
        built: BuiltTokens = build_tokens(
            features, footprints, settings.patch_grid,
            paint=self.paint if settings.raster else None, gsd=gsd, at_sea=at_sea, seed=settings.seed,
            explode=settings.explode,
        )  # fmt: skip
        for i, tokens in enumerate(built.tokens):
            own = footprints[i]
            raster = None if built.rasters is None else built.rasters[i, : own.height, : own.width]
            yield FootprintTokens(tokens, raster, built.broken_coast is not None and bool(built.broken_coast[i]))


def vector_tokens(
    maker: TokenMaker, footprints: Sequence[Footprint], placement: Placement, chip: Ints, features: FeatureBatch
) -> list[FootprintTokens]:
    """Tokens of chips whose objects are their own.

    Args:
        footprints, placement: C chips.
        chip: i64[F] chip of each feature; rises.
        features: F features, within a chip sorted by kind, type and id.
    """
    gsd = placement.gsd.mean(axis=1)
    chip, features = _within_reach(placement.bbox, chip, features)
    pixels = _to_pixels(footprints, chip, features.geometry)
    bounds = shapely.bounds(pixels).reshape(-1, 4)
    size = np.array([(f.width, f.height) for f in footprints], np.float64).reshape(-1, 2)
    within = (bounds[:, :2] >= 0).all(axis=1) & (bounds[:, 2:] <= size[chip]).all(axis=1)
    alone = np.zeros(len(footprints), bool)
    alone[chip[~within]] = True  # an object that sticks out would reach into the chip beside it
    sheets: list[Hashable] = [i if alone[i] else -1 for i in range(len(footprints))]
    result: dict[int, FootprintTokens] = {}
    for rows in _groups(sheets):
        most = min(_TOGETHER, max(1, _PIXELS // int(size[rows].max(axis=0).prod())))
        for start in range(0, len(rows), most):
            batch = rows[start : start + most]
            built = _sheet(maker, footprints, gsd, batch, chip, features, pixels)
            result |= zip(batch.tolist(), built, strict=True)
    return [result[i] for i in range(len(footprints))]


def _groups(keys: Sequence[Hashable]) -> Iterator[Ints]:
    """Indices of equal keys, in order of their first."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    for rows in found.values():
        yield np.array(rows, np.int64)


def _within_reach(bbox: NDArray[np.float64], chip: Ints, features: FeatureBatch) -> tuple[Ints, FeatureBatch]:
    """Objects that reach far beyond their chip cut short: what lies far away has no place in the chip's CRS."""
    across = (bbox[:, 0] > bbox[:, 2])[chip]
    geometry, near = features.geometry, eastwards(bbox)[chip]
    if across.any():
        geometry = geometry.copy()
        geometry[across] = run_on(geometry[across])
    b = shapely.bounds(geometry).reshape(-1, 4)
    far = np.flatnonzero((b[:, :2] < near[:, :2] - _REACH).any(axis=1) | (b[:, 2:] > near[:, 2:] + _REACH).any(axis=1))
    if not len(far):
        return chip, replace(features, geometry=geometry)
    boxes = shapely.box(*(near[far] + np.array([-1, -1, 1, 1]) * _REACH / 2).T)
    geometry = geometry.copy()
    geometry[far] = keep_dimension(shapely.intersection(geometry[far], boxes), features.kind[far])
    left = np.flatnonzero(~shapely.is_missing(geometry))
    return chip[left], replace(features, geometry=geometry).take(left)


def _to_pixels(footprints: Sequence[Footprint], chip: Ints, geometry: NDArray[Any]) -> NDArray[Any]:
    """Lon/lat geometries to pixels of their own chip, in whole steps."""
    pixels = np.empty(len(geometry), object)
    for rows in _groups([footprints[c].crs for c in chip.tolist()]):
        pixels[rows] = project(geometry[rows], footprints[chip[rows[0]]].crs)
    xy, owner = shapely.get_coordinates(pixels, return_index=True)
    steps = Footprints.of(footprints).crs_to_pixel(chip[owner], xy)
    return shapely.set_coordinates(pixels, np.rint(steps * _STEPS) / _STEPS)


def _sheet(
    maker: TokenMaker,
    footprints: Sequence[Footprint],
    gsd: NDArray[np.float64],
    batch: Ints,
    chip: Ints,
    features: FeatureBatch,
    pixels: NDArray[Any],
) -> Iterator[FootprintTokens]:
    """Tokens of chips of one size, side by side."""
    step = max(footprints[i].width for i in batch.tolist()) + 2
    first, last = np.searchsorted(chip, batch), np.searchsorted(chip, batch, side="right")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    place_of = np.repeat(np.arange(len(batch)) * step, last - first)
    xy, owner = shapely.get_coordinates(pixels[rows], return_index=True)
    xy[:, 0] += place_of[owner]
    moved = replace(features.take(rows), geometry=shapely.set_coordinates(pixels[rows], xy))
    sheet = []
    for k, chip_at in enumerate(batch.tolist()):
        own = footprints[chip_at]
        transform = (1.0, 0.0, float(k * step), 0.0, 1.0, 0.0)
        sheet.append(Footprint(own.key, _SHEET, transform, own.width, own.height))
    return maker.build(moved, sheet, gsd[batch])


def extract_tokens(
    maker: TokenMaker, footprints: Sequence[Footprint], placement: Placement, cells: Sequence[str], zoom: int
) -> list[FootprintTokens]:
    """Tokens of footprints from extracts: those that share cells, a CRS and a size are built together.

    Args:
        footprints, placement: N footprints.
        cells: [N] pipeline.osm.stage.Cells.path of the extract that each takes its objects from.
        zoom: of the cells.
    """
    blocks = [tuple(b) for b in blocks_of(placement.bbox, zoom).tolist()]
    keys = [(path, b, f.crs, f.width, f.height) for path, b, f in zip(cells, blocks, footprints, strict=True)]
    result: dict[int, FootprintTokens] = {}
    for rows in _groups(keys):
        first = footprints[rows[0]]
        path, block = cells[rows[0]], blocks[rows[0]]
        most = min(_TOGETHER, max(1, _PIXELS // (first.width * first.height)))
        for start in range(0, len(rows), most):
            batch = rows[start : start + most]
            b = eastwards(placement.bbox[batch])
            bbox = (*b[:, :2].min(axis=0).tolist(), *b[:, 2:].max(axis=0).tolist())
            features = features_near(path, zoom, block, bbox)
            coast = coastline_of(path, zoom, block) if maker.config.raster else None
            at_sea = None if coast is None else coast.at_sea(placement.centre[batch])
            gsd = placement.gsd[batch].mean(axis=1)
            built = maker.build(features, [footprints[i] for i in batch.tolist()], gsd, at_sea)
            for i, made in zip(batch.tolist(), built, strict=True):
                result[i] = replace(made, edited=newest_edit(path, zoom, block, made.tokens))
    return [result[i] for i in range(len(footprints))]
