"""What an image source offers: scenes, described before any pixel is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.imagery.config import ImageryConfig
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
    scene: Scene  # the first that they are of
    sources: list[str]  # names of all scenes that they are of, the first one first
    acquired: str | None  # ISO 8601
    stretch: str | None = None  # how values became 8 bit
    original: bytes | None = None  # JPEG file that holds exactly these pixels

    @property
    def nodata_share(self) -> float:
        """Of the pixels, 0..1."""
        return 0.0 if self.missing is None else float(self.missing.mean())

    @property
    def masked_share(self) -> float:
        """Of the pixels, 0..1."""
        return 0.0 if self.masked is None else float(self.masked.mean())


def order_days(scenes: Sequence[Scene], config: ImageryConfig) -> list[int]:
    """Rank of each scene's day, 0 first: by date, or (``prefer=clearest``) by the clearest scene of the day.

    Scenes without a time are of one day, the last.
    """
    days = [day_of(s, config) for s in scenes]
    cloud: dict[str, float] = {}
    for day, scene in zip(days, scenes, strict=True):
        own = 100.0 if scene.cloud is None else scene.cloud
        cloud[day] = min(own, cloud.get(day, 100.0))
    ranked = sorted(set(days), reverse=config.prefer != "oldest")
    if config.prefer == "clearest":
        ranked.sort(key=lambda day: cloud[day])
    ranked.sort(key=lambda day: day == "")
    return [ranked.index(day) for day in days]


def day_of(scene: Scene, config: ImageryConfig) -> str:
    """UTC day of a scene, YYYY-MM-DD; empty where it has no time."""
    return (config.acquired or scene.acquired or "")[:10]


def candidates(scenes: Sequence[Scene], boxes: NDArray[Any], config: ImageryConfig) -> list[list[int]]:
    """Scenes of each box (lon/lat shapely polygons), the first choice first.

    By day, then those that cover the box whole, then by cloud, then by the part of the box that they cover, then by
    name.
    """
    rank = order_days(scenes, config)
    areas = np.array([s.area for s in scenes], dtype=object)
    result: list[list[int]] = [[] for _ in boxes]
    box, scene = shapely.STRtree(areas).query(boxes, predicate="intersects")
    part = shapely.area(shapely.intersection(areas[scene], boxes[box])) / shapely.area(boxes[box])
    found = sorted(
        zip(box.tolist(), scene.tolist(), part.tolist(), strict=True),
        key=lambda row: (row[0], rank[row[1]], row[2] < _WHOLE, scenes[row[1]].cloud or 0.0, -row[2],
                         scenes[row[1]].name, scenes[row[1]].path),
    )  # fmt: skip
    for i, j, _ in found:
        result[i].append(j)
    return result


#: Outlines are drawn with few points: a scene that covers so much of a box may cover all of it.
_WHOLE = 1 - 1e-3
#: Share of a box that outlines of satellite scenes may leave out at their rims although the image has it.
_ROUGH = 0.02


def covered(boxes: NDArray[Any], scenes: Sequence[Scene], config: ImageryConfig) -> NDArray[np.bool_]:
    """Which boxes (lon/lat shapely polygons) the scenes of one day cover but for ``rs.max_nodata``, bool[N].

    Outlines are rough, so what this lets through may still turn out to have too little data; what it leaves out has.
    """
    rough = _ROUGH if any(s.identity for s in scenes) else 1 - _WHOLE
    need = 1 - max(config.max_nodata, rough)
    result = np.zeros(len(boxes), bool)
    areas = np.array([s.area for s in scenes], dtype=object)
    shapely.prepare(areas)
    tree = shapely.STRtree(areas)
    result[np.unique(tree.query(boxes, predicate="covered_by")[0])] = True
    left = np.flatnonzero(~result)
    box, scene = tree.query(boxes[left], predicate="intersects")
    days = np.array([day_of(s, config) for s in scenes])
    for i in np.unique(box):
        own = scene[box == i]
        whole = boxes[left[i]]
        result[left[i]] = any(_share(whole, areas[own[days[own] == day]]) >= need for day in np.unique(days[own]))
    return result


def _share(box: Any, areas: NDArray[Any]) -> float:
    return float(shapely.area(shapely.intersection(box, shapely.union_all(areas))) / shapely.area(box))
