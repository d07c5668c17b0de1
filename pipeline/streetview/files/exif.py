"""Where, when and by whom a photo says it was taken, from EXIF as cameras and their editors write it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

from pipeline.streetview.record import number, turn, words
from pipeline.times import iso_time, joined_time

#: Beginnings of open licences, as SPDX and people write them.
_OPEN = re.compile(
    r"(CC0|CC[- ]BY|Creative Commons|ODbL|ODC-|PDDL|etalab|Licence Ouverte|OGL|Public Domain)", re.IGNORECASE
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]\d+)?")
#: Tags of a time, of its fraction of a second and of its zone, by preference: taken, digitised, changed.
_TIMES = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
    (ExifTags.Base.DateTime, ExifTags.Base.SubsecTime, ExifTags.Base.OffsetTime),
)


def gps_position(exif: Image.Exif) -> tuple[float | None, float | None, float | None]:
    """Longitude, latitude and true (never magnetic) heading in degrees from EXIF; None for what is not there.

    A reference decides the sign, whatever the number's own; without one that counts.
    """
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    lat = _signed(degrees(gps.get(ExifTags.GPS.GPSLatitude)), text(gps.get(ExifTags.GPS.GPSLatitudeRef)), "N", "S")
    lon = _signed(degrees(gps.get(ExifTags.GPS.GPSLongitude)), text(gps.get(ExifTags.GPS.GPSLongitudeRef)), "E", "W")
    magnetic = text(gps.get(ExifTags.GPS.GPSImgDirectionRef)).upper().startswith("M")
    return lon, lat, None if magnetic else turn(gps.get(ExifTags.GPS.GPSImgDirection))


def exif_time(exif: Image.Exif) -> str | None:
    """When the photo was taken: UTC where the camera's zone or the GPS clock says so, else the camera's local time."""
    own = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    local = None
    for time, fraction, zone in _TIMES:
        local = joined_time(text(own.get(time)), text(own.get(fraction)), text(own.get(zone)))
        if local is not None:
            break
    if local is not None and local.endswith("Z"):
        return local
    return _gps_time(exif.get_ifd(ExifTags.IFD.GPSInfo)) or local


def exif_licence(exif: Image.Exif) -> str | None:
    """The open licence that a photo's copyright notice names, if it does; a name or a year is none."""
    notice = words(text(exif.get(ExifTags.Base.Copyright)))
    return notice if notice is not None and _OPEN.match(notice) else None


def exif_accuracy(exif: Image.Exif) -> float | None:
    """Of the position in metres; None where it does not say."""
    result = number(exif.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSHPositioningError))
    return result if result is not None and result > 0 else None


def exif_artist(exif: Image.Exif) -> str | None:
    """Who took it."""
    return words(text(exif.get(ExifTags.Base.Artist)))


def degrees(value: Any) -> float | None:
    """An angle in degrees: up to three numbers (degrees, minutes, seconds), of any type or in a text.

    None for none, for one that is not finite, and for numbers of which some are negative and others positive: they do
    not say which way the minutes count.
    """
    if isinstance(value, (str, bytes)):
        parts = [float(n) for n in _NUMBER.findall(text(value))[:3]]
    else:
        found = [number(v) for v in (value if isinstance(value, (tuple, list)) else (value,))[:3]]
        parts = [v for v in found if v is not None]
        if len(parts) < len(found):
            return None
    if not parts or not all(map(math.isfinite, parts)) or min(parts) < 0 < max(parts):
        return None
    return sum(part / scale for part, scale in zip(parts, (1, 60, 3600), strict=False))


def text(value: Any) -> str:
    """A text of any type that EXIF may give it, without the zeros and spaces at its ends."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return "" if value is None else str(value).partition("\0")[0].strip()


def _signed(angle: float | None, reference: str, positive: str, negative: str) -> float | None:
    letter = reference[:1].upper()
    if angle is None or letter not in (positive, negative):
        return angle
    return abs(angle) if letter == positive else -abs(angle)


def _gps_time(gps: Mapping[int, Any]) -> str | None:
    clock = gps.get(ExifTags.GPS.GPSTimeStamp)
    if isinstance(clock, (str, bytes)):
        parts = [number(v) for v in text(clock).split(":")]
    else:
        parts = [number(v) for v in clock] if isinstance(clock, (tuple, list)) else []
    if len(parts) != 3 or None in parts:
        return None
    hour, minute, second = (v or 0.0 for v in parts)
    rest, micro = divmod(round((hour * 3600 + minute * 60 + second) * 1e6), 1_000_000)  # 59.9999999 s are no 60
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{micro:06}"
    return iso_time(f"{text(gps.get(ExifTags.GPS.GPSDateStamp))} {clock}Z")
