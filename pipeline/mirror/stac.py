"""A STAC API over a folder of rasters, as Earth Search and the Planetary Computer are ones.

The folder holds one folder a collection, and in it ``manifest.json`` beside the files::

    {"title": "Sentinel-2 L2A", "license": "…", "signed": false,
     "items": [{"id": "S2A_…", "datetime": "2024-06-01T10:00:00Z", "properties": {"eo:cloud_cover": 3.2},
                "assets": {"blue": "S2A_…/B02.tif", "scl": "S2A_…/SCL.tif"}}]}

An item's outline is read from its first raster, unless it has a ``geometry``. Assets of a ``signed`` collection are
sent only with the signature that ``api/sas/v1/token/COLLECTION`` hands out. https://api.stacspec.org/v1.0.0 describes
the interface; of it there is GET, with ``bbox``, ``datetime``, ``collections``, ``ids``, ``limit``, ``token`` and the
query extension.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import rasterio
import shapely
from shapely.geometry import mapping, shape

from pipeline.imagery.grids.check import outline
from pipeline.imagery.stac.search import within
from pipeline.mirror.messages import Request, Response
from schemas.errors import InputError, at_the_door

_CONFORMS = tuple(
    f"https://api.stacspec.org/v1.0.0/{part}"
    for part in ("core", "item-search", "item-search#query", "collections", "ogcapi-features")
)
_SIGNATURE = "sig=mirror"
_EXPIRY = "2999-01-01T00:00:00Z"
_LIMIT = 10
Item = dict[str, Any]


def respond(request: Request) -> Response | None:
    """The landing page, collections, items, searches, assets and signatures."""
    head, _, rest = request.path.partition("/")
    if not all((_value(request, name) or "0").isdecimal() for name in ("token", "limit")):
        return Response.json({"code": "BadRequest", "description": "token and limit are numbers"}, 400)
    if request.path in ("", "conformance"):
        return Response.json(_landing(request))
    if head == "search":
        return _search(request)
    if head == "collections":
        return _collections(request, rest)
    if head == "assets":
        return _asset(request, rest)
    if request.path.startswith("api/sas/v1/token/") and request.path.rsplit("/", 1)[-1] in _manifests(request.folder):
        return Response.json({"token": _SIGNATURE, "msft:expiry": _EXPIRY})
    return None


def _landing(request: Request) -> dict[str, Any]:
    kinds = {"self": "", "root": "", "data": "collections", "search": "search", "conformance": "conformance"}
    links = [{"rel": rel, "href": f"{request.base}/{path}".rstrip("/")} for rel, path in kinds.items()]
    links += [{"rel": "child", "href": f"{request.base}/collections/{name}"} for name in _manifests(request.folder)]
    return {
        "type": "Catalog", "id": "mirror", "stac_version": "1.0.0", "description": "A folder of rasters",
        "conformsTo": list(_CONFORMS), "links": links,
    }  # fmt: skip


def _collections(request: Request, rest: str) -> Response | None:
    names = _manifests(request.folder)
    if not rest:
        return Response.json({"collections": [_collection(request, n, m) for n, m in names.items()], "links": []})
    name, _, tail = rest.partition("/")
    if name not in names:
        return None
    if not tail:
        return Response.json(_collection(request, name, names[name]))
    items = {i["id"]: i for i in _items(request.folder, name)}
    if tail == "items":
        return Response.json(_page(request, list(items.values()), f"collections/{name}/items"))
    own = items.get(tail.removeprefix("items/"))
    return None if own is None else Response.json(_published(request, own))


def _collection(request: Request, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Collection", "id": name, "stac_version": "1.0.0", "title": manifest.get("title", name),
        "description": manifest.get("title", name), "license": manifest.get("license", "other"),
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [{"rel": "self", "href": f"{request.base}/collections/{name}"}],
    }  # fmt: skip


def _search(request: Request) -> Response:
    names = _list(request, "collections") or list(_manifests(request.folder))
    ids = _list(request, "ids")
    try:
        box = [float(v) for v in _list(request, "bbox")]
        query = json.loads(_value(request, "query") or "{}")
        items = [i for name in names for i in _items(request.folder, name)]
        chosen = [
            i for i in items
            if (not ids or i["id"] in ids) and within(i["properties"]["datetime"], _value(request, "datetime") or "")
            and (not box or _meets(i, box)) and all(_holds(i, key, rule) for key, rule in query.items())
        ]  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        return Response.json({"code": "BadRequest", "description": str(error)}, 400)
    return Response.json(_page(request, chosen, "search"), type="application/geo+json")


def _meets(item: Item, box: list[float]) -> bool:
    if len(box) == 6:
        box = [box[0], box[1], box[3], box[4]]
    west, south, east, north = box
    return bool(shapely.intersects(shape(item["geometry"]), shapely.box(west, south, east, north)))


def _holds(item: Item, key: str, rule: dict[str, Any]) -> bool:
    value = item["properties"].get(key)
    if value is None:
        return False
    tests = {"eq": value.__eq__, "lt": value.__lt__, "lte": value.__le__, "gt": value.__gt__, "gte": value.__ge__}
    return all(tests[name](limit) is True for name, limit in rule.items() if name in tests)


def _page(request: Request, items: list[Item], path: str) -> dict[str, Any]:
    """Newest first, as the real ones send them; ``token`` is where the page begins."""
    items = sorted(items, key=lambda i: (i["properties"]["datetime"], i["id"]), reverse=True)
    first, limit = int(_value(request, "token") or 0), max(1, min(int(_value(request, "limit") or _LIMIT), 1000))
    links = [{"rel": "root", "href": request.base}]
    if first + limit < len(items):
        query = {k: v[0] for k, v in request.query.items()} | {"token": str(first + limit)}
        links.append({"rel": "next", "method": "GET", "href": f"{request.base}/{path}?{urlencode(query)}"})
    page = [_published(request, i) for i in items[first : first + limit]]
    return {"type": "FeatureCollection", "features": page, "links": links, "numberMatched": len(items)}


def _published(request: Request, item: Item) -> Item:
    """An item with the addresses of its assets."""
    base = f"{request.base}/assets/{item['collection']}"
    assets = {k: a | {"href": f"{base}/{quote(a['href'])}"} for k, a in item["assets"].items()}
    own = f"{request.base}/collections/{item['collection']}/items/{item['id']}"
    return item | {"assets": assets, "links": [{"rel": "self", "href": own}]}


def _asset(request: Request, rest: str) -> Response | None:
    name, _, file = rest.partition("/")
    manifest = _manifests(request.folder).get(name)
    if manifest is None or file not in {f for i in manifest["items"] for f in i["assets"].values()}:
        return None
    if manifest.get("signed") and _SIGNATURE not in [f"{k}={v[0]}" for k, v in request.query.items()]:
        return Response(403, b"sign it\n")
    path = request.folder / name / file
    return Response.file(path, "image/tiff; application=geotiff") if path.is_file() else None


def _list(request: Request, name: str) -> list[str]:
    return [v for v in (_value(request, name) or "").split(",") if v]


def _value(request: Request, name: str) -> str | None:
    return request.query.get(name, [None])[0]


def _manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Manifest of each collection.

    Raises:
        InputError: one is no JSON object with items.
    """
    found = {}
    for path in sorted(folder.glob("*/manifest.json")):
        stat = path.stat()
        found[path.parent.name] = _manifest(path, stat.st_mtime_ns, stat.st_size)
    return found


@lru_cache(maxsize=64)
def _manifest(path: Path, _modified: int, _size: int) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("items"), list):
        raise InputError(f'{path} must be an object with "items": [{{"id", "datetime", "assets"}}]')
    return manifest


def _items(folder: Path, name: str) -> list[Item]:
    """STAC items of one collection, their assets by file name."""
    manifest = _manifests(folder).get(name)
    return [_item(folder, name, i) for i in manifest["items"]] if manifest else []


def _item(folder: Path, name: str, row: dict[str, Any]) -> Item:
    try:
        properties = {**row.get("properties", {}), "datetime": row["datetime"]}
        files = dict(row["assets"])
        geometry = row.get("geometry") or _outline(folder / name / next(iter(files.values())))
        return {
            "type": "Feature", "stac_version": "1.0.0", "id": row["id"], "collection": name, "geometry": geometry,
            "bbox": list(shape(geometry).bounds), "properties": properties, "links": [],
            "assets": {k: {"href": f, "type": _TIFF, "roles": ["data"]} for k, f in files.items()},
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(f"{folder / name / 'manifest.json'}: an item lacks {error}") from None


_TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


@lru_cache(maxsize=4096)
def _outline(path: Path) -> dict[str, Any]:
    with at_the_door(f"{path} cannot be read"), rasterio.open(path) as source:
        return dict(mapping(outline(source, str(path))))
