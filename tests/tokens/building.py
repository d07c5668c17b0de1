"""How tests take features through the pipeline to tokens, and how they compare them with the oracle."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import shapely

from geometry.tiles import tile_to_lonlat, xyz_footprint
from pipeline.osm.cells.cut import cut_to_cells, whole_features
from pipeline.osm.extracts.read import read_extract
from pipeline.osm.features import FeatureBatch
from pipeline.rules import Rules, load_rules
from pipeline.tokens.build import build_tokens
from schemas.features import CELL_ZOOM, Kind, ObjectType
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.relations import Relation
from schemas.tokens import OsmTokens
from tests.osm.tables import feature_table, table_of, tag_features
from tests.tokens.oracle import Feature, OracleTokens, brute_force, delaunay_fault, features_of, undecided

RULES = load_rules()
TYPES = [t.name.lower() for t in ObjectType]
KINDS = [k.name.lower() for k in Kind]


@dataclass(frozen=True)
class Place:
    """One extract, ready for both sides."""

    cells: pa.Table
    cell: np.ndarray  # of each row of cells
    drops: pa.Table
    features: list[Feature]  # whole, for the oracle
    extent: tuple[float, float, float, float] | None


def place_of_features(
    table: pa.Table, extent: tuple[float, float, float, float] | None = None, rules: Rules = RULES
) -> Place:
    """A place from a FEATURES table."""
    tagged = tag_features(table["tags"], rules, 1)
    cells, drops = cut_to_cells(whole_features(table), tagged.offsets, tagged.ids, tagged.paint)
    ids = [tagged.ids[a:b].tolist() for a, b in zip(tagged.offsets[:-1], tagged.offsets[1:], strict=True)]
    lost = drops.filter(pa.compute.not_equal(drops["reason"], "geometry_repaired"))
    gone = set(zip(lost["osm_type"].to_pylist(), lost["osm_id"].to_pylist(), strict=True))
    rows = table.select(["osm_type", "osm_id", "kind", "geometry"]).to_pylist()
    whole = [f for f, r in zip(features_of(rows, ids), rows, strict=True) if (r["osm_type"], r["osm_id"]) not in gone]
    return Place(cells, cells["cell"].to_numpy(), drops, whole, extent)


def read_place(path: Path) -> Place:
    """A place from an OSM file; the last few stay in memory, since several tests read them."""
    return _read_place(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_place(path: Path, modified: int) -> Place:
    with tempfile.TemporaryDirectory() as folder:
        extract = read_extract(path, RULES, Path(folder))
        return place_of_features(table_of(extract), extract.extents[0], RULES)


def batch_of(place: Place, cell: int) -> FeatureBatch:
    """The features of one cell."""
    rows = place.cells.filter(pa.array(place.cell == cell))
    lists = rows["tag_ids"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return FeatureBatch(
        rows["osm_type"].to_numpy(), rows["osm_id"].to_numpy(), rows["kind"].to_numpy(), offsets - offsets[0],
        lists.flatten().to_numpy(), rows["paint"].to_numpy(),
        shapely.from_wkb(np.array(rows["geometry"].to_pylist(), object)),
    )  # fmt: skip


def cell_of(key: XyzKey) -> int:
    """The cell that a tile lies in."""
    shift = key.zoom - CELL_ZOOM
    return (key.y >> shift) * (1 << CELL_ZOOM) + (key.x >> shift)


def tokens_of(place: Place, keys: list[XyzKey], grid: tuple[int, int] = (14, 14)) -> dict[XyzKey, OsmTokens]:
    """Tokens of tiles, all those of a cell built at once."""
    result: dict[XyzKey, OsmTokens] = {}
    for cell in sorted({cell_of(k) for k in keys}):
        own = [k for k in keys if cell_of(k) == cell]
        built = build_tokens(batch_of(place, cell), [xyz_footprint(k) for k in own], grid)
        result.update(zip(own, built.tokens, strict=True))
    return result


def around(key: XyzKey) -> tuple[float, float, float, float]:
    """A tile's box in degrees."""
    (west, north), (east, south) = tile_to_lonlat(np.array([[key.x, key.y], [key.x + 1, key.y + 1]], float), key.zoom)
    return float(west), float(south), float(east), float(north)


def oracle_of(place: Place, key: XyzKey, grid: tuple[int, int] = (14, 14)) -> OracleTokens:
    """The oracle's answer for one tile."""
    return brute_force(place.features, xyz_footprint(key), grid, around(key))


def differences(tokens: OsmTokens, oracle: OracleTokens, footprint: Footprint, tolerance: float = 1e-6) -> list[str]:
    """Everything in which the tokens depart from the oracle's answer; empty where they agree."""
    keys = [(int(k), int(t), int(i)) for k, t, i in zip(tokens.kind, tokens.osm_type, tokens.osm_id, strict=True)]
    expected = [o.key for o in oracle.objects]
    if keys != expected:
        return [f"objects: {sorted(set(keys) ^ set(expected))} on one side only, or out of order"]
    found = [tokens.problem() or ""]
    found += _objects(tokens, oracle, footprint, tolerance)
    found += _relations(tokens, oracle)
    found += _cover(tokens, oracle, tolerance)
    found += _region(tokens, oracle, tolerance)
    return [f for f in found if f]


def _objects(tokens: OsmTokens, oracle: OracleTokens, footprint: Footprint, tolerance: float) -> list[str]:
    found = []
    size = footprint.width, footprint.height
    for n, o in enumerate(oracle.objects):
        tags = tokens.tag_ids[tokens.tag_offsets[n] : tokens.tag_offsets[n + 1]].tolist()
        if tags != sorted(o.feature.tag_ids):
            found.append(f"{o.key}: tags {tags}")
        if abs(tokens.extent[n] - o.extent) > tolerance * max(1.0, o.extent):
            found.append(f"{o.key}: extent {tokens.extent[n]}, not {o.extent}")
        used = (1, 3, 4)[o.key[0]]  # a point itself; a line's midpoint and ends; a polygon's own point and 3 samples
        if not np.isnan(tokens.anchors[n, used:]).all() or np.isnan(tokens.anchors[n, :used]).any():
            found.append(f"{o.key}: {used} anchors are due")
            continue
        for x, y in tokens.anchors[n, :used].astype(float):
            away = o.geometry.distance(shapely.Point(x * size[0], y * size[1]))
            if away > 1e-4:  # float32 of a normalised coordinate, in pixels
                found.append(f"{o.key}: anchor {x}, {y} lies {away} px outside")
        found += _vertices(tokens, n, o.geometry, size, o.key[0])
    return found


def _vertices(tokens: OsmTokens, n: int, geometry: object, size: tuple[int, int], kind: int) -> list[str]:
    """The snapped geometry lies within a unit's diagonal of the exact one, and its rings turn as they should."""
    rings = range(tokens.object_ring_offsets[n], tokens.object_ring_offsets[n + 1])
    xy = [tokens.vertices[tokens.ring_offsets[r] : tokens.ring_offsets[r + 1]] / 65535.0 * size for r in rings]
    away = max(geometry.distance(shapely.MultiPoint(ring)) for ring in xy)  # type: ignore[attr-defined]
    found = [f"object {n}: vertices lie {away} px outside"] if away > max(size) / 65535 else []
    if kind == Kind.POLYGON:
        signed = -sum(
            float(np.sum(r[:, 0] * np.roll(r[:, 1], -1) - r[:, 1] * np.roll(r[:, 0], -1))) / 2 for r in xy
        )  # y up
        slack = 2 * max(size) / 65535 * (geometry.length + 1)  # type: ignore[attr-defined]
        if abs(signed - geometry.area) > slack:  # type: ignore[attr-defined]
            found.append(f"object {n}: rings enclose {signed} px², counter-clockwise less clockwise, not the area")
    return found


def _relations(tokens: OsmTokens, oracle: OracleTokens) -> list[str]:
    pairs = [(int(i), int(j)) for i, j in tokens.edges.T]
    if len(set(pairs)) < len(pairs):
        return ["a pair has two relations"]
    codes = dict(zip(pairs, tokens.relation.tolist(), strict=True))
    ground = {p: c for p, c in codes.items() if c != Relation.DELAUNAY}
    found = []
    for pair in sorted(ground.keys() | oracle.relations.keys()):
        a, b = (oracle.objects[i] for i in pair)
        if ground.get(pair) != oracle.relations.get(pair) and not undecided(a.geometry, b.geometry):
            names = [a.key, b.key]
            found.append(f"{names}: relation {ground.get(pair)}, not {oracle.relations.get(pair)}")
    points = [i for i, o in enumerate(oracle.objects) if o.key[0] == Kind.POINT]
    first: dict[tuple[float, float], int] = {}
    for i in points:
        first.setdefault((oracle.objects[i].geometry.x, oracle.objects[i].geometry.y), i)
    local = {i: n for n, i in enumerate(first.values())}
    links = {p for p, c in codes.items() if c == Relation.DELAUNAY}
    if not {i for p in links for i in p} <= local.keys():
        return [*found, "a Delaunay edge ends at no point, or not at the first of equal ones"]
    fault = delaunay_fault(list(first), {(local[i], local[j]) for i, j in links})
    return [*found, f"Delaunay: {fault}"] if fault else found


def _cover(tokens: OsmTokens, oracle: OracleTokens, tolerance: float) -> list[str]:
    cells = int(tokens.patch_grid[0]) * int(tokens.patch_grid[1])
    dense, wanted = np.zeros((2, len(tokens), cells))
    code = tokens.patch_object.astype(np.int64) * cells + tokens.patch_cell
    if (np.diff(code) <= 0).any():
        return ["patches are not sorted by object and cell, each once"]
    dense[tokens.patch_object, tokens.patch_cell] = tokens.patch_cover
    for n, cover in enumerate(oracle.cover):
        wanted[n, list(cover)] = list(cover.values())
    off = np.abs(dense - wanted) / np.maximum(1.0, wanted)
    return [
        f"{oracle.objects[n].key}: cover of cell {c} is {dense[n, c]}, not {wanted[n, c]}"
        for n, c in np.argwhere(off > tolerance)[:5]
    ]


def _region(tokens: OsmTokens, oracle: OracleTokens, tolerance: float) -> list[str]:
    sums: dict[int, list[float]] = {}
    for o in oracle.objects:
        for tag in o.feature.tag_ids:
            row = sums.setdefault(tag, [0, 0.0, 0.0])
            row[0] += 1
            row[1] += o.extent if o.key[0] == Kind.POLYGON else 0.0
            row[2] += o.extent if o.key[0] == Kind.LINE else 0.0
    if tokens.region_tag_id.tolist() != sorted(sums):
        return ["region: other tags"]
    found = []
    for n, tag in enumerate(sorted(sums)):
        got = float(tokens.region_count[n]), float(tokens.region_area[n]), float(tokens.region_length[n])
        if not all(
            math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(got, sums[tag], strict=True)
        ):
            found.append(f"region: tag {tag} has {got}, not {sums[tag]}")
    return found


TILE = XyzKey(17, 68845, 46004, 256)  # 47.16° N, 9.09° E
WEST, SOUTH, EAST, NORTH = around(TILE)


def at(u: float, v: float) -> tuple[float, float]:
    """Degrees of a place given in sides of the tile, y down; rounded as OSM does."""
    return round(WEST + u * (EAST - WEST), 7), round(NORTH + v * (SOUTH - NORTH), 7)


def place_of(shapes: list[Any], tags: list[dict[str, str]] | None = None) -> Place:
    """A place from shapes in sides of the tile."""
    moved = np.empty(len(shapes), object)
    moved[:] = [shapely.transform(s, lambda xy: np.array([at(u, v) for u, v in xy]).reshape(-1, 2)) for s in shapes]
    kinds = [
        "point" if s.geom_type == "Point" else "line" if s.geom_type == "LineString" else "polygon" for s in shapes
    ]
    types = {"point": "node", "line": "way", "polygon": "way"}
    order = sorted(range(len(shapes)), key=lambda i: (types[kinds[i]], i))
    return place_of_features(
        feature_table(
            [types[kinds[i]] for i in order], [i + 1 for i in order], [kinds[i] for i in order],
            [(tags or [{"building": "yes"}] * len(shapes))[i] for i in order], moved[order],
            [1] * len(order), [None] * len(order),
        )
    )  # fmt: skip


def agree(place: Place, keys: list[XyzKey] | None = None, grid: tuple[int, int] = (14, 14)) -> dict[XyzKey, OsmTokens]:
    """Tokens of tiles, compared with the oracle's."""
    keys = keys or [TILE]
    tokens = tokens_of(place, keys, grid)
    for key in keys:
        assert differences(tokens[key], oracle_of(place, key, grid), xyz_footprint(key)) == [], key
    return tokens


#: Degrees a pixel of ``in_pixels``: a power of two, so that pixels come back from degrees to the last bit.
STEP = 2.0**-16


def in_pixels(shapes: list[Any], size: tuple[int, int] = (64, 64)) -> tuple[FeatureBatch, Footprint]:
    """Objects in a footprint of degrees, whose sides are exact: no projection lies between. Ids are places in the list,
    and each object carries its id as tag."""
    footprint = Footprint("chip-a", "EPSG:4326", (STEP, 0.0, 9.0, 0.0, -STEP, 47.0), *size)
    kind = np.array([{"Point": 0, "LineString": 1, "MultiLineString": 1}.get(s.geom_type, 2) for s in shapes], np.uint8)
    order = np.argsort(kind, kind="stable")
    geometry = np.empty(len(shapes), object)
    geometry[:] = [shapely.transform(shapes[i], lambda xy: xy * (STEP, -STEP) + (9.0, 47.0)) for i in order]
    n = len(shapes)
    batch = FeatureBatch(
        np.zeros(n, np.uint8), order.astype(np.int64), kind[order], np.arange(n + 1), order.astype(np.int64),
        np.zeros(n, np.uint16), geometry,
    )  # fmt: skip
    return batch, footprint


def features_of_batch(batch: FeatureBatch) -> list[Feature]:
    """A batch's features for the oracle."""
    return [
        Feature(
            int(batch.osm_type[n]), int(batch.osm_id[n]), int(batch.kind[n]),
            batch.tag_ids[batch.tag_offsets[n] : batch.tag_offsets[n + 1]].tolist(), g, g.bounds,
        )
        for n, g in enumerate(batch.geometry)
    ]  # fmt: skip


def agree_in_pixels(shapes: list[Any], size: tuple[int, int] = (64, 64), grid: tuple[int, int] = (4, 4)) -> OsmTokens:
    """Tokens of objects in pixels, compared with the oracle's."""
    batch, footprint = in_pixels(shapes, size)
    tokens = build_tokens(batch, [footprint], grid).tokens[0]
    west, south, east, north = footprint.bounds()
    assert differences(tokens, brute_force(features_of_batch(batch), footprint, grid, (west, south, east, north)),
                       footprint) == []  # fmt: skip
    return tokens
