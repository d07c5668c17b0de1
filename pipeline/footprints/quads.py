"""Which cells of a quad pyramid share ground with an area, without a look at each: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Ints
from geometry.tiles import children
from schemas.errors import ConfigError


def cells_on(
    ground: Any,
    boxes: Callable[[Ints, int], NDArray[Any]],
    levels: int,
    most: int,
    refusal: str,
    start: Ints | None = None,
    first: int = 0,
) -> Ints:
    """Cells (column, row) of the lowest level that share ground with a polygon, i64[T,2], each once, sorted.

    Quads that lie wholly inside are not looked into, so that a continent takes seconds.

    Args:
        ground: polygon in the coordinates of the boxes.
        boxes: makes shapely boxes of cells i64[T,2] of a level; level 0 is one cell, each further level halves the
            side. Boxes a hair smaller than their cells leave out cells that the ground only touches.
        levels: of the pyramid below its root.
        most: cells.
        refusal: what the error says.
        start, first: cells i64[S,2], each once, of level ``first`` in which to look; the root by default.

    Raises:
        ConfigError: more than ``most`` cells.
    """
    shapely.prepare(ground)
    edge = np.zeros((1, 2), np.int64) if start is None else start
    whole: list[tuple[int, Ints]] = []  # level, and cells of that level
    count = 0
    for level in range(first, levels + 1):
        own = boxes(edge, level)
        meets = shapely.intersects(ground, own)
        inside = meets & shapely.contains_properly(ground, own)
        whole.append((level, edge[inside]))
        count += int(inside.sum()) * 4 ** (levels - level)
        edge = edge[meets & ~inside]
        if count + len(edge) > most:
            raise ConfigError(refusal)
        if level < levels:
            edge = children(edge, 1)
    found = [edge, *(children(cells, levels - level) for level, cells in whole if len(cells))]
    cells = np.concatenate(found)  # quads of different levels hold different cells
    return cells[np.lexsort((cells[:, 1], cells[:, 0]))]
