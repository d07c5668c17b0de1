"""From a region's name to the files that hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import ShardsConfig
from pipeline.run.ray_map import Progress
from schemas.errors import InputError


@dataclass(frozen=True)
class Region:
    """A resolved region."""

    name: str  # [a-z0-9_-]+; names the default output folder
    extracts: list[Path]
    imagery: list[Path] = field(default_factory=list)
    streetview: Path | None = None
    licences: dict[str, str] = field(default_factory=dict)  # osm | rs | sv -> SPDX or words
    acquired: str | None = None  # of the imagery, where the region knows it


def resolve(config: ShardsConfig, cache: Path, quiet: bool = False) -> Region:
    """The files of ``config.region``, ``config.imagery`` and ``config.streetview``.

    ``demo`` is generated into the cache. ``auto`` imagery and photos are the demo's own, and none for local files.

    Raises:
        InputError: a path does not exist; the message says what may stand there.
    """
    if config.region == "demo":
        region = _demo(config, cache, quiet)
    else:
        paths = [Path(part).expanduser() for part in config.region.split(",") if part]
        for path in paths:
            if not path.is_file():
                raise InputError(
                    f"region {str(path)!r} is neither 'demo' nor a file; give the path of an OSM extract (.osm.pbf, "
                    ".osm.bz2, .osm, .opl), several separated by commas"
                )
        if not paths:
            raise InputError("region is empty; give 'demo' or the path of an OSM extract")
        name = "-".join(_stem(p) for p in paths)[:60]
        region = Region(name, paths, licences={"osm": "ODbL-1.0"})
    imagery, streetview = region.imagery, region.streetview
    if config.imagery != "auto":
        imagery = [] if config.imagery == "none" else _rasters(config.imagery)
    if config.streetview != "auto":
        streetview = None if config.streetview == "none" else Path(config.streetview).expanduser()
        if streetview is not None and not streetview.exists():
            raise InputError(f"street view {streetview} does not exist; give a folder of photos, a CSV table, or none")
    return Region(region.name, region.extracts, imagery, streetview, region.licences, region.acquired)


def _stem(path: Path) -> str:
    kept = "".join(c if c.isalnum() or c in "_-" else "-" for c in path.name.split(".")[0].lower())
    return kept.strip("-") or "region"


def _rasters(text: str) -> list[Path]:
    paths = [Path(part).expanduser() for part in text.split(",") if part]
    for path in paths:
        if not path.is_file():
            raise InputError(f"imagery {path} does not exist; give paths of GeoTIFF, COG or VRT files, or none")
    return paths


def _demo(config: ShardsConfig, cache: Path, quiet: bool) -> Region:
    from pipeline.demo import build_demo

    folder = cache / f"demo-{config.demo.seed}-{config.demo.scale}"
    with Progress("demo town", 0, "parts", quiet) as progress:
        files = build_demo(folder, seed=config.demo.seed, scale=config.demo.scale, progress=progress.update)
    licences = {"osm": "CC0-1.0", "rs": "CC0-1.0", "sv": "CC0-1.0"}
    return Region("demo", [files.osm], [files.imagery], files.streetview, licences)
