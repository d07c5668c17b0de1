"""Street-view sources by name: a service by its own, a table, a folder or a photo by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.net.client import Client
from pipeline.net.config import DEFAULT_BASES, NetConfig, base_url
from pipeline.net.stores import is_store
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files.folder import FolderSource, RemoteFolderSource
from pipeline.streetview.files.remote import fetch_table, folder_of, suffix_of
from pipeline.streetview.files.table import TABLES, TableSource
from pipeline.streetview.pictures.encode import pixels_needed
from pipeline.streetview.pictures.image import KNOWN
from pipeline.streetview.position import Area
from pipeline.streetview.record import Drops
from pipeline.streetview.services.kartaview import KartaviewSource
from pipeline.streetview.services.mapillary import TILES, MapillarySource, hide_token, token
from pipeline.streetview.services.panoramax import PanoramaxSource
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError
from storage.urls import expand, is_local, is_web, shown

#: Services by the names that stand in place of a path.
SERVICES = ("panoramax", "mapillary", "kartaview")


class Source(Protocol):
    """Where photos come from."""

    name: str  # of the service, or of the file or folder
    parallel: int  # photos that may be fetched side by side

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of `record.PLACED` for the photos in an area; those left out are added to ``drops``.

        Raises:
            InputError: the source cannot be used.
        """
        ...

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file with the bytes of one row's photo.

        Raises:
            PhotoError: there is none to be had; it says which photo, and why.
            InputError: the source cannot be used, or not now.
        """
        ...

    def close(self) -> None:
        """End what is under way in other threads."""
        ...


def is_service(name: str) -> bool:
    """Whether a name stands for a service, and not for a path."""
    return name in SERVICES


def open_source(
    name: str, config: StreetviewConfig, net: NetConfig, cache: Path, *,
    licence: str | None = None, renew: bool = False, quiet: bool = True,
) -> Source:  # fmt: skip
    """The source of that name.

    Args:
        name: one of `SERVICES`, or the path or URL of a table (by its ending), a folder of photos or a photo
        config: settings
        net: of requests
        cache: folder for what is fetched
        licence: of photos that name none, where ``sv.licence`` does not say
        renew: ask services anew for what the cache has
        quiet: no progress

    Raises:
        InputError: the path does not exist or is none of these.
        ConfigError: a service cannot be asked with these settings.
    """
    licence = config.licence or licence
    client = Client(net)
    if is_service(name):
        return _service(name, config, client, cache, licence, renew, quiet)
    store = PhotoStore(cache, client, config.max_mb, renew)
    if not is_local(name):
        return _remote(name, config, store, cache, licence, quiet)
    path = Path(expand(name))
    if path.is_dir() or (path.is_file() and path.suffix.lower() in KNOWN):
        return FolderSource(path, licence, config.position)
    if path.is_file() and path.suffix.lower() in TABLES:
        return TableSource(path, licence, config.position, store)
    raise InputError(
        f"street view {name} is neither a folder of photos, a photo, a table ({', '.join(TABLES)}), nor one of "
        f"{', '.join(SERVICES)}"
    )


def _remote(
    name: str, config: StreetviewConfig, store: PhotoStore, cache: Path, licence: str | None, quiet: bool
) -> Source:
    """A table, a folder or a photo behind a URL, by its ending."""
    url = expand(name)
    if not is_web(url) and not is_store(url):
        raise InputError(f"street view {shown(url)} is no http(s) URL, and of no store that fsspec knows")
    store.scheme = None if is_web(url) else url.partition("://")[0]
    if suffix_of(url) not in TABLES:
        return RemoteFolderSource(url, store, licence, config.position)
    path = fetch_table(url, cache, store.client, store.renew, quiet)
    return TableSource(path, licence, config.position, store, folder_of(url))


def _service(
    name: str, config: StreetviewConfig, client: Client, cache: Path, licence: str | None, renew: bool, quiet: bool
) -> Source:
    common: dict[str, Any] = {
        "licence": licence, "position": config.position, "max_mb": config.max_mb, "renew": renew, "quiet": quiet,
    }  # fmt: skip
    if name == "kartaview":
        return KartaviewSource(base_url(name, config.kartaview_url), client, cache, **common)
    source: PanoramaxSource | MapillarySource
    if name == "panoramax":
        source = PanoramaxSource(base_url(name, config.panoramax_url), client, cache, **common)
    else:
        token()  # asked for before the work begins
        hide_token()
        source = MapillarySource(base_url(name, config.mapillary_url), client, cache, **common)
        elsewhere = source.base != DEFAULT_BASES.get(name)
        source.tiles = (config.mapillary_tiles_url or (source.base if elsewhere else TILES)).rstrip("/")
    source.width, source.panorama_width = (pixels_needed(config, panorama) for panorama in (False, True))
    return source
