"""A photo's record, whatever its source, and the readers of the numbers and positions that sources write."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import InputError
from schemas.features import drop_row

#: One row a photo, as sources list them. ``original`` is where the camera's GPS put it, ``corrected`` where the source
#: puts it now (Mapillary's ``computed_geometry``, KartaView's match to a road).
PHOTOS = pa.schema(
    [
        ("source", pa.string()),  # panoramax | mapillary | kartaview | name of the file or folder
        ("id", pa.string()),  # within the source
        ("path", pa.string()),  # local file; null: to be fetched
        ("url", pa.string()),  # of its bytes, or of its page where the address of the bytes expires
        ("lon_original", pa.float64()),  # degrees
        ("lat_original", pa.float64()),
        ("heading_original", pa.float64()),  # degrees clockwise from true north, 0 <= heading < 360
        ("lon_corrected", pa.float64()),
        ("lat_corrected", pa.float64()),
        ("heading_corrected", pa.float64()),
        ("accuracy_m", pa.float64()),  # of the position, as the source states it
        ("captured_at", pa.string()),  # ISO 8601 time or date; with Z: UTC, without: local
        ("projection", pa.string()),  # perspective | fisheye | equirectangular
        ("visible", pa.list_(pa.float64(), 4)),  # of a panorama: left, top, right, bottom as shares of the whole sphere
        ("sequence", pa.string()),
        ("index", pa.int64()),  # within the sequence
        ("author", pa.string()),
        ("licence", pa.string()),  # SPDX or words; null: the source does not say
        ("quality", pa.float64()),  # as the source rates it, higher is better
        ("night", pa.bool_()),  # as the source states it
    ]
)

#: PHOTOS with the position and heading in use, after `position.place`.
PLACED = pa.schema([*PHOTOS, ("lon", pa.float64()), ("lat", pa.float64()), ("heading", pa.float64())])

#: Photos of one reason that are named in DROPS; those beyond are counted in one row.
_NAMED = 10_000


class PhotoError(InputError):
    """One photo that cannot be used; ``reason`` is its word in DROPS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Photo:
    """One photo with the position in use, and its bytes in a file."""

    path: str  # or URL, where a cache behind a URL holds it
    id: str
    lon: float  # degrees
    lat: float
    heading: float | None = None  # degrees clockwise from true north, 0 <= heading < 360
    captured_at: str | None = None  # ISO 8601 time or date; with Z: UTC, without: local
    projection: str = "perspective"  # perspective | fisheye | equirectangular
    licence: str | None = None
    author: str | None = None
    source: str = ""
    accuracy_m: float | None = None
    visible: tuple[float, float, float, float] | None = None  # as in PHOTOS
    x: float = math.nan  # normalised image coordinates in the footprint that it was chosen for
    y: float = math.nan
    north: float = 0.0  # degrees clockwise from up in that footprint's image to true north


@dataclass
class Drops:
    """Photos that are left out, as rows of DROPS: by id, and by number where there are very many for one reason."""

    source: str = "photos"
    _rows: list[dict[str, object]] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, photo: str, detail: str = "") -> None:
        """One photo."""
        self._counts[reason] += 1
        if self._counts[reason] <= _NAMED:
            self._rows.append(drop_row("streetview", self.source, reason, key=photo, detail=detail[:200]))

    def rows(self) -> list[dict[str, object]]:
        """All of them."""
        more = [
            drop_row("streetview", self.source, reason, detail=f"beyond the {_NAMED:,} named", count=count - _NAMED)
            for reason, count in sorted(self._counts.items())
            if count > _NAMED
        ]
        return self._rows + more


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows by column name as PHOTOS; what a row lacks is null."""
    return pa.table({f.name: pa.array([r.get(f.name) for r in rows], f.type) for f in PHOTOS}, schema=PHOTOS)


def doubles(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers f64[N]; null is NaN."""
    return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), np.float64)


def to_photo(row: Mapping[str, Any], path: str) -> Photo:
    """A row of PLACED whose bytes lie in ``path``."""
    visible = row["visible"]
    return Photo(
        path, row["id"], row["lon"], row["lat"], row["heading"], row["captured_at"], row["projection"], row["licence"],
        row["author"], row["source"], row["accuracy_m"], None if visible is None else tuple(visible),
    )  # fmt: skip


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None or isinstance(value, bool):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return result if math.isfinite(result) else None


def whole(value: Any) -> int | None:
    """A whole number that 64 bits hold, or None."""
    result = number(value)
    return int(result) if result is not None and abs(result) < 2**62 else None


def words(value: Any) -> str | None:
    """A text that says something, or None."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in ("", "none", "null", "nan") else text


def turn(value: Any) -> float | None:
    """A heading in degrees, 0 <= heading < 360, or None."""
    result = number(value)
    return None if result is None else result % 360.0 % 360.0  # -1e-20 % 360 is 360


def point(value: Any) -> tuple[float | None, float | None]:
    """Longitude and latitude of a GeoJSON point, of a list of two numbers or of a WKT point, as object or text."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*POINT\s*Z?\s*\(\s*(\S+)\s+(\S+?)(?:\s+\S+)?\s*\)\s*", value, re.IGNORECASE)
        if found:
            return number(found[1]), number(found[2])
        try:
            value = json.loads(value.replace("'", '"'))
        except (ValueError, RecursionError):
            return None, None
    if isinstance(value, Mapping):
        value = value.get("coordinates")
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) < 2:
        return None, None
    return number(value[0]), number(value[1])


def projection(value: Any, panorama: Any = None) -> str:
    """A projection in our words: ``perspective``, ``fisheye`` or ``equirectangular``.

    ``value`` is as a source names it; ``panorama`` what it says beside that: a flag, or a field of view in degrees.
    """
    text = str(value or "").lower()
    if "equirect" in text or "spher" in text or text in ("360", "360.0", "panorama", "pano"):
        return "equirectangular"
    flag = str(panorama).strip().lower()
    if flag in ("true", "t", "1", "1.0", "yes", "360", "360.0"):
        return "equirectangular"
    return "fisheye" if "fisheye" in text else "perspective"
