"""What one task needs to build one shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ShardsConfig
from pipeline.imagery.local import Scene
from pipeline.rules import PaintRules
from pipeline.streetview.photos import Photo

Tile = tuple[int, int]  # x, y


class Previous(NamedTuple):
    """An earlier version of a dataset."""

    root: str  # directory or URL
    layout_hash: str


@dataclass(frozen=True)
class ShardJob:
    """Everything one task needs."""

    out: str
    index: int
    tiles: NDArray[np.int64]  # [T,2] x, y in shard order
    config: ShardsConfig
    paint: PaintRules
    cells: str  # Parquet file
    cell_zoom: int
    scenes: list[Scene]
    photos: dict[Tile, list[Photo]]
    min_objects: int
    osm_time: str | None
    licences: dict[str, str]  # osm | rs | sv
    source: str  # region name
    salt: str = ""  # SHA-256 of settings, rules, code, libraries and imagery: what decides every shard's bytes
    previous: Previous | None = None  # its shards of equal inputs are kept
