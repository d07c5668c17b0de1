"""Metric cells in the UTM zone of their place: pure functions.

Each zone and hemisphere has one lattice: squares of ``gsd * size`` metres at multiples of their side in easting and
northing, so cells of one zone leave no gap and share no ground. Zones are the plain strips of six degrees, without the
exceptions of Norway and Svalbard, half-open in longitude (180° E is 180° W), cut at the equator, from 80° S to 84° N.

At borders: a zone has every cell that shares ground with what is asked for inside the zone's own strip. A rule by the
cell's centre would leave gaps where two lattices meet at an angle; this one leaves none, and pays with ground that
cells of two zones show: half a side along each border in the mean, or side / (667.9 km * cos(latitude)) of all ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints
from pipeline.alignment import project
from pipeline.footprints.quads import cells_on
from schemas.errors import ConfigError
from schemas.keys import MAX_GRID_SIDE, GridKey

Box = tuple[float, float, float, float]  # west, south, east, north in degrees

#: Latitudes in degrees that UTM covers.
SOUTH, NORTH = -80.0, 84.0
#: Strips in lon/lat: the northern parts of zones 1..60, then the southern parts.
_WEST = np.tile(np.arange(-180.0, 180.0, 6.0), 2)
_STRIPS = shapely.box(_WEST, np.repeat((0.0, SOUTH), 60), _WEST + 6, np.repeat((NORTH, 0.0), 60))
#: Longest edge in degrees before an outline is projected: its chords then keep within 2 cm.
_EDGE = 0.01
#: A chord of a border meridian lies 1.1e-8 degrees inside of it; strips are wider by this share, and leave no gap.
_WIDER = 1.0 + 1e-8
#: Metres that a cell must reach into an area; outlines along a lattice line round.
_TOUCH = 1e-6


@dataclass(frozen=True, eq=False)
class GridCells:
    """N cells, sorted by zone, hemisphere, column and row."""

    keys: list[str]  # [N]
    epsg: Ints  # [N] 32601..32660 north, 32701..32760 south
    columns_rows: Ints  # [N,2] of the zone's lattice: eastwards and northwards from its origin
    transform: Floats  # [N,6] a, b, c, d, e, f: X = a·x + b·y + c, Y = d·x + e·y + f; north is up
    beyond: int  # cells' worth of ground that is asked for and that no zone covers


def grid_cells(extents: Sequence[Box] | Floats, area: Any, gsd: float, size: int, max_cells: int) -> GridCells:
    """Cells that share ground with an area (lon/lat polygon; None: everything) inside the extents.

    Outlines are straight lines in lon/lat, true to 2 cm.

    Args:
        extents: west, south, east, north in degrees; one that spans the antimeridian is two.
        area: lon/lat (multi)polygon inside ±180°.
        gsd: metres a pixel, whole millimetres.
        size: pixels a side.
        max_cells: that may be planned.

    Raises:
        ConfigError: more than ``max_cells``, a gsd that is no whole number of millimetres, or a side of over 100 km.
    """
    gsd_mm = round(gsd * 1000)
    if abs(gsd * 1000 - gsd_mm) > 1e-6 or gsd_mm < 1 or size < 1 or gsd_mm * size > MAX_GRID_SIDE * 1000:
        raise ConfigError(
            f"grid cells of {size} pixels of {gsd} m do not exist: a pixel is a whole number of millimetres, "
            f"and a side at most {MAX_GRID_SIDE:,} m"
        )
    side = gsd_mm * size / 1000
    levels = int(np.ceil(np.log2(10_000_000 / side))) + 1  # the root holds every easting and northing
    ground = _ground(extents, area)
    refusal = (
        f"the region holds over plan.max_tiles={max_cells:,} grid cells of {side:g} m; choose larger cells or raise "
        "plan.max_tiles"
    )
    cells, zones = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    keys: list[str] = []
    shapely.prepare(ground)
    for strip in np.flatnonzero(shapely.intersects(ground, _STRIPS)).tolist():
        zone, hemisphere = strip % 60 + 1, "ns"[strip // 60]
        part = _polygons(shapely.intersection(ground, _STRIPS[strip]))
        own = cells_on(
            _projected(part, zone, hemisphere), lambda c, level: _boxes(c, side * 2 ** (levels - level)),
            levels, max_cells - len(keys), refusal,
        )  # fmt: skip
        cells.append(own)
        zones.append(np.full(len(own), zone + {"n": 32600, "s": 32700}[hemisphere]))
        example = str(GridKey(zone, hemisphere, 0, 0, size, gsd_mm))
        head, tail = example.split("-0-0-")
        keys += [f"{head}-{column}-{row}-{tail}" for column, row in zip(*own.T.tolist(), strict=True)]
    column_row = np.concatenate(cells)
    transform = np.zeros((len(column_row), 6))
    transform[:, 0], transform[:, 4] = gsd_mm / 1000, -gsd_mm / 1000
    transform[:, [2, 5]] = (column_row + np.array((0, 1))) * (gsd_mm * size) / 1000  # one rounding: neighbours meet
    beyond = shapely.difference(ground, shapely.box(-180.0, SOUTH, 180.0, NORTH))
    beyond_m2 = float(shapely.area(project(beyond, "EPSG:6933")))  # an equal-area projection
    return GridCells(keys, np.concatenate(zones), column_row, transform, int(np.ceil(beyond_m2 / side**2)))


def _ground(extents: Sequence[Box] | Floats, area: Any) -> Any:
    """What is asked for, in lon/lat; an extent of one point or line is given a tenth of a millimetre."""
    w, s, e, n = np.array(extents, np.float64).reshape(-1, 4).T
    w, s = np.minimum(w, 180.0 - 1e-9), np.minimum(s, 90.0 - 1e-9)
    boxes = shapely.union_all(shapely.box(w, s, np.maximum(e, w + 1e-9), np.maximum(n, s + 1e-9)))
    return _polygons(boxes if area is None else shapely.intersection(shapely.make_valid(area), boxes))


def _polygons(geometry: Any) -> Any:
    """The parts of a geometry that have an area: where outlines only touch, an intersection is a line."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])


def _projected(part: Any, zone: int, hemisphere: str) -> Any:
    """Ground in a zone's strip, lon/lat, in the zone's CRS."""
    middle = zone * 6 - 183.0
    wider = shapely.transform(
        shapely.segmentize(part, _EDGE), lambda xy: (xy - (middle, 0)) * (_WIDER, 1) + (middle, 0)
    )
    return project(wider, GridKey(zone, hemisphere, 0, 0, 1, 1).crs)


def _boxes(cells: Ints, side: float) -> NDArray[Any]:
    """Cells i64[T,2] as shapely boxes in the zone's CRS, smaller by a micrometre all around."""
    x, y = (cells * side).T
    return np.asarray(shapely.box(x + _TOUCH, y + _TOUCH, x + side - _TOUCH, y + side - _TOUCH))
