"""Panoramax: the STAC search of an instance, and its pictures, as geovisio 2.15.1 writes them.

Like the catalogue of all instances, and unlike one of them, it links to the next page of a search.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from pipeline.mirror.messages import Request, Response
from pipeline.mirror.photos import Row, inside, parse_box, picture, stock

_WIDTHS = {"hd": None, "sd": 2048, "thumb": 500}
_MOST = 10_000  # photos a page


def respond(request: Request) -> Response | None:
    """``api/search`` (bbox, ids, limit), ``api/configuration`` and ``api/pictures/ID/{hd,sd,thumb}.jpg``."""
    photos = stock(request.folder)
    if request.path in ("api/search", "api/search/"):
        return _search(request, list(photos.values()))
    if request.path == "api/configuration":
        licences = sorted({row["licence"] for row in photos.values() if row["licence"]})
        return Response.json(
            {"name": {"label": "mirror"}, "license": {"id": licences[0] if licences else "proprietary"}}
        )
    found = re.fullmatch(r"api/pictures/(.+)/(hd|sd|thumb)\.jpg", request.path)
    if found is None or found[1] not in photos:
        return None
    return picture(photos[found[1]], _WIDTHS[found[2]])


def _search(request: Request, photos: list[Row]) -> Response:
    query = {k: v[-1] for k, v in request.query.items()}
    limit, skip = query.get("limit", "10"), query.get("skip", "0")
    box = parse_box(query["bbox"]) if "bbox" in query else (-180.0, -90.0, 180.0, 90.0)
    if box is None or not limit.isdecimal() or not 1 <= int(limit) <= _MOST or not skip.isdecimal():
        return Response.json({"message": "bbox or limit cannot be read", "status_code": 400}, 400)
    wanted = set(query["ids"].split(",")) if "ids" in query else None
    found = [
        row
        for row in photos
        if inside(row["lon_original"], row["lat_original"], box) and (wanted is None or row["id"] in wanted)
    ]
    page = found[int(skip) : int(skip) + int(limit)]
    links = [{"rel": "root", "type": "application/json", "href": f"{request.base}/api/"}]
    if int(skip) + len(page) < len(found):
        following = urlencode({**query, "skip": str(int(skip) + len(page))})
        links.append({"rel": "next", "type": "application/geo+json", "href": f"{request.base}/api/search?{following}"})
    document = {"type": "FeatureCollection", "features": [_item(row, request.base) for row in page], "links": links}
    return Response.json(document, type="application/geo+json")


def _item(row: Row, base: str) -> dict[str, Any]:
    lon, lat = row["lon_original"], row["lat_original"]
    panorama = row["projection"] == "equirectangular"
    pictures = f"{base}/api/pictures/{quote(row['id'], safe='')}"
    camera: dict[str, Any] = {"field_of_view": 360 if panorama else 70}
    if row["visible"] is not None and list(row["visible"]) != [0.0, 0.0, 1.0, 1.0]:
        left, top, right, bottom = row["visible"]
        sides = (left * 8000, top * 4000, (1 - right) * 8000, (1 - bottom) * 4000)
        camera |= {"sensor_array_dimensions": [8000, 4000], "visible_area": [round(v) for v in sides]}
    properties = {
        "datetime": _utc(row["captured_at"]), "license": row["licence"] or "proprietary",
        "view:azimuth": None if row["heading_original"] is None else round(row["heading_original"]),
        "pers:interior_orientation": camera, "geovisio:status": "ready", "geovisio:producer": row["author"],
        "geovisio:rank_in_collection": row["index"], "quality:horizontal_accuracy": row["accuracy_m"],
    }  # fmt: skip
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": row["id"], "collection": row["sequence"],
        "geometry": {"type": "Point", "coordinates": [lon, lat]}, "bbox": [lon, lat, lon, lat],
        "properties": {k: v for k, v in properties.items() if v is not None}, "links": [],
        "assets": {n: {"href": f"{pictures}/{n}.jpg", "type": "image/jpeg"} for n in _WIDTHS},
        "providers": [{"name": row["author"], "roles": ["producer"]}] if row["author"] else [],
    }  # fmt: skip
    if panorama:
        item["asset_templates"] = {"tiles": {"href": f"{pictures}/tiled/{{TileCol}}_{{TileRow}}.jpg"}}
    return item


def _utc(time: str | None) -> str | None:
    """A STAC datetime, which always has a zone."""
    if time is None:
        return None
    return f"{time.removesuffix('Z')}{'T00:00:00' if len(time) == 10 else ''}+00:00"
