"""Tokens of one footprint by brute force: an oracle that shares no code with what it judges.

Plain loops over all features, one shapely call a pair, a cell, an object; no tree, no batch, no packed arrays. The
documented rules are written down again: densify to 0.005° from the lexicographically smaller end, project, map by the
affine, cut to the square, keep what has positive area, positive length or is a point in the half-open square. What is
smaller than 1e-6 px or px² is rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyproj
import shapely

from schemas.features import Kind, ObjectType
from schemas.footprint import Footprint
from schemas.relations import Relation

MAX_SEGMENT = 0.005  # degrees
NOISE = 1e-6  # pixels, or square pixels: what is smaller came from rounding at a border that two footprints share
FAR = 0.001  # degrees: features whose bounds are farther from the footprint are not looked at
Position = tuple[float, float]
Mapping = Callable[[Position], Position]


@dataclass(frozen=True)
class Feature:
    """One row of the FEATURES table."""

    osm_type: int
    osm_id: int
    kind: int
    tag_ids: list[int]
    geometry: Any  # shapely, lon/lat, whole
    bounds: tuple[float, float, float, float]


@dataclass(frozen=True)
class OracleObject:
    """One object of the footprint."""

    key: tuple[int, int, int]  # kind, type, id
    feature: Feature
    geometry: Any  # shapely, pixels, clipped
    extent: float


@dataclass(frozen=True)
class OracleTokens:
    """What the footprint holds."""

    objects: list[OracleObject]  # sorted by key
    relations: dict[tuple[int, int], int]  # (i, j) -> code, i < j, Delaunay excluded
    cover: list[dict[int, float]]  # per object: cell -> cover


def features_of(rows: Sequence[dict[str, Any]], tag_ids: Sequence[Sequence[int]]) -> list[Feature]:
    """Features from rows of the FEATURES table and the tag ids of each."""
    result = []
    for row, ids in zip(rows, tag_ids, strict=True):
        geometry = shapely.from_wkb(row["geometry"])
        osm_type = ObjectType[row["osm_type"].upper()]
        result.append(Feature(osm_type, row["osm_id"], Kind[row["kind"].upper()], list(ids), geometry, geometry.bounds))
    return result


def densify(coordinates: Sequence[Position]) -> list[Position]:
    """Long segments in equal parts, computed from the lexicographically smaller end."""
    result = [coordinates[0]]
    for a, b in pairwise(coordinates):
        parts = max(1, math.ceil(max(abs(b[0] - a[0]), abs(b[1] - a[1])) / MAX_SEGMENT))
        low, high = (a, b) if a <= b else (b, a)
        for k in range(1, parts):
            step = (k if a <= b else parts - k) / parts
            result.append((low[0] + (high[0] - low[0]) * step, low[1] + (high[1] - low[1]) * step))
        result.append(b)
    return result


def mapped(geometry: Any, where: Mapping) -> Any:
    """A geometry densified, every vertex moved by ``where``."""
    if geometry.geom_type == "Point":
        return shapely.Point(where((geometry.x, geometry.y)))
    if geometry.geom_type == "LineString":
        return shapely.LineString([where(p) for p in densify(list(geometry.coords))])
    if geometry.geom_type == "Polygon":
        rings = [[where(p) for p in densify(list(r.coords))] for r in (geometry.exterior, *geometry.interiors)]
        return shapely.Polygon(rings[0], rings[1:])
    return type(geometry)([mapped(part, where) for part in geometry.geoms])


def to_pixels(footprint: Footprint) -> Mapping:
    """Lon/lat to pixel by pyproj and the footprint's affine, solved as two equations in two unknowns."""
    transformer = pyproj.Transformer.from_crs("EPSG:4326", footprint.crs, always_xy=True)
    a, b, c, d, e, f = footprint.transform

    def where(position: Position) -> Position:
        x, y = transformer.transform(*position)
        x, y = x - c, y - f
        if b == 0 and d == 0:
            return x / a, y / e
        return (x * e - y * b) / (a * e - b * d), (y * a - x * d) / (a * e - b * d)

    return where


def in_dimension(geometry: Any, kind: int) -> Any | None:
    """The parts of a geometry that have the object's own dimension."""
    names = [("Point",), ("LineString", "LinearRing"), ("Polygon",)][kind]
    parts = [p for p in atoms(geometry) if p.geom_type in names and not p.is_empty]
    return shapely.union_all(parts) if len(parts) > 1 else parts[0] if parts else None


def atoms(geometry: Any) -> Iterator[Any]:
    """Single parts, however deep."""
    if hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from atoms(part)
    else:
        yield geometry


def even_odd(geometry: Any) -> Any:
    """What a polygon's rings enclose an odd number of times: faces of its noded linework, by rays from inside them."""
    rings = [r for part in atoms(geometry) for r in (part.exterior, *part.interiors)]
    faces = []
    for face in shapely.get_parts(shapely.polygonize([shapely.union_all([shapely.LineString(r) for r in rings])])):
        x, y = face.representative_point().coords[0]
        crossings = 0
        for ring in rings:
            for (ax, ay), (bx, by) in pairwise(ring.coords):
                crossings += (ay <= y) != (by <= y) and ax + (y - ay) / (by - ay) * (bx - ax) > x
        if crossings % 2:
            faces.append(face)
    return shapely.union_all(faces)


def clipped(feature: Feature, footprint: Footprint, where: Mapping) -> Any | None:
    """The feature's share of the footprint in pixels, or None."""
    w, h = footprint.width, footprint.height
    geometry = feature.geometry
    if feature.kind == Kind.POLYGON and not geometry.is_valid:  # as drawn; what projecting rounds is mended below
        geometry = even_odd(geometry)
    geometry = mapped(geometry, where)
    if feature.kind == Kind.POINT:
        return geometry if 0 <= geometry.x / w < 1 and 0 <= geometry.y / h < 1 else None
    x0, y0, x1, y1 = geometry.bounds
    if x1 < 0 or y1 < 0 or x0 > w or y0 > h:
        return None
    if feature.kind == Kind.POLYGON and not geometry.is_valid:
        geometry = even_odd(geometry)
    if not (x0 >= 0 and y0 >= 0 and x1 <= w and y1 <= h):
        geometry = in_dimension(geometry.intersection(shapely.box(0, 0, w, h)), feature.kind)
    if geometry is None:
        return None
    if feature.kind == Kind.POLYGON:
        return geometry if geometry.area > NOISE else None
    x0, y0, _, _ = geometry.bounds  # along the right or lower side it is the neighbour's
    return geometry if geometry.length > NOISE and x0 < w - NOISE and y0 < h - NOISE else None


def relation_of(a: Any, b: Any) -> Relation | None:
    """The relation of a to b by shapely's predicates, in the documented order; None for disjoint."""
    dim_a, dim_b = shapely.get_dimensions(a), shapely.get_dimensions(b)
    if a.disjoint(b):
        return None
    if dim_a == dim_b and a.equals(b):
        return Relation.EQUALS
    if a.touches(b):
        return Relation.TOUCHES
    if dim_a == 0 and a.within(b):
        return Relation.WITHIN
    if dim_a > 0 and a.covered_by(b):
        return Relation.COVERED_BY
    if dim_b == 0 and a.contains(b):
        return Relation.CONTAINS
    if dim_b > 0 and a.covers(b):
        return Relation.COVERS
    if a.crosses(b):
        return Relation.CROSSES
    assert a.overlaps(b), f"no predicate names {a.relate(b)}"
    return Relation.OVERLAPS


def undecided(a: Any, b: Any) -> bool:
    """Whether rounding decides the relation: a vertex of one lies within 1e-9 px of the other's linework, but is none
    of its vertices."""
    for one, other in ((a, b), (b, a)):
        line = other.boundary if other.geom_type.endswith("Polygon") else other
        known = set(map(tuple, shapely.get_coordinates(other).tolist()))
        for xy in set(map(tuple, shapely.get_coordinates(one).tolist())) - known:
            if line.distance(shapely.Point(xy)) < 1e-9:
                return True
    return False


def boxes_meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two bounds share a place."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def cover_of(geometry: Any, kind: int, footprint: Footprint, grid: tuple[int, int]) -> dict[int, float]:
    """Cell -> area fraction, length in cell sides, or 1."""
    rows, columns = grid
    cw, ch = footprint.width / columns, footprint.height / rows
    if kind == Kind.POINT:
        return {math.floor(geometry.y / ch) * columns + math.floor(geometry.x / cw): 1.0}
    result: dict[int, float] = {}
    for shape in [geometry] if kind == Kind.POLYGON else segments(geometry):
        x0, y0, x1, y1 = shape.bounds
        for row in range(max(0, math.floor(y0 / ch) - 1), min(rows, math.floor(y1 / ch) + 2)):
            for column in range(max(0, math.floor(x0 / cw) - 1), min(columns, math.floor(x1 / cw) + 2)):
                left, top, right, bottom = column * cw, row * ch, (column + 1) * cw, (row + 1) * ch
                share = shape.intersection(shapely.box(left, top, right, bottom))
                value = share.area / (cw * ch) if kind == Kind.POLYGON else share.length / math.sqrt(cw * ch)
                sides = [[(right, top), (right, bottom)]] if column + 1 < columns else []
                sides += [[(left, bottom), (right, bottom)]] if row + 1 < rows else []
                if kind == Kind.LINE and value > 0:  # what runs along the right or lower side is the neighbour's
                    value -= sum(share.intersection(shapely.LineString(s)).length for s in sides) / math.sqrt(cw * ch)
                if value > 0:
                    result[row * columns + column] = result.get(row * columns + column, 0.0) + value
    return result


def segments(line: Any) -> Iterator[Any]:
    """A line's segments one by one: where it runs twice along a place, it counts twice."""
    for part in atoms(line):
        for a, b in pairwise(part.coords):
            if a != b:
                yield shapely.LineString([a, b])


def brute_force(
    features: Sequence[Feature], footprint: Footprint, grid: tuple[int, int], around: tuple[float, float, float, float]
) -> OracleTokens:
    """Tokens of one footprint; ``around`` is its box in degrees."""
    where = to_pixels(footprint)
    near = around[0] - FAR, around[1] - FAR, around[2] + FAR, around[3] + FAR
    objects = []
    for feature in features:
        if not boxes_meet(feature.bounds, near):
            continue
        geometry = clipped(feature, footprint, where)
        if geometry is None:
            continue
        w, h = footprint.width, footprint.height
        extent = {
            Kind.POINT: 0.0, Kind.LINE: geometry.length / math.sqrt(w * h), Kind.POLYGON: geometry.area / (w * h)
        }[Kind(feature.kind)]  # fmt: skip
        objects.append(OracleObject((feature.kind, feature.osm_type, feature.osm_id), feature, geometry, extent))
    objects.sort(key=lambda o: o.key)
    relations = {}
    bounds = [o.geometry.bounds for o in objects]
    for i, a in enumerate(objects):
        for j in range(i + 1, len(objects)):
            if boxes_meet(bounds[i], bounds[j]):
                code = relation_of(a.geometry, objects[j].geometry)
                if code is not None:
                    relations[i, j] = int(code)
    cover = [cover_of(o.geometry, o.key[0], footprint, grid) for o in objects]
    return OracleTokens(objects, relations, cover)


def delaunay_fault(points: Sequence[Position], edges: set[tuple[int, int]]) -> str | None:
    """Why ``edges`` are no Delaunay edges of distinct ``points``, or None.

    The triangulation is judged by its definition, not by another triangulation: an edge belongs to one if some circle
    through its ends holds no other point inside; one with n points, h of them on the hull's border, has 3n - 3 - h
    edges. Both hold for either diagonal of four cocircular points.
    """
    n = len(points)
    if n < 2:
        return f"{len(edges)} edges of {n} points" if edges else None
    hull = shapely.convex_hull(shapely.MultiPoint(points))
    if hull.geom_type == "LineString":  # all on one line: consecutive ones
        order = sorted(range(n), key=lambda i: points[i])
        chain = {(min(p), max(p)) for p in pairwise(order)}
        return None if edges == chain else "not the chain along the line"
    for i, j in edges:
        (ax, ay), (bx, by) = points[i], points[j]
        mx, my, dx, dy = (ax + bx) / 2, (ay + by) / 2, bx - ax, by - ay
        low, high = -math.inf, math.inf  # centres m + t * (-dy, dx) of circles that hold no other point
        for k, (px, py) in enumerate(points):
            if k in (i, j):
                continue
            ux, uy = px - mx, py - my
            cross = dx * uy - dy * ux  # > 0: left of the edge
            power = ux * ux + uy * uy - (dx * dx + dy * dy) / 4  # < 0: inside the circle on the edge
            if abs(cross) < 1e-9 * (dx * dx + dy * dy):
                if power < -1e-9:
                    return f"a point lies on edge {i}, {j}"
            elif cross > 0:
                high = min(high, power / (2 * cross))
            else:
                low = max(low, power / (2 * cross))
        if low > high + 1e-6 * max(1.0, abs(low)):
            return f"no empty circle runs through {i} and {j}"
    border = sum(hull.exterior.distance(shapely.Point(p)) < 1e-7 for p in points)
    if len(edges) != 3 * n - 3 - border:
        return f"{len(edges)} edges, not {3 * n - 3 - border}"
    return None
