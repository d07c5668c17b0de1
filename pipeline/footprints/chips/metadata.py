"""What a chip's metadata file says: where it lies and when it was taken.

Read are JSON objects and SkyScript's pickles (as plain values only). Fields, all optional:

- ``bbox`` or ``box``: west, south, east, north in degrees (SkyScript, docs/papers/geolink.md#images);
- ``crs``: the CRS along whose axes the chip lies; ``gsd``: units of that CRS a pixel, where the chip lies on its grid;
- ``bounds``: left, bottom, right, top in units of ``crs``; ``transform``: six numbers a, b, c, d, e, f, as rasterio's;
- ``time``: ISO 8601, a year, or [year, month, day, hour, minute] in UTC; a STAC item's ``datetime`` is read too;
- ``source``: name of the collection.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.footprints.chips.literal import read_literal
from pipeline.times import document_time
from schemas.errors import InputError, at_the_door

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Metadata:
    """The fields that were there."""

    bbox: tuple[float, float, float, float] | None = None  # degrees
    crs: str | None = None
    gsd: float | None = None  # CRS units a pixel
    bounds: tuple[float, float, float, float] | None = None  # CRS units
    transform: tuple[float, float, float, float, float, float] | None = None
    time: str | None = None  # ISO 8601
    source: str | None = None


def read_metadata(data: bytes, name: str) -> Metadata:
    """One metadata file's content.

    Raises:
        InputError: it is neither JSON nor a pickle of plain values, or a field has not the form above.
    """
    if name.lower().endswith((".pickle", ".pkl")):
        document = read_literal(data, _LIMIT)
    elif len(data) > _LIMIT:
        raise InputError(f"{len(data):,} bytes are no chip's metadata")
    else:
        with at_the_door("no JSON"):
            document = json.loads(data.decode("utf-8-sig"))
    if not isinstance(document, Mapping):
        raise InputError(f"a {type(document).__name__} instead of an object with a bbox")
    return _fields(document)


def _fields(d: Mapping[str, Any]) -> Metadata:
    bbox = d.get("bbox", d.get("box"))
    transform = _numbers(d.get("transform"), "transform", (6, 9))
    gsd = d.get("gsd")
    if gsd is not None and ((gsd := _number(gsd)) is None or gsd <= 0):
        raise InputError("gsd is no positive number")
    crs = d.get("crs")
    if crs is not None and not (isinstance(crs, (str, int)) and not isinstance(crs, bool)):
        raise InputError("crs is neither text nor an EPSG code")
    source = d.get("source")
    return Metadata(
        bbox=_numbers(bbox, "bbox", (4,)),  # type: ignore[arg-type]
        crs=f"EPSG:{crs}" if isinstance(crs, int) else crs,
        gsd=gsd,
        bounds=_numbers(d.get("bounds"), "bounds", (4,)),  # type: ignore[arg-type]
        transform=None if transform is None else transform[:6],  # type: ignore[arg-type]
        time=document_time(d),
        source=str(source)[:80] if isinstance(source, str) and source else None,
    )


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _numbers(value: Any, name: str, lengths: tuple[int, ...]) -> tuple[float, ...] | None:
    if value is None:
        return None
    found = [_number(v) for v in value] if isinstance(value, (list, tuple)) else []
    if len(found) not in lengths or None in found:
        raise InputError(f"{name} is no list of {lengths[0]} finite numbers")
    return tuple(v for v in found if v is not None)
