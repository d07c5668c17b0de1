"""One sample as tar members: their names, the JSON document, the hashes.

Members share the key: ``rs.jpg`` | ``rs.png`` | ``rs.npy`` (``rs.0.npy`` … for several dates), ``osm.safetensors``,
``osm.png``, ``sv.0.jpg`` …, ``json``. Any of rs, osm and sv may be absent. Where pixels of an image lack data,
``rs.valid.png`` (``rs.0.valid.png`` …) beside it says which: 1 bit a pixel, 1 is data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from schemas.bands import RGB, band
from schemas.errors import CorruptSampleError, InputError
from schemas.footprint import Footprint

JSON = "json"
OSM_TOKENS = "osm.safetensors"
OSM_RASTER = "osm.png"
_VALID = ".valid.png"
_MEMBER = re.compile(r"json|osm\.safetensors|osm\.png|rs\.(\d+\.)?(jpg|png|npy|valid\.png)|sv\.\d+\.jpg")


def is_member(name: str) -> bool:
    """Whether ``name`` (without the key) is a member that this version writes."""
    return _MEMBER.fullmatch(name) is not None


def is_image(name: str) -> bool:
    """Whether a member is an image, not the plane that says which of its pixels are data."""
    return name.startswith("rs.") and not name.endswith(_VALID)


def valid_member(image: str) -> str:
    """Name of the plane of an image.

    >>> valid_member("rs.jpg"), valid_member("rs.0.npy")
    ('rs.valid.png', 'rs.0.valid.png')
    """
    return image.rpartition(".")[0] + _VALID


def member_order(name: str) -> tuple[str, int, str]:
    """Sort key of members in a tar: by modality, then number, so that ``sv.10`` follows ``sv.9``."""
    head, _, tail = name.partition(".")
    number = tail.split(".")[0]
    return head, int(number) if number.isdigit() else -1, tail


@dataclass(frozen=True)
class RsInfo:
    """One image of the sample."""

    member: str  # rs.jpg
    bands: list[str]  # names in channel order
    dtype: str  # uint8 | uint16 | int16 …
    source: str  # file or collection name
    acquired: str | None = None  # ISO 8601, with Z: UTC, without: local; None where the source does not say
    nodata_share: float = 0.0  # 0..1; above 0 the plane `valid_member` is there
    stretch: str | None = None  # how values became 8 bit; None where they are the source's

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its channels; a picture of three that have no known name is red, green and blue."""
        unknown = not self.member.endswith(".npy") and not any(map(band, self.bands))
        return RGB if unknown else tuple(self.bands)


@dataclass(frozen=True)
class StreetviewInfo:
    """One photo of the sample."""

    member: str  # sv.0.jpg
    id: str
    lon: float  # degrees
    lat: float  # degrees
    x: float  # normalised image coordinate, 0 <= x < 1; with sv.margin a little beyond too
    y: float
    heading: float | None = None  # degrees clockwise from true north, 0 <= heading < 360
    north: float = 0.0  # degrees clockwise from the image's up to true north at the photo, -180 < north <= 180
    captured_at: str | None = None  # ISO 8601
    projection: str = "perspective"  # perspective | fisheye | equirectangular
    licence: str | None = None
    author: str | None = None
    source: str = ""  # panoramax | mapillary | kartaview | name of the table or folder
    fov: float | None = None  # horizontal field of view in degrees, of a view cut from a panorama
    gap_days: float | None = None  # from the first image of the footprint to the photo; negative: the photo is older


@dataclass(frozen=True)
class Provenance:
    """Where an image chip's sample comes from; both are None of a tile of the grid."""

    stem: str | None = None  # name of the chip's file, without folder and ending
    footprint: str | None = None  # what its place was read from: raster, bbox …


@dataclass(frozen=True)
class SampleMeta:
    """The ``json`` member. The split is not in it: the catalog alone has that, so that it changes without a tar.

    Every document has every field, of one type: a table of samples has columns.
    """

    footprint: Footprint
    gsd: tuple[float, float]  # true metres a pixel along x and y at the centre
    lon: float  # centre, degrees
    lat: float
    bbox: tuple[float, float, float, float]  # west, south, east, north in degrees; across 180° west is over east
    osm_edited: str | None = None  # newest edit of an OSM object in it, ISO 8601; the snapshot's time is in the catalog
    rs: list[RsInfo] = field(default_factory=list)
    streetview: list[StreetviewInfo] = field(default_factory=list)
    provenance: Provenance = field(default_factory=Provenance)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> SampleMeta:
        """Inverse of :meth:`to_bytes`.

        Raises:
            CorruptSampleError: no JSON, or a field is missing or unknown.
        """
        try:
            d = json.loads(data)
            fp = d.pop("footprint")
            fp["transform"] = tuple(fp["transform"])
            _expect([fp["key"], fp["crs"]], str)
            _expect([fp["width"], fp["height"]], int)
            rs = [_rs_info(row) for row in d.pop("rs")]
            streetview = [_photo_info(row) for row in d.pop("streetview")]
            provenance = Provenance(**d.pop("provenance"))
            _expect([provenance.stem, provenance.footprint], str | None)
            gsd, bbox = tuple(d.pop("gsd")), tuple(d.pop("bbox"))
            _expect([*gsd, *bbox, d["lon"], d["lat"]], int | float)
            if len(gsd) != 2 or len(bbox) != 4:
                raise ValueError("gsd and bbox are two and four numbers")
            return cls(
                footprint=Footprint(**fp), gsd=gsd, bbox=bbox, rs=rs, streetview=streetview, provenance=provenance, **d
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
            raise CorruptSampleError(f"json member cannot be read: {error!r}; build the sample again") from None


def image_infos(data: bytes) -> dict[str, RsInfo]:
    """The images of a ``json`` member, by the names of their members; nothing else of it is read.

    Raises:
        CorruptSampleError: it is no JSON, or says something else.
    """
    try:
        return {row["member"]: _rs_info(row) for row in json.loads(data)["rs"]}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptSampleError(f"json member cannot be read: {error!r}; build the sample again") from None


def _rs_info(row: dict[str, Any]) -> RsInfo:
    info = RsInfo(**row)
    _expect([info.member, info.dtype, info.source, *info.bands], str)
    _expect([info.bands], list)
    _expect([info.nodata_share], int | float)
    return info


def _photo_info(row: dict[str, Any]) -> StreetviewInfo:
    info = StreetviewInfo(**row)
    _expect([info.member, info.id, info.projection, info.source], str)
    _expect([info.lon, info.lat, info.x, info.y, info.north], int | float)
    _expect([info.heading, info.fov, info.gap_days], int | float | None)
    _expect([info.captured_at, info.licence, info.author], str | None)
    return info


def _expect(values: Iterable[Any], kind: Any) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{str(value)[:40]!r} is of the wrong type")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no white space, UTF-8, shortest float form; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sample_hash(members: Mapping[str, bytes | memoryview]) -> str:
    """SHA-256 (hex) of a sample: names and contents of its members, whatever their order in a tar."""
    digest = sha256()
    for name in sorted(members):
        digest.update(name.encode() + b"\0" + sha256(members[name]).digest())
    return digest.hexdigest()


def content_hash(samples: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over (key, sample hash) sorted by key: the same however the samples are sharded."""
    return layout_hash(sorted(samples))


def layout_hash(shards: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over (name, shard hash) in shard order: changes when samples move between or within shards."""
    digest = sha256()
    for name, value in shards:
        digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()


def rounded(value: float, digits: int = 9) -> float:
    """``value`` rounded for the JSON document: 1e-9 of a degree is 0.1 mm."""
    result = round(float(value), digits)
    if not math.isfinite(result):
        raise ValueError(f"{value} is not finite")
    return result + 0.0  # no negative zero
