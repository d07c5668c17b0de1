"""Which footprints are built, by what stands on them: counted across cells, each object once on each footprint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import shapely

from geometry.tiles import tile_bounds
from pipeline import rules
from pipeline.footprints.candidates import Candidates, Listed, Tiles
from pipeline.footprints.choose import Choosing
from pipeline.footprints.config import PlanConfig
from pipeline.footprints.sampling import SamplingConfig, density_stratum
from pipeline.imagery.choice import order
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene
from pipeline.osm.cells.near import blocks_of, cells_of
from pipeline.osm.stage import Cells, features_stage, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.rules import RulesConfig, load_rules
from pipeline.run.ray_map import Runner
from schemas.features import CELL_ZOOM
from tests.osm.opl import RULES, write_opl

#: 6 x 6 tiles around a corner where four cells meet; those of the first row have nothing on them but the lake.
ZOOM, CORNER = 15, (539 << 5, 358 << 5)
XY = np.array([(CORNER[0] + x, CORNER[1] + y) for y in range(-3, 3) for x in range(-3, 3)])
HOUSES = np.random.default_rng(0).integers(0, 30, len(XY)) * (np.arange(len(XY)) >= 6)


@dataclass
class Town:
    """Houses of each tile, and one lake across all four cells that meets every tile but those of the last row."""

    cells: Cells
    objects: np.ndarray  # [N] on each tile
    shapes: np.ndarray  # shapely boxes of all objects


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("town")
    nodes: list[tuple[int, float, float, str]] = []
    ways: list[tuple[int, list[int], str]] = []
    shapes: list[shapely.Geometry] = []

    def area(west: float, south: float, east: float, north: float, tags: str) -> None:
        own = [len(nodes) + k for k in range(1, 5)]
        ring = (west, south), (east, south), (east, north), (west, north)
        nodes.extend((i, lon, lat, "") for i, (lon, lat) in zip(own, ring, strict=True))
        ways.append((len(ways) + 1, [*own, own[0]], tags))
        shapes.append(shapely.box(west, south, east, north))

    bounds = tile_bounds(XY, ZOOM)
    for (w, s, e, n), count in zip(bounds.tolist(), HOUSES.tolist(), strict=True):
        for k in range(count):
            west, south = w + (e - w) * (0.1 + 0.025 * k), s + (n - s) / 2
            area(west, south, west + (e - w) / 100, south + (n - s) / 100, "building=house")
    last = bounds[-1]
    side = last[3] - last[1]
    area(bounds[0, 0] + 1e-4, last[3] + side / 10, bounds[5, 2] - 1e-4, bounds[0, 3] - side / 10, "natural=water")
    osm, runner = write_opl(folder / "a.opl", nodes, ways), Runner(1)
    features, _ = features_stage([osm], RULES, folder, runner, True)
    cells, _ = vocabulary_stage(features, RULES, CleaningConfig(1, 1), CELL_ZOOM, folder, runner, True)
    return Town(cells, HOUSES + (np.arange(len(XY)) < 30), np.array(shapes))


def choosing(town: Town | None, pictured: Any = None, min_objects: int | None = None, **sampling: Any) -> Choosing:
    plan = PlanConfig(min_objects=min_objects, sampling=SamplingConfig(**sampling))
    cells = None if town is None else town.cells
    return Choosing(plan, ImageryConfig(), [], cells, RULES.paint, Runner(1), pictured)


def chosen(rule: Choosing, candidates: Candidates | None = None) -> tuple[set[int], dict[str, int]]:
    """Numbers of the tiles that are left, and how many others each reason has."""
    left, drops = rule(candidates or Tiles(XY, ZOOM, 256))
    number = {word: i for i, word in enumerate(Tiles(XY, ZOOM, 256).footprints().keys)}
    return {number[k] for k in left.footprints().keys}, {d["reason"]: d["count"] for d in drops}


@pytest.mark.parametrize("least", [1, 2, 5, 11, 30])
@pytest.mark.parametrize("listed", [False, True])
def test_objects_count_once_on_each_footprint_they_meet_whatever_cells_they_lie_in(
    town: Town, least: int, listed: bool
) -> None:
    tiles = Tiles(XY, ZOOM, 256)
    candidates: Candidates = Listed.of("grid", tiles.footprints()) if listed else tiles
    enough = town.objects >= least
    found, drops = chosen(choosing(town, min_objects=least), candidates)
    assert found == set(np.flatnonzero(enough).tolist())
    assert drops == ({} if enough.all() else {"too_few_objects": int((~enough).sum())})


@pytest.mark.parametrize("least", [2, 6, 12, 20])
def test_footprints_across_cells_count_what_shapely_counts(town: Town, least: int) -> None:
    """Half a tile beside the tiles, so that some lie in two or four cells."""
    tiles = Tiles(XY, ZOOM, 256).footprints()
    moved = tiles.transform.copy()
    moved[:, [2, 5]] += 128 * moved[:, [0, 4]]
    candidates = Listed.of("grid", replace(tiles, transform=moved))
    assert {len(cells_of(tuple(b), CELL_ZOOM)) for b in blocks_of(candidates.bbox(), CELL_ZOOM).tolist()} == {1, 2, 4}
    hit, _ = shapely.STRtree(town.shapes).query(candidates.outlines(), predicate="intersects")
    counts = np.bincount(hit, minlength=len(XY))
    assert chosen(choosing(town, min_objects=least), candidates)[0] == set(np.flatnonzero(counts >= least).tolist())


def test_a_footprint_with_an_image_of_its_own_needs_no_object_and_another_one(town: Town) -> None:
    footprints = Tiles(XY, ZOOM, 256).footprints()
    assert len(chosen(choosing(town), Listed.of("chips", footprints, pictured=True))[0]) == len(XY)
    assert chosen(choosing(town))[0] == set(np.flatnonzero(town.objects).tolist())


def test_a_footprint_with_an_image_of_its_own_needs_no_other_image(town: Town) -> None:
    rule = replace(choosing(town), scenes=[cast(Scene, object())])  # which nobody looks at
    footprints = Tiles(XY, ZOOM, 256).footprints()
    assert len(chosen(rule, Listed.of("chips", footprints, pictured=True))[0]) == len(XY)


def test_land_is_where_something_else_than_water_is(town: Town) -> None:
    for least in (0, 3):
        enough, land = town.objects >= least, HOUSES > 0
        found, drops = chosen(choosing(town, min_objects=least, land_only=True))
        assert found == set(np.flatnonzero(enough & land).tolist())
        assert drops.get("no_land", 0) == (enough & ~land).sum()


def test_an_object_of_no_class_of_the_raster_does_not_make_land(tmp_path: Path) -> None:
    tiles, runner = Tiles(XY[:3], ZOOM, 256), Runner(1)
    tags = ("amenity=bench", "building=house", "natural=water")  # a bench is of none
    nodes = [(i, *place, "") for i, place in enumerate(tiles.centre().tolist())]
    far = [(i + 10, lon + 1e-4, lat, "") for i, lon, lat, _ in nodes]
    top = [(i + 20, lon, lat + 1e-4, "") for i, lon, lat, _ in nodes]
    nodes[0] = (*nodes[0][:3], tags[0])
    ways = [(i, [i, i + 10, i + 20, i], tags[i]) for i in (1, 2)]
    osm = write_opl(tmp_path / "a.opl", nodes + far + top, ways)
    features, _ = features_stage([osm], RULES, tmp_path, runner, True)
    cells, _ = vocabulary_stage(features, RULES, CleaningConfig(1, 1), CELL_ZOOM, tmp_path, runner, True)
    rule = choosing(Town(cells, np.ones(3), np.array([])), land_only=True)
    left, drops = rule(tiles)
    assert list(left.footprints().keys) == [tiles.footprints().keys[1]]
    assert [(d["reason"], d["count"]) for d in drops] == [("no_land", 2)]


def test_the_rules_say_which_classes_are_no_land(tmp_path: Path) -> None:
    assert [c.name for c in RULES.paint.classes if c.water] == ["water", "river", "stream"]
    text = (Path(rules.__file__).parent / "classes.yaml").read_text()
    (tmp_path / "classes.yaml").write_text(text.replace("{name: wetland, ", "{name: wetland, water: true, "))
    edited = load_rules(RulesConfig(classes=str(tmp_path / "classes.yaml")))
    assert [c.name for c in edited.paint.classes if c.water] == ["wetland", "water", "river", "stream"]


def test_the_most_tiles_are_taken_of_those_that_blocks_have_left() -> None:
    rule = choosing(None, min_objects=0, per_block=2, block_degrees=0.02, max_tiles=5)
    found, drops = chosen(rule)
    blocks = np.unique(np.floor(np.add(Tiles(XY, ZOOM, 256).centre(), (180, 90)) / 0.02), axis=0, return_counts=True)[1]
    kept = int(np.minimum(blocks, 2).sum())
    assert len(found) == 5 < kept < len(XY)
    assert drops == {"over_per_block": len(XY) - kept, "over_max_tiles": kept - 5}


@pytest.mark.parametrize("listed", [False, True])
def test_an_image_cut_along_the_edges_of_footprints_covers_them_at_sight(
    monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """Although its outline rounds: no share of millions of footprints has to be reckoned."""

    def reckoned(*_: Any) -> float:
        raise AssertionError("a share was reckoned")

    monkeypatch.setattr(order, "_share", reckoned)
    tiles = Tiles(XY, ZOOM, 256)
    area = shapely.union_all(tiles.outlines())
    rounded = shapely.transform(area, lambda xy: np.round(xy, 9))
    assert not shapely.covers(rounded, tiles.outlines()).all()
    rule = replace(choosing(None, min_objects=0), scenes=[Scene("a", rounded, ["red"], "uint8", None)])
    candidates: Candidates = Listed.of("grid", tiles.footprints()) if listed else tiles
    assert chosen(rule, candidates) == (set(range(len(XY))), {})


@pytest.mark.parametrize("held", [1, 7, 36])
def test_images_are_found_however_many_outlines_are_held_at_once(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr("pipeline.footprints.choose._OUTLINES", held)
    own = np.arange(3, len(XY), 2)
    area = shapely.union_all(Tiles(XY[own], ZOOM, 256).outlines())
    rule = replace(choosing(None, min_objects=0), scenes=[Scene("a", area, ["red"], "uint8", None)])
    assert chosen(rule) == (set(own.tolist()), {"no_imagery": len(XY) - len(own)})


def test_strata_go_by_the_objects_of_the_footprints_that_are_left(town: Town) -> None:
    """Those with too few objects, no land or no photo are out before strata are filled."""
    photographed = np.random.default_rng(1).random(len(XY)) < 0.6

    def pictured(candidates: Candidates) -> np.ndarray:
        at = {tuple(t): bool(p) for t, p in zip(XY.tolist(), photographed, strict=True)}
        return np.array([at[tuple(t)] for t in candidates.xy.tolist()])  # type: ignore[attr-defined]

    rule = choosing(town, pictured, 1, photos_only=True, land_only=True, strata="density")
    found, drops = chosen(rule)
    left = (town.objects >= 1) & (HOUSES > 0) & photographed
    sizes = np.bincount(density_stratum(town.objects[left]))
    each = sizes[sizes > 0].min()
    assert found <= set(np.flatnonzero(left).tolist())
    assert np.bincount(density_stratum(town.objects[sorted(found)])).tolist() == [each * (n > 0) for n in sizes]
    assert sum(drops.values()) + len(found) == len(XY)
