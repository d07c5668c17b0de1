"""STAC items: searched for in an API, or read from files (an item, an item collection, a static catalog).

pystac-client and pystac do the reading, every request goes through the project's own client. Of an item only that is
kept which scenes are made of. What a search found is remembered in the cache: a run that goes on must find the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pystac
import pystac_client
from pystac_client.conformance import ConformanceClasses
from pystac_client.stac_api_io import StacApiIO

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.stac.presets import PRESETS
from pipeline.net.client import Client, parse_json
from schemas.errors import InputError, at_the_door
from storage.files import put
from storage.progress import Progress
from storage.urls import is_web, shown

Box = tuple[float, float, float, float]  # west, south, east, north in degrees
Item = dict[str, Any]  # a STAC item, of which only that is left which scenes are made of
_PAGE = 100
#: What is kept of an item's properties, and of an asset.
_PROPERTIES = ("datetime", "start_datetime", "eo:cloud_cover", "license", "updated", "s2:processing_baseline",
               *(name for service in PRESETS.values() for name in service.harmonised.values()))  # fmt: skip
_ASSET = ("href", "type", "roles", "bands", "eo:bands", "raster:bands", "nodata", "file:checksum")


class _Io(StacApiIO):
    """Requests through our client; files for catalogs that are files themselves."""

    def __init__(self, client: Client, files: bool) -> None:
        super().__init__()
        self._client, self._files = client, files

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,  # noqa: ARG002  of links; none of them is ours to send
        parameters: dict[str, Any] | None = None,
    ) -> str:
        if (method or "GET").upper() != "GET":
            raise InputError(f"{shown(href)}: the server pages by {method}, which is not understood")
        data = self._client.get(href, params={k: _text(v) for k, v in (parameters or {}).items()})
        parse_json(data, shown(href))
        return data.decode("utf-8")

    def read_text(self, source: Any, *_: Any, **kwargs: Any) -> str:
        if isinstance(source, pystac.Link):
            href, kwargs = source.get_absolute_href() or "", {"method": source.extra_fields.get("method")}
        else:
            href = str(source)
        if is_web(href):
            return self.request(href, kwargs.get("method"), None, kwargs.get("parameters"))
        if not self._files or "://" in href:
            raise InputError(f"{shown(href)[:200]!r} is no http(s) URL, and is not followed")
        return Path(href).read_text(encoding="utf-8")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else str(value)


@dataclass(frozen=True)
class Search:
    """Where items come from."""

    where: str  # URL of an API, or URL or path of a JSON file
    static: bool
    collection: str
    datetime: str
    tokens: str = ""  # URL of signatures


def find_items(
    search: Search,
    boxes: list[Box],
    config: ImageryConfig,
    client: Client,
    cache: Path | None = None,
    renew: bool = False,
    quiet: bool = True,
) -> list[Item]:
    """Items that meet any of the boxes, by id; those of an API from the cache, if the same was asked before and
    ``renew`` does not ask anew.

    Raises:
        Unavailable: the server does not answer, now.
        InputError: what it sends is no STAC, or too much.
    """
    kept = None
    if cache is not None and not search.static:
        asked = json.dumps([asdict(search), sorted(boxes), config.max_cloud])
        kept = cache / "stac" / f"{sha256(asked.encode()).hexdigest()[:20]}.json"
        if kept.is_file() and not renew:
            return list(json.loads(kept.read_text(encoding="utf-8")))
    items: dict[str, Item] = {}
    with at_the_door(f"{shown(search.where)} is no STAC that can be read"):
        for count, item in enumerate(_items(search, boxes, config, client, quiet), 1):
            if count > config.max_items:
                raise InputError(
                    f"{shown(search.where)} has over rs.max_items={config.max_items:,} items for this region; narrow "
                    "rs.datetime or rs.max_cloud, or raise rs.max_items"
                )
            items.setdefault(str(item.id), _slim(item))
    found = [items[name] for name in sorted(items)]
    if kept is not None:
        put(kept, json.dumps(found))
    return found


def _slim(item: pystac.Item) -> Item:
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    return {
        "id": str(item.id), "collection": document.get("collection"), "bbox": document.get("bbox"),
        "geometry": document.get("geometry"),
        "properties": {k: v for k, v in document["properties"].items() if k in _PROPERTIES},
        "assets": {key: {k: v for k, v in a.items() if k in _ASSET} for key, a in document["assets"].items()},
    }  # fmt: skip


def _items(
    search: Search, boxes: list[Box], config: ImageryConfig, client: Client, quiet: bool
) -> Iterator[pystac.Item]:
    if search.static:
        yield from _static_items(search.where, client)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api = pystac_client.Client.open(search.where, stac_io=_Io(client, files=False))
        query = None
        if config.max_cloud < 100 and api.conforms_to(ConformanceClasses.QUERY):
            query = {"eo:cloud_cover": {"lte": config.max_cloud}}
        with Progress("imagery", len(boxes), "areas searched", quiet) as progress:
            for box in boxes:
                found = api.search(
                    method="GET", collections=[search.collection], bbox=list(box), datetime=search.datetime or None,
                    query=query, limit=_PAGE,
                )  # fmt: skip
                yield from found.items()
                progress.advance(1)


def _static_items(where: str, client: Client) -> Iterator[pystac.Item]:
    io = _Io(client, files=not is_web(where))
    document = json.loads(io.read_text(where))
    if not isinstance(document, dict):
        raise InputError(f"{shown(where)} is no STAC item, item collection or catalog")
    if document.get("type") == "FeatureCollection":
        found: Iterable[pystac.Item] = (pystac.Item.from_dict(d, href=where) for d in document["features"])
    elif document.get("type") == "Feature":
        found = [pystac.Item.from_dict(document, href=where)]
    else:
        root = (
            pystac.Catalog.from_dict(document, href=where)
            if document.get("type") == "Catalog"
            else pystac.Collection.from_dict(document, href=where)
        )
        root._stac_io = io
        found = root.get_items(recursive=True)
    for item in found:
        item.make_asset_hrefs_absolute()
        yield item


def within(acquired: str, interval: str) -> bool:
    """Whether a time lies in an interval of days or times; either end may be open."""
    first, _, last = interval.partition("/")
    last = last if "/" in interval else first
    return (first in ("", "..") or acquired[: len(first)] >= first[:19]) and (
        last in ("", "..") or acquired[: min(len(last), 19)] <= last[:19]
    )
