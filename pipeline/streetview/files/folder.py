"""Photos of a folder, or a single photo: where and when they were taken stands in their EXIF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.streetview.files.exif import exif_accuracy, exif_artist, exif_licence, exif_time, gps_position
from pipeline.streetview.pictures.gpano import read_gpano
from pipeline.streetview.pictures.image import KNOWN, open_photo
from pipeline.streetview.position import Area, Position, place
from pipeline.streetview.record import Drops, PhotoError, to_table


class FolderSource:
    """JPEGs with EXIF GPS, in a folder and its subfolders."""

    def __init__(self, path: Path, licence: str | None = None, position: Position = "corrected") -> None:
        self.path, self.licence, self.position = path, licence, position
        self.name, self.parallel = path.name, 1

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area`` (None: everywhere); those left out are added to ``drops``."""
        single = self.path.is_file()
        base = self.path.parent if single else self.path
        files = [self.path] if single else sorted(p for p in base.rglob("*") if p.suffix.lower() in KNOWN)
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
            "accuracy_m": exif_accuracy(exif), "captured_at": exif_time(exif), "author": exif_artist(exif),
            "projection": "equirectangular" if panorama else "perspective",
            "visible": list(sphere.visible) if sphere is not None and panorama else None,
            "licence": self.licence or exif_licence(exif),
        }  # fmt: skip
