"""A footprint: one rectangle on the ground, its CRS and its pixel grid. The only owner of the pixel maps.

Pixel coordinates: x right, y down, (0, 0) the outer corner of the first pixel, (width, height) of the last.
Normalised image coordinates: the same over [0, 1]². Tiles are half-open: 0 <= x < 1, 0 <= y < 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.errors import InputError
from schemas.keys import check_key

Floats = NDArray[np.float64]
#: An array of numpy, torch or anything else with arithmetic.
Coordinates = TypeVar("Coordinates", bound=Any)


@dataclass(frozen=True)
class Footprint:
    """One sample's rectangle. ``transform`` maps pixel (column, row) to CRS coordinates, as rasterio's Affine."""

    key: str  # [A-Za-z0-9_-]{1,80}
    crs: str  # anything pyproj reads, e.g. EPSG:3857
    transform: tuple[float, float, float, float, float, float]  # a, b, c, d, e, f: X = a·x + b·y + c, Y = d·x + e·y + f
    width: int  # pixels
    height: int  # pixels

    def __post_init__(self) -> None:
        check_key(self.key)
        a, b, _, d, e, _ = self.transform
        if a * e - b * d == 0 or not all(math.isfinite(v) for v in self.transform):
            raise InputError(f"footprint {self.key}: transform {self.transform} cannot be inverted")
        if self.width < 1 or self.height < 1:
            raise InputError(f"footprint {self.key}: size {self.width}×{self.height} has no pixels")

    def pixel_to_crs(self, xy: Floats) -> Floats:
        """Pixel coordinates f64[N,2] to CRS coordinates f64[N,2]."""
        a, b, c, d, e, f = self.transform
        xy = np.asarray(xy, np.float64)
        return np.stack((a * xy[..., 0] + b * xy[..., 1] + c, d * xy[..., 0] + e * xy[..., 1] + f), axis=-1)

    def crs_to_pixel(self, xy: Floats) -> Floats:
        """CRS coordinates f64[N,2] to pixel coordinates f64[N,2]."""
        a, b, c, d, e, f = self.transform
        det = a * e - b * d
        xy = np.asarray(xy, np.float64)
        dx, dy = xy[..., 0] - c, xy[..., 1] - f
        return np.stack(((e * dx - b * dy) / det, (a * dy - d * dx) / det), axis=-1)

    def pixel_to_normalised(self, xy: Floats) -> Floats:
        """Pixel coordinates f64[N,2] to normalised image coordinates f64[N,2]."""
        return np.asarray(xy, np.float64) / (self.width, self.height)

    def corners(self) -> Floats:
        """The four outer corners in CRS coordinates, f64[4,2]: upper left, upper right, lower right, lower left."""
        w, h = self.width, self.height
        return self.pixel_to_crs(np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64))

    def bounds(self) -> tuple[float, float, float, float]:
        """(min X, min Y, max X, max Y) of the corners in CRS coordinates."""
        corners = self.corners()
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True, eq=False)
class Footprints:
    """N footprints as columns, of any CRSs and sizes: what producers emit and plans are made of."""

    keys: NDArray[np.object_]  # [N] str, as Footprint.key
    crs: tuple[str, ...]  # distinct
    crs_code: NDArray[np.int64]  # [N] into crs
    transform: Floats  # [N,6] a, b, c, d, e, f, as Footprint.transform
    size: NDArray[np.int64]  # [N,2] width, height in pixels
    origin: NDArray[np.object_]  # [N] str, what it came from: xyz | utm | how a chip's place is known

    @classmethod
    def of(cls, footprints: Sequence[Footprint], origin: str = "") -> Footprints:
        """Columns of single footprints."""
        codes: dict[str, int] = {}
        code = [codes.setdefault(f.crs, len(codes)) for f in footprints]
        keys, origins = np.empty(len(footprints), object), np.empty(len(footprints), object)
        keys[:], origins[:] = [f.key for f in footprints], origin
        return cls(
            keys, tuple(codes), np.array(code, np.int64),
            np.array([f.transform for f in footprints], np.float64).reshape(-1, 6),
            np.array([(f.width, f.height) for f in footprints], np.int64).reshape(-1, 2), origins,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Footprint:
        a, b, c, d, e, f = self.transform[row].tolist()
        width, height = self.size[row].tolist()
        return Footprint(self.keys[row], self.crs[self.crs_code[row]], (a, b, c, d, e, f), width, height)

    def __iter__(self) -> Iterator[Footprint]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: NDArray[Any]) -> Footprints:
        """The chosen ones (numbers or a mask), in that order."""
        columns = (self.keys, self.crs_code, self.transform, self.size, self.origin)
        keys, code, transform, size, origin = (c[rows] for c in columns)
        return Footprints(keys, self.crs, code, transform, size, origin)

    @classmethod
    def concat(cls, parts: Sequence[Footprints]) -> Footprints:
        """All of them, one part behind the other."""
        crs = tuple(dict.fromkeys(name for p in parts for name in p.crs))
        code = [np.array([crs.index(n) for n in p.crs], np.int64)[p.crs_code] for p in parts]
        keys, transform, size, origin = (
            np.concatenate([getattr(p, n) for p in parts]) for n in ("keys", "transform", "size", "origin")
        )
        return cls(keys, crs, np.concatenate(code), transform, size, origin)

    def to_bytes(self) -> bytes:
        """What they are in their order, whatever stands beside them in ``crs``: equal footprints give equal bytes."""
        columns = (self.keys, np.array(self.crs, object)[self.crs_code], self.origin)
        names = "\n".join(" ".join(row) for row in zip(*columns, strict=True))
        return names.encode() + self.transform.tobytes() + self.size.tobytes()

    def crs_to_pixel(self, rows: NDArray[np.int64], xy: Floats) -> Floats:
        """CRS coordinates f64[P,2], each to pixels f64[P,2] of its own footprint, number ``rows`` [P]."""
        a, b, c, d, e, f = self.transform[rows].T
        dx, dy = xy[:, 0] - c, xy[:, 1] - f
        det = a * e - b * d
        return np.stack(((e * dx - b * dy) / det, (a * dy - d * dx) / det), axis=1)


def inside(normalised: Floats) -> NDArray[np.bool_]:
    """Which normalised positions f64[N,2] lie in the half-open square, bool[N]; NaN is outside.

    Positions are rounded to 1e-12 of a side first: two neighbours reach a point on their common edge by different
    arithmetic, and must still agree on whose it is.
    """
    place: Floats = np.asarray(np.round(np.asarray(normalised, np.float64), 12), np.float64)
    return np.all((place >= 0) & (place < 1), axis=-1)


def gair_query(normalised: Coordinates) -> Coordinates:
    """Normalised image coordinates (array or tensor) to GAIR's range [-1, 1]: u = 2x - 1 (GAIR, local coordinates)."""
    query: Coordinates = normalised * 2.0 - 1.0
    return query
