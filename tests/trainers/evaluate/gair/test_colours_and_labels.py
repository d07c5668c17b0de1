"""Colour histograms find what colours give away and nothing else; labels around a photo are those of its ground."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from geometry.tiles import tile_to_lonlat
from schemas.bands import RGB
from schemas.features import Kind
from schemas.keys import XyzKey
from schemas.sample import StreetviewInfo
from schemas.tags import tag_id
from schemas.tokens import OsmTokens, unsnap
from tests.trainers.batches import gair_batch
from tests.trainers.evaluate.gair.planted import Planted, scores
from tests.trainers.synthetic import (
    CLASSES,
    Made,
    SyntheticSettings,
    _encoded,
    make_sample,
    write_dataset,
    write_samples,
)
from trainers.evaluate.gair.around import REACH, labels_around
from trainers.evaluate.gair.colours import BINS, Colours
from trainers.evaluate.gair.members import objects, sizes
from trainers.evaluate.gair.places import Places
from trainers.evaluate.labels import LAND_USE, ROADS, UNKNOWN, Legend
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream

SQUARES = 4  # a side of a tile, each of its own colour


def coloured(root: Path, order: list[int]) -> Path:
    """Four tiles of 16 squares of the 64 colours; in the middle of square i a photo of the colour ``order[i]``."""
    settings = SyntheticSettings(samples=4, size=96, splits=("val",), photos=0, photo_size=32, form="png")
    colour = (
        (np.stack(np.meshgrid(*[np.arange(BINS)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2 + 1) * 256 // BINS // 2
    )
    made: list[Made] = []
    for index in range(4):
        meta, members, tokens = make_sample(index, settings)
        own = np.arange(16) + 16 * index
        image = np.kron(colour[own].reshape(SQUARES, SQUARES, 3), np.ones((24, 24, 1))).astype(np.uint8)
        members["rs.png"] = _encoded(image, "png")
        key = XyzKey.parse(meta.footprint.key)
        for k in range(16):
            x, y = (k % SQUARES + 0.5) / SQUARES, (k // SQUARES + 0.5) / SQUARES
            members[f"sv.{k}.jpg"] = _encoded(np.full((32, 32, 3), colour[order[own[k]]], np.uint8))
            lon, lat = tile_to_lonlat(np.array([key.x + x, key.y + y]), key.zoom)
            meta.streetview.append(StreetviewInfo(f"sv.{k}.jpg", f"{index}-{k}", float(lon), float(lat), x, y))
        members["json"] = meta.to_bytes()
        made.append((meta, members, tokens))
    return write_samples(root, [made], settings)


def found(root: Path, order: list[int]) -> dict[str, float]:
    return scores(Planted(), coloured(root, order), "eval.full=never", "eval.photos=16", "eval.grid=4")


def test_colours_find_every_photo_where_they_give_it_away(tmp_path: Path) -> None:
    held = found(tmp_path / "d", list(range(64)))
    for name in ("photo_to_place", "place_to_photo", "photo_to_place_in_tile", "place_to_photo_in_tile"):
        assert held[f"{name}/r@1.colours"] == 1
    assert held["shift/r@1_at_0m.colours"] == 1
    assert held["grid_in_tile/error_m.colours"] < 1
    assert held["grid/right_tile.colours"] == 1


def test_colours_are_at_chance_where_all_photos_have_the_same(tmp_path: Path) -> None:
    held = found(tmp_path / "d", [0] * 64)
    for name in ("photo_to_place", "place_to_photo", "photo_to_place_in_tile", "place_to_photo_in_tile"):
        for k in (1, 5, 10):
            expected = held[f"{name}/r@{k}.chance"]
            if name.startswith("place"):  # all photos are alike: lots decide
                assert held[f"{name}/r@{k}.colours"] == pytest.approx(expected)
            else:  # one place has the colour of them all, the others are alike
                assert held[f"{name}/r@{k}.colours"] == pytest.approx(expected, abs=1.5 * expected)


def test_colours_are_at_chance_where_they_are_dealt_at_random(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(64).tolist()
    held = found(tmp_path / "d", order)
    assert held["photo_to_place/r@1.colours"] == pytest.approx(1 / 64, abs=3 * math.sqrt(1 / 64 / 64))
    assert held["photo_to_place_in_tile/r@1.colours"] < 0.2
    assert held["photo_to_place/r@1"] == 1  # the planted model does not look at colours


def test_colours_need_red_green_and_blue_whatever_they_are_called() -> None:
    assert Colours.of(RGB).channels == [0, 1, 2]  # type: ignore[union-attr]
    assert Colours.of(("B8", "B4", "B3", "B2")).channels == [1, 2, 3]  # type: ignore[union-attr]
    assert Colours.of(("B8", "B4")) is None


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, GeoStream, Places, dict[str, OsmTokens]]:
    settings = SyntheticSettings(samples=24, size=48, photos=0, objects=30)
    root = tmp_path_factory.mktemp("mapped") / "d"
    write_samples(root, [[make_sample(i, settings) for i in range(24)]], settings)
    stream = GeoStream(str(root), View(48), batch_size=4)
    side = sizes(stream)
    keys = sorted(side)
    rng = np.random.default_rng(0)
    tile = torch.arange(24).repeat_interleave(5)
    xy, none = torch.from_numpy(rng.uniform(0, 1, (120, 2))), torch.zeros(120, 2).double()
    size = torch.tensor([side[k] for k in keys], dtype=torch.float64)
    places = Places(tile, xy, none, keys, torch.zeros(24, 2).double(), size)
    return str(root), stream, places, {key[1]: tokens for key, tokens in objects(stream)}


def shapes(tokens: OsmTokens, size: np.ndarray) -> list[tuple[str, shapely.Geometry]]:
    """Text of the tag and shape in metres of every object."""
    text = {tag_id(name): name for name, _, _ in CLASSES}
    held = []
    for n in range(len(tokens)):
        (ring,) = range(tokens.object_ring_offsets[n], tokens.object_ring_offsets[n + 1])
        path = unsnap(tokens.vertices[tokens.ring_offsets[ring] : tokens.ring_offsets[ring + 1]]) * size
        make = {Kind.POLYGON: shapely.Polygon, Kind.LINE: shapely.LineString, Kind.POINT: lambda p: shapely.Point(p[0])}
        held.append((text[int(tokens.tag_ids[n])], shapely.make_valid(make[Kind(tokens.kind[n])](path))))
    return held


def test_labels_around_photos_equal_those_of_shapely(
    mapped: tuple[str, GeoStream, Places, dict[str, OsmTokens]],
) -> None:
    root, stream, places, held = mapped
    around = labels_around(stream, Legend.of([root]), places)
    use_of = {text: k for k, texts in enumerate(LAND_USE.values()) for text in texts}
    road_of = {text: k for k, texts in enumerate(ROADS.values()) for text in texts}
    judged = 0
    for row in range(len(places)):
        tile = int(places.tile[row])
        size = places.size[tile].numpy()
        objects_here = shapes(held[places.key[tile][1]], size)
        if not objects_here:
            assert int(around.road_class[row]) == int(around.land_use[row]) == UNKNOWN
            assert math.isnan(float(around.building_density[row]))
            continue
        at = shapely.Point(places.xy[row].numpy() * size)
        seen = at.buffer(REACH, 64) & shapely.box(0, 0, *size)
        roads = [(s.distance(at), road_of[t]) for t, s in objects_here if t in road_of and s.length]
        nearest = min(roads, default=(math.inf, 0))
        assert int(around.road_class[row]) == (nearest[1] if nearest[0] <= REACH else 0)
        built = shapely.union_all([s for t, s in objects_here if t == "building:building"]) & seen
        assert float(around.building_density[row]) == pytest.approx(built.area / seen.area, abs=0.06)
        areas = dict.fromkeys(use_of.values(), 0.0)
        for k in areas:
            own = [s for t, s in objects_here if use_of.get(t) == k]
            areas[k] = (shapely.union_all(own) & seen).area / seen.area if own else 0.0
        best, second = sorted(areas, key=lambda k: -areas[k])[:2]
        if areas[best] > areas[second] + 0.1:
            assert int(around.land_use[row]) == best
            judged += 1
    assert judged > 20
    assert len(around.road_class.unique()) == 3
    assert float(around.building_density.nan_to_num().max()) > 0.2


def test_colours_of_a_tile_with_several_dates_are_those_of_the_dates_it_has(tmp_path: Path) -> None:
    batch = gair_batch(write_dataset(tmp_path / "d", SyntheticSettings(samples=8)), 4)
    other = torch.randint(0, 256, batch.rs.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colours = Colours((0, 1, 2))
    one, two = colours.encode_tiles(batch), colours.encode_tiles(replace(batch, rs=other))
    has_date = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    both = replace(batch, rs=torch.stack((batch.rs, other), 1), has_date=has_date)
    wanted = torch.stack(((one[0] + two[0]) / 2, one[1], two[2], (one[3] + two[3]) / 2))
    torch.testing.assert_close(colours.encode_tiles(both), wanted)
