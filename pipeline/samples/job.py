"""What one task needs to build one shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.imagery.scene import Scene
from pipeline.osm.vectors.features import PartJob
from pipeline.rules import PaintRules
from pipeline.samples.config import ShardsConfig
from pipeline.streetview.record import Photo
from schemas.footprint import Footprints


class Previous(NamedTuple):
    """An earlier version of a dataset."""

    root: str  # directory or URL
    layout_hash: str


class Snapshot(NamedTuple):
    """OSM data of one time."""

    time: str | None  # ISO 8601
    cells: str  # as `read_cell` takes it


@dataclass(frozen=True)
class ExtractObjects:
    """OSM objects that lie in the cells of extracts."""

    snapshots: tuple[Snapshot, ...]  # one, or several by time
    zoom: int  # of the cells

    def at(self, acquired: str | None) -> Snapshot:
        """The snapshot nearest at or before an image's time; the first for an older image, the last without a time."""
        if acquired is None or len(self.snapshots) == 1:
            return self.snapshots[-1]
        if "T" not in acquired:  # to the end of the year, month or day
            acquired = f"{acquired}{'-12-31'[len(acquired) - 4 :]}T23:59:59Z"
        before = [s for s in self.snapshots if s.time is not None and s.time <= acquired]
        return before[-1] if before else self.snapshots[0]


@dataclass(frozen=True, eq=False)
class VectorObjects:
    """OSM objects that lie in vector files beside the chips of a shard."""

    part: PartJob
    ids: NDArray[np.int64]  # [L,2] tag id, kept; of each text of the part
    time: str | None  # ISO 8601


@dataclass(frozen=True, eq=False)
class Chips:
    """Where the chips of a shard lie."""

    folder: Path
    rows: dict[str, dict[str, Any]]  # CHIPS rows by key


@dataclass(frozen=True, eq=False)
class ShardJob:
    """Everything one task needs."""

    out: str
    index: int
    footprints: Footprints  # in shard order
    config: ShardsConfig
    paint: PaintRules
    objects: ExtractObjects | VectorObjects
    licences: dict[str, str]  # osm | rs | sv
    scenes: list[Scene] = field(default_factory=list)  # those near; with_imagery says whether there are any elsewhere
    with_imagery: bool = False
    chips: Chips | None = None
    photos: dict[str, list[Photo]] = field(default_factory=dict)  # by key
    salt: str = ""  # SHA-256 of settings, rules, code and libraries: what decides every shard's bytes
    imagery: str = ""  # SHA-256 of the scenes
    previous: Previous | None = None  # its shards of equal inputs are kept

    @property
    def planned(self) -> int:
        """Footprints to try."""
        return len(self.footprints)
