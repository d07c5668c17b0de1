"""Monaco as an image shows it: its sea against shapely, which closes the whole coastline offshore; its tunnels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
import shapely
from rasterio.features import rasterize

from geometry.tiles import lonlat_to_tile, xyz_footprint
from pipeline.alignment import place, project
from pipeline.osm.cells.near import blocks_of, coastline_of, features_near
from pipeline.osm.coast import coast_rows
from pipeline.osm.stage import Cells, features_stage, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.run.ray_map import Runner
from pipeline.tokens.build import build_tokens
from pipeline.tokens.config import TokensConfig
from pipeline.tokens.sheet import TokenMaker, extract_tokens
from schemas.features import CELL_ZOOM
from schemas.keys import XyzKey
from tests.osm.opl import RULES

ZOOM, SIZE = 17, 256
WATER = 1 + [c.name for c in RULES.paint.classes].index("water")
#: By where the oracle closes the coastline from its eastern end to its western one, in degrees.
OFFSHORE = [(7.47, 43.749), (7.47, 43.70), (7.415, 43.70), (7.415, 43.72343)]


@pytest.fixture(scope="module")
def monaco(real_file: Callable[[str], Path]) -> Path:
    return real_file("osm/monaco/monaco_2023-12-25.osm.pbf")


@pytest.fixture(scope="module")
def cells(monaco: Path, tmp_path_factory: pytest.TempPathFactory) -> Cells:
    cache = tmp_path_factory.mktemp("monaco")
    with Runner(1) as runner:
        features, _ = features_stage([monaco], RULES, cache, runner, True)
        return vocabulary_stage(features, RULES, CleaningConfig(), CELL_ZOOM, cache, runner, True)[0]


@pytest.fixture(scope="module")
def coast(monaco: Path) -> list[Any]:
    """Coastline ways by libosmium, in their direction."""
    factory, found = osmium.geom.WKBFactory(), []
    for way in osmium.FileProcessor(str(monaco), osmium.osm.NODE | osmium.osm.WAY).with_locations():
        if way.is_way() and way.tags.get("natural") == "coastline":
            found.append(shapely.from_wkb(factory.create_linestring(way)))
    return found


def sea_of(coast: list[Any]) -> tuple[Any, Any]:
    """The sea, between the mainland's coastline and a line offshore, without the islands; and that line."""
    merged = shapely.get_parts(shapely.line_merge(shapely.multilinestrings(coast), directed=True))
    rings = [line for line in merged if line.is_closed]
    (mainland,) = [line for line in merged if not line.is_closed]
    xy = np.asarray(mainland.coords)
    sea = shapely.Polygon([*xy, *OFFSHORE])
    assert sea.is_valid
    closing = shapely.LineString([xy[-1], *OFFSHORE, xy[0]])
    return sea.difference(shapely.union_all([shapely.Polygon(r.coords) for r in rings])), closing


def tiles() -> list[XyzKey]:
    """All tiles around Monaco."""
    (x0, y0), (x1, y1) = np.floor(lonlat_to_tile(np.array([[7.409, 43.7525], [7.444, 43.722]]), ZOOM)).astype(int)
    return [XyzKey(ZOOM, x, y, SIZE) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)]


def test_monacos_sea_is_the_one_that_shapely_closes_offshore(cells: Cells, coast: list[Any]) -> None:
    """Tile by tile and pixel by pixel, from the coastline alone. A tile is left out whole where a coastline stops in it
    (two), or where the nearest one does not decide; none of those may be painted."""
    footprints = [xyz_footprint(k) for k in tiles()]
    placement = place(footprints)
    sea, closing = project(np.array(sea_of(coast), object), "EPSG:3857")
    block = tuple(blocks_of(np.array([[7.41, 43.72, 7.44, 43.75]]), cells.zoom)[0].tolist())
    near = features_near(cells.path, cells.zoom, block, (7.3, 43.6, 7.6, 43.9))
    line = coastline_of(cells.path, cells.zoom, block)
    assert line is not None
    own = near.take(coast_rows(near.paint, near.osm_type, near.kind))
    assert len(own) == len(coast)
    gsd, at_sea = placement.gsd.mean(axis=1), line.at_sea(placement.centre)
    built = build_tokens(own, footprints, None, paint=RULES.paint, gsd=gsd, at_sea=at_sea)
    assert built.rasters is not None
    assert built.broken_coast is not None
    assert built.broken_coast.sum() == 2
    built_of = [len(t) > 0 for t in build_tokens(near, footprints, None).tokens]
    painted = wanted = 0
    for n, footprint in enumerate(footprints):
        a, _, c, _, e, f = footprint.transform
        shown = shapely.transform(sea, lambda xy, a=a, c=c, e=e, f=f: (xy - (c, f)) / (a, e))
        right = rasterize([(shown, 1)], (SIZE, SIZE), fill=0, dtype="uint8") == 1
        found = built.rasters[n] == WATER
        if built.broken_coast[n]:
            assert not found.any()
        elif shapely.box(*footprint.bounds()).intersects(closing):
            assert found.all() or not found.any()
        elif len(built.tokens[n]) or found.any():
            assert (found != right).sum() <= 8, footprint.key  # centres on the coastline
        painted, wanted = painted + built_of[n] * int(found.sum()), wanted + built_of[n] * int(right.sum())
    assert painted > 0.9 * wanted, (painted, wanted)


@pytest.mark.parametrize(
    ("name", "lon", "lat", "wet"),
    [
        ("Port Hercule", 7.4262, 43.7352, True), ("Port de Fontvieille", 7.4192, 43.7291, True),
        ("off the Larvotto beach", 7.4345, 43.7440, True), ("off the Rock", 7.4290, 43.7300, True),
        ("the Rock", 7.4205, 43.7311, False), ("the Casino", 7.4279, 43.7393, False),
        ("Jardin Exotique", 7.4133, 43.7316, False), ("La Rousse", 7.4300, 43.7475, False),
    ],
)  # fmt: skip
def test_places_that_everybody_knows_lie_in_water_or_on_land(
    cells: Cells, name: str, lon: float, lat: float, wet: bool
) -> None:
    at = lonlat_to_tile(np.array([lon, lat]), ZOOM)
    key = XyzKey(ZOOM, int(at[0]), int(at[1]), SIZE)
    footprint = xyz_footprint(key)
    maker = TokenMaker(TokensConfig(), RULES.paint)
    (made,) = extract_tokens(maker, [footprint], place([footprint]), [cells.path], cells.zoom)
    x, y = ((at - (key.x, key.y)) * SIZE).astype(int)
    assert made.raster is not None
    assert (made.raster[y, x] == WATER) == wet, name


def test_what_is_in_tunnels_and_indoors_is_not_painted(monaco: Path, cells: Cells) -> None:
    """1 in 25 lines and areas that a class names; none of them paints, every other one does."""
    hidden, shown = set(), set()
    for thing in osmium.FileProcessor(str(monaco), osmium.osm.WAY):
        tags = dict(thing.tags)
        if max((RULES.paint.value(k, v) for k, v in tags.items()), default=0) and len(thing.nodes) > 1:
            buried = tags.get("tunnel", "no") != "no" or tags.get("indoor", "no") != "no"
            (hidden if buried else shown).add(thing.id)
    block = tuple(blocks_of(np.array([[7.41, 43.72, 7.44, 43.75]]), cells.zoom)[0].tolist())
    near = features_near(cells.path, cells.zoom, block, (7.3, 43.6, 7.6, 43.9))
    ways = near.osm_type == 1
    painted = set(near.osm_id[ways & (near.paint & 0xFF > 0)].tolist())
    assert len(hidden) > 0.035 * (len(hidden) + len(shown))
    assert not painted & hidden
    assert len(painted & shown) > 0.98 * len(shown & set(near.osm_id[ways].tolist()))
