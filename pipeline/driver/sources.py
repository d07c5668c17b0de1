"""From settings to sources: a region's extracts, and what ``auto`` imagery and street view mean for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.demo import build_demo, built_in
from pipeline.imagery.sources import absolute
from pipeline.regions.hold import HoldJob, hold_extract
from pipeline.regions.resolve import Selection, fetch, select
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.streetview.sources import SERVICES, is_service
from schemas.errors import InputError
from storage.progress import Progress
from storage.urls import absolute as absolute_path
from storage.urls import is_local, shared_cache

#: What ``auto`` stands for where a region is asked for by name or area.
IMAGERY, STREETVIEW = "earth-search", "panoramax"


@dataclass(frozen=True)
class Region:
    """A resolved region."""

    name: str  # [a-z0-9_-]+; names the default output folder
    extracts: Sequence[Path | str]  # URLs of those that a cache behind a URL holds
    imagery: str = ""  # as `find_imagery` takes it; empty: none
    streetview: str = ""  # as `open_source` takes it; empty: none
    licences: dict[str, str] = field(default_factory=dict)  # osm | rs | sv -> SPDX or words
    clip: Any = None  # as in Selection


def resolve(config: ShardsConfig, cache: Path, runner: Runner | None = None, quiet: bool = False) -> Region:
    """The files of ``config.region``, and what ``config.imagery`` and ``config.streetview`` mean for it; extracts that
    are missing are downloaded, by a task of a cluster where the cache is a URL.

    ``demo`` is generated into the cache. ``auto`` imagery and photos are the demo's own; `IMAGERY` and `STREETVIEW` for
    a region by name or area; none for files.

    Raises:
        InputError: a path does not exist, a name is unknown, or a file cannot be had; the message says what may stand
            there.
    """
    if config.region == "demo":
        region = _demo(config, cache, quiet)
    else:
        chosen = select(config.region, config.sources, config.net, cache, quiet)
        paths = obtain(chosen, config, runner or Runner(1), quiet)
        region = Region(chosen.name, paths, *defaults(chosen), {"osm": "ODbL-1.0"}, chosen.clip)
    imagery, streetview = chosen_sources(config, region.imagery, region.streetview)
    if streetview and not is_service(streetview) and is_local(streetview) and not Path(streetview).exists():
        raise InputError(
            f"street view {streetview} does not exist; give a folder of photos, a CSV or Parquet table, one of "
            f"{', '.join(SERVICES)}, or none"
        )
    return replace(region, imagery=imagery, streetview=streetview)


def obtain(chosen: Selection, config: ShardsConfig, runner: Runner, quiet: bool) -> list[Path | str]:
    """The extracts of a selection, fetched: files of this machine, or where a cache behind a URL holds them.

    Raises:
        InputError: one cannot be had, or is no OSM file.
    """
    if is_local(config.cache):
        fetch(chosen, config.net, config.sources.refresh, quiet)
        return [e.path for e in chosen.extracts]
    jobs = [
        HoldJob(shared_cache(config.cache), e, config.net, config.sources.refresh)
        for e in chosen.extracts
        if e.url is not None
    ]
    found, _ = runner.run(hold_extract, jobs, Progress("extracts", len(jobs), "files", quiet))
    urls = {job.extract.url: held.url for job, held in zip(jobs, found, strict=True)}
    return [urls.get(e.url, e.path) for e in chosen.extracts]


def defaults(chosen: Selection) -> tuple[str, str]:
    """Imagery and street view that ``auto`` stands for."""
    return (IMAGERY, STREETVIEW) if chosen.named else ("", "")


def chosen_sources(config: ShardsConfig, imagery: str, streetview: str) -> tuple[str, str]:
    """Imagery and street view of the settings; the arguments are what ``auto`` stands for."""
    if config.imagery != "auto":
        imagery = "" if config.imagery == "none" else absolute(config.imagery)
    if config.streetview != "auto":
        streetview = "" if config.streetview == "none" else config.streetview
        if streetview and not is_service(streetview):
            streetview = absolute_path(streetview)
    return imagery, streetview


def _demo(config: ShardsConfig, cache: Path, quiet: bool) -> Region:
    folder = built_in(cache, config.demo.seed, config.demo.scale)
    with Progress("demo town", 0, "parts", quiet) as progress:
        files = build_demo(folder, seed=config.demo.seed, scale=config.demo.scale, progress=progress.update)
    licences = {"osm": "CC0-1.0", "rs": "CC0-1.0", "sv": "CC0-1.0"}
    return Region("demo", [files.osm], str(files.imagery), str(files.streetview), licences)
