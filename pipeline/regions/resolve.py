"""From a region's name to the OSM extracts that hold it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import shapely

from pipeline.formats.pbf.blobs import walk
from pipeline.net.client import parse_json
from pipeline.net.config import NetConfig, Refresh, base_url
from pipeline.net.download import Download, download_all, known_version
from pipeline.net.stores import fetch_file, is_store
from pipeline.regions.area import parse_bbox, read_polygons
from pipeline.regions.config import SourcesConfig
from pipeline.regions.index import Index, parse_index
from schemas.errors import InputError
from storage.urls import expand, is_local, is_web, shown

#: Endings of files that osmium reads.
_OSM = (".pbf", ".osm", ".opl", ".xml", ".bz2", ".gz", ".osc")
_POLYGONS = (".geojson", ".json")
#: An index older than this is fetched again, where that is possible.
_INDEX_SECONDS = 7 * 86_400.0
_MAX_NAME = 60


@dataclass(frozen=True)
class Extract:
    """One OSM extract of a region."""

    id: str  # in the index, or the file's stem
    path: Path  # where it lies, or will once it is fetched
    url: str | None = None  # None: a local file

    @property
    def present(self) -> bool:
        """Whether it is there already."""
        return self.path.exists()


@dataclass(frozen=True, eq=False)
class Selection:
    """What a region's text means; nothing but the index has been fetched for it."""

    name: str  # [a-z0-9_-]+; names the default output folder
    extracts: list[Extract]
    clip: Any = None  # lon/lat (multi)polygon that tiles must meet; None: wherever the extracts reach
    named: bool = False  # asked for by name or area, not as files


def select(text: str, sources: SourcesConfig, net: NetConfig, cache: Path, quiet: bool = False) -> Selection:
    """The extracts that a region's text means; none of them is fetched.

    The text is an area (a bbox, or a GeoJSON file of polygons), or a list of names, ids, ISO codes, URLs and paths of
    OSM files, separated by commas.

    Raises:
        InputError: a part means nothing, or several things.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError("region is empty; give 'demo', a name such as monaco, or the path of an OSM extract")
    area, name = (
        parse_bbox(text),
        "bbox-" + re.sub(r"\s", "", text).replace("-", "m").replace(",", "-").replace(".", "_"),
    )
    if area is None and any(p.lower().endswith(_POLYGONS) for p in parts):
        if len(parts) > 1:
            raise InputError(f"region {text!r}: a file of polygons stands alone; put all polygons into one file")
        path = Path(expand(parts[0]))
        area, name = read_polygons(path), _plain(path.name.split(".")[0])
    if area is not None:
        index = load_index(sources, net, cache, quiet)
        extracts = [_of_index(r.id, r.url, cache) for r in index.covering(area)]
        return Selection(_short(name), extracts, area, named=True)
    return _listed(parts, sources, net, cache, quiet)


def _listed(parts: list[str], sources: SourcesConfig, net: NetConfig, cache: Path, quiet: bool) -> Selection:
    names: list[str] = []
    files: list[Extract] = []
    wanted: list[str] = []
    for part in parts:
        path = Path(expand(part))
        if not is_local(part):
            files.append(_of_url(part, cache))
            names.append(files[-1].id)
        elif part.lower().endswith(_OSM) or path.is_file():
            if not path.is_file():
                raise InputError(f"OSM extract {path} does not exist; give the path of an OSM file, or a region's name")
            files.append(Extract(_plain(path.name.split(".")[0]), path))
            names.append(files[-1].id)
        else:
            wanted.append(part)
    clip = None
    if wanted:
        index = _index_for(wanted, sources, net, cache, quiet)
        found = [index.find(part) for part in wanted]
        names += [
            _plain(regions[0].id) if len(regions) == 1 else _plain(p) for p, regions in zip(wanted, found, strict=True)
        ]
        leaves = index.leaves([r for regions in found for r in regions])
        if not leaves:
            raise InputError(f"region {', '.join(wanted)} has no extract in {index.where}")
        if not files and all(leaf.geometry is not None for leaf in leaves):
            clip = shapely.union_all([leaf.geometry for leaf in leaves])
        files += [_of_index(leaf.id, leaf.url, cache) for leaf in leaves]
    unique = {e.path: e for e in files}
    return Selection(_short("-".join(names)), list(unique.values()), clip, named=bool(wanted) and clip is not None)


def fetch(chosen: Selection, net: NetConfig, refresh: Refresh = "notice", quiet: bool = False) -> None:
    """Download the extracts that are missing.

    Raises:
        InputError: one cannot be had, or is no OSM file.
    """
    wanted = [
        Download(e.url, e.path, check=check_pbf if e.path.name.endswith(".pbf") else None)
        for e in chosen.extracts if e.url is not None
    ]  # fmt: skip
    for item in wanted:
        if not is_web(item.url) and (refresh == "newer" or not item.path.is_file()):
            fetch_file(item.url, item.path, item.check)
    download_all([item for item in wanted if is_web(item.url)], net, refresh, quiet)


def load_index(sources: SourcesConfig, net: NetConfig, cache: Path, quiet: bool = False) -> Index:
    """The index of extracts, from the cache where it is fresh, or where there is no network.

    Raises:
        InputError: there is none in the cache and none can be fetched, or it is damaged.
    """
    base = base_url("geofabrik", sources.geofabrik)
    url = f"{base}/index-v1.json"
    path = _cached(cache, "index", url)
    refresh = sources.refresh
    if refresh == "notice":
        known = known_version(path)
        stale = known is None or time.time() - known.checked > _INDEX_SECONDS
        refresh = "newer" if stale else "never"
    net = replace(net, retries=min(net.retries, 0 if path.exists() else 2))  # without a network, soon
    try:
        download_all([Download(url, path, md5=False, check=_is_index)], net, refresh, quiet)
    except InputError:
        if not path.exists() or sources.refresh == "newer":
            raise
    return parse_index(parse_json(path.read_bytes(), shown(url)), base, shown(url))


def _index_for(wanted: list[str], sources: SourcesConfig, net: NetConfig, cache: Path, quiet: bool) -> Index:
    try:
        return load_index(sources, net, cache, quiet)
    except InputError as error:
        raise InputError(
            f"region {', '.join(wanted)!r} is neither 'demo' nor a file, and there is no index to look it up: {error}"
        ) from None


def _is_index(path: Path) -> None:
    parse_json(path.read_bytes(), "it")


def _of_index(region: str, url: str | None, cache: Path) -> Extract:
    if url is None:
        raise InputError(f"region {region!r} has no extract of its own; name its parts (`geoshards regions {region}`)")
    return Extract(region, cached_extract(url, cache), url)


def cached_extract(url: str, cache: Path) -> Path:
    """Where the extract of a URL lies once it is fetched."""
    return _cached(cache, "extracts", url)


def _of_url(url: str, cache: Path) -> Extract:
    if not is_web(url) and not is_store(url):
        raise InputError(f"region {shown(url)!r} is no http(s) URL, and of no store; download it and give the path")
    path = cached_extract(url, cache)
    if not path.name.lower().endswith(_OSM):
        raise InputError(f"region {shown(url)!r} does not end as an OSM file does ({', '.join(_OSM)})")
    return Extract(_plain(path.name.split(".")[0]), path, url)


def _cached(cache: Path, kind: str, url: str) -> Path:
    """Where a file of the web lies: under its own name, in a folder named after its URL."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", unquote(urlsplit(url).path).rsplit("/", 1)[-1]).lstrip(".")
    return cache / kind / sha256(url.encode()).hexdigest()[:16] / (name[-100:] or "file")


def check_pbf(path: Path) -> None:
    """Walk over the blobs of a PBF without reading them.

    Raises:
        InputError: it does not begin as a PBF, or a blob ends beyond the file.
    """
    with path.open("rb") as file:
        kinds = [kind for kind, _ in walk(file, "it")]
    if kinds[:1] != ["OSMHeader"]:
        raise InputError("it is no OSM PBF file" if kinds else "it is empty")


def _plain(text: str) -> str:
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "-" for c in text.lower())
    return kept.strip("-") or "region"


def _short(name: str) -> str:
    """A name of at most 60 characters; a longer one is told apart by a hash."""
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9]}-{sha256(name.encode()).hexdigest()[:8]}"
