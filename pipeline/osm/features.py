"""Features near a footprint, as columns: what tokens are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import ranges


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """F features near the footprints, sorted by kind, type, id."""

    osm_type: NDArray[np.uint8]  # [F]
    osm_id: NDArray[np.int64]  # [F]
    kind: NDArray[np.uint8]  # [F]
    tag_offsets: NDArray[np.int64]  # [F+1]
    tag_ids: NDArray[np.int64]
    paint: NDArray[np.uint16]  # [F] as in CELLS
    geometry: NDArray[Any]  # [F] shapely, valid, lon/lat degrees, densified

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: NDArray[np.int64]) -> FeatureBatch:
        """The chosen features, in that order."""
        at, offsets = ranges(self.tag_offsets, rows)
        return FeatureBatch(
            self.osm_type[rows], self.osm_id[rows], self.kind[rows], offsets, self.tag_ids[at],
            self.paint[rows], self.geometry[rows],
        )  # fmt: skip

    def near(self, west: float, south: float, east: float, north: float) -> FeatureBatch:
        """The features whose bounds meet a box in degrees, in their order.

        The first call builds an index that later ones share: what a box costs does not grow with the batch.
        """
        return self.take(np.sort(self._index.query(shapely.box(west, south, east, north))))

    def eastwards(self, degrees: float) -> FeatureBatch:
        """The same, so far eastwards."""
        return replace(self, geometry=shapely.transform(self.geometry, lambda xy: np.add(xy, (degrees, 0.0))))

    @cached_property
    def _index(self) -> shapely.STRtree:
        return shapely.STRtree(self.geometry)
