"""Settings of a build: any of them by ``key.sub=value`` on the command line or in a YAML file (``--config``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.demo.config import DemoConfig
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.footprints.config import GridConfig, PlanConfig
from pipeline.footprints.producers import PRODUCERS
from pipeline.imagery.config import ImageryConfig
from pipeline.net.config import NetConfig
from pipeline.osm.vectors.config import VectorConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.regions.config import SourcesConfig
from pipeline.rules import RulesConfig
from pipeline.streetview.config import StreetviewConfig
from pipeline.tokens.config import TokensConfig
from schemas.config import execution, require
from schemas.splits import SplitConfig
from storage.urls import is_local

#: Settings that a region starts from; files, flags and key=value go over them. The demo town is 3.6 km wide: blocks of
#: 0.9 km, with a seed that gives each split both tiles and photos, and shards small enough to keep workers busy.
REGION_DEFAULTS: dict[str, dict[str, Any]] = {
    "demo": {
        "zoom": 17,
        "split": {"block_degrees": 0.008, "val": 0.12, "test": 0.12, "seed": 126},
        "plan": {"per_shard": 32},
    }
}


@dataclass(frozen=True)
class ShardsConfig:
    """Everything that a build can be told."""

    region: str = execution("demo")  # demo, names, ISO codes, OSM extracts, a bbox, a GeoJSON file; none: chips alone
    name: str = execution("")  # name of the dataset in documents; empty: of the region, or of the folder of chips
    footprints: tuple[str, ...] = ("tiles",)  # of tiles (XYZ), grid (metric cells), chips (images of a folder)
    imagery: str = execution("auto")  # none | paths and patterns of rasters | earth-search | planetary-computer | …
    streetview: str = execution("auto")  # none | a folder of photos | a CSV or Parquet table | panoramax | mapillary |…
    zoom: int | None = None  # zoom of the XYZ tiles, 0..22; unset: the imagery's own, 16 without imagery
    size: int = 256  # pixels a side of tiles and grid cells, 16..4096
    out: str = execution("")  # dataset directory or fsspec URL; empty: data/NAME
    workers: int = execution(0)  # processes; 0: one a core
    cache: str = execution(
        ""
    )  # folder of what is fetched and can be made again, or its URL for a cluster; empty: $GEOSHARDS_CACHE, data/cache
    grid: GridConfig = field(default_factory=GridConfig)
    chips: ChipsConfig = field(default_factory=ChipsConfig)
    vectors: VectorConfig = field(default_factory=VectorConfig)
    osm: CleaningConfig = field(default_factory=CleaningConfig)
    rules: RulesConfig = execution(RulesConfig())
    plan: PlanConfig = field(default_factory=PlanConfig)
    rs: ImageryConfig = field(default_factory=ImageryConfig)
    sv: StreetviewConfig = field(default_factory=StreetviewConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    sources: SourcesConfig = execution(SourcesConfig())
    net: NetConfig = execution(NetConfig())

    def __post_init__(self) -> None:
        unknown = [p for p in self.footprints if p not in PRODUCERS]
        require(
            {
                f"footprints must be some of {', '.join(PRODUCERS)}": bool(self.footprints) and not unknown,
                "footprints names a producer twice": len(set(self.footprints)) == len(self.footprints),
                "footprints=chips needs chips.folder=FOLDER": "chips" not in self.footprints or bool(self.chips.folder),
                "footprints=chips needs a cache that is a folder, on a cluster one that all nodes have": (
                    "chips" not in self.footprints or is_local(self.cache)
                ),
                "chips.folder needs footprints=chips": "chips" in self.footprints or not self.chips.folder,
                "region=none has chips alone; name a region for tiles and grid": self.region != "none"
                or self.footprints == ("chips",),
                "rs.bands, rs.stretch, rs.dates, rs.mask change no chip's own pixels: drop them, or name --imagery": (
                    self.footprints != ("chips",)
                    or self.chips.image == "imagery"
                    or (self.rs.bands, self.rs.stretch, self.rs.dates, self.rs.mask) == ((), "none", 1, None)
                ),
                "zoom must be 0 to 22": self.zoom is None or 0 <= self.zoom <= 22,
                "size must be 16 to 4096 pixels": 16 <= self.size <= 4096,
                "grid.gsd must be 0.01 to 10000 metres": self.grid.gsd is None or 0.01 <= self.grid.gsd <= 10_000,
                "workers must be 0 (one a core) or more": self.workers >= 0,
                "demo.scale must be 1 to 100": 1 <= self.demo.scale <= 100,
                "osm.min_tag_count must be 1 or more": self.osm.min_tag_count >= 1,
                "osm.min_key_count must be 1 or more": self.osm.min_key_count >= 1,
            }
        )
