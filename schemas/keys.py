"""Sample keys: short ASCII names that survive tar headers and webdataset's first-dot rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from schemas.errors import InputError

#: A ustar name holds 100 bytes; 80 leave room for the longest member suffix (``.osm.safetensors``).
MAX_KEY_LENGTH = 80
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = r"(0|[1-9][0-9]*)"  # one spelling a number
_GRID = re.compile(rf"utm-{_NUMBER}([ns])-{_NUMBER}-{_NUMBER}-{_NUMBER}-{_NUMBER}mm(?:-([A-Za-z0-9_]+))?")
#: Metres: a wider cell would reach far beyond the strip of its zone, where scale and north go astray.
MAX_GRID_SIDE = 100_000
_XYZ = re.compile(rf"xyz-{_NUMBER}-{_NUMBER}-{_NUMBER}-{_NUMBER}(?:-([A-Za-z0-9_]+))?")


def check_key(key: str) -> str:
    """Return ``key`` if it is legal, else raise.

    >>> check_key("xyz-17-69001-45840-256")
    'xyz-17-69001-45840-256'

    Raises:
        InputError: the key is empty, over 80 characters, or has a character outside [A-Za-z0-9_-].
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY_LENGTH:
        raise InputError(
            f"sample key {key!r} is not 1 to {MAX_KEY_LENGTH} characters of [A-Za-z0-9_-]; "
            "rename the chip, or choose a shorter source name"
        )
    return key


def chip_key(stem: str) -> str:
    """The key of an image chip: its file name without the ending.

    A stem that is too long, or has other characters than keys may, is cut and cleaned, and told apart from others by a
    hash of the whole.

    >>> chip_key("a472140250_FI_21"), chip_key("Wien 2021.v2")
    ('chip-a472140250_FI_21', 'chip-Wien_2021_v2-2f2dda9b')
    """
    key = f"chip-{stem}"
    if _KEY.fullmatch(key) and len(key) <= MAX_KEY_LENGTH:
        return key
    digest = blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return check_key(f"chip-{re.sub('[^A-Za-z0-9_-]', '_', stem)[: MAX_KEY_LENGTH - 14]}-{digest}")


@dataclass(frozen=True, order=True)
class XyzKey:
    """The key of one XYZ tile at one image size.

    >>> str(XyzKey(17, 69001, 45840, 256))
    'xyz-17-69001-45840-256'
    >>> XyzKey.parse("xyz-14-8625-5730-512-landsat7").source
    'landsat7'
    """

    zoom: int  # 0..30
    x: int  # column, 0 at 180° W, growing eastwards
    y: int  # row, 0 at 85.05° N, growing southwards
    size: int  # pixels a side: two sizes of one tile are two samples
    source: str = ""  # [A-Za-z0-9_]*: two image sources of one tile are two samples

    def __post_init__(self) -> None:
        side = 1 << self.zoom if 0 <= self.zoom <= 30 else 0
        if not (0 <= self.x < side and 0 <= self.y < side):
            raise InputError(f"tile {self.zoom}/{self.x}/{self.y} does not exist: zoom is 0..30, x and y below 2^zoom")
        if self.size < 1 or not re.fullmatch("[A-Za-z0-9_]*", self.source):
            raise InputError(f"tile {self.zoom}/{self.x}/{self.y}: size is at least 1 pixel, source is [A-Za-z0-9_]*")
        check_key(str(self))

    def __str__(self) -> str:
        return f"xyz-{self.zoom}-{self.x}-{self.y}-{self.size}" + (f"-{self.source}" if self.source else "")

    @classmethod
    def parse(cls, key: str) -> XyzKey:
        """Inverse of ``str``. Raises InputError where ``key`` is no XYZ key."""
        match = _XYZ.fullmatch(key) if len(key) <= MAX_KEY_LENGTH else None
        if match is None:
            raise InputError(f"{key!r} is no XYZ key; one looks like xyz-17-69001-45840-256")
        zoom, x, y, size = (int(part) for part in match.groups()[:4])
        return cls(zoom, x, y, size, match.group(5) or "")


@dataclass(frozen=True, order=True)
class GridKey:
    """The key of one metric cell: its place on the lattice of its UTM zone, its size, and its ground sample distance.

    >>> str(GridKey(32, "n", 211, 2060, 256, 10_000))
    'utm-32n-211-2060-256-10000mm'
    >>> GridKey.parse("utm-32s-211-2060-256-600mm-dop20").crs
    'EPSG:32732'
    """

    zone: int  # 1..60
    hemisphere: str  # n or s
    column: int  # multiples of the side from the CRS's origin, growing eastwards
    row: int  # multiples of the side from the CRS's origin, growing northwards
    size: int  # pixels a side
    gsd_mm: int  # millimetres a pixel: whole, so that a cell has one spelling
    source: str = ""  # [A-Za-z0-9_]*: two image sources of one cell are two samples

    def __post_init__(self) -> None:
        if not 1 <= self.zone <= 60 or self.hemisphere not in ("n", "s") or min(self.column, self.row) < 0:
            raise InputError(
                f"grid cell {self} does not exist: zone is 1..60, hemisphere n or s, column and row are not negative"
            )
        if not (0 < self.size * self.gsd_mm <= MAX_GRID_SIDE * 1000 and self.size > 0):
            raise InputError(f"grid cell {self}: a side is at least one pixel of 1 mm, at most {MAX_GRID_SIDE:,} m")
        if not re.fullmatch("[A-Za-z0-9_]*", self.source):
            raise InputError(f"grid cell {self}: source is [A-Za-z0-9_]*")
        check_key(str(self))

    def __str__(self) -> str:
        return f"utm-{self.zone}{self.hemisphere}-{self.column}-{self.row}-{self.size}-{self.gsd_mm}mm" + (
            f"-{self.source}" if self.source else ""
        )

    @property
    def crs(self) -> str:
        """EPSG:326zz north, EPSG:327zz south: metres, x eastwards, y northwards."""
        return f"EPSG:32{'6' if self.hemisphere == 'n' else '7'}{self.zone:02d}"

    @classmethod
    def parse(cls, key: str) -> GridKey:
        """Inverse of ``str``. Raises InputError where ``key`` is no key of a grid cell."""
        match = _GRID.fullmatch(key) if len(key) <= MAX_KEY_LENGTH else None
        if match is None:
            raise InputError(f"{key!r} is no key of a grid cell; one looks like utm-32n-211-2060-256-10000mm")
        zone, column, row, size, gsd_mm = (int(match.group(i)) for i in (1, 3, 4, 5, 6))
        return cls(zone, match.group(2), column, row, size, gsd_mm, match.group(7) or "")
