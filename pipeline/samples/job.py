"""What one task needs to build one shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.imagery.scene import Scene
from pipeline.rules import PaintRules
from pipeline.samples.config import ShardsConfig
from pipeline.streetview.record import Photo

Tile = tuple[int, int]  # x, y


class Previous(NamedTuple):
    """An earlier version of a dataset."""

    root: str  # directory or URL
    layout_hash: str


class Snapshot(NamedTuple):
    """OSM data of one time."""

    time: str | None  # ISO 8601
    cells: str  # as `read_cell` takes it


@dataclass(frozen=True)
class ShardJob:
    """Everything one task needs."""

    out: str
    index: int
    tiles: NDArray[np.int64]  # [T,2] x, y in shard order
    zoom: int
    config: ShardsConfig
    paint: PaintRules
    snapshots: tuple[Snapshot, ...]  # one, or several by time
    cell_zoom: int
    scenes: list[Scene]  # those near the tiles; with_imagery says whether there are any elsewhere
    with_imagery: bool
    photos: dict[Tile, list[Photo]]
    min_objects: int
    licences: dict[str, str]  # osm | rs | sv
    source: str  # region name
    salt: str = ""  # SHA-256 of settings, rules, code and libraries: what decides every shard's bytes
    imagery: str = ""  # SHA-256 of the scenes
    previous: Previous | None = None  # its shards of equal inputs are kept

    @property
    def planned(self) -> int:
        """Tiles to try."""
        return len(self.tiles)

    def snapshot_for(self, acquired: str | None) -> Snapshot:
        """The snapshot nearest at or before an image's time; the first for an older image, the last without a time."""
        if acquired is None or len(self.snapshots) == 1:
            return self.snapshots[-1]
        if len(acquired) == len("2024-05-31"):
            acquired += "T23:59:59Z"
        before = [s for s in self.snapshots if s.time is not None and s.time <= acquired]
        return before[-1] if before else self.snapshots[0]
