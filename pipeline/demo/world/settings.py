"""Settings of a generated world."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.config import require

BUILT = ("grid", "radial", "organic", "suburb", "slabs", "industrial", "village")
RURAL = ("fields", "forest", "lake")
STYLES = BUILT + RURAL


@dataclass(frozen=True)
class WorldSettings:
    """A generated world. The shares are those of docs/world.md, with their sources."""

    tiles: int = 2000  # tiles of zoom 17, at least so many, 1..200000
    photos: int = 4000  # street-view photos, 0..1000000
    seed: int = 0  # another world for each, 0 or more
    style: str = "mixed"  # mixed: towns of several kinds in open country; or one kind for all of it
    unmapped: float = 0.2  # share of buildings, shops and land use that the map lacks, 0..1
    outdated: float = 0.03  # share of buildings that are gone and still mapped, 0..1
    unmapped_streets: float = 0.17  # share of the smallest streets and paths that the map lacks, 0..1
    mapped_trees: float = 0.1  # share of trees along streets that are mapped, 0..1
    tagged: float = 0.05  # share of mapped buildings with storeys, and of those with a roof's shape, 0..1
    shift_m: float = 1.0  # metres: standard deviation of an aerial sheet's error of registration, each way, 0..20

    def __post_init__(self) -> None:
        shares = ("unmapped", "outdated", "unmapped_streets", "mapped_trees", "tagged")
        require(
            {
                "tiles must be 1 to 200000": 1 <= self.tiles <= 200_000,
                "photos must be 0 to 1000000": 0 <= self.photos <= 1_000_000,
                "seed must be 0 or more": self.seed >= 0,
                f"style must be mixed, {', '.join(STYLES)}": self.style in ("mixed", *STYLES),
                "shift_m must be 0 to 20 metres": 0 <= self.shift_m <= 20,
                **{f"{name} must be 0 to 1": 0 <= getattr(self, name) <= 1 for name in shares},
            }
        )
