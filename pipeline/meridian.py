"""A round earth on a flat map: 180° E is 180° W, and boxes, lines and outlines may lie across it.

Longitudes are from -180 to 180; those beyond run on, and mean the other side. A box across the meridian has its west
over its east, as in GeoJSON (RFC 7946, section 5.2); a segment of more than 180° and less than 360° is the short way
across. Cut at the meridian, either has parts on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints

_LINES = (1, 2, 5)  # GEOS type ids

Geometries = NDArray[Any]  # object array of shapely geometries, lon/lat degrees

#: Degrees to which longitudes may run on; what lies beyond is in no degrees.
FARTHEST = 540.0


def wrapped(geometry: Geometries) -> Geometries:
    """The same objects with points at 180° moved to -180°, where their tile begins, and each that has a segment across
    the meridian, or runs on beyond it, cut there; stretches of lines along 180° are moved as points are. A ring around
    a pole has no inside on a flat map, and stays as it is."""
    bounds, kind = shapely.bounds(geometry), shapely.get_type_id(geometry)
    beyond = (bounds[:, 0] < -180) | (bounds[:, 2] > 180)
    point = (kind == 0) & (beyond | (bounds[:, 0] == 180.0))
    across = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180)
    touching = np.flatnonzero((bounds[:, 2] == 180) & np.isin(kind, _LINES))
    across = np.union1d(across[jumps(geometry[across])], touching[_along_180(geometry[touching])])
    across = np.union1d(across, np.flatnonzero(beyond & ~point))
    if not point.any() and not len(across):
        return geometry
    result = geometry.copy()
    result[point] = shapely.points((bounds[point, 0] + 180) % 360 - 180, bounds[point, 1])
    for i in across.tolist():
        parts = [_unwrapped(part) for part in shapely.get_parts(geometry[i])]
        if all(part is not None for part in parts):
            result[i] = _cut(parts)
    return result


def has_wide_part(geometry: Geometries) -> NDArray[np.bool_]:
    """Which objects have a part of over 180° of longitude, bool[N]: they have no place on a flat map."""
    parts, owner = shapely.get_parts(geometry, return_index=True)
    west, _, east, _ = shapely.bounds(parts).T
    return np.bincount(owner[east - west > 180], minlength=len(geometry)) > 0


def jumps(geometry: Geometries) -> NDArray[np.bool_]:
    """Which objects have a segment across the meridian, bool[N]."""
    rings, owner = shapely.get_parts(geometry, return_index=True)
    polygon = shapely.get_type_id(rings) == 3
    inner, of = shapely.get_rings(rings[polygon], return_index=True)
    lines = np.concatenate((rings[~polygon], inner))
    owner = np.concatenate((owner[~polygon], owner[polygon][of]))
    xy, line = shapely.get_coordinates(lines, return_index=True)
    far = _far(np.diff(xy[:, 0])) & (np.diff(line) == 0)
    result = np.zeros(len(geometry), bool)
    result[owner[line[1:][far]]] = True
    return result


def _along_180(lines: Geometries) -> NDArray[np.bool_]:
    """Which lines have a stretch along 180°, bool[N]."""
    parts, owner = shapely.get_parts(lines, return_index=True)
    xy, part = shapely.get_coordinates(parts, return_index=True)
    along = (xy[1:, 0] == 180) & (xy[:-1, 0] == 180) & (part[1:] == part[:-1])
    return np.bincount(owner[part[1:][along]], minlength=len(lines)) > 0


def _far(step: Floats) -> NDArray[np.bool_]:
    """Which steps of longitude are the short way across the meridian; once around the world is meant as it is drawn."""
    return np.asarray((np.abs(step) > 180) & (np.abs(step) < 360))


def _unwrapped(part: Any) -> Any | None:
    """A line or polygon with longitudes that run on beyond ±180°; None: a ring does not come back to its beginning."""
    if not isinstance(part, shapely.Polygon):
        return type(part)(_run_on(part))
    rings = [_run_on(ring) for ring in (part.exterior, *part.interiors)]
    if any(ring[0, 0] != ring[-1, 0] for ring in rings):
        return None
    west, east = rings[0][:, 0].min(), rings[0][:, 0].max()
    for hole in rings[1:]:  # each begins where it stands: into the outer ring with it
        turns = (-360.0, 0.0, 360.0)
        hole[:, 0] += next((t for t in turns if west <= hole[:, 0].min() + t and hole[:, 0].max() + t <= east), 0.0)
    return shapely.Polygon(rings[0], rings[1:])


def _run_on(line: Any) -> Floats:
    """Positions f64[N,2] of a line or ring, no step of which is over 180°; exact where nothing is added."""
    xy = np.array(line.coords)[:, :2]
    step = np.diff(xy[:, 0])
    xy[1:, 0] -= 360.0 * np.cumsum(np.where(_far(step), np.sign(step), 0.0))
    return xy


def run_on(geometry: Geometries) -> Geometries:
    """Objects at the meridian with the longitudes of its far side counted on beyond 180°: those that were cut there are
    whole again."""
    moved = np.asarray(shapely.transform(geometry, lambda xy: xy + (xy[:, :1] < 0) * np.array((360.0, 0.0))))
    for i in np.flatnonzero(shapely.get_num_geometries(moved) > 1).tolist():
        whole = shapely.union_all(shapely.get_parts(moved[i]))
        moved[i] = shapely.line_merge(whole) if shapely.get_dimensions(whole) == 1 else whole
    return moved


def split_boxes(boxes: Floats) -> tuple[Floats, Ints]:
    """Boxes f64[B,4] as boxes f64[N,4] that do not lie across the meridian, two for one that does, and whose each is,
    i64[N]."""
    across = np.flatnonzero(boxes[:, 0] > boxes[:, 2])
    owner = np.arange(len(boxes))
    if not len(across):
        return boxes, owner
    there = np.flatnonzero(boxes[:, 0] <= boxes[:, 2])
    west, east = boxes[across].copy(), boxes[across].copy()
    west[:, 2], east[:, 0] = 180.0, -180.0
    return np.concatenate((boxes[there], west, east)), np.concatenate((there, across, across))


def on_the_map(boxes: Floats) -> tuple[Floats, Ints]:
    """Boxes f64[N,4] between ±180° of boxes f64[B,4] that may reach beyond, where the other side of the world begins,
    and whose each is, i64[N]."""
    turned = [(turn, np.flatnonzero(far)) for turn, far in ((360.0, boxes[:, 0] < -180), (-360.0, boxes[:, 2] > 180))]
    every = [boxes, *(boxes[rows] + (turn, 0.0, turn, 0.0) for turn, rows in turned)]
    owner = np.concatenate((np.arange(len(boxes)), *(rows for _, rows in turned)))
    return np.clip(np.concatenate(every), (-180.0, -np.inf) * 2, (180.0, np.inf) * 2), owner


def eastwards(boxes: Floats) -> Floats:
    """Boxes f64[B,4] with the east of those across the meridian counted on beyond 180°."""
    return np.asarray(boxes + (boxes[:, :1] > boxes[:, 2:3]) * np.array((0.0, 0.0, 360.0, 0.0)))


def quadrilaterals(corners: Floats) -> Geometries:
    """Polygons [N] of corners f64[N,4,2], each of which lies within 180° of the first; cut at the meridian."""
    result = np.asarray(shapely.polygons(corners))
    across = np.flatnonzero(np.ptp(corners[..., 0], axis=1) > 180)
    if len(across):
        result[across] = wrapped(result[across])
    return result


def laid_flat(ring: Floats) -> Any:
    """(Multi)polygon of a ring f64[N,2] on the globe, of longitudes in any turn, whose every step is the short way: cut
    at the meridian, and reaching to the pole that it goes around."""
    step = np.diff(np.append(ring[:, 0], ring[0, 0]))
    turned = np.concatenate(([0.0], np.cumsum(np.rint(step / 360))))
    xy = ring - np.stack((360.0 * turned[:-1], np.zeros(len(ring))), axis=1)
    if turned[-1]:
        pole = np.copysign(90.0, ring[:, 1].mean())
        end = ring[0, 0] - 360.0 * turned[-1]
        xy = np.concatenate((xy, [(end, ring[0, 1]), (end, pole), (ring[0, 0], pole)]))
    return _cut([shapely.Polygon(xy)])


def _cut(parts: Sequence[Any]) -> Any:
    """Objects that run on beyond ±180° as one, cut there and put in its place."""
    shapes = shapely.make_valid(np.array(parts, object)) if isinstance(parts[0], shapely.Polygon) else np.array(parts)
    found = []
    west, _, east, _ = shapely.total_bounds(shapes)
    for turn in 360.0 * np.arange(min(0, (west + 180) // 360), max(0, (east + 180) // 360) + 1):
        world = shapely.box(turn - 180, -90, turn + 180, 90)
        pieces = shapely.get_parts(shapely.intersection(shapes, world))
        dimension = shapely.get_dimensions(parts[0])
        pieces = shapely.get_parts(pieces)
        pieces = pieces[shapely.get_dimensions(pieces) == dimension]
        if dimension < 2:  # what lies along the meridian is at the beginning of the next world, as points there are
            pieces = shapely.get_parts(
                shapely.difference(pieces, shapely.linestrings([(turn + 180, -90), (turn + 180, 90)]))
            )
            pieces = pieces[~shapely.is_empty(pieces)]
        found.append(shapely.transform(pieces, lambda xy, turn=turn: xy - (turn, 0.0)))
    return shapely.union_all(np.concatenate(found))
