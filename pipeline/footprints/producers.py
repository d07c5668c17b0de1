"""Who makes footprints, by the names of the setting ``footprints``: a new producer is a module and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.footprints.candidates import Candidates, Listed, Tiles
from pipeline.footprints.estimate import cells_of_area, tiles_of_area
from pipeline.footprints.grid import grid_cells
from pipeline.footprints.ground import Box, Ground, tiles_on
from schemas.errors import ConfigError
from schemas.features import drop_row
from schemas.footprint import Footprints

Drops = list[dict[str, Any]]

_WORLD: Box = (-180.0, -90.0, 180.0, 90.0)
#: Zoom of the quads whose boxes are joined to the ground of grid cells: a continent has some 100,000.
_CELLS = 12


@dataclass(frozen=True)
class Wish:
    """What a producer is asked for."""

    ground: Ground | None  # where features are; None: everywhere
    clip: Any  # lon/lat (multi)polygon of the region; None: the world
    zoom: int  # of XYZ tiles
    gsd: float  # metres a pixel of metric footprints
    size: int  # pixels a side
    most: int  # footprints: `plan.max_tiles`
    chips: Listed | None = None  # of ``chips.folder``


@dataclass(frozen=True)
class Producer:
    """A kind of footprints."""

    make: Callable[[Wish], tuple[Candidates, Drops]]  # and DROPS rows of ground that can have none
    about: Callable[[Any, Wish], int]  # how many there are on so much ground, lon/lat, without making them
    words: Callable[[Wish], str]  # for people


def _tiles(wish: Wish) -> tuple[Candidates, Drops]:
    return Tiles(tiles_on(wish.ground, wish.clip, wish.zoom, wish.most), wish.zoom, wish.size), []


def _grid(wish: Wish) -> tuple[Candidates, Drops]:
    ground = [_WORLD] if wish.ground is None else wish.ground.coarser(_CELLS).bounds
    cells = grid_cells(ground, wish.clip, wish.gsd, wish.size, wish.most)
    detail = "grid cells of ground beyond 80° S and 84° N, which UTM has not"
    drops = [drop_row("plan", "grid", "beyond_utm", detail=detail, count=cells.beyond)] if cells.beyond else []
    keys, origin = np.array(cells.keys, object), np.full(len(cells.keys), "utm", object)
    codes, code = np.unique(cells.epsg, return_inverse=True)
    crs, size = tuple(f"EPSG:{c}" for c in codes.tolist()), np.full((len(keys), 2), wish.size, np.int64)
    return Listed.of("grid", Footprints(keys, crs, code, cells.transform, size, origin)), drops


def _chips(wish: Wish) -> tuple[Candidates, Drops]:
    if wish.chips is None:
        raise ConfigError("footprints=chips needs chips.folder=FOLDER")
    return wish.chips, []


PRODUCERS: Mapping[str, Producer] = {
    "tiles": Producer(
        _tiles,
        lambda ground, wish: tiles_of_area(ground, wish.zoom),
        lambda wish: f"tiles at zoom {wish.zoom}, {wish.size} px",
    ),
    "grid": Producer(
        _grid,
        lambda ground, wish: cells_of_area(ground, wish.gsd * wish.size),
        lambda wish: f"cells of {wish.size} px of {wish.gsd:g} m",
    ),
    "chips": Producer(_chips, lambda _ground, wish: len(wish.chips or ()), lambda _wish: "chips"),
}
