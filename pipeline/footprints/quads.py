"""Which cells of a quad pyramid share ground with an area, without a look at each: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Ints
from geometry.tiles import children
from schemas.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Start:
    """Where to look, in place of everywhere."""

    cells: Ints  # [S,2], each once
    level: int  # of them
    #: Whether cells of a level meet the cells that are asked for, and whether they hold no others.
    within: Callable[[Ints, int], tuple[NDArray[Any], NDArray[Any]]]


def cells_on(
    ground: Any,
    boxes: Callable[[Ints, int], NDArray[Any]],
    levels: int,
    most: int,
    refusal: str,
    start: Start | None = None,
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
        start: where to look.

    Raises:
        ConfigError: more than ``most`` cells.
    """
    shapely.prepare(ground)
    edge = np.zeros((1, 2), np.int64) if start is None else start.cells
    whole: list[tuple[int, Ints]] = []  # level, and cells of that level
    count = 0
    for level in range(0 if start is None else start.level, levels + 1):
        filled = np.ones(len(edge), bool)
        if start is not None:
            there, filled = start.within(edge, level)
            edge, filled = edge[there], filled[there]
        own = boxes(edge, level)
        meets = shapely.intersects(ground, own)
        inside = meets & filled & shapely.contains_properly(ground, own)
        whole.append((level, edge[inside]))
        count += int(inside.sum()) * 4 ** (levels - level)
        edge = edge[meets & ~inside]
        if count + (len(edge) if start is None or level == levels else 0) > most:
            raise ConfigError(refusal)
        if level < levels:
            edge = children(edge, 1)
    found = [edge, *(children(cells, levels - level) for level, cells in whole if len(cells))]
    cells = np.concatenate(found)  # quads of different levels hold different cells
    return cells[np.lexsort((cells[:, 1], cells[:, 0]))]
