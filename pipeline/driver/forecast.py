"""What a build will fetch, take and demand, before anything large is downloaded: ``geoshards plan``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely

from pipeline.driver.plan import make_plan, with_cap
from pipeline.driver.sources import chosen_sources, defaults
from pipeline.driver.stages import candidates_of, own_gsd, own_zoom, used_images, wish_of
from pipeline.footprints.candidates import Mixture
from pipeline.footprints.estimate import RATES, Estimate, estimate
from pipeline.footprints.producers import PRODUCERS
from pipeline.imagery.choice.usage import Use, lines_of
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, natural_zoom_of, of_the_web, parts_of, presets_of
from pipeline.imagery.stac.presets import PRESETS
from pipeline.net.download import remote_bytes
from pipeline.regions.resolve import Selection, select
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.streetview.sources import SERVICES
from schemas.errors import ConfigError
from storage.cache import using
from storage.nodes.copies import node_cache
from storage.nodes.held import name_of, size_of
from storage.progress import StageRow

#: Tiles that are counted one by one; more are estimated from the area.
_COUNTED = 2_000_000
#: What each source asks of those who use it.
_DEMANDS = {
    "osm": "ODbL 1.0: credit © OpenStreetMap contributors; share adapted data alike",
    **{name: service.demand for name, service in PRESETS.items()},
    "panoramax": "each photo's own: CC BY-SA 4.0 or Licence Ouverte 2.0; credit the author",
    "mapillary": "CC BY-SA 4.0, and the terms of the API; credit Mapillary and the author",
    "kartaview": "CC BY-SA 4.0; credit the author",
}  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What a build comes to."""

    region: str
    extracts: list[dict[str, Any]]  # id, bytes (None: unknown), present
    imagery: str
    streetview: str
    footprints: str  # their kinds, in words
    zoom: int | None  # of the tiles
    size: int  # pixels a side
    counted: bool  # whether tiles were counted, not estimated
    estimate: Estimate
    licences: dict[str, str]  # by source
    min_objects: int
    exact: bool = False  # the extracts were read
    photos: int | None = None  # where they were listed
    images: Sequence[Use] = ()  # what the footprints take of each scene, where scenes were found

    @property
    def fetch_bytes(self) -> int:
        """Bytes of extracts that are still to be downloaded."""
        return sum(e["bytes"] or 0 for e in self.extracts if not e["present"])

    @property
    def gigabytes(self) -> float:
        """Download, cache and dataset together."""
        return (self.fetch_bytes + self.estimate.disk_bytes + self.estimate.cache_bytes) / 1e9

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {k: v for k, v in vars(self).items() if k != "estimate"} | {"images": [u.as_dict() for u in self.images]}
        numbers = self.estimate.as_dict()
        return own | numbers | {"fetch_bytes": self.fetch_bytes, "samples": self.estimate.chosen}

    def lines(self) -> list[str]:
        """For people."""
        e, sizes = self.estimate, [x["bytes"] for x in self.extracts]
        unknown = f", {sizes.count(None)} of unknown size" if None in sizes else ""
        known = sum(s or 0 for s in sizes)
        sampled = "all of them" if e.chosen == e.tiles else f"sampled to {e.chosen:,}"
        most = "" if self.exact else "at most "
        rows = [
            ("region", self.region),
            ("extracts", f"{len(sizes):,}, {known / 1e6:,.1f} MB{unknown}; {self.fetch_bytes / 1e6:,.1f} MB to fetch"),
            ("imagery", self.imagery or "none"),
            ("street view", f"{self.streetview or 'none'}{'' if self.photos is None else f', {self.photos:,} photos'}"),
            ("footprints", f"{'' if self.counted else 'about '}{e.tiles:,}: {self.footprints}; {sampled}"),
            ("samples", f"{most}{e.chosen:,} in {e.shards:,} shards"),
            ("disk", f"{_size(e.disk_bytes)} dataset (photos not counted), {_size(e.cache_bytes)} cache"),
            ("work", f"{_hours(e.core_hours)} on one core, at the rates of {RATES.date}; downloads come on top"),
        ]
        rows += [("image", line) for line in lines_of(self.images)]
        rows += [("licence", f"{source}: {text}") for source, text in self.licences.items()]
        return [f"{name:<12} {text}" for name, text in rows]


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} core-hours" if hours >= 1 else f"{hours * 60:,.1f} core-minutes"


def forecast(config: ShardsConfig, quiet: bool = False) -> Forecast | None:
    """What a region of names or an area comes to, from the index and local rasters alone.

    None where that does not say it: for files and the demo, and for imagery of the web whose zoom is not known before
    it is searched.

    Raises:
        InputError: the region means nothing, the index cannot be had, or a raster cannot be read.
    """
    if config.region in ("demo", "none") or "chips" in config.footprints:
        return None
    cache = node_cache(config.cache)
    chosen = select(config.region, config.sources, config.net, cache, quiet)
    if chosen.clip is None:
        return None
    imagery, streetview = chosen_sources(config, *defaults(chosen))
    scenes: list[Scene] = []
    if imagery and not of_the_web(imagery):
        scenes, _ = find_imagery(imagery, [], config.rs, config.net)
    elif imagery and config.zoom is None and natural_zoom_of(imagery, [], config.rs, config.size) is None:
        return None
    zoom = own_zoom(config, imagery, scenes)
    sampling = with_cap(config, imagery).plan.sampling
    ground = shapely.make_valid(chosen.clip)
    if scenes:
        ground = shapely.intersection(ground, shapely.union_all([s.area for s in scenes]))
    config = replace(config, zoom=zoom, grid=replace(config.grid, gsd=own_gsd(config, scenes)))
    wish = wish_of(config, None, ground)
    about = sum(PRODUCERS[name].about(ground, wish) for name in config.footprints)
    counted = about <= _COUNTED
    made = candidates_of(config, wish)[0] if counted else []
    tiles = sum(map(len, made)) if counted else about
    planned = Mixture.of(made) if made else None
    images = [] if planned is None else used_images(config, scenes, planned, imagery)[0]
    extracts = _extracts(chosen, config)
    numbers = estimate(
        tiles, sum(e["bytes"] or 0 for e in extracts), share=sampling.share, most=sampling.max_tiles or 0,
        per_shard=config.plan.per_shard, image_bytes=image_bytes(imagery, config, scenes),
    )  # fmt: skip
    name = config.name or chosen.name
    return Forecast(
        name, extracts, imagery, streetview, _kinds(config), config.zoom, config.size, counted, numbers,
        _licences(imagery, streetview, config), config.plan.least_objects(bool(imagery)), images=images,
    )  # fmt: skip


def exact_forecast(config: ShardsConfig, quiet: bool = False) -> tuple[Forecast, list[StageRow]]:
    """The same from the plan itself: extracts are fetched and read, images and photos are listed, not fetched."""
    with using(node_cache(config.cache)), Runner(config.workers) as runner:
        plan = make_plan(config, runner, quiet, fetch=False)
    config, region, kept = plan.config, plan.region, plan.config.plan
    sizes = [size_of(p) for p in region.extracts]
    extracts = [{"id": name_of(p), "bytes": s, "present": True} for p, s in zip(region.extracts, sizes, strict=True)]
    count = sum(len(own) for own in plan.photos.values())
    footprints = plan.footprints.footprints()
    total = len(footprints)
    a_pixel = np.full(total, image_bytes(region.imagery, config, plan.scenes) / config.size**2)
    if plan.chips is not None and config.chips.image == "own":
        first = plan.chips.table.slice(0, 1).to_pylist()[0]  # all have its bands
        a_pixel[np.isin(footprints.keys, plan.chips.table["key"])] = _pixel_bytes(len(first["bands"]), first["dtype"])
    numbers = estimate(
        total, sum(sizes), per_shard=kept.per_shard, photos_per_tile=count / total,
        image_bytes=round(float(np.mean(footprints.size.prod(axis=1) * a_pixel))),
    )  # fmt: skip
    numbers = replace(numbers, shards=len(plan.shards))
    licences = _licences(region.imagery, region.streetview, config) | {"osm": region.licences.get("osm", "not stated")}
    found = Forecast(
        config.name or region.name, extracts, _imagery_of(config, region.imagery), region.streetview, _kinds(config),
        config.zoom, config.size, True, numbers, licences, config.plan.least_objects(bool(region.imagery)), True,
        count if region.streetview else None, plan.images,
    )  # fmt: skip
    return found, plan.stages


def confirm(found: Forecast, limit_gb: float, yes: bool) -> None:
    """Ask a person at the terminal before a build larger than ``limit_gb``.

    Raises:
        ConfigError: the answer is no.
    """
    if yes or found.gigabytes <= limit_gb or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    sys.stderr.write(f"This is over plan.ask_gb={limit_gb:g}: about {found.gigabytes:,.0f} GB. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("not confirmed; give --yes, or take fewer tiles with plan.sampling.max_tiles=N")


def _kinds(config: ShardsConfig) -> str:
    """The producers of a plan, in words."""
    wish = wish_of(config, None, None)
    return ", ".join(PRODUCERS[name].words(wish) for name in config.footprints)


def _imagery_of(config: ShardsConfig, imagery: str) -> str:
    """Where images come from, in words."""
    own = ["the chips' own"] if "chips" in config.footprints and config.chips.image == "own" else []
    return ", ".join([*own, *([imagery] if imagery else [])])


def _extracts(chosen: Selection, config: ShardsConfig) -> list[dict[str, Any]]:
    """Size of each extract: of the file, or by a HEAD request."""
    missing = [e for e in chosen.extracts if not e.present and e.url]
    sizes = dict(zip(missing, remote_bytes([str(e.url) for e in missing], config.net), strict=True)) if missing else {}
    return [
        {"id": e.id, "bytes": sizes.get(e) if e in sizes else e.path.stat().st_size, "present": e.present}
        for e in chosen.extracts
    ]


def image_bytes(imagery: str, config: ShardsConfig, scenes: Sequence[Scene]) -> int:
    """Bytes of the images of one sample: of the scenes, of a source known before it is asked, or as RGB."""
    if not imagery:
        return 0
    presets = presets_of(imagery, config.rs)
    if scenes:
        channels, dtype = len(scenes[0].bands), scenes[0].dtype
    elif presets:
        channels, dtype = len(config.rs.bands or presets[0].bands), presets[0].dtype
    else:
        channels, dtype = 3, "uint8"
    dtype = dtype if config.rs.stretch == "none" else "uint8"
    return round(config.size**2 * _pixel_bytes(channels, dtype) * config.rs.dates)


def _pixel_bytes(channels: int, dtype: str) -> float:
    return RATES.rgb_bytes_per_pixel if (channels, dtype) == (3, "uint8") else channels * np.dtype(dtype).itemsize


def _licences(imagery: str, streetview: str, config: ShardsConfig) -> dict[str, str]:
    """What each source demands."""
    found = {"osm": _DEMANDS["osm"]}
    for part in parts_of(imagery):
        named = part if part in PRESETS else "imagery"
        found[named] = config.rs.licence or _DEMANDS.get(part, "as its files or collection declare; else rs.licence")
    if "chips" in config.footprints and config.chips.image == "own":
        found["chips"] = str(config.rs.licence)  # a build without one is refused
    if streetview:
        named = streetview if streetview in SERVICES else "street view"
        found[named] = _DEMANDS.get(streetview) or config.sv.licence or "as its table declares; else sv.licence"
    return found
