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
        tail = f"-{self.source}" if self.source else ""
        return f"xyz-{self.zoom}-{self.x}-{self.y}-{self.size}{tail}"

    @classmethod
    def parse(cls, key: str) -> XyzKey:
        """Inverse of ``str``. Raises InputError where ``key`` is no XYZ key."""
        match = _XYZ.fullmatch(key) if len(key) <= MAX_KEY_LENGTH else None
        if match is None:
            raise InputError(f"{key!r} is no XYZ key; one looks like xyz-17-69001-45840-256")
        zoom, x, y, size = (int(part) for part in match.groups()[:4])
        return cls(zoom, x, y, size, match.group(5) or "")
