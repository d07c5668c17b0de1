"""Where a chip lies: its footprint from its own georeference, or from its metadata.

A chip that was cut along a lon/lat box out of an image in another projection is not that box. It is the box's envelope
in the image's CRS, and its axes are turned against north by the meridian convergence: 5.3 degrees for a Finnish chip of
GeoLink's, which a linear lon/lat map misses by 1.8 patches. SkyScript's chips are such envelopes, widened to whole
pixels of the grid whose lines are the multiples of the ground sampling distance; on GeoLink's released examples that
gives the size of the image to the pixel, in one UTM zone and not in its neighbour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError, ProjError

from pipeline.alignment import transformer
from pipeline.footprints.chips.metadata import Metadata
from pipeline.imagery.grids.turns import around
from schemas.errors import InputError
from schemas.footprint import Footprint

Affine = tuple[float, float, float, float, float, float]
Box = tuple[float, float, float, float]

#: Points a side of a box whose envelope is taken: its sides bend.
_SIDE = 9
#: Two footprints of one chip are the same if no corner differs by more of a side: 0.05 of a patch of the 14 x 14 grid.
_SAME = 0.05 / 14
#: Pixels by which an image may be larger than its envelope and still be cut on the grid of its nominal GSD.
_SLACK = 2.0
#: Most by which the two axes' scales may differ where an image was resampled to another GSD than the nominal one.
_STRETCH = 0.02


#: The way out for a chip where the x of its CRS begins anew.
SEAM = "give it in one that goes on there: gdalwarp -t_srs EPSG:326NN, its UTM zone"


class GeoreferenceError(InputError):
    """Why a chip has no footprint; ``reason`` is the word for the table of drops."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Collection:
    """An image collection of SkyScript's (docs/papers/geolink.md#images)."""

    gsd: tuple[float, ...]  # nominal, metres
    crs: int | None = None  # EPSG code; None: the UTM zone of the place
    zones: tuple[int, int] = (32600, 32700)  # EPSG code of UTM zone 0, north and south
    reach: float = 0.0  # degrees by which its images reach into the neighbouring zone


#: The letters in a SkyScript name, and what they say about the chip's CRS and pixels.
COLLECTIONS: dict[str, Collection] = {
    "US": Collection((0.6, 1.0), zones=(26900, 26900), reach=0.01),  # NAIP, NAD83
    "DE": Collection((0.2,), 25833),  # Brandenburg
    "FI": Collection((0.5,), 3067),
    "CH": Collection((0.1,), 2056),
    "ES": Collection((0.1,), zones=(25800, 25800), reach=0.05),  # PNOA, ETRS89
    "P3": Collection((0.8,), reach=0.1),  # SkySat
    "P5": Collection((2.0,), reach=0.1),
    "S2": Collection((10.0,), reach=1.0),
    "L8": Collection((30.0,), reach=2.0),
    "L9": Collection((30.0,), reach=2.0),
}
_NAME = re.compile(r"[awn]\d+_(?P<source>[A-Z][A-Z0-9])_(?P<year>\d\d)?")


@dataclass(frozen=True)
class Georeference:
    """A chip's place."""

    crs: str
    transform: Affine
    how: str  # raster | transform | bounds | bbox | skyscript FI


def skyscript_name(stem: str) -> tuple[str, str | None] | None:
    """Collection and year of a SkyScript file name, or None.

    >>> skyscript_name("a472140250_FI_21"), skyscript_name("n4503852781_DE_")
    (('FI', '2021'), ('DE', None))
    """
    match = _NAME.fullmatch(stem)
    if match is None or match["source"] not in COLLECTIONS:
        return None
    return match["source"], f"20{match['year']}" if match["year"] else None


def georeference(
    stem: str, size: tuple[int, int], own: tuple[str | None, Affine | None], metadata: Metadata | None, default: str
) -> Georeference:
    """Where a chip lies, by the first that is known: the raster's own georeference, a transform, bounds, a bbox.

    Args:
        stem: file name without its ending.
        size: width, height in pixels.
        own: CRS and transform that the image file (with its sidecars) has.
        metadata: what its metadata file says, if there is one.
        default: CRS of chips that name none, or ``auto``.

    Raises:
        GeoreferenceError: nothing is known, or what is known is no place on Earth.
    """
    known = metadata or Metadata()
    named = own[0] or known.crs or (None if default == "auto" else default)
    transform, how = (own[1], "raster") if own[1] is not None else (known.transform, "transform")
    if transform is None and known.bounds is not None:
        transform, how = _from_bounds(known.bounds, size), "bounds"
    if transform is not None:
        if named is None:
            raise GeoreferenceError(
                "no_crs", f"its {how} names no CRS; give crs in its metadata, or chips.crs=EPSG:… for all"
            )
        return Georeference(_crs_name(named), transform, how)
    if known.bbox is None:
        reason = "no_metadata" if metadata is None else "no_bbox"
        raise GeoreferenceError(
            reason,
            "neither the image nor its metadata say where it lies; give a GeoTIFF (of ground control points or "
            "RPCs what gdalwarp makes), or bbox in a JSON file",
        )
    box = _check_bbox(known.bbox)
    if named is not None:
        return _from_bbox(box, size, named, known.gsd)
    skyscript = skyscript_name(stem)
    if skyscript is None:
        raise GeoreferenceError(
            "no_crs", "a bbox alone does not say how the chip's axes lie; give crs in its metadata, or chips.crs=EPSG:…"
        )
    return _from_collection(box, size, skyscript[0])


def _crs_name(text: str) -> str:
    """A CRS as ``EPSG:…``, or as WKT where no authority has it."""
    name = _known_crs(text)
    if name is None:
        raise GeoreferenceError("unknown_crs", f"{text[:80]!r} is no map CRS that PROJ knows; write EPSG:… or WKT")
    return name


@lru_cache(maxsize=256)
def _known_crs(text: str) -> str | None:
    try:
        crs = CRS.from_user_input(text)
        crs = (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()  # heights say nothing about a chip's place
        if not (crs.is_geographic or crs.is_projected) or len(crs.axis_info) != 2:
            return None
        authority = crs.to_authority(min_confidence=100)
    except CRSError:
        return None
    return ":".join(authority) if authority else str(crs.to_wkt())


def _from_bounds(bounds: Box, size: tuple[int, int]) -> Affine:
    left, bottom, right, top = bounds
    if not (left < right and bottom < top):
        raise GeoreferenceError("bbox_inverted", f"bounds {bounds} are not left < right, bottom < top")
    return (right - left) / size[0], 0.0, left, 0.0, (bottom - top) / size[1], top


def _check_bbox(box: Box) -> Box:
    west, south, east, north = box
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise GeoreferenceError(
            "bbox_out_of_range", f"bbox {box} is not in degrees; coordinates of another CRS stand in bounds"
        )
    if west > east and west - east > 180:  # it crosses the 180th meridian: eastwards, longitudes run on
        east += 360
    if west >= east or south >= north:
        raise GeoreferenceError("bbox_inverted", f"bbox {box} is not west < east, south < north, in that order")
    return west, south, east, north


def envelope(box: Box, crs: str) -> Box:
    """The axis-aligned envelope in ``crs`` (min X, min Y, max X, max Y) of a lon/lat box with bent sides, whose east
    may run on beyond 180°.

    Raises:
        GeoreferenceError: the box lies outside what the CRS can hold, or across its end.
    """
    west, south, east, north = box
    x, y = west + (east - west) * np.linspace(0.0, 1.0, _SIDE), south + (north - south) * np.linspace(0.0, 1.0, _SIDE)
    lon = np.concatenate((x, np.full(_SIDE, east), x, np.full(_SIDE, west)))
    lat = np.concatenate((np.full(_SIDE, south), y, np.full(_SIDE, north), y))
    try:
        x, y = transformer(crs).transform(np.where(lon > 180, lon - 360, lon), lat)
    except ProjError:
        x = y = np.array([math.inf])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise GeoreferenceError("outside_crs", f"bbox {box} lies outside {crs[:40]}")
    world = around(crs)
    if world is not None and np.ptp(x) > world.turn / 2:
        raise GeoreferenceError("antimeridian", f"its bbox lies across the end of {crs[:40]}; {SEAM}")
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _from_bbox(box: Box, size: tuple[int, int], named: str, gsd: float | None) -> Georeference:
    """The envelope in a given CRS: on the grid of ``gsd``, or stretched over the image."""
    crs = _crs_name(named)
    extent = envelope(box, crs)
    if gsd is None:
        return Georeference(crs, _from_bounds(extent, size), "bbox")
    transform = on_grid(extent, size, gsd) or _centred(extent, size, gsd)
    if transform is None:
        raise GeoreferenceError("footprint_mismatch", _mismatch(extent, size, (gsd,), crs))
    return Georeference(crs, transform, "bbox")


def _mismatch(extent: Box, size: tuple[int, int], gsd: tuple[float, ...], crs: str) -> str:
    x, y = extent[2] - extent[0], extent[3] - extent[1]
    wanted = " or ".join(f"{x / g:.1f} × {y / g:.1f} px at {g:g}" for g in gsd)
    return f"the image has {size[0]} × {size[1]} px, but its bbox {wanted} in {crs[:40]}; check crs, gsd and bbox"


def on_grid(extent: Box, size: tuple[int, int], gsd: float) -> Affine | None:
    """The extent widened to the grid of multiples of ``gsd``, if that is as large as the image."""
    left, bottom = math.floor(extent[0] / gsd), math.floor(extent[1] / gsd)
    right, top = math.ceil(extent[2] / gsd), math.ceil(extent[3] / gsd)
    return (gsd, 0.0, left * gsd, 0.0, -gsd, top * gsd) if (right - left, top - bottom) == size else None


def _centred(extent: Box, size: tuple[int, int], gsd: float) -> Affine | None:
    """The extent in the middle of an image that is a little larger: cut on a grid with another origin."""
    slack = [n - (extent[i + 2] - extent[i]) / gsd for i, n in enumerate(size)]
    if not all(0 <= s <= _SLACK for s in slack):
        return None
    return gsd, 0.0, extent[0] - slack[0] / 2 * gsd, 0.0, -gsd, extent[3] + slack[1] / 2 * gsd


def _stretched(extent: Box, size: tuple[int, int]) -> Affine | None:
    """The extent over the whole image, if its pixels come out about square: the image was resampled."""
    ratio = (extent[2] - extent[0]) / size[0] / ((extent[3] - extent[1]) / size[1])
    return _from_bounds(extent, size) if abs(math.log(ratio)) <= _STRETCH else None


def _from_collection(box: Box, size: tuple[int, int], source: str) -> Georeference:
    """The footprint of a SkyScript chip: CRS and GSD are its collection's, the zone is the one that fits its size."""
    collection = COLLECTIONS[source]
    extents = [(crs, envelope(box, crs)) for crs in _candidates(box, collection)]
    fits = (
        [(crs, t) for crs, e in extents for g in collection.gsd if (t := on_grid(e, size, g))],
        [(crs, t) for crs, e in extents for g in collection.gsd if (t := _centred(e, size, g))],
        [(crs, t) for crs, e in extents if (t := _stretched(e, size))],
    )
    found = next((f for f in fits if f), None)
    if found is None:
        raise GeoreferenceError("footprint_mismatch", _mismatch(extents[0][1], size, collection.gsd, extents[0][0]))
    crs, transform = found[0]
    for other, its in found[1:]:
        if _apart((crs, transform), (other, its), size) > _SAME:
            raise GeoreferenceError(
                "ambiguous_crs", f"its size fits {crs} and {other} alike; give crs in its metadata, or chips.crs=EPSG:…"
            )
    return Georeference(crs, transform, f"skyscript {source}")


def _candidates(box: Box, collection: Collection) -> Iterator[str]:
    """CRSs that a chip of the collection may have; the most likely first."""
    if collection.crs is not None:
        yield f"EPSG:{collection.crs}"
        return
    lon, lat = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    base = collection.zones[0 if lat >= 0 else 1]
    zone = int((lon + 180) // 6) % 60
    into = (lon + 180) % 6
    near = [
        zone,
        *([zone - 1] if into <= collection.reach else []),
        *([zone + 1] if 6 - into <= collection.reach else []),
    ]
    for z in near:
        name = _known_crs(f"EPSG:{base + z % 60 + 1}")
        if name is not None:  # NAD83 and ETRS89 have the zones of their own continents alone
            yield name


def _apart(a: tuple[str, Affine], b: tuple[str, Affine], size: tuple[int, int]) -> float:
    """Largest distance between corners of two footprints of one image, in sides of ``a``."""
    first, second = (Footprint("chip-a", crs, transform, *size) for crs, transform in (a, b))
    x, y = second.corners().T
    lon, lat = transformer(b[0]).transform(x, y, direction="INVERSE")
    x, y = transformer(a[0]).transform(lon, lat)
    seen = first.pixel_to_normalised(first.crs_to_pixel(np.stack((x, y), axis=1)))
    wanted: NDArray[np.float64] = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    return float(np.abs(seen - wanted).max())
