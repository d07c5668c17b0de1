"""What the setting ``imagery`` means: paths, URLs and patterns of files, STAC, map tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import shapely

from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE
from pipeline.imagery.choice.files import open_scenes
from pipeline.imagery.choice.order import join
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import find_rasters
from pipeline.imagery.raster import open_raster
from pipeline.imagery.remote import Opener, remote_scenes
from pipeline.imagery.scene import Scene, Tiles
from pipeline.imagery.stac.items import find_scenes
from pipeline.imagery.stac.presets import PRESETS, Preset
from pipeline.imagery.stac.search import Box, Search
from pipeline.imagery.tiles import check_template
from pipeline.imagery.zoom import natural_zoom
from pipeline.net.client import Client
from pipeline.net.config import NetConfig, base_url
from schemas.bands import RGB
from schemas.errors import ConfigError, InputError
from storage.files import file_sha256
from storage.urls import absolute as absolute_path
from storage.urls import expand, is_local, is_web, shown

_JSON = (".json", ".geojson")


def preset_of(imagery: str, config: ImageryConfig) -> Preset | None:
    """The preset that a value of ``imagery`` names, unless another collection is asked for."""
    preset = PRESETS.get(imagery)
    return None if preset is not None and config.collection not in ("", *preset.collections) else preset


def presets_of(imagery: str, config: ImageryConfig) -> list[Preset]:
    """Of all parts of a value of ``imagery``."""
    return [own for part in parts_of(imagery) if (own := preset_of(part, config)) is not None]


def natural_zoom_of(imagery: str, scenes: list[Scene], config: ImageryConfig, size: int = 256) -> int | None:
    """The zoom that suits the finest source of a run, in tiles of ``size`` pixels a side; None: no scene has a GSD.

    A preset has one zoom for all latitudes, so that all of its datasets can be mixed.
    """
    if presets := presets_of(imagery, config):
        return max(own.zoom for own in presets) - round(math.log2(size / 256))
    zooms = [natural_zoom(s.gsd, float(s.area.centroid.y), size) for s in scenes if s.gsd]
    return max(zooms) if zooms else None


def find_imagery(
    imagery: str,
    boxes: list[Box],
    config: ImageryConfig,
    net: NetConfig,
    cache: Path | None = None,
    renew: bool = False,
    quiet: bool = True,
) -> tuple[list[Scene], list[dict[str, Any]]]:
    """Scenes of a run, and DROPS rows of those that cannot be used.

    Args:
        imagery: paths, URLs and patterns of rasters; a service of ``PRESETS``;
            ``stac`` (``rs.stac_url``, ``rs.collection``); paths or URLs of STAC JSON files; ``xyz`` (``rs.xyz_url``).
            Several, separated by commas.
        boxes: of the region, lon/lat degrees.
        config: settings.
        net: of the HTTP client.
        cache: folder that remembers what searches found.
        renew: search anew.
        quiet: no progress.

    Raises:
        ConfigError: a setting that it needs is missing.
        InputError: something cannot be read, or scenes differ in bands or type.
    """
    scenes: list[Scene] = []
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(net.parallel) as pool:
        opener = Opener(Client(net), pool)
        for part in parts_of(imagery):
            if part == "xyz":
                scenes.append(_tiles(config))
                continue
            search = _search(part, config)
            if search is None and not is_local(part):
                scenes += remote_scenes(part, config, opener)
                continue
            if search is None:
                found, passed = open_scenes(find_rasters([part]), config)
                scenes += found
                rows += passed
                continue
            found, passed = find_scenes(search, preset_of(part, config), boxes, config, opener, cache, renew, quiet)
            scenes += found
            rows += passed
    if other := next((s for s in scenes if s.channels != scenes[0].channels), None):
        first = scenes[0]
        raise InputError(
            f"imagery {first.name} ({', '.join(first.bands)}; {first.dtype}) and {other.name} "
            f"({', '.join(other.bands)}; {other.dtype}) differ in bands or type; choose the bands that all have with "
            "rs.bands, stack files of one band with gdalbuildvrt -separate, or build a dataset each"
        )
    return join(list({(s.name, s.path): s for s in scenes}.values()), config), rows


def parts_of(imagery: str) -> list[str]:
    """What a value of ``imagery`` names, one by one."""
    return [part.strip() for part in imagery.split(",") if part.strip()]


def of_the_web(imagery: str) -> bool:
    """Whether any of the images are fetched."""
    return any(part in (*PRESETS, "stac", "xyz") or not is_local(part) for part in parts_of(imagery))


def absolute(imagery: str) -> str:
    """The same, from wherever it is read: paths and patterns of files made absolute."""
    named = (*PRESETS, "stac", "xyz")
    return ",".join(p if p in named else absolute_path(p) for p in parts_of(imagery))


def _search(part: str, config: ImageryConfig) -> Search | None:
    """How to look for STAC items; None: ``part`` names files."""
    if service := PRESETS.get(part):
        where = base_url(part, config.stac_url, service.url)
        collection = config.collection or service.collections[0]
        tokens = _token_url(where, service.tokens.format(collection=collection))
        return Search(where, False, collection, config.datetime or service.datetime, tokens)
    if part == "stac":
        if not is_web(config.stac_url) or not config.collection:
            raise ConfigError("imagery=stac needs rs.stac_url=https://… and rs.collection=…")
        return Search(config.stac_url.rstrip("/"), False, config.collection, config.datetime)
    if (urlsplit(part).path if is_web(part) else part).lower().endswith(_JSON):  # a signed address has a query
        if not is_web(part) and not Path(expand(part)).is_file():
            raise InputError(f"imagery {shown(part)} does not exist; give a STAC item, item collection or catalog")
        where = part if is_web(part) else str(Path(expand(part)).resolve())
        return Search(where, True, config.collection, config.datetime)
    return None


def _token_url(where: str, path: str) -> str:
    """URL of signatures beside a STAC API: the real one's stands at the root of its host, a mirror's below its base."""
    if not path:
        return ""
    parts = urlsplit(where)
    return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/api/stac/v1')}{path}"


def _tiles(config: ImageryConfig) -> Scene:
    if not config.xyz_url:
        raise ConfigError("imagery=xyz needs rs.xyz_url=https://…/{z}/{x}/{y}.jpg")
    if not config.licence:
        raise ConfigError(
            "imagery=xyz needs rs.licence: the terms under which you may keep and train on these tiles. Most public "
            "map services forbid both"
        )
    if config.stretch != "none" or config.bands or config.mask not in (None, "none"):
        raise ConfigError("map tiles are red, green and blue in 8 bits; rs.bands, rs.stretch and rs.mask have no use")
    url = check_template(config.xyz_url)
    area = shapely.box(-180, -WEB_MERCATOR_MAX_LATITUDE, 180, WEB_MERCATOR_MAX_LATITUDE)
    return Scene(
        name=shown(url), area=area, bands=list(RGB), dtype="uint8", acquired=None,
        tiles=Tiles(url, config.xyz_size, config.xyz_max_zoom), licence=config.licence,
        identity=sha256(shown(url).encode()).hexdigest(),
    )  # fmt: skip


def source_rows(
    scenes: Sequence[Scene], config: ImageryConfig, licence: str | None, digests: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of ``dataset.json``: one a local file, one for all items of a STAC source or of map tiles.

    ``licence``: where neither the settings nor the source name one. ``digests``: of `scene_digest`, where known.

    Raises:
        InputError: nobody names one.
    """
    rows: list[dict[str, Any]] = []
    described: dict[str, list[Scene]] = {}
    for scene, digest in zip(scenes, digests or map(scene_digest, scenes), strict=True):
        own = licence_of(scene, config, licence)
        if scene.identity:
            described.setdefault(own, []).append(scene)
            continue
        date = config.acquired or scene.acquired
        rows.append({"kind": "imagery", "name": scene.name, "sha256": digest, "licence": own, "date": date})
    for own, group in sorted(described.items()):
        whole = sha256("".join(sorted(s.identity for s in group)).encode()).hexdigest()
        days = sorted(s.acquired for s in group if s.acquired)
        date = None if not days else days[0] if days[0] == days[-1] else f"{days[0]}/{days[-1]}"
        name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1:,} more"
        rows.append({"kind": "imagery", "name": name, "sha256": whole, "licence": own, "date": date})
    return rows


def licence_of(scene: Scene, config: ImageryConfig, licence: str | None) -> str:
    """Licence of a scene: of the settings, of its source, else ``licence``.

    Raises:
        InputError: nobody names one.
    """
    own = config.licence or scene.licence or licence
    if own is None:
        raise InputError(
            f"imagery {scene.name} declares no licence; say under which you may use it: rs.licence=CC-BY-4.0, say"
        )
    return own


def scene_digest(scene: Scene) -> str:
    """SHA-256 (hex) of a scene: of what its source says of it, or of the local files that it is made of."""
    if scene.identity:
        return scene.identity
    files: list[str] = []
    for href in dict.fromkeys(a.href for a in scene.assets):
        with open_raster(href) as source:
            files += [f for f in source.files if Path(f).is_file()] or [href]
    sums = [file_sha256(Path(name)) for name in dict.fromkeys(files)]
    return sums[0] if len(sums) == 1 else sha256("".join(sums).encode()).hexdigest()
