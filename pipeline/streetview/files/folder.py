"""Photos of a folder, or a single photo: where and when they were taken stands in their EXIF."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import ExifTags, Image

from pipeline.streetview.files.table import SUFFIXES
from pipeline.streetview.pictures.gpano import read_gpano
from pipeline.streetview.pictures.image import open_photo
from pipeline.streetview.position import Area, Position, place
from pipeline.streetview.record import Drops, PhotoError, iso_time, number, to_table, turn, words

#: Beginnings of open licences, as SPDX and people write them.
_OPEN = re.compile(
    r"(CC0|CC[- ]BY|Creative Commons|ODbL|ODC-|PDDL|etalab|Licence Ouverte|OGL|Public Domain)", re.IGNORECASE
)


class FolderSource:
    """JPEGs with EXIF GPS, in a folder and its subfolders."""

    def __init__(self, path: Path, licence: str | None = None, position: Position = "corrected") -> None:
        self.path, self.licence, self.position = path, licence, position
        self.name, self.parallel = path.name, 1

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area`` (None: everywhere); those left out are added to ``drops``."""
        single = self.path.is_file()
        base = self.path.parent if single else self.path
        files = [self.path] if single else sorted(p for p in base.rglob("*") if p.suffix.lower() in SUFFIXES)
        rows = []
        for path in files:
            name = path.relative_to(base).as_posix()
            try:
                # Only the header is read here; a photo with too many pixels is refused when it is decoded.
                with open_photo(path, name, math.inf) as image:
                    rows.append(self._row(path, name, image))
            except PhotoError as error:
                drops.add(error.reason, name, str(error))
        return place(to_table(rows), self.position, area, drops)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file of a row's photo."""
        return Path(row["path"])

    def close(self) -> None:
        """Nothing is under way."""

    def _row(self, path: Path, name: str, image: Image.Image) -> dict[str, Any]:
        exif = image.getexif()
        lon, lat, heading = gps_position(exif)
        sphere = read_gpano(image)
        panorama = sphere is not None and sphere.projection == "equirectangular"
        return {
            "source": self.name, "id": name, "path": str(path), "lon_original": lon, "lat_original": lat,
            "heading_original": heading if heading is not None or sphere is None else sphere.heading,
            "accuracy_m": _accuracy(exif), "captured_at": exif_time(exif), "author": _artist(exif),
            "projection": "equirectangular" if panorama else "perspective",
            "visible": list(sphere.visible) if sphere is not None and panorama else None,
            "licence": self.licence or exif_licence(exif),
        }  # fmt: skip


def gps_position(exif: Image.Exif) -> tuple[float | None, float | None, float | None]:
    """Longitude, latitude and true (never magnetic) heading in degrees from EXIF; None for what is not there."""
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    lat, lon = (_degrees(gps.get(tag)) for tag in (ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLongitude))
    if lat is not None and str(gps.get(ExifTags.GPS.GPSLatitudeRef, "N")).upper().startswith("S"):
        lat = -lat
    if lon is not None and str(gps.get(ExifTags.GPS.GPSLongitudeRef, "E")).upper().startswith("W"):
        lon = -lon
    magnetic = str(gps.get(ExifTags.GPS.GPSImgDirectionRef, "T")).upper().startswith("M")
    return lon, lat, None if magnetic else turn(gps.get(ExifTags.GPS.GPSImgDirection))


def exif_time(exif: Image.Exif) -> str | None:
    """When the photo was taken: UTC where the camera's zone or the GPS clock says so, else the camera's local time."""
    own, gps = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    local = iso_time(own.get(ExifTags.Base.DateTimeOriginal)) or iso_time(exif.get(ExifTags.Base.DateTime))
    zone = words(own.get(ExifTags.Base.OffsetTimeOriginal))
    if local and zone and (known := iso_time(f"{local}{zone}")):
        return known
    try:
        hour, minute, second = (float(v) for v in gps[ExifTags.GPS.GPSTimeStamp])
        day = datetime.strptime(str(gps[ExifTags.GPS.GPSDateStamp]), "%Y:%m:%d")
        return iso_time(day.replace(hour=int(hour), minute=int(minute), second=int(second), tzinfo=UTC))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return local


def exif_licence(exif: Image.Exif) -> str | None:
    """The open licence that a photo's copyright notice names, if it does; a name or a year is none."""
    notice = words(exif.get(ExifTags.Base.Copyright))
    return notice if notice is not None and _OPEN.match(notice) else None


def _accuracy(exif: Image.Exif) -> float | None:
    result = number(exif.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSHPositioningError))
    return result if result is not None and result > 0 else None


def _artist(exif: Image.Exif) -> str | None:
    return words(exif.get(ExifTags.Base.Artist))


def _degrees(value: Any) -> float | None:
    try:
        parts = [float(v) for v in value]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if len(parts) != 3 or not all(math.isfinite(p) for p in parts):
        return None
    return parts[0] + parts[1] / 60 + parts[2] / 3600
