"""A photo's record, whatever its source, and the readers of the numbers, times and positions that sources write."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
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

_EPOCH = re.compile(r"\d{8,19}(\.\d*)?")
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)
#: Year to minute without marks, seconds and their thousandths as they come; no such digits are a count since 1970 that
#: lies between 1977 and 5138.
_COMPACT = re.compile(
    r"((?:19|20)\d\d)(0[1-9]|1[0-2])([0-2]\d|3[01])(?:([01]\d|2[0-3])([0-5]\d)(?:([0-5]\d)(\d{3})?)?)?"
)
#: Date, and time with its fraction and zone, of ISO 8601, RFC 3339, SQL and EXIF.
_TIME = re.compile(
    r"(\d{4})([-:/._])(\d\d?)\2(\d\d?)(?:[ Tt_]\s*(\d\d)[:_.](\d\d)(?:[:_.](\d\d)(?:[.,_](\d+))?)?"
    r"\s*(Z|z|UTC|GMT|[+−-]\d\d(?::?\d\d)?)?)?"
)
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

    path: str
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


def iso_time(value: Any) -> str | None:
    """A time in one of the forms that tables, services and EXIF use, as ISO 8601; None if it is none.

    Times with a zone become UTC and end in Z; times without one are local and stay bare; a date stays a date. Fractions
    of a second are kept, to microseconds. Digits alone are a compact date or time where they can be one, else seconds,
    milli-, micro- or nanoseconds since 1970 UTC, by their number.
    """
    if isinstance(value, datetime):
        return _iso(value)
    text = "" if value is None or isinstance(value, bool) else str(value).strip()
    try:
        if _EPOCH.fullmatch(text):
            compact = _COMPACT.fullmatch(text.partition(".")[0])
            return _iso_parts(*compact.groups(), None) if compact else _epoch(Decimal(text))
        found = _TIME.fullmatch(text)
        return _iso_parts(*found.group(1, 3, 4, 5, 6, 7, 8, 9)) if found else _iso(datetime.fromisoformat(text))
    except (ValueError, OverflowError, ArithmeticError):
        return None


def _epoch(number: Decimal) -> str | None:
    """Since 1970: the unit is the one by which it lies between 1973 and 2286."""
    unit = next((u for u in (1, 1_000, 1_000_000, 1_000_000_000) if 10**8 <= number / u < 10**10), None)
    if unit is None:
        return None
    return _iso(_EPOCH_START + timedelta(microseconds=int(number * 1_000_000 / unit)))


def _iso_parts(*parts: str | None) -> str:
    """From year, month, day, hour, minute, second, fraction and zone; those from the hour on may be missing."""
    hour, zone = parts[3], parts[7]
    fraction = (parts[6] or "")[:6].ljust(6, "0")
    years, months, days, hours, minutes, seconds, micro = (int(v or 0) for v in (*parts[:6], fraction))
    time = datetime(years, months, days, hours, minutes, seconds, micro)
    if hour is None:
        return time.date().isoformat()
    if not zone:
        return _iso(time)
    if zone.upper() in ("Z", "UTC", "GMT"):
        return _iso(time.replace(tzinfo=UTC))
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return _iso(time.replace(tzinfo=timezone(-offset if zone[0] in "-−" else offset)))


def _iso(time: datetime) -> str:
    plain = time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
    text = plain.isoformat(timespec="microseconds").rstrip("0").rstrip(".")
    return text if time.tzinfo is None else f"{text}Z"
