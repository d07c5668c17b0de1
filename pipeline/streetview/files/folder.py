"""Photos of a folder, or a single photo: where and when they were taken stands in their EXIF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from PIL import Image

from pipeline.streetview.files.exif import exif_accuracy, exif_artist, exif_licence, exif_time, gps_position
from pipeline.streetview.files.remote import folder_of, joined, names_below, suffix_of
from pipeline.streetview.pictures.gpano import read_gpano
from pipeline.streetview.pictures.image import FORMATS, KNOWN, SUFFIXES, open_photo
from pipeline.streetview.position import Area, Position, place
from pipeline.streetview.record import Drops, PhotoError, to_table
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError
from storage.urls import shown

#: Bytes that are fetched of a photo to list it: EXIF and XMP stand before the pixels of a JPEG.
_HEADER = 1 << 17


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
                    own = {"source": self.name, "path": str(path)}
                    rows.append(photo_row(name, image, self.licence) | own)
            except PhotoError as error:
                drops.add(error.reason, name, str(error))
        return place(to_table(rows), self.position, area, drops)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file of a row's photo."""
        return Path(row["path"])

    def close(self) -> None:
        """Nothing is under way."""


class RemoteFolderSource:
    """The same behind a URL: of each photo the header is fetched to list it, and all of it where it is chosen."""

    def __init__(
        self, url: str, store: PhotoStore, licence: str | None = None, position: Position = "corrected"
    ) -> None:
        """``url`` is of a folder, or of one photo."""
        self.single = suffix_of(url) in KNOWN
        self.url, self.folder = url, folder_of(url) if self.single else url
        self.store, self.licence, self.position = store, licence, position
        self.name, self.parallel = PurePosixPath(unquote(url)).name, store.client.config.parallel

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area`` (None: everywhere); those left out are added to ``drops``.

        Raises:
            InputError: the folder cannot be listed, or its store does not answer.
        """
        if self.single:
            photos = {PurePosixPath(unquote(self.url)).name: self.url}
        else:
            names = [n for n in names_below(self.folder) if PurePosixPath(n).suffix.lower() in KNOWN]
            if not names:
                raise InputError(f"{shown(self.url)} holds no photos ({', '.join(SUFFIXES)}), or does not exist")
            photos = {name: joined(self.folder, name) for name in names}
        rows = []
        with ThreadPoolExecutor(self.parallel, "photos") as pool:
            for name, row in zip(photos, pool.map(self._listed, photos, photos.values()), strict=True):
                if isinstance(row, PhotoError):
                    drops.add(row.reason, name, str(row))
                else:
                    rows.append(row)
        return place(to_table(rows), self.position, area, drops)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file of a row's photo.

        Raises:
            PhotoError: it cannot be had.
        """
        return self.store.fetch(f"url {row['url']}", row["url"])

    def close(self) -> None:
        """End requests that are under way."""
        self.store.client.stop.set()

    def _listed(self, name: str, url: str) -> dict[str, Any] | PhotoError:
        try:
            if PurePosixPath(name).suffix.lower() not in SUFFIXES:
                raise PhotoError("unreadable_image", f"photo {name} is none of {', '.join(FORMATS)}; convert it")
            try:
                with open_photo(self.store.get(url, _HEADER), name, math.inf) as image:
                    row = photo_row(name, image, self.licence)
            except PhotoError as error:
                if error.reason != "unreadable_image":
                    raise
                with open_photo(self.store.fetch(f"url {url}", url), name, math.inf) as image:  # a longer header
                    row = photo_row(name, image, self.licence)
        except PhotoError as error:
            return error
        return row | {"source": self.name, "url": url}


def photo_row(name: str, image: Image.Image, licence: str | None) -> dict[str, Any]:
    """What an opened photo says of itself, as a row of PHOTOS."""
    exif = image.getexif()
    lon, lat, heading = gps_position(exif)
    sphere = read_gpano(image)
    panorama = sphere is not None and sphere.projection == "equirectangular"
    return {
        "id": name, "lon_original": lon, "lat_original": lat,
        "heading_original": heading if heading is not None or sphere is None else sphere.heading,
        "accuracy_m": exif_accuracy(exif), "captured_at": exif_time(exif), "author": exif_artist(exif),
        "projection": "equirectangular" if panorama else "perspective",
        "visible": list(sphere.visible) if sphere is not None and panorama else None,
        "licence": licence or exif_licence(exif),
    }  # fmt: skip
