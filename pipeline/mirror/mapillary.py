"""Mapillary: the Graph API, vector tiles and thumbnails. Any access token will do; none will not."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import mercantile

from pipeline.formats.mvt import TilePoint, encode_points
from pipeline.mirror.messages import Request, Response
from pipeline.mirror.photos import Row, inside, number_of, parse_box, picture, stock
from pipeline.streetview.times import day_seconds

_TILES = {"mly1_public": "original", "mly1_computed_public": "corrected"}
_ZOOM = 14  # of the layer of images
_MOST, _MANY = 2000, 50  # photos of a search, entities of one request
_WIDTHS = {"thumb_256_url": 256, "thumb_1024_url": 1024, "thumb_2048_url": 2048, "thumb_original_url": 0}


def respond(request: Request) -> Response | None:
    """``?ids=``, ``images?bbox=``, ``ID?fields=``, ``maps/vtp/LAYER/2/Z/X/Y`` and ``thumb/ID/WIDTH``."""
    photos = {str(number_of(i)): row for i, row in stock(request.folder).items()}
    query = {k: v[-1] for k, v in request.query.items()}
    if found := re.fullmatch(r"thumb/(\d+)/(\d+)", request.path):  # signed by themselves, so without a token
        known = found[1] in photos and int(found[2]) in _WIDTHS.values() and query.get("oh")
        return picture(photos[found[1]], int(found[2]) or None) if known else None
    if not (request.header("Authorization") or "").startswith("OAuth ") and not query.get("access_token"):
        return _error(401, "Invalid OAuth access token.")
    if found := re.fullmatch(r"maps/vtp/(\w+)/2/(\d{1,2})/(\d{1,9})/(\d{1,9})", request.path):
        return _tile(found[1], (int(found[2]), int(found[3]), int(found[4])), photos)
    fields = [f for f in query.get("fields", "id").split(",") if f]
    if request.path == "" and "ids" in query:
        names = query["ids"].split(",")
        if len(names) > _MANY:
            return _error(400, "Too many ids")
        return Response.json({n: _entity(n, photos[n], fields, request.base) for n in names if n in photos})
    if request.path == "images":
        return _search(query, photos, fields, request.base)
    if request.path in photos:
        return Response.json(_entity(request.path, photos[request.path], fields, request.base))
    return None


def _search(query: dict[str, str], photos: dict[str, Row], fields: list[str], base: str) -> Response:
    box, limit = parse_box(query.get("bbox", "")), query.get("limit", str(_MOST))
    if box is None or not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        return _error(400, "bbox or limit cannot be read")
    found = [n for n, row in photos.items() if inside(*_position(row), box)][: int(limit)]
    return Response.json({"data": [_entity(n, photos[n], fields, base) for n in found]})


def _tile(layer: str, tile: tuple[int, int, int], photos: dict[str, Row]) -> Response | None:
    kind, (zoom, x, y) = _TILES.get(layer), tile
    if kind is None:
        return None
    points, box = [], mercantile.xy_bounds(x, y, zoom)
    for name, row in photos.items() if zoom == _ZOOM else ():
        lon, lat = row[f"lon_{kind}"], row[f"lat_{kind}"]
        if lon is None or lat is None:
            continue
        east, north = mercantile.xy(lon, lat)
        right, down = (east - box.left) / (box.right - box.left), (box.top - north) / (box.top - box.bottom)
        if 0 <= right < 1 and 0 <= down < 1:
            heading = row[f"heading_{kind}"]
            properties = {"id": int(name), "captured_at": _milliseconds(row), "sequence_id": row["sequence"] or "",
                          "is_pano": row["projection"] == "equirectangular",
                          "compass_angle": 0 if heading is None else int(heading)}  # fmt: skip
            points.append(TilePoint(right, down, properties))
    return Response(200, encode_points(points, "image"), "application/x-protobuf")


def _entity(name: str, row: Row, fields: list[str], base: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "geometry": _point(row["lon_original"], row["lat_original"]), "compass_angle": row["heading_original"],
        "computed_geometry": _point(row["lon_corrected"], row["lat_corrected"]),
        "computed_compass_angle": row["heading_corrected"], "captured_at": _milliseconds(row),
        "camera_type": "spherical" if row["projection"] == "equirectangular" else row["projection"],
        "is_pano": row["projection"] == "equirectangular", "sequence": row["sequence"], "quality_score": row["quality"],
        "creator": None if row["author"] is None else {"username": row["author"], "id": quote(row["author"])},
    }  # fmt: skip
    known |= {field: f"{base}/thumb/{name}/{width}?oh=00_{name}&oe=7FFFFFFF" for field, width in _WIDTHS.items()}
    return {"id": name} | {f: known[f] for f in fields if known.get(f) is not None}


def _position(row: Row) -> tuple[float | None, float | None]:
    kind = "corrected" if row["lon_corrected"] is not None else "original"
    return row[f"lon_{kind}"], row[f"lat_{kind}"]


def _point(lon: float | None, lat: float | None) -> dict[str, Any] | None:
    return None if lon is None or lat is None else {"type": "Point", "coordinates": [lon, lat]}


def _milliseconds(row: Row) -> int:
    return int((day_seconds(row["captured_at"]) or 0.0) * 1000)


def _error(status: int, message: str) -> Response:
    return Response.json({"error": {"message": message, "type": "OAuthException", "code": 190}}, status)
