"""Settings of a shards run: any of them by ``key.sub=value`` on the command line or in a YAML file (``--config``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.footprints.sampling import SamplingConfig
from pipeline.imagery.config import ImageryConfig
from pipeline.net.config import NetConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.regions.config import SourcesConfig
from pipeline.rules import RulesConfig
from pipeline.streetview.config import StreetviewConfig
from schemas.errors import ConfigError
from schemas.splits import SplitConfig


@dataclass(frozen=True)
class PlanConfig:
    """Which tiles become samples, and how they are cut into shards."""

    tiles_per_shard: int = 256
    min_objects: int | None = None  # OSM features that meet a tile; unset: 0 with imagery, 1 without
    max_tiles: int = 20_000_000  # more is refused: it is most often a wrong zoom
    snapshots: Literal["newest", "image"] = "newest"  # image: each extract is a time; the last before the image is used
    ask_gb: float = 20.0  # a build that fetches and writes more asks a person at the terminal first
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class TokensConfig:
    """OSM tokens of a sample."""

    grid: tuple[int, int] = (14, 14)  # rows, columns of the ViT patch grid
    patches: bool = True  # store which objects cover which patch; without, half of osm.safetensors is saved
    raster: bool = True  # write osm.png
    seed: int = 0  # of the polygon anchors
    explode: bool = False  # what clipping cuts apart becomes objects of their own, as in GeoLink

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """The grid of the patches that are stored, if any are."""
        return self.grid if self.patches else None


@dataclass(frozen=True)
class DemoConfig:
    """The generated region."""

    seed: int = 7
    scale: int = 1  # times the area of about 300 tiles at zoom 17


#: Settings that a region starts from; files, flags and key=value go over them. The demo town is 3.6 km wide: blocks of
#: 0.9 km, with a seed that gives each split both tiles and photos, and shards small enough to keep workers busy.
REGION_DEFAULTS: dict[str, dict[str, Any]] = {
    "demo": {
        "zoom": 17,
        "split": {"block_degrees": 0.008, "val": 0.12, "test": 0.12, "seed": 126},
        "plan": {"tiles_per_shard": 32},
    }
}


@dataclass(frozen=True)
class ShardsConfig:
    """Everything that ``geoshards shards`` can be told."""

    region: str = "demo"  # demo, names, ISO codes, paths or URLs of OSM extracts, a bbox, or a GeoJSON file
    name: str = ""  # of the region in samples and documents; empty: from the region
    imagery: str = "auto"  # none | paths and patterns of rasters | earth-search | planetary-computer | stac | xyz
    streetview: str = "auto"  # none | a folder of photos, a CSV or Parquet table | panoramax | mapillary | kartaview
    zoom: int | None = None  # of the XYZ tiles, 0..22; unset: the imagery's own, 16 without imagery
    size: int = 256  # pixels a side
    out: str = ""  # dataset directory or fsspec URL; empty: data/REGION
    workers: int = 0  # processes; 0: one a core
    cache: str = ""  # empty: $GEOSHARDS_CACHE, else data/cache
    osm: CleaningConfig = field(default_factory=CleaningConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    rs: ImageryConfig = field(default_factory=ImageryConfig)
    sv: StreetviewConfig = field(default_factory=StreetviewConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    net: NetConfig = field(default_factory=NetConfig)

    def __post_init__(self) -> None:
        checks = {
            "zoom must be 0 to 22": self.zoom is None or 0 <= self.zoom <= 22,
            "size must be 16 to 4096 pixels": 16 <= self.size <= 4096,
            "workers must be 0 (one a core) or more": self.workers >= 0,
            "plan.tiles_per_shard must be 1 to 100000": 1 <= self.plan.tiles_per_shard <= 100_000,
            "tokens.grid must be 1 to 255 cells a side": all(1 <= g <= 255 for g in self.tokens.grid),
            "plan.ask_gb must be 0 or more": self.plan.ask_gb >= 0,
            "demo.scale must be 1 to 100": 1 <= self.demo.scale <= 100,
            "osm.min_tag_count must be 1 or more": self.osm.min_tag_count >= 1,
            "osm.min_key_count must be 1 or more": self.osm.min_key_count >= 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise ConfigError(message)

    def content(self) -> dict[str, Any]:
        """The settings that decide the dataset's bytes: not where it lies, who makes it, nor where its inputs lie."""
        values = asdict(self)
        for name in ("out", "workers", "cache", "region", "name", "imagery", "streetview", "rules", "sources", "net"):
            del values[name]
        return values
