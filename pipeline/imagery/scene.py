"""What an image source offers: scenes, described before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.imagery.nodata import Stated
from schemas.bands import canonical

#: What rs.npy holds; the stream reads these.
DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Asset:
    """A raster file that holds bands of a scene."""

    href: str  # path, or http(s) URL without its signature
    bands: tuple[int, ...]  # numbers of those that are taken, from 1, in channel order
    stated: Stated = Stated()  # what is said of its nodata outside of it


@dataclass(frozen=True)
class Mask:
    """A raster of classes or bits, and which of them hide the ground."""

    asset: Asset
    values: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()  # 0 the lowest


@dataclass(frozen=True)
class Tiles:
    """Map tiles in web-mercator, in place of files."""

    url: str  # with {z} {x} {y} and the like; {key} is filled in only when it is fetched
    size: int  # pixels a side
    max_zoom: int


@dataclass(frozen=True)
class Scene:
    """One acquisition, as the plan sees it."""

    name: str  # file name, or id of the item
    area: Any  # shapely (multi)polygon of its outline, lon/lat degrees
    bands: list[str]  # of the channels that are taken; alpha is none
    dtype: str  # of the source
    acquired: str | None  # ISO 8601
    assets: tuple[Asset, ...] = ()  # in channel order
    tiles: Tiles | None = None
    cloud: float | None = None  # per cent
    gsd: float | None = None  # true metres a pixel, the mean of both axes at the centre
    mask: Mask | None = None
    offset: int = 0  # that valid values are lowered by
    token: str = ""  # URL of a signature for its assets
    licence: str | None = None
    identity: str = ""  # SHA-256 (hex) of what the source says of it; empty: its files themselves are to be hashed
    mosaic: int = 0  # number among the mosaics of its day, as `choice.order.join` gives it

    @property
    def path(self) -> str:
        """Where its first channel lies."""
        return self.assets[0].href if self.assets else self.name

    @property
    def channels(self) -> list[str]:
        """Bands by their canonical names, and the dtype: what scenes of one dataset agree in."""
        return [*map(canonical, self.bands), self.dtype]


@dataclass(eq=False)
class TileImage:
    """One footprint's pixels of one day; filled scene by scene."""

    pixels: NDArray[Any]  # [bands,height,width] in the source's dtype, or u8 where stretched
    missing: NDArray[np.bool_] | None  # [height,width] without data; None: none
    masked: NDArray[np.bool_] | None  # [height,width] under the mask of clouds; None: none
    scenes: list[Scene]  # all that they are of, the first one first
    acquired: str | None  # ISO 8601
    stretch: str | None = None  # how values became 8 bit
    original: bytes | None = None  # JPEG file that holds exactly these pixels

    @property
    def scene(self) -> Scene:
        """The first that they are of."""
        return self.scenes[0]

    @property
    def sources(self) -> list[str]:
        """Names of all scenes that they are of."""
        return [scene.name for scene in self.scenes]

    @property
    def nodata_share(self) -> float:
        """Of the pixels, 0..1."""
        return 0.0 if self.missing is None else float(self.missing.mean())

    @property
    def masked_share(self) -> float:
        """Of the pixels, 0..1."""
        return 0.0 if self.masked is None else float(self.masked.mean())
