"""STAC items: searched for in an API, or read from files (an item, an item collection, a static catalog).

pystac reads static catalogs, APIs are paged here, every request goes through the project's own client. Of an item only
that is kept which scenes are made of. What a search found is remembered in the cache: a run that goes on must find the
same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pystac
from pystac.stac_io import StacIO

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


class _Io(StacIO):
    """Documents of static catalogs: by our client; from files for catalogs that are files themselves."""

    def __init__(self, client: Client, files: bool) -> None:
        super().__init__()
        self._client, self._files = client, files

    def read_text(self, source: Any, *_: Any, **__: Any) -> str:
        """As pystac asks for it."""
        href = source.get_absolute_href() or "" if isinstance(source, pystac.Link) else str(source)
        if is_web(href):
            data = self._client.get(href)
            parse_json(data, shown(href))
            return data.decode("utf-8")
        if not self._files or "://" in href:
            raise InputError(f"{shown(href)[:200]!r} is no http(s) URL, and is not followed")
        return Path(href).read_text(encoding="utf-8")

    def write_text(self, dest: Any, txt: str, *_: Any, **__: Any) -> None:
        """Catalogs are only read."""
        raise InputError(f"{dest} is only read, not written: {txt[:20]}")


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
            items.setdefault(str(item["id"]), _slim(item))
    found = [items[name] for name in sorted(items)]
    if kept is not None:
        put(kept, json.dumps(found))
    return found


def _slim(item: Item) -> Item:
    return {
        "id": str(item["id"]), "collection": item.get("collection"), "bbox": item.get("bbox"),
        "geometry": item.get("geometry"),
        "properties": {k: v for k, v in item["properties"].items() if k in _PROPERTIES},
        "assets": {key: {k: v for k, v in a.items() if k in _ASSET} for key, a in item["assets"].items()},
    }  # fmt: skip


def _items(search: Search, boxes: list[Box], config: ImageryConfig, client: Client, quiet: bool) -> Iterator[Item]:
    if search.static:
        yield from _static_items(search.where, client)
        return
    api = client.get_json(search.where)
    url, common = _endpoint(api, search)
    if search.datetime:
        common["datetime"] = search.datetime
    if config.max_cloud < 100 and any("#query" in str(c) for c in api.get("conformsTo") or ()):
        common["query"] = json.dumps({"eo:cloud_cover": {"lte": config.max_cloud}})
    with Progress("imagery", len(boxes), "areas searched", quiet) as progress:
        for box in boxes:
            yield from _pages(url, {"bbox": ",".join(map(repr, box)), "limit": str(_PAGE), **common}, client)
            progress.advance(1)


def _endpoint(api: Any, search: Search) -> tuple[str, dict[str, str]]:
    """Where an API is asked for items, and what every question has: its search, if it names one, whether or not it
    claims to conform to it; else the items of the collection, as OGC API Features has them.

    Raises:
        InputError: it is no API.
    """
    if not isinstance(api, dict) or not isinstance(api.get("links"), list):
        raise InputError(f"{shown(search.where)} is no STAC API; set rs.stac_url to the address of its landing page")
    own = _link(api, "self").get("href") or search.where
    base = urljoin(search.where + "/", own).rstrip("/") + "/"
    if href := _link(api, "search").get("href"):
        return urljoin(base, href), {"collections": search.collection}
    if href := _link(api, "data").get("href"):
        return f"{urljoin(base, href).rstrip('/')}/{quote(search.collection, safe='')}/items", {}
    raise InputError(
        f"{shown(search.where)} names neither a search nor collections; give the address of a static catalog as "
        "imagery, or set rs.stac_url"
    )


def _pages(url: str, params: dict[str, str], client: Client) -> Iterator[Item]:
    """Items of one question, page by page.

    Raises:
        InputError: a page holds what an earlier one held.
    """
    body: Any = None
    seen = set[str]()
    while True:
        page = parse_json(client.get(url, params=params, body=body), shown(url))
        if not isinstance(page, dict) or not isinstance(page.get("features"), list):
            raise InputError(f"{shown(url)} sends no features where a page of STAC items was expected")
        fresh = {str(item["id"]) for item in page["features"]} - seen
        if page["features"] and not fresh:
            raise InputError(
                f"{shown(url)} sends the same items page after page; narrow rs.datetime, so that one page is enough, "
                "or save its items and give that file as imagery"
            )
        seen |= fresh
        yield from (_absolute(item, urljoin(url, _link(item, "self").get("href", ""))) for item in page["features"])
        step = _link(page, "next")
        if not step or not page["features"]:
            return
        asked = body if body is not None else _as_body(params)
        url, params, body = urljoin(url, step["href"]), {}, None
        if str(step.get("method", "GET")).upper() == "POST":
            own = step.get("body") or {}
            body = {**asked, **own} if step.get("merge") else own


def _as_body(params: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of a question by GET as one by POST has them."""
    kinds: Mapping[str, Callable[[str], Any]] = {
        "bbox": lambda v: [float(n) for n in v.split(",")], "limit": int, "collections": lambda v: v.split(","),
        "query": json.loads,
    }  # fmt: skip
    return {key: kinds.get(key, str)(value) for key, value in params.items()}


def _absolute(item: Item, base: str) -> Item:
    """The item with assets whose addresses do not depend on ``base``, its own."""
    assets = {key: a for key, a in (item.get("assets") or {}).items() if "href" in a}
    assets = {key: {**a, "href": _resolved(base, a["href"])} for key, a in assets.items()}
    return {**item, "properties": item.get("properties") or {}, "assets": assets}


def _link(document: Mapping[str, Any], rel: str) -> dict[str, Any]:
    """The first link of a kind; empty where there is none."""
    return next((link for link in document.get("links") or () if link.get("rel") == rel), {})


def _resolved(base: str, href: str) -> str:
    """An address as it stands in the document at ``base``, a URL or a path."""
    if is_web(base):
        return urljoin(base, href)
    return href if "://" in href else os.path.normpath(Path(base).parent / href)


def _static_items(where: str, client: Client) -> Iterator[Item]:
    io = _Io(client, files=not is_web(where))
    document = json.loads(io.read_text(where))
    if not isinstance(document, dict):
        raise InputError(f"{shown(where)} is no STAC item, item collection or catalog")
    if document.get("type") in ("FeatureCollection", "Feature"):
        for item in document["features"] if document["type"] == "FeatureCollection" else [document]:
            yield _absolute(item, where)
        return
    kind = pystac.Catalog if document.get("type") == "Catalog" else pystac.Collection
    root = kind.from_dict(document, href=where)
    root._stac_io = io
    for found in root.get_items(recursive=True):
        found.make_asset_hrefs_absolute()
        yield found.to_dict(include_self_link=False, transform_hrefs=False)


def within(acquired: str, interval: str) -> bool:
    """Whether a time lies in an interval of days or times; either end may be open."""
    first, _, last = interval.partition("/")
    last = last if "/" in interval else first
    return (first in ("", "..") or acquired[: len(first)] >= first[:19]) and (
        last in ("", "..") or acquired[: min(len(last), 19)] <= last[:19]
    )
