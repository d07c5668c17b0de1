"""Which photo stands in which footprint, and where in it: a spatial join by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import Placement, lonlat_to_normalised
from pipeline.meridian import on_the_map, split_boxes
from pipeline.streetview.position import widened
from pipeline.streetview.record import doubles
from pipeline.streetview.times import gap_days
from schemas.footprint import Footprints

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: One row a photo in a footprint, by footprint and then photo.
PAIRS = pa.schema(
    [
        ("photo", pa.int64()),  # row of the photos
        ("footprint", pa.int64()),  # number of the footprint
        ("x", pa.float64()),  # normalised image coordinates; with a margin a little out of 0 <= x < 1 too
        ("y", pa.float64()),
        ("north", pa.float64()),  # degrees clockwise from the image's up to true north at the photo
        ("heading", pa.float64()),  # degrees clockwise from true north
        ("gap_days", pa.float64()),  # from the footprint's image to the photo; negative: the photo is older
    ]
)
#: Digits of positions in sides of a footprint: two neighbours reach a point on their common edge by different
#: arithmetic, and must agree on whose it is. Coordinates of some 10⁷ m are exact to 2e-9 m. What is rounded here is
#: what the sample says: nobody reckons a position twice.
_DIGITS = 8
#: Degrees of latitude, some 5 m, to either side of a photo between which north is told.
_STEP = 5e-5


def pair(
    photos: pa.Table,
    footprints: Footprints,
    placement: Placement,
    margin_m: float = 0.0,
    times: Sequence[str | None] | None = None,
) -> pa.Table:
    """Photos (PLACED) inside footprints of any CRS and rotation, as PAIRS.

    A photo belongs to every footprint whose half-open rectangle, widened by ``margin_m`` true metres, holds it.
    ``placement`` is that of the footprints, ``times`` are ISO 8601, of their images.
    """
    lonlat = np.stack((doubles(photos, "lon"), doubles(photos, "lat")), axis=1)
    boxes, whose = split_boxes(placement.bbox)
    boxes, near = on_the_map(widened(boxes, max(margin_m, 0.01)))
    owner, tree = whose[near], shapely.STRtree(shapely.box(*boxes.T))
    known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    hit, box = tree.query(shapely.points(lonlat[known]), predicate="intersects")
    found = np.unique(np.stack((owner[box], known[hit]), axis=1), axis=0)
    footprint, photo = found[:, 0], found[:, 1]
    at = lonlat_to_normalised(footprints, footprint, lonlat[photo])
    east = lonlat[photo, 0] - placement.centre[footprint, 0]
    far = np.flatnonzero(np.abs(east) > 180)  # on the other side of the 180th meridian: once around the world
    at[far] -= np.sign(east[far])[:, None] * _around(footprints, footprint[far], lonlat[photo[far], 1])
    at = np.round(at, _DIGITS)
    margin = max(margin_m, 0.0) / (placement.gsd * footprints.size)[footprint]
    inside = ((at >= -margin) & (at < 1.0 + margin)).all(axis=1)
    photo, footprint, at = photo[inside], footprint[inside], at[inside] + 0.0
    return _table(photos, photo, footprint, at, north(footprints, footprint, lonlat[photo], placement), times)


def north(footprints: Footprints, rows: Ints, lonlat: Floats, placement: Placement) -> Floats:
    """Degrees f64[P] clockwise from up, in metres of the image of a photo's footprint, to true north at the photo.

    So a heading finds its direction in images that are turned, or whose grid north is not true north.
    """
    south, above = lonlat.copy(), lonlat.copy()
    south[:, 1], above[:, 1] = np.maximum(lonlat[:, 1] - _STEP, -90.0), np.minimum(lonlat[:, 1] + _STEP, 90.0)
    step = lonlat_to_normalised(footprints, rows, above) - lonlat_to_normalised(footprints, rows, south)
    right, down = (step * (placement.gsd * footprints.size)[rows]).T
    return np.round(np.degrees(np.arctan2(right, -down)), 4) + 0.0


def _around(footprints: Footprints, rows: Ints, latitude: Floats) -> Floats:
    """The way around the world eastwards in sides of each footprint, f64[P,2]: none in a CRS that is round itself."""
    ends = [
        lonlat_to_normalised(footprints, rows, np.stack((np.full(len(rows), lon), latitude), axis=1))
        for lon in (-180.0, 180.0)
    ]
    return np.asarray(ends[1] - ends[0])


def _table(
    photos: pa.Table, photo: Ints, footprint: Ints, xy: Floats, up: Floats, times: Sequence[str | None] | None
) -> pa.Table:
    gaps: list[float | None] = [None] * len(photo)
    if times is not None:
        taken = photos.column("captured_at").take(pa.array(photo)).to_pylist()
        gaps = [gap_days(t, times[f]) for t, f in zip(taken, footprint.tolist(), strict=True)]
    columns = [photo, footprint, xy[:, 0], xy[:, 1], up, photos.column("heading").take(pa.array(photo)), gaps]
    return pa.table(
        [pa.array(c, f.type) if not isinstance(c, pa.ChunkedArray) else c for c, f in zip(columns, PAIRS, strict=True)],
        schema=PAIRS,
    )
