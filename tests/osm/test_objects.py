"""Vector files of every format give the same objects, and what cannot be used is counted."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.cells.cut import MAX_SEGMENT
from pipeline.osm.vectors.features import PartJob, load_part, name_parts, read_part
from pipeline.osm.vectors.noding import share_vertices
from pipeline.osm.vectors.objects import ChipObjects, read_objects
from pipeline.rules import load_rules
from schemas.errors import InputError
from schemas.features import VALUE, Kind
from schemas.relations import classify_all
from schemas.tags import tag_id
from tests.footprints.chips import geojson, geotiff, line, point, ring

RULES = load_rules()
HOUSE = ring((9.5, 47.1), (9.501, 47.1), (9.501, 47.1005), (9.5, 47.1005))
ROAD = line((9.5, 47.1), (9.5004, 47.1002), (9.502, 47.1))


def write_ogr(path: Path, features: list[tuple[dict[str, Any], dict[str, Any]]], crs: str, driver: str) -> Path:
    """A GeoPackage layer or a shapefile of (GeoJSON geometry in lon/lat, properties)."""
    geometry = shapely.from_geojson([json.dumps(g) for g, _ in features])
    transformer = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    moved = shapely.transform(geometry, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
    names = sorted({k for _, p in features for k in p})
    columns = [np.array([p.get(n) for _, p in features], object) for n in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyogrio.raw.write(
        path, shapely.to_wkb(moved), columns, names, geometry_type=geometry[0].geom_type, crs=crs, driver=driver,
        layer=path.stem,
    )  # fmt: skip
    return path


def summary(objects: ChipObjects) -> list[tuple[Any, ...]]:
    """Kind, tags and rounded shape of each object."""
    return sorted(
        (int(k), tuple(sorted(t.items())), shapely.to_wkt(shapely.normalize(g), 7))
        for k, t, g in zip(objects.kind, objects.tags, objects.geometry, strict=True)
    )


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:25832", "EPSG:3857"])
@pytest.mark.parametrize(("ending", "driver"), [(".gpkg", "GPKG"), (".shp", "ESRI Shapefile")])
def test_every_format_gives_the_same_objects(tmp_path: Path, crs: str, ending: str, driver: str) -> None:
    features = [
        (HOUSE, {"building": "yes", "levels": 3}),
        (ring((9.51, 47.1), (9.513, 47.1), (9.51, 47.104)), {"natural": "wood"}),
    ]
    geojson(tmp_path / "a_polygon.geojson", features)
    write_ogr(tmp_path / f"b_polygon{ending}", features, crs, driver)
    ours, theirs = (read_objects(tmp_path, [n]) for n in ("a_polygon.geojson", f"b_polygon{ending}"))
    assert summary(ours) == summary(theirs)
    assert not ours.dropped
    assert not theirs.dropped


def test_a_geojson_in_another_crs_is_brought_to_lonlat(tmp_path: Path) -> None:
    x, y = pyproj.Transformer.from_crs(4326, 25832, always_xy=True).transform(9.5, 47.1)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}
    geojson(tmp_path / "a.geojson", [(point(x, y), {"natural": "tree"})], crs=crs)
    objects = read_objects(tmp_path, ["a.geojson"])
    np.testing.assert_allclose(shapely.get_coordinates(objects.geometry), [[9.5, 47.1]], atol=1e-9)


def test_two_gdals_work_in_one_process(tmp_path: Path) -> None:
    """rasterio and pyogrio each bring their own, of another version."""
    write_ogr(tmp_path / "b.gpkg", [(HOUSE, {"building": "yes"})], "EPSG:25832", "GPKG")
    geotiff(tmp_path / "b.tif", "EPSG:25832", 537900, 5216100, 1.0, (8, 8))
    for _ in range(3):
        with rasterio.open(tmp_path / "b.tif") as source:
            assert source.crs.to_epsg() == 25832
            assert source.read().shape == (3, 8, 8)
        assert len(read_objects(tmp_path, ["b.gpkg"]).kind) == 1


def test_kinds_of_one_file_are_told_apart(tmp_path: Path) -> None:
    clipped = {"type": "GeometryCollection", "geometries": [HOUSE, ROAD, point(9.5, 47.1)]}
    parts = {"type": "MultiPoint", "coordinates": [[9.5, 47.1], [9.6, 47.1]]}
    both = {"type": "MultiLineString", "coordinates": [ROAD["coordinates"], [[9.6, 47.1], [9.7, 47.1]]]}
    rows = [
        (clipped, {"building": "yes"}),
        (parts, {"natural": "tree"}),
        (both, {"highway": "path"}),
        (ROAD, {"highway": "track"}),
    ]
    objects = read_objects(geojson(tmp_path / "a.geojson", rows).parent, ["a.geojson"])
    assert objects.kind.tolist() == [0, 0, 1, 1, 2]
    assert {g.geom_type for g in objects.geometry} == {"Point", "LineString", "MultiLineString", "Polygon"}


def test_the_objects_in_the_cache_are_those_of_these_files_rules_and_code_alone(tmp_path: Path) -> None:
    job = PartJob(0, tmp_path, tmp_path, [("a", ["a.geojson"], "hash")], RULES, "code")
    others = [
        replace(job, chips=[("a", ["a.geojson"], "other")]), replace(job, chips=[("b", ["a.geojson"], "hash")]),
        replace(job, chips=job.chips * 2), replace(job, rules=replace(RULES, fingerprint="other")),
        replace(job, code="other"),
    ]  # fmt: skip
    assert len({own.name for own in (job, *others)}) == 1 + len(others)
    assert replace(job, index=7, folder=tmp_path / "moved", cache=tmp_path / "cache").name == job.name


def test_long_straight_lines_of_a_file_are_densified(tmp_path: Path) -> None:
    """In lon/lat, where they are straight: in a map projection they are bent."""
    rows = [(line((9.5, 47.1), (9.6, 47.15)), {"highway": "path"}),
            (ring((9.5, 47.1), (9.6, 47.1), (9.6, 47.2)), {"landuse": "forest"})]  # fmt: skip
    objects = read_objects(geojson(tmp_path / "a.geojson", rows).parent, ["a.geojson"])
    assert len(objects.geometry) == 2
    for shape in objects.geometry:
        assert np.abs(np.diff(shapely.get_coordinates(shape), axis=0)).max() <= MAX_SEGMENT * (1 + 1e-9)


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    bow = ring((9.5, 47.1), (9.501, 47.101), (9.501, 47.1), (9.5, 47.101))
    flat = ring((9.5, 47.1), (9.501, 47.1), (9.502, 47.1))
    tree, path, house = {"natural": "tree"}, {"highway": "path"}, {"building": "yes"}
    rows = [
        (None, tree), (point(9.5, 47.1), {}), (point(9.5, 47.1), {"label": ""}), (point(900, 47), tree),
        (point(9.5, 95), tree), (line((-179, 5), (0, 5), (179, 5)), path), (bow, house), (flat, house),
        (line((9.5, 47.1), (9.5, 47.1)), path), ({"type": "Polygon", "coordinates": []}, house),
        (point(9.5, 47.1), tree), (point(9.5, 47.1), tree), (HOUSE, house),
    ]  # fmt: skip
    geojson(tmp_path / "a.geojson", rows)
    objects = read_objects(tmp_path, ["a.geojson"])
    assert objects.dropped == Counter({
        ("a.geojson", "no_geometry"): 1, ("a.geojson", "no_tags"): 2, ("a.geojson", "coordinate_out_of_range"): 2,
        ("a.geojson", "antimeridian"): 1, ("a.geojson", "geometry_repaired"): 1, ("a.geojson", "invalid_geometry"): 3,
        ("a.geojson", "duplicate"): 1,
    })  # fmt: skip
    assert sum(objects.dropped.values()) - 1 + len(objects.kind) == len(rows)  # the repaired one is kept
    assert shapely.is_valid(objects.geometry).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", b"{", "no GeoJSON"),
        ("a.geojson", b"[1, 2]", "no GeoJSON"),
        ("a.geojson", b'{"type": "FeatureCollection", "features": [3]}', "no GeoJSON"),
        ("a.geojson", b'{"type": "Point", "coordinates": [1, 2]}', "something else"),
        ("a.geojson", b'{"type": "Feature", "geometry": null, "properties": 5}', "propert"),
        ("a.geojson", b"\xff\xfe", "no GeoJSON"),
        ("a.geojson", b"[" * 100_000, "no GeoJSON"),
        ("a.geojson", b'{"type": "FeatureCollection", "features": [], "crs": {"properties": {"name": "x"}}}', "CRS"),
        ("a.gpkg", b"no database", "no GeoPackage"),
        ("a.gpkg", b"SQLite format 3\0" + b"x" * 200, "cannot be read"),
        ("a.shp", b'<OGRVRTDataSource><OGRVRTLayer name="x"></OGRVRTLayer></OGRVRTDataSource>', "no shapefile"),
        ("a.shp", b"\0\0\x27\x0a" + b"\0" * 96, "cannot be read|names no CRS"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_objects(tmp_path, [name])
    assert name in str(caught.value)


def test_a_layer_without_crs_is_refused(tmp_path: Path) -> None:
    write_ogr(tmp_path / "a.shp", [(HOUSE, {"building": "yes"})], "EPSG:4326", "ESRI Shapefile")
    (tmp_path / "a.prj").unlink()
    with pytest.raises(InputError, match="names no CRS"):
        read_objects(tmp_path, ["a.shp"])


def test_objects_without_an_osm_id_get_a_stable_negative_one(tmp_path: Path) -> None:
    first = [(HOUSE, {"building": "yes"}), (ROAD, {"highway": "path"}), (point(9.5, 47.1), {"natural": "tree"})]
    turned = ring((9.501, 47.1005), (9.5, 47.1005), (9.5, 47.1), (9.501, 47.1))
    geojson(tmp_path / "a.geojson", first)
    geojson(tmp_path / "b.geojson", [*reversed(first[1:]), (turned, {"building": "yes"})])
    a, b = (read_objects(tmp_path, [f"{n}.geojson"]) for n in "ab")
    assert (a.osm_id < 0).all()
    assert a.osm_id.tolist() == b.osm_id.tolist()
    assert a.osm_type.tolist() == [0, 1, 1]
    geojson(tmp_path / "c.geojson", [(HOUSE, {"building": "house"})])
    assert read_objects(tmp_path, ["c.geojson"]).osm_id[0] not in a.osm_id


def test_parts_that_share_an_osm_id_are_one_object(tmp_path: Path) -> None:
    beside = ring((9.501, 47.1), (9.502, 47.1), (9.502, 47.1005), (9.501, 47.1005))
    rows = [
        (HOUSE, {"building": "yes", "@id": "way/5"}),
        (beside, {"building": "yes", "@id": "way/5"}),
        (ROAD, {"highway": "path", "@id": "way/6"}),
    ]
    objects = read_objects(geojson(tmp_path / "a.geojson", rows).parent, ["a.geojson"])
    assert list(zip(objects.osm_type.tolist(), objects.osm_id.tolist(), strict=True)) == [(1, 6), (1, 5)]
    assert objects.geometry[1].area == pytest.approx(2 * 0.001 * 0.0005)
    assert not objects.dropped


@st.composite
def clipped_shapes(draw: st.DrawFn) -> list[Any]:
    """Lines and polygons on a coarse grid, clipped to the box that the grid reaches beyond."""
    box = shapely.box(9.50013, 47.10007, 9.50391, 47.10377)
    place = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (9.5 + p[0] * 5e-4, 47.1 + p[1] * 5e-4))
    shapes: list[Any] = []
    for _ in range(draw(st.integers(2, 7))):
        corners = draw(st.lists(place, min_size=2, max_size=5, unique=True))
        hull = shapely.MultiPoint(corners).convex_hull
        shape = shapely.intersection(shapely.LineString(corners) if draw(st.booleans()) else hull, box)
        shapes += [p for p in shapely.get_parts(shape) if p.length > 0]
    return shapes


@given(clipped_shapes())
def test_objects_clipped_to_one_box_keep_their_relations_in_any_projection(shapes: list[Any]) -> None:
    """Relations in the coordinates in which they were clipped against those after a projection that bends the box.

    Judged is what runs along the box's sides: where a vertex lies on a slanted side of another by chance, rounding
    decides in lon/lat already.
    """
    geometry = np.array(shapes, object)
    if len(geometry) < 2:
        return
    kind = shapely.get_dimensions(geometry).astype(np.uint8)
    i, j = np.triu_indices(len(geometry), 1)
    transformer = pyproj.Transformer.from_crs(4326, 3067, always_xy=True)
    shared = share_vertices(geometry)
    moved = shapely.transform(shared, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
    before, after = (
        classify_all(np.asarray(shapely.relate(g[i], g[j]), "U9"), kind[i], kind[j]) for g in (geometry, moved)
    )
    assert shapely.equals(geometry, shared).all()
    slanted = np.array([_meet_aslant(geometry[a], geometry[b]) for a, b in zip(i, j, strict=True)], bool)
    assert (before == after)[~slanted].all()


def _meet_aslant(a: Any, b: Any) -> bool:
    """Whether a vertex of one lies on a slanted segment of the other without being its end."""
    for one, other in ((a, b), (b, a)):
        ends = shapely.get_coordinates(other)
        xy = shapely.get_coordinates(one)
        for p, q in pairwise(xy):
            if (p == q).any():
                continue
            segment = shapely.LineString([p, q])
            for e in ends:
                if segment.distance(shapely.Point(e)) < 1e-9 and not (e == p).all() and not (e == q).all():
                    return True
    return False


def test_without_shared_vertices_the_relation_would_change() -> None:
    """The fault that sharing mends: two boxes clipped along one parallel."""
    outer, inner = shapely.box(21.0909, 63.3061, 21.0926, 63.3073), shapely.box(21.0914, 63.3061, 21.0920, 63.3065)
    geometry = np.array([inner, outer], object)
    transformer = pyproj.Transformer.from_crs(4326, 3067, always_xy=True)

    def related(g: Any) -> str:
        moved = shapely.transform(g, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
        return str(shapely.relate(moved[0], moved[1]))

    covered = str(shapely.relate(inner, outer))
    assert related(share_vertices(geometry)) == covered
    assert related(geometry) != covered


def test_tags_are_counted_over_all_chips_and_named_alike(tmp_path: Path) -> None:
    geojson(
        tmp_path / "a.geojson",
        [(point(9.5, 47.1), {"label": "shop:craft;craft:printer"}), (HOUSE, {"label": "building:building"})],
    )
    geojson(
        tmp_path / "b.geojson",
        [(HOUSE, {"building": "yes", "name": "Haus"}), (ROAD, {"name": "Weg"}), (point(9.5, 47.1), {"shop": "shoes"})],
    )
    jobs = [
        PartJob(i, tmp_path, tmp_path / "cache", [(f"chip-{n}", [f"{n}.geojson"], "0")], RULES, "code")
        for i, n in enumerate("ab")
    ]
    for job in jobs:
        assert not read_part(job).cached
    named = name_parts(jobs, 2, 1)
    table = {r["text"]: (r["tag_count"], r["key_count"]) for r in named.vocabulary.table().to_pylist()}
    assert table == {"building:building": (2, 2), "shop:shop": (2, 2), "craft:craft": (1, 1)}
    found = [load_part(job, ids).features for job, ids in zip(jobs, named.ids, strict=True)]
    ids = [sorted(f.tag_ids.tolist()) for f in found]
    building, shop, craft = (tag_id(t) for t in ("building:building", "shop:shop", "craft:craft"))
    assert ids == [sorted([shop, craft, building]), sorted([building, shop])]
    assert [(d["key"], d["reason"], d["count"]) for d in named.drops] == [("chip-b", "no_kept_key", 1)]
    assert {int(p & VALUE) for f in found for k, p in zip(f.kind, f.paint, strict=True) if k == Kind.POLYGON} == {
        RULES.paint.value("building", "yes")
    }
    assert all(read_part(job).cached for job in jobs)


def test_an_unreadable_vector_file_drops_its_chip_alone(tmp_path: Path) -> None:
    geojson(tmp_path / "a.geojson", [(HOUSE, {"building": "yes"})])
    (tmp_path / "b.geojson").write_text("{")
    chips = [("chip-a", ["a.geojson"], "0"), ("chip-b", ["b.geojson"], "0")]
    job = PartJob(0, tmp_path, tmp_path / "cache", chips, RULES, "code")
    read_part(job)
    named = name_parts([job], 1, 1)
    part = load_part(job, named.ids[0])
    assert (part.chip.tolist(), part.unreadable) == ([0], frozenset({1}))
    assert [(d["key"], d["reason"]) for d in named.drops] == [("chip-b", "unreadable_vectors")]
    assert not math.isnan(part.features.geometry[0].area)
