"""Footprints of every kind against the oracle: turned, in degrees, metres or web-mercator, not square, of many affines
in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.osm.features import FeatureBatch
from pipeline.rules import load_rules
from pipeline.tokens.build import build_tokens
from schemas.errors import InputError
from schemas.footprint import Footprint
from tests.tokens.building import TILE, around, batch_of, cell_of, differences, in_pixels, place_of
from tests.tokens.oracle import brute_force

WEST, SOUTH, EAST, NORTH = around(TILE)
CENTRE = (WEST + EAST) / 2, (SOUTH + NORTH) / 2
CRS = ["EPSG:4326", "EPSG:3857", "EPSG:32632", "EPSG:2056", "EPSG:3035"]
SIZES = [(256, 256), (150, 100), (64, 200), (33, 31)]


def footprint(key: str, crs: str, size: tuple[int, int], turn: float, scale: float, away: tuple[float, float],
              mirrored: bool = False) -> Footprint:  # fmt: skip
    """Near the middle of the tile, turned by ``turn`` degrees; ``scale`` is its width in sides of the tile.

    ``away`` moves its centre by shares of its own width and height; mirrored, rows run south to north.
    """
    move = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    (x, y), (east, _) = move(*CENTRE), move(CENTRE[0] + EAST - WEST, CENTRE[1])
    step = abs(east - x) * scale / size[0]
    cos, sin = step * np.cos(np.radians(turn)), step * np.sin(np.radians(turn))
    a, b, d, e = cos, sin, sin, -cos
    if mirrored:
        b, e = -b, -e
    if turn == 0:
        b = d = 0.0
    u, v = (away[0] - 0.5) * size[0], (away[1] - 0.5) * size[1]
    return Footprint(key, crs, (a, b, x + a * u + b * v, d, e, y + d * u + e * v), *size)


def town(seed: int) -> list[Any]:
    """Shapes in sides of the tile that touch, cover and cross each other, some far larger than it."""
    rng = np.random.default_rng(seed)
    shapes: list[Any] = [shapely.Point(p) for p in rng.uniform(-0.3, 1.3, (8, 2))]
    shapes += [shapely.LineString(rng.uniform(-0.6, 1.6, (4, 2))) for _ in range(6)]
    shapes += [shapely.box(x, y, x + 0.1, y + 0.15) for x, y in rng.uniform(0, 1, (8, 2))]
    angle = np.sort(rng.uniform(0, 2 * np.pi, 200))
    reach = rng.uniform(0.3, 1.5, 200)
    coast = 0.5 + np.stack((np.cos(angle), np.sin(angle)), axis=1) * reach[:, None]
    return [*shapes, shapely.Polygon(coast), shapely.box(-1, -1, 2, 2).difference(shapely.box(0.4, 0.4, 0.6, 0.7))]


PLACES = [place_of(town(seed)) for seed in range(2)]
BATCHES = [batch_of(place, cell_of(TILE)) for place in PLACES]
AROUND = WEST - 0.02, SOUTH - 0.02, EAST + 0.02, NORTH + 0.02


@settings(max_examples=30)
@given(
    st.sampled_from(CRS), st.sampled_from(SIZES), st.sampled_from([0.0, 0.0, 5.3, 45.0, 90.0, 180.0, -120.0]),
    st.sampled_from([0.3, 1.0, 2.5]), st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)), st.booleans(),
    st.integers(0, 1), st.sampled_from([(14, 14), (3, 5)]),
)  # fmt: skip
def test_tokens_agree_with_the_oracle_in_any_footprint(
    crs: str, size: tuple[int, int], turn: float, scale: float, away: tuple[float, float], mirrored: bool, which: int,
    grid: tuple[int, int],
) -> None:  # fmt: skip
    chip = footprint("chip-a", crs, size, turn, scale, away, mirrored)
    tokens = build_tokens(BATCHES[which], [chip], grid).tokens[0]
    assert differences(tokens, brute_force(PLACES[which].features, chip, grid, AROUND), chip) == []


@pytest.mark.parametrize("crs", CRS)
@pytest.mark.parametrize("size", SIZES[:2])
def test_footprints_of_many_affines_are_built_in_one_call_as_each_alone(crs: str, size: tuple[int, int]) -> None:
    chips = [
        footprint(f"chip-{n}", crs, size, turn, scale, (0.1 * n - 0.4, 0.3 - 0.1 * n))
        for n, (turn, scale) in enumerate([(0.0, 1.0), (0.0, 0.4), (5.3, 1.0), (90.0, 2.0), (0.0, 1.0), (-33.0, 0.5)])
    ]
    paint, gsd = load_rules().paint, np.linspace(0.5, 3, len(chips))
    together = build_tokens(BATCHES[0], chips, paint=paint, gsd=gsd)
    assert together.rasters is not None
    assert together.rasters.shape == (len(chips), size[1], size[0])
    for n, chip in enumerate(chips):
        alone = build_tokens(BATCHES[0], [chip], paint=paint, gsd=gsd[n : n + 1])
        assert alone.tokens[0].to_bytes() == together.tokens[n].to_bytes()
        assert alone.rasters is not None
        assert (alone.rasters[0] == together.rasters[n]).all()
        assert len(together.tokens[n]) > 3


def test_footprints_of_several_systems_are_refused() -> None:
    batch, first = in_pixels([shapely.Point(1, 1)])
    other = Footprint(**{**vars(first), "crs": "EPSG:3857"})
    with pytest.raises(InputError, match="CRS"):
        build_tokens(batch, [first, other])


def test_footprints_of_several_sizes_are_built_in_one_call_as_each_alone() -> None:
    shapes = [
        shapely.box(-5, -5, 90, 30), shapely.Point(20, 10), shapely.LineString([(0, 3), (70, 45)]),
        shapely.box(10, 10, 40, 25), shapely.box(0, 0, 64, 48),
    ]  # fmt: skip
    batch, first = in_pixels(shapes)
    chips = [
        Footprint(**{**vars(first), "key": f"chip-{n}", "width": w, "height": h})
        for n, (w, h) in enumerate([(64, 48), (33, 80), (64, 48), (17, 17)])
    ]
    paint, gsd = load_rules().paint, np.full(len(chips), 0.5)
    together = build_tokens(batch, chips, (7, 5), paint=paint, gsd=gsd)
    assert together.rasters is not None
    for n, chip in enumerate(chips):
        alone = build_tokens(batch, [chip], (7, 5), paint=paint, gsd=gsd[n : n + 1])
        assert alone.tokens[0].to_bytes() == together.tokens[n].to_bytes()
        assert alone.rasters is not None
        assert (alone.rasters[0] == together.rasters[n, : chip.height, : chip.width]).all()
    assert len({t.to_bytes() for t in together.tokens}) == 4  # the keys differ, and with them the samples


def test_no_footprint_and_a_raster_without_resolution_are_refused() -> None:
    batch, first = in_pixels([shapely.Point(1, 1)])
    with pytest.raises(InputError, match="no footprint"):
        build_tokens(batch, [])
    for gsd in (None, np.ones(2)):
        with pytest.raises(InputError, match="metres a pixel"):
            build_tokens(batch, [first], paint=load_rules().paint, gsd=gsd)


@given(st.tuples(*[st.floats(-0.6, 1.6)] * 4), st.integers(0, 1))
def test_features_near_a_box_are_those_whose_bounds_meet_it(corners: tuple[float, ...], which: int) -> None:
    batch = BATCHES[which]
    (u, x), (v, y) = sorted(corners[::2]), sorted(corners[1::2])
    box = WEST + u * (EAST - WEST), SOUTH + v * (NORTH - SOUTH), WEST + x * (EAST - WEST), SOUTH + y * (NORTH - SOUTH)
    b = shapely.bounds(batch.geometry)
    meet = (b[:, 0] <= box[2]) & (b[:, 2] >= box[0]) & (b[:, 1] <= box[3]) & (b[:, 3] >= box[1])
    found, expected = batch.near(*box), batch.take(np.flatnonzero(meet))
    for name in FeatureBatch.__dataclass_fields__:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_a_batch_without_features_has_none_near() -> None:
    assert len(BATCHES[0].take(np.zeros(0, np.int64)).near(*AROUND)) == 0
