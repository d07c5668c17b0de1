"""Which files of a folder make a chip: an image, its metadata and its vector files, found by the image's stem."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.features import drop_row
from schemas.keys import chip_key

IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
#: What follows the stem of a metadata file. A pickle is read as SkyScript's, without unpickling it.
METADATA = ("_meta.json", ".json", ".pickle", ".pkl", "_meta.pickle", "_meta.pkl")
VECTORS = (".geojson", ".gpkg", ".shp")
_KINDS = ("", "_point", "_line", "_polygon")
#: Files that say where an image lies: GDAL's sidecar, and world files.
_SIDECARS = (".aux.xml", ".jgw", ".jpgw", ".jpegw", ".pgw", ".pngw", ".tfw", ".tifw", ".wld")
#: Parts of a shapefile.
_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg")


@dataclass(frozen=True)
class ChipFiles:
    """The files of one chip; paths relative to the folder, with forward slashes."""

    stem: str
    image: str
    metadata: str | None = None
    vectors: tuple[str, ...] = ()
    sidecars: tuple[str, ...] = ()  # of the image: where it lies
    parts: tuple[str, ...] = ()  # of its shapefiles

    @property
    def key(self) -> str:
        """The sample's key."""
        return chip_key(self.stem)


def find_chips(folder: Path) -> tuple[list[ChipFiles], list[dict[str, Any]]]:
    """Chips of a folder and its subfolders sorted by key, and DROPS rows of files that make none.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of chips; give the folder that holds images and their metadata")
    paths = sorted(_walk(folder))
    files = _Files([p for p in paths if p.isprintable()])
    if not files.images:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGES)}); give the folder that holds the chips")
    drops = [
        drop_row("chips", ascii(p)[1:-1], "unreadable_name", detail="the name is no printable UTF-8; rename the file")
        for p in paths
        if not p.isprintable()
    ]
    by_key: dict[str, ChipFiles] = {}
    for stem, images in sorted(files.images.items()):
        chip, problem = files.chip(stem, images)
        if problem is None and chip.key in by_key:
            problem = "repeated_stem", f"{by_key[chip.key].image} has the same key"
        if problem is None:
            by_key[chip.key] = chip
        else:
            drops.append(drop_row("chips", chip.image, problem[0], key=chip.key, detail=problem[1][:200]))
    drops += [
        drop_row("chips", path, "no_chip", detail="a vector or metadata file without an image of its stem")
        for path in files.left_over()
    ]
    return [by_key[key] for key in sorted(by_key)], drops


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files but hidden ones."""
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        base = Path(root).relative_to(folder).as_posix()
        yield from (name if base == "." else f"{base}/{name}" for name in names if not name.startswith("."))


class _Files:
    """All files by name; what a chip takes is marked as used."""

    def __init__(self, paths: list[str]) -> None:
        self.images: dict[str, list[str]] = {}
        self.named: dict[str, list[str]] = {}  # file name with its ending in lower case -> paths
        self.used: set[str] = set()
        for path in paths:
            name = path.rsplit("/", 1)[-1]
            stem, dot, ending = name.rpartition(".")
            if dot and f".{ending.lower()}" in IMAGES:
                self.images.setdefault(stem, []).append(path)
            self.named.setdefault(f"{stem}{dot}{ending.lower()}", []).append(path)

    def chip(self, stem: str, images: list[str]) -> tuple[ChipFiles, tuple[str, str] | None]:
        """The chip of a stem, and why it cannot be one."""
        metadata = [p for end in METADATA for p in self._take(stem, end)]
        vectors = [p for kind in _KINDS for end in VECTORS for p in self._take(stem, kind + end)]
        name = images[0].rsplit("/", 1)[-1]
        sidecars = self._beside(images[0], [name + _SIDECARS[0], *(stem + end for end in _SIDECARS)])
        shapefiles = [v for v in vectors if v.lower().endswith(".shp")]
        parts = [
            p for v in shapefiles for p in self._beside(v, [v.rsplit("/", 1)[-1][:-4] + end for end in _SHAPEFILE])
        ]
        chip = ChipFiles(
            stem, images[0], metadata[0] if metadata else None, tuple(vectors), tuple(sidecars), tuple(parts)
        )
        if len(images) > 1:
            return chip, ("repeated_stem", f"{', '.join(images)}: give each chip a name of its own")
        if len(metadata) > 1:
            return chip, ("repeated_metadata", f"{', '.join(metadata)}: keep one")
        names = [v.rsplit("/", 1)[-1] for v in vectors]
        if len(set(names)) < len(names):
            return chip, ("repeated_vectors", f"{', '.join(vectors)}: keep one of each name")
        return chip, None

    def _take(self, stem: str, end: str) -> list[str]:
        """Files of that name, but for those of a chip of that name: a.jpg leaves a_line.geojson to a_line.jpg."""
        own = (stem + end).rpartition(".")[0]
        found = [] if own != stem and own in self.images else self.named.get(stem + end, [])
        self.used.update(found)
        return found

    def _beside(self, path: str, names: list[str]) -> list[str]:
        """Files of those names in the same folder."""
        folder = path.rpartition("/")[0]
        return sorted({p for name in names for p in self.named.get(name, []) if p.rpartition("/")[0] == folder})

    def left_over(self) -> list[str]:
        """Vector and metadata files that no chip has."""
        ends = (*VECTORS, *(end for end in METADATA if end.startswith("_")))
        found = [p for paths in self.named.values() for p in paths if p not in self.used and p.lower().endswith(ends)]
        return sorted(found)
