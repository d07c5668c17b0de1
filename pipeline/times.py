"""Times as files, services and people write them, read into ISO 8601: of photos, rasters and chips alike.

Times with a zone become UTC and end in Z; times without one are local and stay bare; a date stays a date, a year a
year. Zeros, hours beyond 23 and what is no number are no times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from schemas.errors import ConfigError

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
_YEAR = re.compile(r"[1-9]\d{3}(-(0[1-9]|1[0-2]))?")
#: What rasters call the time that they were taken at, by preference, and the zone of those that name none: GDAL's own,
#: Sentinel-2, netCDF, NITF, EXIF, Landsat, TIFF. The last two may be those of an editor.
_TAGS = (
    ("acquisitiondatetime", "Z"), ("product_start_time", "Z"), ("datatake_1_datatake_sensing_start", "Z"),
    ("sensing_time", "Z"), ("time_coverage_start", "Z"), ("acquisition_datetime", ""), ("nitf_idatim", "Z"),
    ("exif_datetimeoriginal", ""), ("exif_datetimedigitized", ""), ("date_acquired", ""), ("tifftag_datetime", ""),
    ("exif_datetime", ""),
)  # fmt: skip
#: What Earth Engine's exports call it, in milliseconds since 1970.
_MILLISECONDS = ("system-time_start", "system:time_start")
#: What metadata of chips and STAC items call it.
_FIELDS = ("time", "acquired", "datetime", "start_datetime")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: Directives of strptime, and the group of a regular expression that each stands for.
_DIRECTIVES = {
    "Y": r"(?P<year>\d{4})", "y": r"(?P<short_year>\d\d)", "m": r"(?P<month>\d\d)", "b": r"(?P<month_name>[A-Za-z]{3})",
    "d": r"(?P<day>\d\d)", "j": r"(?P<day_of_year>\d{3})", "H": r"(?P<hour>\d\d)", "M": r"(?P<minute>\d\d)",
    "S": r"(?P<second>\d\d)", "f": r"(?P<fraction>\d+)", "z": r"(?P<zone>Z|[+-]\d\d:?\d\d)", "%": "%",
}  # fmt: skip
_GROUPS = frozenset(re.findall(r"\?P<(\w+)>", "".join(_DIRECTIVES.values())))


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


def any_time(value: Any) -> str | None:
    """`iso_time`, and also a year, a month (2021-05), or a list of a time's parts in UTC.

    >>> any_time([2020, 8, 6, 6, 8]), any_time(2021), any_time(None)
    ('2020-08-06T06:08:00Z', '2021', None)
    """
    if isinstance(value, (list, tuple)):
        try:
            parts = [int(v) for v in value]
            return _iso(datetime(*parts, tzinfo=UTC)) if 3 <= len(parts) <= 6 else None  # type: ignore[misc, arg-type]
        except (ValueError, TypeError, OverflowError):
            return None
    if isinstance(value, (str, int)) and not isinstance(value, bool) and _YEAR.fullmatch(str(value).strip()):
        return str(value).strip()
    return iso_time(value)


def tag_time(tags: Mapping[str, str], imagery: Mapping[str, str] | None = None) -> str | None:
    """When a raster was taken by its tags: GDAL's default domain, and its domain IMAGERY."""
    own = {k.lower(): v for k, v in (*tags.items(), *(imagery or {}).items())}
    for name in _MILLISECONDS:
        try:
            if milliseconds := float(own.get(name, "")):
                return _iso(_EPOCH_START + timedelta(milliseconds=milliseconds))
        except (ValueError, OverflowError):
            continue
    for name, zone in _TAGS:
        part = name.removeprefix("exif_datetime")  # EXIF has fractions and zones in tags of their own
        fraction, offset = (own.get(f"exif_{what}time{part}", "") for what in ("subsec", "offset"))
        exif = part != name
        if (time := joined_time(own.get(name, ""), fraction if exif else "", offset if exif else "")) is not None:
            return f"{time}{zone}" if "T" in time and not time.endswith("Z") else time
    return None


def joined_time(time: str, fraction: str, zone: str) -> str | None:
    """The fullest reading of what EXIF keeps apart: a fraction or zone that cannot be read takes nothing away."""
    time, fraction, zone = time.strip(), fraction.strip(), zone.strip()
    fraction = f".{fraction}" if fraction.isdecimal() else ""
    readings = (f"{time}{fraction}{zone}", f"{time}{zone}", f"{time}{fraction}", time)
    return next((found for reading in readings if (found := iso_time(reading)) is not None), None)


def document_time(document: Mapping[str, Any]) -> str | None:
    """When an image was taken by a JSON object beside it: metadata of a chip, or a STAC item."""
    properties = document.get("properties")
    for own in (document, properties if isinstance(properties, Mapping) else {}):
        for name in _FIELDS:
            if (time := any_time(own.get(name))) is not None:
                return time
    return None


@lru_cache(maxsize=16)
def compile_pattern(text: str) -> re.Pattern[str]:
    """A pattern of times in names: strptime's directives (``%Y-%m-%d``), or a regular expression with named groups.

    Raises:
        ConfigError: it is neither, or has no year.
    """
    groups = ", ".join(sorted(_GROUPS))
    expression = text
    if "(?P<" not in text:
        parts = re.findall(r"%.|[^%]+|%", text, re.DOTALL)
        if unknown := next((p for p in parts if p[0] == "%" and p[1:] not in _DIRECTIVES), None):
            raise ConfigError(f"rs.time_pattern: {unknown} is unknown; %{', %'.join(_DIRECTIVES)} are known")
        expression = "".join(_DIRECTIVES[p[1:]] if p[0] == "%" else re.escape(p) for p in parts)
        expression = rf"(?<!\d){expression}(?!\d)" if expression else ""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"rs.time_pattern={text!r} is no pattern: {error}") from None
    if unknown := next(iter(sorted(pattern.groupindex.keys() - _GROUPS)), None):
        raise ConfigError(f"rs.time_pattern: the group {unknown} is unknown; {groups} are known")
    if not pattern.groupindex.keys() & {"year", "short_year"}:
        raise ConfigError(f"rs.time_pattern={text!r} has no year: %Y-%m-%d, say, or (?P<year>…), of {groups}")
    return pattern


def name_time(path: str, pattern: str) -> str | None:
    """The time in a file's name, or in that of the nearest folder that has one, by a pattern; None: there is none.

    A date without a day ends at its month or year.

    >>> name_time("rs/2020-09-17_B04.tiff", "%Y-%m-%d"), name_time("2021/T30TVK_summer.tif", "%Y")
    ('2020-09-17', '2021')
    """
    if not pattern:
        return None
    for part in reversed(PurePath(path).parts):
        for found in compile_pattern(pattern).finditer(part):
            if (time := _named(found.groupdict())) is not None:
                return time
    return None


def _named(groups: Mapping[str, str | None]) -> str | None:
    """The time that the groups of a pattern have found; None where they are none."""
    own = {name: value for name, value in groups.items() if value}
    try:
        year = int(own["year"]) if "year" in own else 2000 + int(own["short_year"]) - 100 * (own["short_year"] >= "69")
        month = 1 + _MONTHS.index(own["month_name"].lower()) if "month_name" in own else int(own.get("month", 1))
        day = datetime(year, month, int(own.get("day", 1)))
        if "day_of_year" in own:
            number = int(own["day_of_year"])
            day = datetime(year, 1, 1) + timedelta(days=number - 1)
            if number < 1 or day.year != year:
                return None
        date = day.date().isoformat()
        if not own.keys() & {"day", "day_of_year"}:
            return date[:7] if own.keys() & {"month", "month_name"} else date[:4]
    except (KeyError, ValueError, OverflowError):
        return None
    if "hour" not in own:
        return date
    fraction = f".{own['fraction']}" if "fraction" in own else ""
    return iso_time(f"{date}T{own['hour']}:{own.get('minute', '00')}:{own.get('second', '00')}{fraction}"
                    f"{own.get('zone', '')}")  # fmt: skip
