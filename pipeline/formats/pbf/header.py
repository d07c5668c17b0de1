"""What a file says of itself, and where its data lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.formats.messages import parse
from pipeline.formats.pbf.arrays import LAST_SECOND, NANO, UNITS
from pipeline.formats.pbf.blobs import Blob, reading, walk
from pipeline.formats.pbf.schema import PBF
from schemas.errors import InputError

#: What files may require of their reader.
_FEATURES = frozenset({"OsmSchema-V0.6", "DenseNodes", "HistoricalInformation", "LocationsOnWays"})


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    box: tuple[float, float, float, float] | None  # west, south, east, north in degrees
    snapshot: int | None  # seconds since 1970, of 32 bits: osmosis_replication_timestamp
    features: frozenset[str]  # required and optional


def blobs(path: Path) -> tuple[Header, list[Blob]]:
    """The header and where every data blob lies; reads blob headers only.

    Raises:
        InputError: the file is no PBF, is truncated, or requires what is not read here.
    """
    found: list[Blob] = []
    header: Header | None = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            if kind == "OSMHeader":
                with reading(file, blob, path) as data:
                    header = _header(data, path)
            elif kind == "OSMData":
                found.append(blob)
    if header is None:
        raise InputError(f"OSM extract {path} has no OSMHeader; it is no PBF file")
    return header, found


def read_header(path: Path) -> Header | None:
    """The header, if there is one before the first data blob, which is unpacked to see whether it can be.

    Raises:
        InputError: the file is no PBF, is truncated, or requires or is compressed as what is not read here.
    """
    header = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            if kind == "OSMHeader":
                with reading(file, blob, path) as data:
                    header = _header(data, path)
            elif kind == "OSMData":
                with reading(file, blob, path):
                    break
    return header


def _header(data: bytes, path: Path) -> Header:
    found = parse(PBF.HeaderBlock, data)
    required, optional = (
        {f.decode(errors="replace") for f in features}
        for features in (found.required_features, found.optional_features)
    )
    if unknown := sorted(required - _FEATURES):
        told = ", ".join(ascii(name)[1:-1] for name in unknown)[:200]
        raise InputError(
            f"OSM extract {path} requires of its reader what is not known here: {told}; "
            "get it without, or convert it with a program that knows it"
        )
    stamp = found.osmosis_replication_timestamp
    return Header(_box(found.bbox), stamp if 0 < stamp <= LAST_SECOND else None, frozenset(required | optional))


def _box(found: Any) -> tuple[float, float, float, float] | None:
    """The header's box; None if it has none, or one that is none."""
    west, south, east, north = (round(v / NANO) / UNITS for v in (found.left, found.bottom, found.right, found.top))
    sound = -180 <= west < east <= 180 and -90 <= south < north <= 90
    return (west, south, east, north) if sound else None
