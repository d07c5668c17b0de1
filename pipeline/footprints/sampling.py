"""Which of the planned tiles are built: shares, strata, blocks. Pure functions on tiles; no tile depends on another
being in the plan, unless a rule counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix
from geometry.packed import changes
from schemas.config import require

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Upper bounds of objects a tile in each stratum of density: none, rural, village, suburb, town, centre.
STRATA = (0, 4, 16, 64, 256)
#: Tiles that a build takes where its images come from the web and nothing says how many: 16 GB of twelve bands.
WEB_TILES = 10_000


@dataclass(frozen=True)
class SamplingConfig:
    """Which tiles of the region are built; all of them by default."""

    share: float = 1.0  # share of the tiles, 0..1, at random; a tile keeps its lot when the region grows
    strata: Literal["none", "density"] = "none"  # density: as many tiles of each class of OSM objects a tile
    max_tiles: int | None = None  # most tiles, at random (strata: as many of each); 0: all; unset: 10,000 of the web
    per_block: int = 0  # most tiles of one block, at random; 0: all
    block_degrees: float = 0.1  # side of those blocks in degrees
    photos_only: bool = False  # only tiles in which a photo was taken
    land_only: bool = False  # only tiles with an object of a class of the raster other than water
    seed: int = 0  # of every random choice

    def __post_init__(self) -> None:
        require(
            {
                "plan.sampling.share must be over 0 and at most 1": 0 < self.share <= 1,
                "plan.sampling.max_tiles and per_block must be 0 (all) or more": min(
                    self.max_tiles or 0, self.per_block
                )
                >= 0,
                "plan.sampling.block_degrees must be over 0": self.block_degrees > 0,
            }
        )

    @property
    def counts_objects(self) -> bool:
        """Whether a rule needs the number of objects in each tile."""
        return self.strata != "none" or self.land_only


def lots(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A pseudo-random word a footprint, u64[N], from its own (`Candidates.words`) and the seed alone."""
    with np.errstate(over="ignore"):
        return np.asarray(mix(words + GOLDEN * np.uint64(seed + 1)))


def by_share(lot: NDArray[np.uint64], share: float) -> Mask:
    """The tiles whose lot is below ``share``, bool[T]."""
    return np.asarray((lot >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share)


def per_group(lot: NDArray[np.uint64], group: Ints, most: int) -> Mask:
    """The ``most`` tiles with the lowest lots of each group, bool[T]."""
    order = np.lexsort((lot, group))
    starts = np.flatnonzero(changes(group[order]))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    chosen = np.zeros(len(group), bool)
    chosen[order] = rank < most
    return chosen


def blocks(centre: NDArray[np.float64], degrees: float) -> Ints:
    """Block in lon/lat that each centre f64[N,2] lies in, i64[N]."""
    cell = np.floor((centre + np.array((180.0, 90.0))) / degrees).astype(np.int64)
    return np.asarray(cell[:, 1] * (int(360 / degrees) + 2) + cell[:, 0])


def density_stratum(objects: Ints) -> Ints:
    """Stratum 0..5 of tiles by their number of OSM objects, i64[T]."""
    return np.searchsorted(STRATA, objects).astype(np.int64)


def choose(
    config: SamplingConfig, lot: NDArray[np.uint64], centre: NDArray[np.float64], objects: Ints | None = None
) -> dict[str, Mask]:
    """Masks bool[N] of the footprints that each rule of numbers keeps (blocks, strata, the most), by rule, in order;
    True for those that a rule before has left out.

    ``share`` (`by_share`) and the rules of content come before: a block's should be footprints that can be built.

    Args:
        config: the rules.
        lot: u64[N] of `lots`.
        centre: f64[N,2] lon, lat.
        objects: i64[N] OSM objects on each; needed where ``config.counts_objects``.
    """
    left = np.ones(len(lot), bool)
    masks: dict[str, Mask] = {}

    def rule(name: str, of_left: Mask) -> None:
        nonlocal left
        mask = np.ones(len(lot), bool)
        mask[left] = of_left
        masks[name] = mask
        left = left & mask

    if config.per_block:
        rule("over_per_block", per_group(lot[left], blocks(centre[left], config.block_degrees), config.per_block))
    if config.max_tiles and config.strata == "none":
        rule("over_max_tiles", per_group(lot[left], np.zeros(int(left.sum()), np.int64), config.max_tiles))
    elif config.strata == "density":
        if objects is None:
            raise ValueError("strata need the number of objects in each tile")
        stratum = density_stratum(objects[left])
        sizes = np.bincount(stratum)
        present = sizes[sizes > 0]
        even = int(present.min()) if len(present) else 0
        most = config.max_tiles // max(1, len(present)) if config.max_tiles else even
        rule("over_stratum", per_group(lot[left], stratum, max(1, most)))
    return masks
