"""Every sample's tokens agree with an independent brute-force oracle on 200 random real tiles: the same objects and
relations and, within 1e-6, cover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geometry.tiles import xyz_footprint
from schemas.keys import XyzKey
from tests.tokens.building import Place, differences, oracle_of, read_place, tokens_of
from tests.tokens.oracle import boxes_meet

#: file, zoom, image size, tiles: 200 together
DRAWS = [
    ("osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf", 16, 256, 65),
    ("osm/monaco/monaco_2023-12-25.osm.pbf", 17, 256, 30),
    ("osm/andorra/andorra_2019.osm.pbf", 15, 512, 40),
    ("osm/rome/rome_esquilino_2026.osm.pbf", 17, 224, 20),
    ("osm/berlin/berlin_wittenau_2026.osm.pbf", 17, 256, 20),
    ("osm/helsinki/Helsinki.osm.pbf", 17, 256, 20),
    ("osm/sfbay/oakland_west_2016.osm.pbf", 16, 256, 2),
    ("osm/sfbay/oakland_montclair_2019.osm.pbf", 16, 256, 3),
]


def draw_tiles(place: Place, zoom: int, size: int, count: int, seed: int) -> list[XyzKey]:
    """Random distinct tiles among those that some object begins in, by a fixed seed: none is empty."""
    side = 1 << zoom
    known: dict[tuple[int, int], None] = {}
    for feature in place.features:
        lon, lat = _first_vertex(feature.geometry)
        if place.extent is None or boxes_meet((lon, lat, lon, lat), place.extent):
            x = int((lon + 180) / 360 * side)
            y = int((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * side)
            known[x, y] = None
    tiles = list(known)
    return [XyzKey(zoom, *tiles[i], size) for i in np.random.default_rng(seed).choice(len(tiles), count, replace=False)]


def _first_vertex(geometry: object) -> tuple[float, float]:
    while hasattr(geometry, "geoms"):
        geometry = geometry.geoms[0]
    return (geometry.exterior if hasattr(geometry, "exterior") else geometry).coords[0]  # type: ignore[attr-defined]


def test_the_draw_is_of_200_tiles() -> None:
    assert sum(count for *_, count in DRAWS) == 200


@pytest.mark.parametrize(("name", "zoom", "size", "count"), DRAWS, ids=[Path(d[0]).name.split(".")[0] for d in DRAWS])
def test_tokens_agree_with_the_oracle(
    real_file: Callable[[str], Path], name: str, zoom: int, size: int, count: int
) -> None:
    place = read_place(real_file(name))
    keys = draw_tiles(place, zoom, size, count, seed=20)
    tokens = tokens_of(place, keys)
    found: dict[str, list[str]] = {}
    objects = edges = 0
    for key in keys:
        oracle = oracle_of(place, key)
        objects, edges = objects + len(oracle.objects), edges + len(oracle.relations)
        problems = differences(tokens[key], oracle, xyz_footprint(key))
        if problems:
            found[str(key)] = problems
    assert not found, found
    assert objects >= count  # the tiles hold something to agree on
    assert edges > count or count < 20
