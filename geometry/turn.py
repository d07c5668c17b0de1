"""The eight ways to lay a square on itself, for tokens: exact, as vertices are snapped to whole units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Ints
from schemas.features import Kind
from schemas.tokens import FIELDS, NORMALISED, SNAPPED, UNITS, OsmTokens


@dataclass(frozen=True)
class Turn:
    """First x and y change places, or not; then x, then y may be mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def quarter(cls, times: int) -> Turn:
        """A rotation by ``times`` quarters of a turn, clockwise as the image is seen."""
        return (cls(), cls(True, True, False), cls(False, True, True), cls(True, False, True))[times % 4]

    def then(self, flip_x: bool, flip_y: bool) -> Turn:
        """This turn, followed by mirrors."""
        return Turn(self.transpose, self.flip_x != flip_x, self.flip_y != flip_y)

    @property
    def is_mirror(self) -> bool:
        """Whether left and right change sides, so that rings run the other way."""
        return self.transpose ^ self.flip_x ^ self.flip_y

    def points(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normalised coordinates [...,2] after the turn; NaN stays NaN."""
        x, y = (xy[..., 1], xy[..., 0]) if self.transpose else (xy[..., 0], xy[..., 1])
        return np.stack((1 - x if self.flip_x else x, 1 - y if self.flip_y else y), axis=-1)

    def directions(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Differences [...,2] of normalised coordinates after the turn."""
        x, y = (xy[..., 1], xy[..., 0]) if self.transpose else (xy[..., 0], xy[..., 1])
        return np.stack((-x if self.flip_x else x, -y if self.flip_y else y), axis=-1)

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels [...,H,W] after the turn."""
        turned = np.swapaxes(pixels, -1, -2) if self.transpose else pixels
        turned = turned[..., ::-1] if self.flip_x else turned
        turned = turned[..., ::-1, :] if self.flip_y else turned
        return np.ascontiguousarray(turned)


def turn_tokens(tokens: OsmTokens, turn: Turn) -> OsmTokens:
    """Tokens of the turned footprint: places and patch cells move; relations and extents do not change."""
    if turn == Turn():
        return tokens
    moved: dict[str, NDArray[Any]] = {}
    for name, f in FIELDS.items():
        array = getattr(tokens, name)
        if f.unit == NORMALISED:
            moved[name] = turn.points(array.astype(np.float64)).astype(f.dtype)
        elif f.unit == SNAPPED:
            units = np.array(array[..., ::-1] if turn.transpose else array, f.dtype, order="C")
            for axis, flipped in enumerate((turn.flip_x, turn.flip_y)):
                units[..., axis] = UNITS - units[..., axis] if flipped else units[..., axis]
            moved[name] = units
    if turn.is_mirror:
        moved["vertices"] = moved["vertices"][_reversed_rings(tokens)]
    return replace(tokens, **moved, **(_turned_patches(tokens, turn) if tokens.patch_grid.any() else {}))


def _turned_patches(tokens: OsmTokens, turn: Turn) -> dict[str, NDArray[Any]]:
    rows, columns = (int(v) for v in tokens.patch_grid)
    row, column = np.divmod(tokens.patch_cell.astype(np.int64), columns)
    if turn.transpose:
        row, column, rows, columns = column, row, columns, rows
    row = rows - 1 - row if turn.flip_y else row
    column = columns - 1 - column if turn.flip_x else column
    cell = row * columns + column
    order = np.lexsort((cell, tokens.patch_object))
    return {
        "patch_grid": np.array((rows, columns), np.uint16), "patch_cell": cell[order].astype(np.uint16),
        "patch_object": tokens.patch_object[order], "patch_cover": tokens.patch_cover[order],
    }  # fmt: skip


def _reversed_rings(tokens: OsmTokens) -> Ints:
    """Index of each vertex when the rings of polygons run the other way: a mirror turns outer rings about."""
    count = len(tokens.vertices)
    at = np.arange(count)
    ring = np.repeat(np.arange(len(tokens.ring_offsets) - 1), np.diff(tokens.ring_offsets))
    owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.object_ring_offsets))
    polygon = tokens.kind[owner[ring]] == Kind.POLYGON
    start, stop = tokens.ring_offsets[:-1][ring].astype(np.int64), tokens.ring_offsets[1:][ring].astype(np.int64)
    return np.where(polygon, start + stop - 1 - at, at)
