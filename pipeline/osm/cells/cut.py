"""Features cut to web-mercator cells, so that a lake or a country boundary costs each cell only its share.

Long segments are densified first: a straight line in lon/lat is bent in every map projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from geometry.packed import expand, ranges
from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE, tile_bounds, tile_codes, tile_ranges, tiles_between
from pipeline.meridian import has_wide_part, wrapped
from pipeline.osm.cells.hashes import exact_hash, shape_hash
from pipeline.osm.cells.parts import KINDS, TYPES
from schemas.features import CELL_ZOOM, CELLS, DROPS, Kind, ObjectType, drop_row

#: Longest segment in degrees: 0.005° (560 m) bends by less than 1 cm in web-mercator and UTM below 70° latitude.
MAX_SEGMENT = 0.005
#: Margin of a cell as a share of its side: one tile of zoom 17, so that what cutting adds lies outside every tile.
MARGIN = 1 / 128

Geometries = NDArray[Any]  # object array of shapely geometries

#: CELLS before its merge: tags are still indices of a table's own texts, and duplicates are still there.
CUT = pa.schema([*CELLS, pa.field("twin", pa.uint64())])  # equal for whole objects of the same shape


@dataclass(frozen=True, eq=False)
class WholeFeatures:
    """F features of one table, before they are cut."""

    osm_type: NDArray[np.uint8]  # [F]
    osm_id: NDArray[np.int64]  # [F]
    kind: NDArray[np.uint8]  # [F]
    timestamp: NDArray[np.int64]  # [F] seconds since 1970, 0 unknown
    geometry: Geometries  # [F] shapely, lon/lat degrees


def whole_features(table: pa.Table) -> WholeFeatures:
    """The columns of a FEATURES table that cutting needs."""
    return WholeFeatures(
        pc.index_in(table["osm_type"], pa.array(TYPES)).to_numpy().astype(np.uint8),
        table["osm_id"].to_numpy(),
        pc.index_in(table["kind"], pa.array(KINDS)).to_numpy().astype(np.uint8),
        pc.divide(table["timestamp"].cast(pa.int64()), 1000).fill_null(0).to_numpy(),
        shapely.from_wkb(table["geometry"].to_numpy()),
    )


def densify(geometry: Geometries) -> Geometries:
    """Split segments longer than MAX_SEGMENT into equal parts.

    New vertices are computed from the lexicographically smaller end, so that two objects which share a segment get
    the same vertices whichever way they run along it: otherwise a rounding error would turn touches into overlaps.
    """
    bounds = shapely.bounds(geometry)
    long = np.flatnonzero(np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) > MAX_SEGMENT)
    if not len(long):
        return geometry
    result = geometry.copy()
    result[long] = [map_lines(g, _densify_coordinates) for g in geometry[long]]
    return result


def map_lines(geometry: Any, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Any:
    """A geometry with ``change`` applied to the coordinates f64[N,2] of each of its lines and rings."""
    if isinstance(geometry, shapely.Polygon):
        rings = [change(np.asarray(r.coords)) for r in (geometry.exterior, *geometry.interiors)]
        return shapely.Polygon(rings[0], rings[1:])
    if isinstance(geometry, shapely.LineString):
        return shapely.LineString(change(np.asarray(geometry.coords)))
    if isinstance(geometry, (shapely.MultiPolygon, shapely.MultiLineString)):
        return type(geometry)([map_lines(part, change) for part in geometry.geoms])
    return geometry


def _densify_coordinates(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = xy[:-1], xy[1:]
    pieces = np.ceil(np.abs(b - a).max(axis=1) / MAX_SEGMENT).astype(np.int64)
    pieces = np.maximum(pieces, 1)
    if pieces.max(initial=1) == 1:
        return xy
    forward = (a[:, 0] < b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] <= b[:, 1]))
    low, high = np.where(forward[:, None], a, b), np.where(forward[:, None], b, a)
    segment, k = expand(pieces)
    n = pieces[segment]
    step = np.where(forward[segment], k, n - k)
    points = low[segment] + (high - low)[segment] * (step / n)[:, None]
    points[k == 0] = a
    return np.concatenate((points, xy[-1:]))


def cut_to_cells(
    features: WholeFeatures,
    offsets: NDArray[np.int64],
    tags: NDArray[np.int64],
    paint: NDArray[np.uint16],
    zoom: int = CELL_ZOOM,
) -> tuple[pa.Table, pa.Table]:
    """CUT table sorted by cell, kind, type and id, and DROPS rows of what was refused or repaired.

    Args:
        features: F of them.
        offsets, tags: their tag lists, i64[F+1] and i64[T].
        paint: as in CELLS, u16[F].
        zoom: of the cells.
    """
    osm_type, osm_id, kind = features.osm_type, features.osm_id, features.kind
    geometry, repaired = _repair(densify(wrapped(features.geometry)), kind)
    bounds = shapely.bounds(geometry)
    usable, drops = _refuse(bounds, features, geometry)
    drops += [_drop(features, i, "geometry_repaired") for i in repaired if usable[i]]
    rows = np.flatnonzero(usable)
    feature, tiles = _cells(geometry[rows], bounds[rows], zoom)
    feature = rows[feature]
    whole = np.bincount(feature, minlength=len(geometry))[feature] == 1
    cut = np.flatnonzero(~whole)
    pieces = geometry[feature]
    if len(cut):
        boxes = shapely.box(*tile_bounds(tiles[cut], zoom, MARGIN).T)
        pieces[cut] = keep_dimension(shapely.intersection(pieces[cut], boxes), kind[feature[cut]])
    there = np.array([p is not None for p in pieces], bool) & ~shapely.is_empty(pieces)
    feature, tiles, pieces = feature[there], tiles[there], pieces[there]
    cell = tile_codes(tiles, zoom)
    order = np.lexsort((osm_id[feature], osm_type[feature], kind[feature], cell))
    feature, cell, pieces = feature[order], cell[order], pieces[order]
    at, starts = ranges(offsets, feature)
    lists = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(tags[at], pa.int64()))
    columns = [
        pa.array(cell), pa.array(osm_type[feature]), pa.array(osm_id[feature]), pa.array(kind[feature]), lists,
        pa.array(shapely.to_wkb(pieces), pa.binary()), pa.array(paint[feature]), pa.array(features.timestamp[feature]),
        pa.array(exact_hash(pieces)), pa.array(shape_hash(features.geometry, kind)[feature]),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=CUT), pa.Table.from_pylist(drops, schema=DROPS)


def _cells(geometry: Geometries, bounds: NDArray[np.float64], zoom: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the object i64[M] and cell i64[M,2] of all cells whose box, with its margin, an object's bounds meet.

    Of an object of several parts those of each part: what lies on both sides of the world is not all around it.
    """
    first, last = tile_ranges(bounds, zoom, MARGIN)
    several = (shapely.get_num_geometries(geometry) > 1) & (last > first).any(axis=1)
    if not several.any():
        return tiles_between(first, last)
    parts, of = shapely.get_parts(geometry[several], return_index=True)
    owner = np.concatenate((np.flatnonzero(~several), np.flatnonzero(several)[of]))
    ends = tile_ranges(shapely.bounds(parts), zoom, MARGIN)
    part, tiles = tiles_between(*(np.concatenate((a[~several], b)) for a, b in zip((first, last), ends, strict=True)))
    found = np.unique(np.stack((owner[part], tile_codes(tiles, zoom)), axis=1), axis=0)
    return found[:, 0], np.stack((found[:, 1] % (1 << zoom), found[:, 1] >> zoom), axis=1)


def keep_dimension(geometry: Geometries, kind: NDArray[np.uint8]) -> Geometries:
    """What an intersection left of each object, in its own dimension only; None where nothing is left.

    A polygon that merely touches a box leaves a line or a point, which is no part of it.
    """
    wanted = np.array([[0, 4, -1], [1, 5, 2], [3, 6, -1]])[kind]  # GEOS type ids: single, multi, ring
    found = shapely.get_type_id(geometry)
    result = geometry.copy()
    result[shapely.is_empty(geometry)] = None
    for i in np.flatnonzero((found[:, None] != wanted).all(axis=1)):
        parts = (
            [p for p in shapely.get_parts(geometry[i]) if shapely.get_type_id(p) in wanted[i]] if found[i] == 7 else []
        )
        result[i] = shapely.union_all(parts) if parts else None
    return result


def _repair(geometry: Geometries, kind: NDArray[np.uint8]) -> tuple[Geometries, NDArray[np.int64]]:
    """Polygons that cross themselves, made valid; which they are."""
    bad = np.flatnonzero((kind == Kind.POLYGON) & ~shapely.is_valid(geometry))
    if not len(bad):
        return geometry, bad
    result = geometry.copy()
    result[bad] = keep_dimension(shapely.make_valid(geometry[bad], method="structure", keep_collapsed=False), kind[bad])
    return result, bad


def _drop(features: WholeFeatures, i: Any, reason: str) -> dict[str, object]:
    name = ObjectType(features.osm_type[i]).name.lower()
    detail = "kept, made valid" if reason == "geometry_repaired" else ""
    return drop_row("cells", "features", reason, osm_type=name, osm_id=int(features.osm_id[i]), detail=detail)


def _refuse(
    bounds: NDArray[np.float64], features: WholeFeatures, geometry: Geometries
) -> tuple[NDArray[np.bool_], list[dict[str, object]]]:
    """Which features have a place in a cell, and DROPS rows of the others."""
    kind = features.kind
    empty = np.asarray(np.isnan(bounds).any(axis=1))
    wide = bounds[:, 2] - bounds[:, 0] > 180
    wide[wide] = has_wide_part(geometry[wide])
    beyond = (bounds[:, 1] > WEB_MERCATOR_MAX_LATITUDE) | (bounds[:, 3] < -WEB_MERCATOR_MAX_LATITUDE)
    length, area = shapely.length(geometry), shapely.area(geometry)
    flat = ((kind == Kind.LINE) & (length == 0)) | ((kind == Kind.POLYGON) & (area == 0))
    reasons: dict[str, NDArray[np.bool_]] = {
        "invalid_geometry": empty, "antimeridian": wide, "beyond_mercator": beyond, "no_extent": flat,
    }  # fmt: skip
    bad = np.zeros(len(bounds), bool)
    drops: list[dict[str, object]] = []
    for reason, mask in reasons.items():
        drops += [_drop(features, i, reason) for i in np.flatnonzero(mask & ~bad)]
        bad |= mask
    return ~bad, drops
