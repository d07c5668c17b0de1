"""Tokens of chips: as the brute-force oracle has them, whichever chips stand beside them, from files and extracts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.tiles import tile_to_lonlat
from pipeline.alignment import place
from pipeline.footprints.chips.plan import DescribeJob, columns_of, describe_chips
from pipeline.footprints.chips.scan import find_chips
from pipeline.osm.cells.near import blocks_of, cells_of, features_near
from pipeline.osm.features import FeatureBatch
from pipeline.osm.stage import features_stage, read_cell, vocabulary_stage
from pipeline.osm.vectors.objects import read_objects
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
from pipeline.tokens.build import build_tokens
from pipeline.tokens.config import TokensConfig
from pipeline.tokens.sheet import TokenMaker, extract_tokens, vector_tokens
from schemas.features import FEATURES, Kind
from schemas.footprint import Footprint
from tests.footprints.chips import write_chips
from tests.osm.opl import write_opl
from tests.osm.tables import tag_features
from tests.tokens.building import differences
from tests.tokens.oracle import Feature, brute_force

RULES = load_rules()
MAKER = TokenMaker(TokensConfig(), RULES.paint)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Chips with their features."""

    footprints: list[Footprint]
    chip: np.ndarray
    features: FeatureBatch

    def tokens(self, chosen: list[int]) -> list[bytes]:
        """Bytes of tokens and raster of some chips, built together."""
        rows = np.concatenate([np.flatnonzero(self.chip == c) for c in chosen])
        chip = np.repeat(np.arange(len(chosen)), [int((self.chip == c).sum()) for c in chosen])
        own = [self.footprints[c] for c in chosen]
        built = vector_tokens(MAKER, own, place(own), chip, self.features.take(rows))
        return [b.tokens.to_bytes() + (b"" if b.raster is None else b.raster.tobytes()) for b in built]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def parsed(folder: Path) -> Parsed:
    files, _ = find_chips(folder)
    rows = describe_chips(DescribeJob(folder, files))[0].to_pylist()
    objects = [read_objects(folder, r["vectors"]) for r in rows]
    tags = pa.array([list(t.items()) for o in objects for t in o.tags], FEATURES.field("tags").type)
    tagged = tag_features(tags, RULES, 1)
    columns: dict[str, Any] = {
        n: np.concatenate([getattr(o, n) for o in objects]) for n in ("osm_type", "osm_id", "kind", "geometry")
    }
    features = FeatureBatch(tag_offsets=tagged.offsets, tag_ids=tagged.ids, paint=tagged.paint, **columns)
    chip = np.repeat(np.arange(len(rows)), [len(o.kind) for o in objects])
    return Parsed(list(columns_of(rows)), chip, features)


def test_tokens_of_chips_agree_with_the_oracle(parsed: Parsed) -> None:
    """Chips in four projections, of several sizes, all built at once."""
    assert {f.crs for f in parsed.footprints} == {"EPSG:32632", "EPSG:32633", "EPSG:2056"}
    assert len({(f.width, f.height) for f in parsed.footprints}) > 3
    placement = place(parsed.footprints)
    built = vector_tokens(MAKER, parsed.footprints, placement, parsed.chip, parsed.features)
    objects = 0
    for c, footprint in enumerate(parsed.footprints):
        own = parsed.features.take(np.flatnonzero(parsed.chip == c))
        whole = [
            Feature(int(t), int(i), int(k), own.tag_ids[a:b].tolist(), g, g.bounds)
            for t, i, k, a, b, g in zip(
                own.osm_type, own.osm_id, own.kind, own.tag_offsets[:-1], own.tag_offsets[1:], own.geometry, strict=True
            )
        ]
        oracle = brute_force(whole, footprint, (14, 14), tuple(placement.bbox[c]))
        objects += len(oracle.objects)
        assert differences(built[c].tokens, oracle, footprint) == [], footprint.key
    assert objects > 100


@settings(max_examples=25)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_chip_has_the_same_tokens_whichever_others_stand_beside_it(
    parsed: Parsed, order: list[int], count: int
) -> None:
    alone = {c: parsed.tokens([c])[0] for c in order[:count]}
    assert parsed.tokens(order[:count]) == [alone[c] for c in order[:count]]


def test_an_object_that_sticks_out_stays_out_of_the_chip_beside_it(parsed: Parsed) -> None:
    """A road across a chip of a common size, and a lake of the size of a continent."""
    one = next(i for i, f in enumerate(parsed.footprints) if "own-0" in f.key)
    footprints = [dataclasses.replace(parsed.footprints[one], key=f"chip-{k}") for k in range(3)]
    west, south, east, north = place(footprints).bbox[0]
    road = shapely.LineString([(west - 1, south - 0.2), ((west + east) / 2, (south + north) / 2), (east + 2, north)])
    lake = shapely.box(-60, -80, 80, 85)
    geometry = np.array([road, lake], object)
    features = FeatureBatch(
        np.ones(2, np.uint8), np.array([1, 2]), np.array([Kind.LINE, Kind.POLYGON], np.uint8), np.arange(3),
        np.array([5, 6]), np.ones(2, np.uint16), geometry,
    )  # fmt: skip
    built = vector_tokens(MAKER, footprints, place(footprints), np.array([1, 1]), features)
    assert [len(b.tokens) for b in built] == [0, 2, 0]
    assert built[1].tokens.extent[1] == pytest.approx(1.0)
    assert built[1].tokens.patch_cover[built[1].tokens.patch_object == 1].min() > 1 - 1e-6


def test_no_chips_and_chips_without_objects_are_legal(parsed: Parsed) -> None:
    nothing = parsed.features.take(np.zeros(0, np.int64))
    none = np.zeros(0, np.int64)
    assert vector_tokens(MAKER, [], place([]), none, nothing) == []
    built = vector_tokens(MAKER, parsed.footprints[:3], place(parsed.footprints[:3]), none, nothing)
    assert [len(b.tokens) for b in built] == [0, 0, 0]


@pytest.fixture(scope="module")
def border(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, np.ndarray]:
    """An extract around a corner of four cells, cut to cells and whole, and that corner in lon/lat."""
    folder = tmp_path_factory.mktemp("border")
    lon, lat = tile_to_lonlat(np.array([[539.0, 358.0]]), 10)[0]
    rng = np.random.default_rng(9)
    nodes: list[tuple[int, float, float, str]] = []
    ways: list[tuple[int, list[int], str]] = []

    def add(x: float, y: float, tags: str = "") -> int:
        nodes.append((len(nodes) + 1, lon + x, lat + y, tags))
        return len(nodes)

    for k in range(8):  # roads across all cells, crossing each other
        a = rng.uniform(0, np.pi)
        places = [
            add(t * np.cos(a) + rng.normal() * 1e-3, t * np.sin(a) + rng.normal() * 1e-3)
            for t in np.linspace(-0.03, 0.03, 14)
        ]
        ways.append((len(ways) + 1, places, f"highway=residential,lanes={k}"))
    corners = [add(x, y) for x, y in ((-0.02, -0.02), (0.02, -0.02), (0.02, 0.02), (-0.02, 0.02))]
    centre = add(0.0001, 0.0002)
    for i in range(4):  # fields that share their sides, which are longer than a cell's margin
        ring = [corners[i], corners[(i + 1) % 4], centre]
        ways.append((len(ways) + 1, [*ring, ring[0]], "landuse=meadow"))
    for _ in range(60):
        x, y = rng.uniform(-0.012, 0.012, 2)
        s = 2e-4
        house = [add(x, y), add(x + s, y), add(x + s, y + s), add(x, y + s)]
        ways.append((len(ways) + 1, [*house, house[0]], "building=yes"))
        add(*rng.uniform(-0.012, 0.012, 2), "natural=tree")
    osm = write_opl(folder / "border.opl", nodes, ways)
    with Runner(1) as runner:
        features, _ = features_stage([osm], RULES, folder / "cache", runner, True)
        cut, whole = (
            vocabulary_stage(features, RULES, CleaningConfig(1), zoom, folder / "cache", runner, True)[0]
            for zoom in (10, 0)
        )
    return cut, whole, np.array([lon, lat])


def chip_at(lon: float, lat: float, pixels: int, gsd: float, key: str = "chip-x") -> Footprint:
    """A chip in UTM around a place."""
    x, y = pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(lon, lat)
    half = pixels * gsd / 2
    return Footprint(key, "EPSG:32632", (gsd, 0.0, round(x - half), 0.0, -gsd, round(y + half)), pixels, pixels)


@pytest.mark.parametrize(
    ("shift", "cells"),
    [((0.0, 0.0), 4), ((0.013, 0.0), 2), ((0.0, -0.01), 2), ((0.0125, 0.0095), 1), ((-0.006, 0.001), 4)],
)
def test_a_chip_across_cells_has_the_objects_of_the_uncut_extract(
    border: tuple[Any, Any, np.ndarray], shift: tuple[float, float], cells: int
) -> None:
    """Against the same extract in one cell, where nothing is cut: equal objects, relations and cover."""
    cut, whole, corner = border
    footprint = chip_at(*(corner + shift), 300, 6.0)
    placement = place([footprint])
    block = tuple(blocks_of(placement.bbox, 10)[0].tolist())
    assert len(cells_of(block, 10)) == cells
    ours = extract_tokens(MAKER, [footprint], placement, [cut.path], cut.zoom)[0].tokens
    theirs = build_tokens(read_cell(whole.path, 0), [footprint]).tokens[0]
    assert len(theirs) > 20
    for name in ("kind", "osm_type", "osm_id", "tag_ids", "edges", "relation", "patch_cell", "patch_object"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in ("extent", "patch_cover", "region_area", "region_length"):
        # A segment that was cut ends where it bends by up to 1 cm otherwise (pipeline.osm.cells.cut.MAX_SEGMENT).
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-4, err_msg=name)


def test_chips_of_one_cell_and_size_are_built_together_as_they_would_be_alone(
    border: tuple[Any, Any, np.ndarray],
) -> None:
    cut, _, corner = border
    places = [corner + np.array([0.01 + 0.0007 * k, 0.01]) for k in range(6)]
    chips = [chip_at(*p, 64 + 32 * (k % 2), 3.0, f"chip-{k}") for k, p in enumerate(places)]
    together = extract_tokens(MAKER, chips, place(chips), [cut.path] * len(chips), cut.zoom)
    for k, chip in enumerate(chips):
        alone = extract_tokens(MAKER, [chip], place([chip]), [cut.path], cut.zoom)[0]
        assert together[k].tokens.to_bytes() == alone.tokens.to_bytes()
        assert len(alone.tokens) > 0


def test_the_cells_of_a_box_are_the_one_that_holds_it_or_all_that_it_meets() -> None:
    (west, north), (east, south) = tile_to_lonlat(np.array([[539.0, 358.0], [540.0, 359.0]]), 10)
    inside = (west + 1e-3, south + 1e-3, east - 1e-3, north - 1e-3)
    boxes = [
        inside, (west - 1e-3, south, east - 1e-3, north),  # within the margin
        (west - 0.01, south + 0.1, west + 0.01, north - 0.1), (west - 0.01, south - 0.01, west + 0.01, south + 0.01),
    ]  # fmt: skip
    assert blocks_of(np.array(boxes), 10).tolist() == [
        [539, 358, 539, 358], [539, 358, 539, 358], [538, 358, 539, 358], [538, 358, 539, 359],
    ]  # fmt: skip
    assert cells_of((538, 358, 539, 359), 10) == [
        358 * 1024 + 538,
        358 * 1024 + 539,
        359 * 1024 + 538,
        359 * 1024 + 539,
    ]


def test_features_near_leaves_the_cached_cells_as_they_are(border: tuple[Any, Any, np.ndarray]) -> None:
    cut, _, corner = border
    box = (*(corner - 0.006), *(corner + 0.006))
    block = tuple(blocks_of(np.array([box]), 10)[0].tolist())
    before = [read_cell(cut.path, cell).geometry.copy() for cell in cells_of(block, 10)]
    features_near(cut.path, 10, block, box)
    for cell, geometry in zip(cells_of(block, 10), before, strict=True):
        assert (read_cell(cut.path, cell).geometry == geometry).all()
