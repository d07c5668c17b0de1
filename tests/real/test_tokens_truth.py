"""Tokens of random real tiles against one plain call an object, pair, cell or class: whole features projected and cut
by the oracle, every pair related by shapely, every cell intersected, every class painted by rasterio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from geometry.tiles import xyz_footprint
from pipeline.alignment import place as placed
from pipeline.tokens.build import build_tokens
from schemas.features import ORDER, VALUE, Kind
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.relations import DISJOINT, Relation, classify
from schemas.tokens import OsmTokens
from tests.real.test_tokens_oracle import draw_tiles
from tests.tokens.building import RULES, Place, around, batch_of, cell_of, read_place
from tests.tokens.oracle import FAR, OracleObject, clipped, segments, to_pixels, undecided

GRID = (14, 14)
SIZE = 256
#: file, zoom, tiles
DRAWS = {
    "liechtenstein": ("osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf", 16, 24),
    "monaco": ("osm/monaco/monaco_2023-12-25.osm.pbf", 17, 16),
    "andorra": ("osm/andorra/andorra_2019.osm.pbf", 16, 40),
    "helsinki": ("osm/helsinki/Helsinki.osm.pbf", 17, 16),
}


@dataclass(frozen=True, eq=False)
class Tile:
    """Both sides of one tile."""

    key: XyzKey
    tokens: OsmTokens
    raster: np.ndarray  # u8[SIZE,SIZE]
    gsd: float
    objects: list[OracleObject]  # whole features, cut by the oracle; in the tokens' order
    paint: list[int]  # code of each


@pytest.fixture(scope="module", params=list(DRAWS))
def tiles(request: pytest.FixtureRequest, real_file: Callable[[str], Path]) -> list[Tile]:
    """Random tiles of a place, built cell by cell as the pipeline does."""
    name, zoom, count = DRAWS[request.param]
    place = read_place(real_file(name))
    bounds = np.array([f.bounds for f in place.features])
    keys = draw_tiles(place, zoom, SIZE, count, seed=7)
    result = []
    for cell in sorted({cell_of(k) for k in keys}):
        own = [k for k in keys if cell_of(k) == cell]
        footprints = [xyz_footprint(k) for k in own]
        gsd = placed(footprints).gsd.mean(axis=1)
        batch = batch_of(place, cell)
        batch = replace(batch, paint=batch.paint & ORDER)  # the sea is compared in test_sea.py
        classes = dict(zip(zip(batch.osm_type.tolist(), batch.osm_id.tolist(), strict=True), batch.paint, strict=True))
        built = build_tokens(batch, footprints, GRID, paint=RULES.paint, gsd=gsd)
        assert built.rasters is not None
        for n, key in enumerate(own):
            objects = cut(place, bounds, key, footprints[n])
            paint = [int(classes[o.key[1:]]) for o in objects]
            result.append(Tile(key, built.tokens[n], built.rasters[n], float(gsd[n]), objects, paint))
    return result


def cut(place: Place, bounds: np.ndarray, key: XyzKey, footprint: Footprint) -> list[OracleObject]:
    """What the oracle leaves of every feature; those farther off than FAR are not looked at."""
    west, south, east, north = around(key)
    near = (bounds[:, :2] <= (east + FAR, north + FAR)) & (bounds[:, 2:] >= (west - FAR, south - FAR))
    where = to_pixels(footprint)
    found = []
    for n in np.flatnonzero(near.all(axis=1)):
        f = place.features[n]
        shape = clipped(f, footprint, where)
        if shape is not None:
            found.append(OracleObject((f.kind, f.osm_type, f.osm_id), f, shape, 0.0))
    return sorted(found, key=lambda o: o.key)


def test_tiles_hold_the_objects_that_meet_them(tiles: list[Tile]) -> None:
    for tile in tiles:
        t = tile.tokens
        keys = list(zip(t.kind.tolist(), t.osm_type.tolist(), t.osm_id.tolist(), strict=True))
        assert keys == [o.key for o in tile.objects], tile.key
    assert sum(len(t.objects) for t in tiles) > 4 * len(tiles)


def test_relations_are_those_of_all_pairs(tiles: list[Tile]) -> None:
    pairs = unsure = 0
    for tile in tiles:
        shapes = np.array([o.geometry for o in tile.objects], object)
        i, j = np.triu_indices(len(shapes), 1)
        matrices = shapely.relate(shapes[i], shapes[j])
        ground = tile.tokens.relation != Relation.DELAUNAY
        edges = zip(*tile.tokens.edges[:, ground].tolist(), strict=True)
        found = dict(zip(edges, tile.tokens.relation[ground].tolist(), strict=True))
        for a, b, matrix in zip(i.tolist(), j.tolist(), matrices.tolist(), strict=True):
            expected = classify(matrix, tile.objects[a].key[0], tile.objects[b].key[0])
            if found.get((a, b), DISJOINT) != expected:
                assert undecided(shapes[a], shapes[b]), (tile.key, tile.objects[a].key, tile.objects[b].key)
                unsure += 1
        pairs += len(found)
    assert pairs > 4 * len(tiles)
    assert unsure <= pairs / 1000


def test_cover_is_the_exact_intersection_with_every_cell(tiles: list[Tile]) -> None:
    side = SIZE / GRID[0]
    x, y = np.meshgrid(np.arange(GRID[1]) * side, np.arange(GRID[0]) * side)
    cells = shapely.box(x.ravel(), y.ravel(), x.ravel() + side, y.ravel() + side)
    for tile in tiles:
        t = tile.tokens
        found = np.zeros((len(t), len(cells)))
        found[t.patch_object, t.patch_cell] = t.patch_cover
        for n, o in enumerate(tile.objects):
            if o.key[0] == Kind.POINT:
                expected = np.zeros(len(cells))
                expected[int(o.geometry.y // side) * GRID[1] + int(o.geometry.x // side)] = 1
            elif o.key[0] == Kind.POLYGON:
                expected = shapely.area(shapely.intersection(o.geometry, cells)) / side**2
            else:
                parts = shapely.intersection(np.array(list(segments(o.geometry)), object)[:, None], cells)
                expected = shapely.length(parts).sum(axis=0) / side
            assert np.abs(found[n] - expected).max() <= 1e-6 * max(1.0, expected.max()), (tile.key, o.key)


def test_the_class_raster_is_rasterios(tiles: list[Tile]) -> None:
    """Per class, over all tiles of a place, intersection over union of at least 0.99.

    The oracle follows the documented rule: pixel centres; levels, then classes in their order, strokes over areas;
    lines as wide as their class in metres, at least a pixel, with flat ends and round corners. A class of under 200
    pixels may differ by three, where the corners of a narrow stroke are octagons.
    """
    widths, meet, either = RULES.paint.widths, np.zeros(256), np.zeros(256)
    for tile in tiles:
        layers = []
        for n, (o, code) in enumerate(zip(tile.objects, tile.paint, strict=True)):
            paint = code & VALUE
            if paint and o.key[0] == Kind.POLYGON:
                layers.append((2 * code, n, o.geometry))
            elif paint and o.key[0] == Kind.LINE and not np.isnan(widths[paint]):
                half = max(widths[paint] / tile.gsd, 1.0) / 2
                layers.append((2 * code + 1, n, o.geometry.buffer(half, cap_style="flat", quad_segs=16)))
        layers.sort(key=lambda s: s[:2])
        expected = np.zeros((SIZE, SIZE), np.uint8)
        if layers:
            expected = rasterize([(s, order // 2 & VALUE) for order, _, s in layers], (SIZE, SIZE), dtype="uint8")
        meet += np.bincount(expected[expected == tile.raster], minlength=256)
        either += np.bincount(expected.ravel(), minlength=256) + np.bincount(tile.raster.ravel(), minlength=256)
    either -= meet
    iou = {c: round(float(meet[c] / either[c]), 4) for c in np.flatnonzero(either >= 200)}
    assert len(iou) > 8
    assert min(iou.values()) >= 0.99, iou
    few = np.flatnonzero(either < 200)
    assert (either - meet)[few].max() <= 3


def test_relations_cover_and_raster_are_not_empty_talk(tiles: list[Tile]) -> None:
    """The draw holds every kind, most relations and something painted."""
    kinds = np.concatenate([t.tokens.kind for t in tiles])
    assert set(kinds.tolist()) == {0, 1, 2}
    codes: Any = np.concatenate([t.tokens.relation for t in tiles])
    assert {Relation.TOUCHES, Relation.COVERED_BY, Relation.CROSSES, Relation.DELAUNAY} <= set(codes.tolist())
    assert np.mean([t.raster.any() for t in tiles]) > 0.8
