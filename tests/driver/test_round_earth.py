"""A plan goes by content, on a round earth: what lies far apart, at 180° or outside a file's box is built or named."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import osmium
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Transformer

from pipeline.driver.plan import Plan, make_plan
from pipeline.driver.shards import make_shards
from pipeline.driver.sources import Region
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.imagery.config import ImageryConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.regions.area import parse_bbox
from pipeline.run.ray_map import Runner
from pipeline.samples.config import GridConfig, PlanConfig, ShardsConfig
from pipeline.streetview.config import StreetviewConfig
from schemas.errors import ConfigError, InputError
from schemas.sample import SampleMeta
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store
from tests.imagery.scenes import write_utm
from tests.osm.opl import opl

Tile = tuple[int, int]

FIJI = """
    n1 v1 x177.4422 y-17.7558 Ttourism=hotel
    n2 v1 x179.9911 y-16.7722 Tnatural=peak
    n3 v1 x-178.7811 y-18.2022 Tamenity=school
"""
HOUSE = """
    n1 v1 x7.42 y43.73
    n2 v1 x7.421 y43.73
    n3 v1 x7.421 y43.731
    n4 v1 x7.42 y43.731
    w1 v1 Tbuilding=yes Nn1,n2,n3,n4,n1
"""
BOTH_SIDES = """
    n1 v1 x179.98 y-17.00
    n2 v1 x179.99 y-17.00
    n3 v1 x179.99 y-16.99
    n4 v1 x179.98 y-16.99
    n11 v1 x-179.99 y-17.00
    n12 v1 x-179.98 y-17.00
    n13 v1 x-179.98 y-16.99
    n14 v1 x-179.99 y-16.99
    w1 v1 Nn1,n2,n3,n4,n1
    w2 v1 Nn11,n12,n13,n14,n11
    r9 v1 Ttype=multipolygon,natural=wood Mw1@outer,w2@outer
"""


@dataclass
class Made:
    """A dataset, by what the tests ask of it."""

    rows: list[dict[str, Any]]
    drops: list[dict[str, Any]]
    store: Store
    content_hash: str

    @property
    def tiles(self) -> set[Tile]:
        return {(int(r["key"].split("-")[2]), int(r["key"].split("-")[3])) for r in self.rows}


def config_of(folder: Path, text: str, **changes: Any) -> ShardsConfig:
    osm = folder / "x.opl"
    osm.write_text(opl(text), encoding="utf-8")
    fixed = {"imagery": "none", "streetview": "none", "zoom": 17, "size": 64, "workers": 1, "out": str(folder / "out")}
    return ShardsConfig(region=str(osm), cache=str(folder / "cache"), **(fixed | changes))


def built(folder: Path, text: str, region: Region | None = None, **changes: Any) -> Made:
    folder.mkdir(exist_ok=True)
    document = make_shards(config_of(folder, text, **changes), True, region).document
    store = Store(str(folder / "out"))
    return Made(sample_rows(store), read_catalog(store, "drops").to_pylist(), store, document["content_hash"])


def planned(folder: Path, text: str, region: Region | None = None, **changes: Any) -> Plan:
    folder.mkdir(exist_ok=True)
    return make_plan(config_of(folder, text, **changes), Runner(1), True, region)


def tile_at(lon: float, lat: float, zoom: int = 17) -> Tile:
    t = mercantile.tile(lon, lat, zoom)
    return t.x, t.y


def tiles_meeting(shape: Any, zoom: int) -> set[Tile]:
    boxes = {(t.x, t.y): shapely.box(*mercantile.bounds(t)) for t in mercantile.tiles(*shape.bounds, zooms=zoom)}
    return {t for t, box in boxes.items() if box.intersection(shape).area > 1e-12}


def lost(drops: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(d["reason"], d["osm_id"]) for d in drops if d["osm_id"] is not None}


def test_three_objects_of_fiji_have_their_three_tiles_at_any_zoom(tmp_path: Path) -> None:
    places = [(177.4422, -17.7558), (179.9911, -16.7722), (-178.7811, -18.2022)]
    made = built(tmp_path / "17", FIJI)
    assert made.tiles == {tile_at(*p) for p in places}
    assert [r["n_point"] for r in made.rows] == [1, 1, 1]
    assert len(planned(tmp_path / "22", FIJI, zoom=22).footprints) == 3


def test_a_multipolygon_with_a_part_on_either_side_of_180_has_tiles_on_both(tmp_path: Path) -> None:
    made = built(tmp_path, BOTH_SIDES)
    parts = shapely.box(179.98, -17.0, 179.99, -16.99), shapely.box(-179.99, -17.0, -179.98, -16.99)
    assert made.tiles == tiles_meeting(parts[0], 17) | tiles_meeting(parts[1], 17)
    assert {r["n_polygon"] for r in made.rows} == {1}
    assert not lost(made.drops)


def test_points_at_180_are_in_the_first_tile_however_their_longitude_is_written(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        """
        n1 v1 x179.995 y-17.00
        n2 v1 x180 y-17.00
        n3 v1 x180 y-16.99
        n4 v1 x179.995 y-16.99
        n20 v1 x180 y-17.0011 Ttourism=viewpoint
        n21 v1 x-180 y-17.0011 Ttourism=artwork
        n22 v1 x179.9999999 y-17.0011 Ttourism=museum
        w1 v1 Tnatural=wood Nn1,n2,n3,n4,n1
        """,
    )
    points = {(int(r["key"].split("-")[2]), r["n_point"]) for r in made.rows if r["n_point"]}
    assert points == {(0, 2), ((1 << 17) - 1, 1)}
    assert made.tiles >= tiles_meeting(shapely.box(179.995, -17.0, 180, -16.99), 17)
    assert not lost(made.drops)


def test_a_way_that_steps_across_180_is_built_on_both_sides(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        """
        n1 v1 x179.9985 y-17.003
        n2 v1 x-179.9985 y-17.003
        n3 v1 x-179.9985 y-17.002
        n4 v1 x179.9985 y-17.002
        n5 v1 x179.999 y-17.004
        n6 v1 x-179.999 y-17.004
        w1 v1 Tnatural=wood Nn1,n2,n3,n4,n1
        w2 v1 Thighway=residential Nn5,n6
        """,
        zoom=14,
    )
    y = tile_at(180, -17.003, 14)[1]
    assert made.tiles == {(0, y), ((1 << 14) - 1, y)}
    assert [(r["n_line"], r["n_polygon"]) for r in made.rows] == [(1, 1), (1, 1)]
    assert not lost(made.drops)


def test_what_lies_beyond_the_map_is_named(tmp_path: Path) -> None:
    made = built(tmp_path, HOUSE + "\nn7 v1 x7 y86.1 Tnatural=peak\nn8 v1 x180 y-89.9 Tnatural=peak")
    assert lost(made.drops) == {("beyond_mercator", 7), ("beyond_mercator", 8)}


def test_an_object_that_has_no_place_on_the_map_costs_no_tiles(tmp_path: Path) -> None:
    """Which would be nearly 20 million for the shelf, and a row of them around the world for the way along 180°."""
    far = """
    n11 v1 x-179 y-70
    n12 v1 x-1 y-60
    n13 v1 x179 y-60
    n14 v1 x179 y-75
    n15 v1 x180 y1
    n16 v1 x-180 y1.001
    w11 v1 Tnatural=glacier Nn11,n12,n13,n14,n11
    w12 v1 Thighway=track Nn15,n16
    """
    made, alone = built(tmp_path / "far", HOUSE + far), built(tmp_path / "alone", HOUSE)
    assert made.tiles == alone.tiles
    assert lost(made.drops) == {("antimeridian", 11), ("antimeridian", 12)}
    assert not [d for d in made.drops if d["reason"] == "too_few_objects"]


def test_a_stray_untagged_node_changes_no_sample_and_costs_nothing(tmp_path: Path) -> None:
    """Which is nearly 48 million tiles of zoom 17 away."""
    town = "\n".join(
        f"n{k} v1 x{7.42 + (k % 40) * 0.0004:.4f} y{43.73 + (k // 40) * 0.0003:.4f} Tamenity=bench"
        for k in range(1, 1201)
    )
    seconds: dict[str, list[float]] = {"": [], "n9999 v1 x0 y0": []}
    made = [built(tmp_path / f"{i}", f"{town}\n{stray}") for i, stray in enumerate(seconds)]
    assert made[0].content_hash == made[1].content_hash
    for k in range(3):
        for i, (stray, spent) in enumerate(seconds.items()):
            start = time.process_time()
            plan = planned(tmp_path / f"{i}-{k}", f"{town}\n{stray}")
            spent.append(time.process_time() - start)
            assert len(plan.footprints) == len(made[0].rows)
    assert min(seconds["n9999 v1 x0 y0"]) < 1.5 * min(seconds[""])


def write_boxed(path: Path, box: tuple[float, float, float, float], text: str) -> Path:
    """OPL as PBF with a box in its header."""
    source = path.with_suffix(".opl")
    source.write_text(opl(text))
    header = osmium.io.Header()
    header.add_box(osmium.osm.Box(*box))
    with osmium.SimpleWriter(str(path), header=header) as writer:
        for o in osmium.FileProcessor(str(source)):
            writer.add(o)
    return path


def test_an_exclave_outside_the_box_of_its_file_is_named_and_an_outline_builds_it(tmp_path: Path) -> None:
    trees = "n100 v1 x9.4 y47.5 Tnatural=tree\nn101 v1 x9.51 y47.11 Tnatural=tree"
    path = write_boxed(tmp_path / "a.pbf", (9.5, 47.1, 9.6, 47.2), trees)
    plain, outlined = Region("a", [path]), Region("a", [path], clip=shapely.box(9.3, 47.0, 9.7, 47.6))
    made = built(tmp_path / "plain", "", plain)
    assert made.tiles == {tile_at(9.51, 47.11)}
    assert lost(made.drops) == {("outside_extract", 100)}
    far = write_utm(tmp_path / "far.tif", (7.41, 43.72, 7.413, 43.722), 2.0, "EPSG:32632")
    with pytest.raises(InputError, match="no footprint is left to build: 1 no_imagery; "):
        built(tmp_path / "far", "", Region("a", [path], str(far)))  # of footprints, not of objects
    made = built(tmp_path / "outlined", "", outlined)
    assert made.tiles == {tile_at(9.51, 47.11), tile_at(9.4, 47.5)}
    assert not lost(made.drops)


def test_an_outline_across_180_takes_what_lies_in_it_on_both_sides(tmp_path: Path) -> None:
    config = config_of(tmp_path, FIJI)
    region = Region("fiji", [Path(config.region)], clip=parse_bbox("179,-19,-178,-16"))
    made = built(tmp_path, FIJI, region)
    assert made.tiles == {tile_at(179.9911, -16.7722), tile_at(-178.7811, -18.2022)}


def test_the_most_tiles_are_judged_by_content(tmp_path: Path) -> None:
    assert len(planned(tmp_path, FIJI, plan=PlanConfig(max_tiles=3)).footprints) == 3
    with pytest.raises(ConfigError, match=r"objects lie on up to 3 tiles at zoom 17, over plan\.max_tiles=2"):
        planned(tmp_path, FIJI, plan=PlanConfig(max_tiles=2))


@pytest.mark.parametrize("box", [(179.985, -17.0, 179.99, -16.995), (-179.99, -17.0, -179.985, -16.995)])
def test_with_an_image_on_one_side_of_180_that_side_is_built(
    tmp_path: Path, box: tuple[float, float, float, float]
) -> None:
    image = write_utm(tmp_path / "a.tif", box, 2.0, "EPSG:32760" if box[0] > 0 else "EPSG:32701")
    made = built(tmp_path, BOTH_SIDES, imagery=str(image))
    assert made.tiles
    for x, y in made.tiles:
        west, south, east, north = mercantile.bounds(x, y, 17)
        assert box[0] - 0.001 < west < east < box[2] + 0.001
        assert box[1] - 0.001 < south < north < box[3] + 0.001
    assert sum(d["count"] for d in made.drops if d["reason"] == "no_imagery") > len(made.tiles)


def test_an_image_across_180_covers_tiles_on_both_sides(tmp_path: Path) -> None:
    """A strip of zone 60 that reaches over the meridian, where zone 1 begins."""
    image = write_utm(tmp_path / "a.tif", (179.97, -17.01, -179.97, -16.98), 5.0, "EPSG:32760")
    made = built(tmp_path, BOTH_SIDES, imagery=str(image))
    half = 1 << 16
    assert {x < half for x, _ in made.tiles} == {True, False}
    parts = shapely.box(179.98, -17.0, 179.99, -16.99), shapely.box(-179.99, -17.0, -179.98, -16.99)
    assert made.tiles >= tiles_meeting(parts[0], 17) | tiles_meeting(parts[1], 17)


def test_a_grid_cell_across_180_holds_the_objects_the_image_and_the_photos_of_both_sides(tmp_path: Path) -> None:
    places = [(x, -16.95 + 0.0005 * k) for x in (179.9993, -179.9993) for k in range(40)]
    text = "\n".join(f"n{i} v1 x{x} y{y:.4f} Tnatural=tree" for i, (x, y) in enumerate(places, 1))
    image = write_utm(tmp_path / "a.tif", (179.98, -16.97, -179.98, -16.91), 10.0, "EPSG:32760")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    photos = [f"a.png,{x},{y + 0.0002:.4f},p{i},CC0-1.0" for i, (x, y) in enumerate(places)]
    (tmp_path / "t.csv").write_text("\n".join(["file,lon,lat,id,licence", *photos]) + "\n")
    made = built(
        tmp_path, text, footprints=("grid",), grid=GridConfig(10.0), imagery=str(image),
        streetview=str(tmp_path / "t.csv"), sv=StreetviewConfig(max_per_tile=100),
    )  # fmt: skip
    across = [r for r in made.rows if r["bbox"]["xmin"] > r["bbox"]["xmax"]]
    assert across
    for row in across:
        outline = shapely.from_wkb(row["geometry"])
        assert (outline.bounds[0], outline.bounds[2]) == (-180.0, 180.0)
        inside = [shapely.covers(outline, shapely.Point(p)) for p in places]
        assert abs(row["n_point"] - sum(inside)) <= 2  # at the rim an outline is not straight
        assert any(inside[:40])
        assert any(inside[40:])
    ids = [p["id"] for p in read_catalog(made.store, "streetview").to_pylist()]
    assert set(ids) == {f"p{i}" for i in range(len(places))}
    for _, members in read_samples(made.store, across):
        assert np.asarray(Image.open(io.BytesIO(members["rs.jpg"]))).any()


def test_shards_and_keys_are_the_same_when_something_is_added_far_away(tmp_path: Path) -> None:
    """Candidates depend on no other's place, so a new object on the other side leaves all tars but its own."""
    far = FIJI.replace(" n", " n9")
    near, both = planned(tmp_path / "a", HOUSE), planned(tmp_path / "b", HOUSE + far)
    keys = near.footprints.footprints().keys.tolist()
    assert set(keys) <= set(both.footprints.footprints().keys.tolist())
    assert len(both.footprints) == len(keys) + 3


def test_an_object_across_180_is_one_whole_object_of_a_grid_cell_across(tmp_path: Path) -> None:
    """200 m by 50 m, as one way that steps across and as a multipolygon cut at the meridian."""
    metre = 1 / 106_500
    west, east = 180 - 100 * metre, -180 + 100 * metre
    nodes = "".join(
        f"\nn{n} v1 x{x:.7f} y{y}"
        for n, x, y in [
            (1, west, -16.95), (2, east, -16.95), (3, east, -16.9495), (4, west, -16.9495),
            (5, west, -16.94), (6, 180, -16.94), (7, 180, -16.9395), (8, west, -16.9395),
            (9, -180, -16.94), (10, east, -16.94), (11, east, -16.9395), (12, -180, -16.9395),
        ]
    )  # fmt: skip
    ways = "\nw1 v1 Tnatural=wood Nn1,n2,n3,n4,n1\nw2 v1 Nn5,n6,n7,n8,n5\nw3 v1 Nn9,n10,n11,n12,n9"
    text = f"{nodes}{ways}\nr1 v1 Ttype=multipolygon,natural=wood Mw2@outer,w3@outer"
    made = built(tmp_path, text, footprints=("grid",), grid=GridConfig(100.0), size=64)
    shares = []
    for _, members in read_samples(made.store, made.rows):
        tokens = OsmTokens.from_bytes(members["osm.safetensors"])
        shares.append((len(tokens), float(tokens.extent.sum())))
    whole = [s for s in shares if s[0] == 2]
    assert whole
    assert max(s for _, s in whole) == pytest.approx(2 * 200 * 55.3 / 6400**2, rel=0.02)
    assert not lost(made.drops)


def test_a_plan_at_the_lowest_zooms_is_the_world(tmp_path: Path) -> None:
    keys = planned(tmp_path, FIJI, zoom=1).footprints.footprints().keys.tolist()
    assert sorted(keys) == ["xyz-1-0-1-64", "xyz-1-1-1-64"]
    assert planned(tmp_path, FIJI, zoom=0).footprints.footprints().keys.tolist() == ["xyz-0-0-0-64"]


def test_chips_across_180_are_built_with_the_objects_of_both_sides(tmp_path: Path) -> None:
    """By a transform in UTM, and by a bbox whose west is over its east."""
    folder = tmp_path / "chips"
    folder.mkdir()
    write_utm(folder / "a.tif", (179.9985, -17.0015, -179.9985, -16.9985), 2.0, "EPSG:32760")
    box = (179.999, -17.001, -179.999, -16.999)
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32760", always_xy=True).transform(box[::2], box[1::2])
    Image.new("RGB", (round((x[1] - x[0]) / 2), round((y[1] - y[0]) / 2)), (9, 99, 9)).save(folder / "b.jpg")
    (folder / "b.json").write_text(json.dumps({"bbox": box, "crs": "EPSG:32760"}))
    west, east = 179.9997, -179.9997
    split = [[[west, -17.0], [180, -17.0], [180, -16.9995], [west, -16.9995], [west, -17.0]],
             [[-180, -17.0], [east, -17.0], [east, -16.9995], [-180, -16.9995], [-180, -17.0]]]  # fmt: skip
    whole = [[west, -17.0], [east, -17.0], [east, -16.9995], [west, -16.9995], [west, -17.0]]
    woods = {"a": {"type": "Polygon", "coordinates": [whole]},
             "b": {"type": "MultiPolygon", "coordinates": [[ring] for ring in split]}}  # fmt: skip
    for stem, wood in woods.items():
        trees = [{"type": "Point", "coordinates": p} for p in ((179.9995, -17.0), (-179.9995, -17.0))]
        for kind, tag, shapes in (("point", "tree", trees), ("polygon", "wood", [wood])):
            features = [{"type": "Feature", "properties": {"natural": tag}, "geometry": g} for g in shapes]
            document = {"type": "FeatureCollection", "features": features}
            (folder / f"{stem}_{kind}.geojson").write_text(json.dumps(document))
    config = ShardsConfig(
        region="none", footprints=("chips",), chips=ChipsConfig(str(folder)), imagery="none",
        streetview="none", workers=1, out=str(tmp_path / "out"), rs=ImageryConfig(licence="CC0-1.0"),
        osm=CleaningConfig(1), cache=str(tmp_path / "cache"),
    )  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(str(tmp_path / "out"))
    rows = sorted(sample_rows(store), key=lambda r: r["key"])
    assert [(r["key"], r["n_point"], r["n_polygon"]) for r in rows] == [("chip-a", 2, 1), ("chip-b", 2, 1)]
    metre = 1 / 106_500  # of longitude
    for row, (_, members) in zip(rows, read_samples(store, rows), strict=True):
        assert row["bbox"]["xmin"] > 179.99
        assert row["bbox"]["xmax"] < -179.99
        tokens = OsmTokens.from_bytes(members["osm.safetensors"])
        meta = SampleMeta.from_bytes(members["json"])
        area = meta.footprint.width * meta.footprint.height * np.prod(meta.gsd)  # square metres
        assert tokens.extent.max() * area == pytest.approx(0.0006 / metre * 55.3, rel=0.02)


def test_an_image_that_holds_no_whole_tile_is_said_with_the_settings_that_help(tmp_path: Path) -> None:
    """The zoom is the image's own; and what the line names builds."""
    image = write_utm(tmp_path / "a.tif", (7.4198, 43.7298, 7.4212, 43.7312), 1.0, "EPSG:32632")
    small = {"imagery": str(image), "zoom": None, "size": 256}
    with pytest.raises(
        InputError, match=r"no footprint is left .* of zoom 17, and may hold none .* size=64 .* zoom=19"
    ):
        built(tmp_path / "a", HOUSE, **small)
    assert built(tmp_path / "b", HOUSE, **(small | {"size": 64})).tiles
    assert built(tmp_path / "c", HOUSE, **(small | {"zoom": 20})).tiles


def test_a_build_whose_tiles_were_all_dropped_says_why_and_what_helps(tmp_path: Path) -> None:
    image = write_utm(tmp_path / "a.tif", (7.41, 43.72, 7.43, 43.74), 2.0, "EPSG:32632")
    with rasterio.open(image, "r+") as target:
        target.write(np.zeros((3, *target.shape), np.uint8))
        target.nodata = 0
    for _ in range(2):  # and again, where nothing is left to do
        with pytest.raises(InputError, match=r"no sample: all \d+ footprints .*: \d+ nodata \(no pixel has data\); "):
            built(tmp_path / "x", HOUSE, imagery=str(image))
    with rasterio.open(image, "r+") as target:
        target.write(
            np.full((3, target.shape[0], 3), 7, np.uint8), window=rasterio.windows.Window(400, 0, 3, target.shape[0])
        )
    config = config_of(tmp_path, HOUSE, imagery=str(image), out=str(tmp_path / "y"), zoom=16)
    with pytest.raises(InputError, match=r"holds no sample: .* nodata \(0\.9.* over rs\.max_nodata=0\.01\); raise rs"):
        make_shards(config, True)
