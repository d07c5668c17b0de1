"""GeoLink's released examples, three image chips with their vector files, through ``geoshards chips``.

Node and edge counts are those that the released graph builder gives for them
(docs/papers/geolink.md#released-examples). There an edge stands in both directions and every node has one to itself;
here a pair has one code, i < j, and the models add the loops. So ``n`` directed edges less the loops are n / 2 pairs,
``covers`` and ``coveredBy`` are one pair each, and both mixed edge types (``ln↔pg`` 23 + 23) are 23 pairs.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.driver.shards import make_shards
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.imagery.config import ImageryConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.samples.config import ShardsConfig
from schemas.footprint import Footprint
from schemas.relations import INVERSE, Relation
from schemas.sample import OSM_TOKENS, SampleMeta
from schemas.tags import tag_id
from schemas.tokens import OsmTokens
from storage.dataset import read_samples, sample_rows
from storage.store import Store
from tests.grounds import lonlat_to_normalised
from tests.real.conftest import absent

POINT, LINE, POLYGON = 0, 1, 2
R = Relation

#: Points, lines, polygons; then pairs by (kind of i, kind of j, code), codes that have a direction as COVERED_BY.
TABLE: dict[str, tuple[tuple[int, int, int], dict[tuple[int, int, Relation], int]]] = {
    # pg→pg 18: 10 loops, 8 touches = 4 pairs.
    "a1085095888_S2_20": ((0, 0, 10), {(POLYGON, POLYGON, R.TOUCHES): 4}),
    # pg→pg 28: 8 loops, 6 touches = 3 pairs, 8 overlaps = 4 pairs, 3 covers and 3 coveredBy = 3 pairs.
    # ln→ln 19: 9 loops, 10 touches = 5 pairs. ln↔pg 23: 8 touches, 15 covered; here too a line comes before a polygon.
    # pt→pt 1: the loop. pt↔pg 2: within, which is a code of its own for points.
    "a472140250_FI_21": (
        (1, 9, 8),
        {
            (POLYGON, POLYGON, R.TOUCHES): 3,
            (POLYGON, POLYGON, R.OVERLAPS): 4,
            (POLYGON, POLYGON, R.COVERED_BY): 3,
            (LINE, LINE, R.TOUCHES): 5,
            (LINE, POLYGON, R.TOUCHES): 8,
            (LINE, POLYGON, R.COVERED_BY): 15,
            (POINT, POLYGON, R.WITHIN): 2,
        },
    ),
    # pg→pg 51: 15 loops, 32 touches = 16 pairs, 2 covers and 2 coveredBy = 2 pairs. ln→ln 1: the loop.
    # pt→pt 14: 4 loops, 10 Delaunay = 5 pairs. pt↔pg 2: within.
    "n4503852781_DE_": (
        (4, 1, 15),
        {
            (POLYGON, POLYGON, R.TOUCHES): 16,
            (POLYGON, POLYGON, R.COVERED_BY): 2,
            (POINT, POINT, R.DELAUNAY): 5,
            (POINT, POLYGON, R.WITHIN): 2,
        },
    ),
}

RS = ImageryConfig(licence="as GeoLink's release")
CHIPS: dict[str, Any] = {
    "region": "none", "footprints": ("chips",), "imagery": "none", "streetview": "none", "workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def chips(real_data: Path) -> Path:
    """The folder of the three examples."""
    folder = real_data / "geolink" / "chips"
    if not folder.is_dir():
        absent("the folder of GeoLink's chips")
    return folder


@pytest.fixture(scope="module")
def built(chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("geolink") / "out"
    cache = str(tmp_path_factory.mktemp("cache"))
    make_shards(
        ShardsConfig(**CHIPS, chips=ChipsConfig(str(chips)), out=str(out), cache=cache, osm=CleaningConfig(1), rs=RS),
        quiet=True,
    )
    return out


@pytest.fixture(scope="module")
def samples(built: Path) -> dict[str, tuple[SampleMeta, OsmTokens, dict[str, bytes]]]:
    store = Store(built)
    return {
        row["key"].removeprefix("chip-"): (SampleMeta.from_bytes(m["json"]), OsmTokens.from_bytes(m[OSM_TOKENS]), m)
        for row, m in read_samples(store, sample_rows(store))
    }


@pytest.mark.parametrize("stem", TABLE)
def test_nodes_and_edges_are_those_of_the_released_graphs(samples: dict[str, Any], stem: str) -> None:
    _, tokens, _ = samples[stem]
    nodes, pairs = TABLE[stem]
    assert tokens.counts() == nodes
    found: Counter[tuple[int, int, int]] = Counter()
    for (i, j), code in zip(tokens.edges.T, tokens.relation, strict=True):
        one_way = int(INVERSE[code]) if code == R.COVERS else int(code)
        found[int(tokens.kind[i]), int(tokens.kind[j]), one_way] += 1
    assert found == Counter(pairs)


def test_equal_geometries_are_equal_and_nothing_else_becomes_so(chips: Path, tmp_path: Path) -> None:
    """The released code tests covers first, so that it never gives equals (docs/papers/geolink.md#relations)."""
    stem = "n4503852781_DE_"
    shutil.copytree(chips / stem, tmp_path / "chips")
    path = tmp_path / "chips" / f"{stem}_polygon.geojson"
    document = json.loads(path.read_text())
    twin = json.loads(json.dumps(document["features"][0]))
    twin["properties"]["label"] = "shop:craft"
    document["features"].append(twin)
    path.write_text(json.dumps(document))
    make_shards(
        ShardsConfig(
            **CHIPS,
            chips=ChipsConfig(str(tmp_path / "chips")),
            out=str(tmp_path / "out"),
            cache=str(tmp_path / "c"),
            rs=RS,
        ),
        quiet=True,
    )
    store = Store(tmp_path / "out")
    ((_, members),) = read_samples(store, sample_rows(store))
    tokens = OsmTokens.from_bytes(members[OSM_TOKENS])
    assert int((tokens.relation == R.EQUALS).sum()) == 1
    assert tokens.counts() == (4, 1, 16)


def test_the_dataset_is_whole_and_the_images_are_the_released_bytes(
    built: Path, chips: Path, samples: dict[str, Any]
) -> None:
    assert find_problems(str(built)) == []
    for stem, (meta, _, members) in samples.items():
        assert members["rs.jpg"] == (chips / stem / f"{stem}.jpg").read_bytes()
        assert meta.rs[0].source == (meta.provenance.footprint or "").split()[-1]
    assert {s: m.rs[0].acquired for s, (m, _, _) in samples.items()} == {
        "a1085095888_S2_20": "2020-08-06T06:08:00Z", "a472140250_FI_21": "2021", "n4503852781_DE_": None,
    }  # fmt: skip


def test_every_object_carries_the_tags_of_its_label(chips: Path, samples: dict[str, Any]) -> None:
    """Texts as GeoLink writes them are the texts that are hashed."""
    for stem, (_, tokens, _) in samples.items():
        labels: Counter[tuple[int, ...]] = Counter()
        for path in chips.glob(f"{stem}/*.geojson"):
            for feature in json.loads(path.read_text())["features"]:
                labels[tuple(sorted(tag_id(t) for t in feature["properties"]["label"].split(";")))] += 1
        offsets = tokens.tag_offsets.tolist()
        found = Counter(tuple(tokens.tag_ids[a:b].tolist()) for a, b in pairwise(offsets))
        assert found == labels


#: CRS of each chip's image, and its ground sampling distance (SkyScript's collections; docs/papers/geolink.md#images).
GROUND = {
    "a1085095888_S2_20": ("EPSG:32642", 10.0),
    "a472140250_FI_21": ("EPSG:3067", 0.5),
    "n4503852781_DE_": ("EPSG:25833", 0.2),
}


def by_pyproj(chips: Path, stem: str, reading: str) -> Any:
    """Lon/lat to normalised image coordinates, from the metadata and pyproj alone, by one reading of how it was cut."""
    west, south, east, north = json.loads((chips / stem / f"{stem}_meta.json").read_text())["bbox"]
    with Image.open(chips / stem / f"{stem}.jpg") as image:
        size = np.array(image.size)
    crs, gsd = GROUND[stem]
    transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    t = np.linspace(0, 1, 201)
    x, y = transformer.transform(
        np.concatenate((west + (east - west) * t, west + (east - west) * t, np.full(201, west), np.full(201, east))),
        np.concatenate(
            (np.full(201, south), np.full(201, north), south + (north - south) * t, south + (north - south) * t)
        ),
    )
    left, top, extent = x.min(), y.max(), np.array([np.ptp(x), np.ptp(y)])
    if reading == "grid":  # whole pixels of the grid of multiples of the GSD
        left, top, extent = math.floor(left / gsd) * gsd, math.ceil(top / gsd) * gsd, size * gsd
    elif reading == "corner":  # the envelope's upper left corner, at the GSD
        extent = size * gsd
    elif reading == "centre":
        left, top, extent = left - (size[0] * gsd - extent[0]) / 2, top + (size[1] * gsd - extent[1]) / 2, size * gsd

    def where(lonlat: Any) -> Any:
        px, py = transformer.transform(*np.asarray(lonlat, float).T)
        return np.stack(((px - left) / extent[0], (top - py) / extent[1]), axis=1)

    return where


def vertices(chips: Path, stem: str) -> list[np.ndarray]:
    """Boundaries of the chip's polygons and its lines, lon/lat."""
    rings = []
    for path in [*chips.glob(f"{stem}/*line.geojson"), *chips.glob(f"{stem}/*polygon.geojson")]:
        for feature in json.loads(path.read_text())["features"]:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            rings += [shapely.get_coordinates(p) for p in shapely.get_parts(shape.boundary if shape.area else shape)]
    return rings


@pytest.mark.parametrize(("stem", "reading", "most"), [
    *((stem, "grid", 1e-6) for stem in GROUND),
    *(("a472140250_FI_21", reading, 0.05) for reading in ("corner", "centre", "stretched")),
])  # fmt: skip
def test_chips_are_aligned_within_a_twentieth_of_a_patch(
    samples: dict[str, Any], chips: Path, stem: str, reading: str, most: float
) -> None:
    """Whichever way the last pixel is read, the Finnish chip, turned by 5.3 degrees, lies where pyproj puts it."""
    footprint: Footprint = samples[stem][0].footprint
    places = np.concatenate(vertices(chips, stem))
    ours = lonlat_to_normalised(footprint, places)
    assert np.abs(ours - by_pyproj(chips, stem, reading)(places)).max() * 14 < most


def test_token_vertices_lie_on_the_independently_projected_shapes(samples: dict[str, Any], chips: Path) -> None:
    """The whole way to the shard, for the turned chip: stored vertices against GeoJSON vertices through pyproj."""
    stem = "a472140250_FI_21"
    tokens: OsmTokens = samples[stem][1]
    where = by_pyproj(chips, stem, "grid")
    lines = shapely.union_all([shapely.linestrings(where(ring)) for ring in vertices(chips, stem)])
    stored = tokens.vertices[tokens.ring_offsets[tokens.object_ring_offsets[1]] :] / 65535.0  # all but the one point
    assert shapely.distance(lines, shapely.points(stored)).max() * 14 < 0.001
    linear = _linear(chips, stem)
    wrong = shapely.union_all([shapely.linestrings(linear(ring)) for ring in vertices(chips, stem)])
    assert shapely.distance(wrong, shapely.points(stored)).max() * 14 > 0.5  # what the released code is off


def _linear(chips: Path, stem: str) -> Any:
    west, south, east, north = json.loads((chips / stem / f"{stem}_meta.json").read_text())["bbox"]
    return lambda lonlat: np.stack(
        ((lonlat[:, 0] - west) / (east - west), (north - lonlat[:, 1]) / (north - south)), axis=1
    )


def test_the_photograph_itself_shows_the_edges_where_the_footprint_puts_them(
    samples: dict[str, Any], chips: Path
) -> None:
    """Brightness changes across the shores, piers and ways of the turned chip: far more than along the linear map."""
    stem = "a472140250_FI_21"
    footprint: Footprint = samples[stem][0].footprint
    with Image.open(chips / stem / f"{stem}.jpg") as image:
        dy, dx = np.gradient(np.asarray(image.convert("L"), float))
    size = np.array([footprint.width, footprint.height])

    def contrast(where: Any) -> float:
        """Mean change of brightness across the segments, a pixel, but for those along the box."""
        steps = []
        for ring in vertices(chips, stem):
            slanted = (ring[1:] != ring[:-1]).all(axis=1)
            for a, b in np.stack((where(ring[:-1]), where(ring[1:])), axis=1)[slanted] * size:
                count = max(1, int(np.hypot(*(b - a))))
                column, row = np.floor(a + (b - a) * ((np.arange(count) + 0.5) / count)[:, None]).astype(int).T
                inside = (column >= 0) & (row >= 0) & (column < size[0]) & (row < size[1])
                across = np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a))
                steps.append(np.abs(np.stack((dx, dy), axis=2)[row[inside], column[inside]] @ across))
        return float(np.concatenate(steps).mean())

    ours = contrast(lambda lonlat: lonlat_to_normalised(footprint, lonlat))
    assert ours > 1.3 * contrast(_linear(chips, stem))
    for shift in ((6, 0), (-6, 0), (0, 6), (0, -6)):
        assert ours > contrast(lambda lonlat, s=shift: lonlat_to_normalised(footprint, lonlat) + np.array(s) / size)
