"""Which photo stands in which footprint, and where in it: a spatial join by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import groups, lonlat_to_normalised
from pipeline.alignment import place as place_footprints
from pipeline.streetview.position import TileArea, split_antimeridian, tiles_of, widened
from pipeline.streetview.record import doubles
from pipeline.streetview.times import gap_days
from schemas.footprint import Footprint, lonlat_to_tile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: One row a photo in a footprint, by footprint and then photo.
PAIRS = pa.schema(
    [
        ("photo", pa.int64()),  # row of the photos
        ("footprint", pa.int64()),  # number of the footprint
        ("x", pa.float64()),  # normalised image coordinates; with a margin a little out of 0 <= x < 1 too
        ("y", pa.float64()),
        ("heading", pa.float64()),  # degrees clockwise from true north
        ("gap_days", pa.float64()),  # from the footprint's image to the photo; negative: the photo is older
    ]
)
#: Digits of positions in sides of a footprint: two neighbours reach a point on their common edge by different
#: arithmetic, and must agree on whose it is. Coordinates of some 10⁷ m are exact to 2e-9 m.
_DIGITS = 8


def pair(
    photos: pa.Table, footprints: Sequence[Footprint], margin_m: float = 0.0, times: Sequence[str | None] | None = None
) -> pa.Table:
    """Photos (PLACED) inside footprints of any CRS and rotation, as PAIRS.

    A photo belongs to every footprint whose half-open rectangle, widened by ``margin_m`` true metres, holds it.
    ``times`` are ISO 8601, of the footprints' images.
    """
    lonlat = np.stack((doubles(photos, "lon"), doubles(photos, "lat")), axis=1)
    found: list[tuple[Ints, Ints, Floats]] = []
    for members in groups((f.crs, f.width, f.height) for f in footprints):
        found += _pair_group(lonlat, [footprints[i] for i in members.tolist()], members, margin_m)
    return _table(photos, found, times)


def pair_tiles(
    photos: pa.Table, tiles: Ints, zoom: int, margin_m: float = 0.0, times: Sequence[str | None] | None = None
) -> pa.Table:
    """`pair` for XYZ tiles i64[T,2] of one zoom, by the tile's number alone; ``footprint`` is the row of ``tiles``."""
    lonlat = np.stack((doubles(photos, "lon"), doubles(photos, "lat")), axis=1)
    tiles = np.asarray(tiles, np.int64).reshape(-1, 2)
    area, exact = TileArea(tiles, zoom), lonlat_to_tile(lonlat, zoom)
    order = np.lexsort((tiles[:, 0], tiles[:, 1]))
    sorted_codes = tiles[order, 1] * (1 << zoom) + tiles[order, 0]
    pairs = [np.zeros((0, 2), np.int64)]
    for candidates in tiles_of(lonlat, zoom, margin_m)[0]:
        rows = np.flatnonzero(area.member(candidates))
        codes = candidates[rows, 1] * (1 << zoom) + candidates[rows, 0]
        pairs.append(np.stack((rows, order[np.searchsorted(sorted_codes, codes)]), axis=1))
    rows, owners = np.unique(np.concatenate(pairs), axis=0).T
    xy = exact[rows] - tiles[owners]
    if margin_m <= 0:  # the tile's number was found from a rounded position
        xy = np.clip(xy, 0.0, np.nextafter(1.0, 0.0))
    return _table(photos, [(rows, owners, xy)], times)


def _pair_group(
    lonlat: Floats, footprints: list[Footprint], numbers: Ints, margin_m: float
) -> list[tuple[Ints, Ints, Floats]]:
    """Pairs with footprints of one CRS and size."""
    places = place_footprints(footprints)
    boxes, owner = _boxes(places.bbox)
    tree = shapely.STRtree(shapely.box(*widened(boxes, max(margin_m, 0.01)).T))
    known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    hit, box = tree.query(shapely.points(lonlat[known]), predicate="intersects")
    photo, member = known[hit], owner[box]
    order = np.lexsort((photo, member))
    photo, member = photo[order], member[order]
    sides = places.gsd * (footprints[0].width, footprints[0].height)
    result = []
    for m in np.unique(member).tolist():
        low, high = np.searchsorted(member, (m, m + 1))
        rows = np.unique(photo[low:high])
        xy = lonlat_to_normalised(footprints[m], lonlat[rows])
        at, margin = np.round(xy, _DIGITS), max(margin_m, 0.0) / sides[m]
        inside = ((at >= -margin) & (at < 1.0 + margin)).all(axis=1)
        result.append((rows[inside], np.full(int(inside.sum()), numbers[m], np.int64), xy[inside]))
    return result


def _boxes(bbox: Floats) -> tuple[Floats, Ints]:
    """Boxes f64[B,4] of footprints, two for one across the 180th meridian, and whose each is i64[B]."""
    parts = [split_antimeridian(bbox[i : i + 1]) for i in range(len(bbox))]
    owner = np.repeat(np.arange(len(bbox)), [len(p) for p in parts])
    return np.concatenate(parts), owner


def _table(photos: pa.Table, found: list[tuple[Ints, Ints, Floats]], times: Sequence[str | None] | None) -> pa.Table:
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    photo, footprint, xy = (np.concatenate(a) for a in zip(empty, *found, strict=True))
    order = np.lexsort((photo, footprint))
    photo, footprint, xy = photo[order], footprint[order], xy[order]
    gaps: list[float | None] = [None] * len(photo)
    if times is not None:
        taken = photos.column("captured_at").take(pa.array(photo)).to_pylist()
        gaps = [gap_days(t, times[f]) for t, f in zip(taken, footprint.tolist(), strict=True)]
    columns = [photo, footprint, xy[:, 0], xy[:, 1], photos.column("heading").take(pa.array(photo)), gaps]
    return pa.table(
        [pa.array(c, f.type) if not isinstance(c, pa.ChunkedArray) else c for c, f in zip(columns, PAIRS, strict=True)],
        schema=PAIRS,
    )
