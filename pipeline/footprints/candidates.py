"""Footprints that may be built, as each producer gives them: XYZ tiles, metric grid cells, image chips.

Candidates are compact, since a continent has millions; `footprints` writes them out, a shard at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix
from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE, lonlat_to_tile, tile_bounds, tile_to_lonlat, tile_transforms
from pipeline.alignment import Placement, place
from pipeline.meridian import eastwards, quadrilaterals
from schemas.features import CELL_ZOOM
from schemas.footprint import Footprints
from schemas.index import key_hashes
from schemas.keys import XyzKey

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Rows = Any  # numbers, a mask or a slice


class Candidates(Protocol):
    """N footprints that may be built."""

    @property
    def name(self) -> str:
        """tiles | grid | chips."""

    @property
    def pictured(self) -> bool:
        """Whether each brings its own image."""

    def __len__(self) -> int: ...

    def take(self, rows: Rows) -> Candidates:
        """The chosen ones, in that order."""

    def words(self) -> Words:
        """A number of each, u64[N], by what it is alone: its lots are drawn from it."""

    def centre(self) -> Floats:
        """Lon, lat of the middles in degrees, f64[N,2]."""

    def bbox(self) -> Floats:
        """West, south, east, north in degrees, f64[N,4]; west is over east across the 180th meridian."""

    def outlines(self, inset: float = 0.0) -> NDArray[Any]:
        """Lon/lat polygons [N], two parts each across the 180th meridian, drawn in by a share of a side: an image cut
        along their edges covers them, although its outline rounds."""

    def cell_zoom(self) -> int:
        """Zoom of the cells that their objects are read from: the deepest, to `CELL_ZOOM`, that none outgrows."""

    def footprints(self) -> Footprints:
        """All of them as columns."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """XYZ tiles of one zoom."""

    xy: Ints  # [N,2]
    zoom: int
    size: int  # pixels a side
    name: str = "tiles"
    pictured: bool = False

    def __len__(self) -> int:
        return len(self.xy)

    def take(self, rows: Rows) -> Tiles:
        """As in `Candidates`."""
        return Tiles(self.xy[rows], self.zoom, self.size)

    def words(self) -> Words:
        """As in `Candidates`: f(zoom, x, y)."""
        with np.errstate(over="ignore"):
            word = np.full(len(self), mix(GOLDEN * np.uint64(self.zoom + 1)), np.uint64)
            for axis in (0, 1):
                word = mix(word + GOLDEN + self.xy[:, axis].astype(np.uint64))
        return np.asarray(word)

    def centre(self) -> Floats:
        """As in `Candidates`."""
        return np.asarray(tile_to_lonlat(np.add(self.xy, 0.5, dtype=np.float64), self.zoom))

    def bbox(self) -> Floats:
        """As in `Candidates`."""
        return tile_bounds(self.xy, self.zoom)

    def outlines(self, inset: float = 0.0) -> NDArray[Any]:
        """As in `Candidates`."""
        return np.asarray(shapely.box(*tile_bounds(self.xy, self.zoom, -inset).T))

    def cell_zoom(self) -> int:
        """As in `Candidates`."""
        return min(CELL_ZOOM, self.zoom)

    def footprints(self) -> Footprints:
        """As in `Candidates`."""
        return Footprints(
            np.array([str(XyzKey(self.zoom, x, y, self.size)) for x, y in self.xy.tolist()], object),
            ("EPSG:3857",),
            np.zeros(len(self), np.int64),
            tile_transforms(self.xy, self.zoom, self.size),
            np.full((len(self), 2), self.size),
            np.full(len(self), "xyz", object),
        )


@dataclass(frozen=True, eq=False)
class Listed:
    """Footprints of any CRSs and sizes, by their columns."""

    name: str
    columns: Footprints
    placement: Placement
    pictured: bool = False

    @classmethod
    def of(cls, name: str, columns: Footprints, pictured: bool = False) -> Listed:
        """With their places reckoned."""
        return cls(name, columns, place(columns), pictured)

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, rows: Rows) -> Listed:
        """As in `Candidates`."""
        return Listed(self.name, self.columns.take(rows), self.placement.take(rows), self.pictured)

    def words(self) -> Words:
        """As in `Candidates`: of the key."""
        return key_hashes(self.columns.keys.tolist())

    def centre(self) -> Floats:
        """As in `Candidates`."""
        return self.placement.centre

    def bbox(self) -> Floats:
        """As in `Candidates`."""
        return self.placement.bbox

    def outlines(self, inset: float = 0.0) -> NDArray[Any]:
        """As in `Candidates`; sides are straight in lon/lat."""
        corners, middle = self.placement.corners, self.placement.centre[:, None]
        inwards = middle - corners
        inwards[..., 0] -= 360 * np.rint(inwards[..., 0] / 360)  # the short way around the world
        return quadrilaterals(corners + inwards * (2 * inset))

    def cell_zoom(self) -> int:
        """As in `Candidates`."""
        box = self.placement.bbox.copy()
        box[:, [1, 3]] = np.clip(box[:, [1, 3]], -WEB_MERCATOR_MAX_LATITUDE, WEB_MERCATOR_MAX_LATITUDE)
        box = eastwards(box)
        side = lonlat_to_tile(box[:, [2, 1]], CELL_ZOOM) - lonlat_to_tile(box[:, [0, 3]], CELL_ZOOM)
        return max(0, CELL_ZOOM - int(np.ceil(np.log2(max(1.0, float(side.max(initial=0.0)))))))

    def footprints(self) -> Footprints:
        """As in `Candidates`."""
        return self.columns


@dataclass(frozen=True, eq=False)
class Mixture:
    """Candidates of several producers, in an order of their own."""

    parts: Sequence[Candidates]
    part: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # [N] of each
    row: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # [N] in its part

    @classmethod
    def of(cls, parts: Sequence[Candidates]) -> Mixture:
        """All of them, one producer's behind the other's."""
        sizes = [len(p) for p in parts]
        return cls(parts, np.repeat(np.arange(len(parts)), sizes), np.concatenate([np.arange(n) for n in [0, *sizes]]))

    def __len__(self) -> int:
        return len(self.part)

    def take(self, rows: Rows) -> Mixture:
        """The chosen ones, in that order."""
        return Mixture(self.parts, self.part[rows], self.row[rows])

    def centre(self) -> Floats:
        """As in `Candidates`."""
        return self._gathered(lambda part: part.centre(), 2)

    def bbox(self) -> Floats:
        """As in `Candidates`."""
        return self._gathered(lambda part: part.bbox(), 4)

    def _gathered(self, column: Callable[[Candidates], Floats], width: int) -> Floats:
        """A column of those chosen here alone: a plan asks for it shard by shard."""
        result = np.empty((len(self), width))
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(self.part == number)
            result[own] = column(part.take(self.row[own]))
        return result

    def footprints(self) -> Footprints:
        """All of them as columns."""
        found, places = [], []
        for number, part in enumerate(self.parts):
            places.append(np.flatnonzero(self.part == number))
            found.append(part.take(self.row[places[-1]]).footprints())
        return Footprints.concat(found).take(np.argsort(np.concatenate(places)))
