"""Settings of a chips run: any of them by ``key.sub=value`` on the command line or in a YAML file (``--config``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.net.config import NetConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.rules import RulesConfig
from pipeline.samples.config import TokensConfig
from pipeline.streetview.config import StreetviewConfig
from schemas.errors import ConfigError
from schemas.splits import SplitConfig


@dataclass(frozen=True)
class ChipRules:
    """Which chips become samples, and how they are cut into shards."""

    crs: str = "auto"  # of the axes of chips whose files name none; auto: by SkyScript's name, else the chip is dropped
    max_overlap: float = 1.0  # of two chips of one source that share more of the smaller one, one goes; 0: as GeoLink
    min_objects: int = 0  # chips with fewer OSM objects are dropped
    per_shard: int = 256  # planned chips of one shard file


@dataclass(frozen=True)
class ChipImagery:
    """The chips' own images."""

    max_nodata: float = 0.0  # a chip with a larger share of nodata pixels is dropped, 0..1
    format: Literal["auto", "jpg", "png", "npy"] = "auto"  # auto: as it is; jpg or npy for what no member can hold
    quality: int = 90  # of an rs.jpg that must be written anew, 1..100
    licence: str | None = None  # of the images, for ATTRIBUTION.md
    acquired: str | None = None  # ISO 8601, for chips whose metadata name no time


@dataclass(frozen=True)
class VectorConfig:
    """Vector files beside the chips."""

    licence: str = "ODbL-1.0"  # of the objects, for ATTRIBUTION.md
    time: str | None = None  # ISO 8601, when the objects were as they are


@dataclass(frozen=True)
class ChipsConfig:
    """Everything that ``geoshards chips`` can be told."""

    folder: str = ""  # of chips, searched with its subfolders
    extracts: str = ""  # paths of OSM extracts, comma-separated; empty: vector files beside the chips
    streetview: str = "none"  # none | a folder of photos, a CSV or Parquet table | panoramax | mapillary | kartaview
    out: str = ""  # dataset directory or fsspec URL; empty: data/NAME of the folder
    workers: int = 0  # processes; 0: one a core
    cache: str = ""  # folder of what is fetched and made again; empty: $GEOSHARDS_CACHE, else data/cache
    chips: ChipRules = field(default_factory=ChipRules)
    rs: ChipImagery = field(default_factory=ChipImagery)
    sv: StreetviewConfig = field(default_factory=StreetviewConfig)
    vectors: VectorConfig = field(default_factory=VectorConfig)
    osm: CleaningConfig = field(default_factory=CleaningConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    net: NetConfig = field(default_factory=NetConfig)

    def __post_init__(self) -> None:
        checks = {
            "workers must be 0 (one a core) or more": self.workers >= 0,
            "chips.per_shard must be 1 to 100000": 1 <= self.chips.per_shard <= 100_000,
            "chips.max_overlap must be 0 to 1": 0 <= self.chips.max_overlap <= 1,
            "chips.min_objects must be 0 or more": self.chips.min_objects >= 0,
            "rs.max_nodata must be 0 to 1": 0 <= self.rs.max_nodata <= 1,
            "rs.quality must be 1 to 100": 1 <= self.rs.quality <= 100,
            "tokens.grid must be 1 to 255 cells a side": all(1 <= g <= 255 for g in self.tokens.grid),
            "osm.min_tag_count must be 1 or more": self.osm.min_tag_count >= 1,
            "osm.min_key_count must be 1 or more": self.osm.min_key_count >= 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise ConfigError(message)

    def content(self) -> dict[str, Any]:
        """The settings that decide the dataset's bytes: not where it lies, who makes it, nor where its inputs lie."""
        values = asdict(self)
        for name in ("folder", "extracts", "streetview", "out", "workers", "cache", "rules", "net"):
            del values[name]
        return values
