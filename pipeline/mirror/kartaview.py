"""KartaView: photos around a point, by version 2.0 of its API. Numbers are texts, as the original writes them."""

from __future__ import annotations

from typing import Any

from pyproj import Geod

from pipeline.mirror.messages import Request, Response
from pipeline.mirror.photos import Row, number_of, picture, stock

_FOUND, _NONE, _BAD = 600, 601, 690  # status.apiCode
_GEOD = Geod(ellps="WGS84")
_MOST, _RADIUS = 150, 2000.0  # photos a page, metres


def respond(request: Request) -> Response | None:
    """``2.0/photo/`` (lat, lng, radius, itemsPerPage, page; or id), and ``storage/ID/proc.jpg``."""
    photos = {str(number_of(i)): row for i, row in stock(request.folder).items()}
    parts = request.path.strip("/").split("/")
    if parts == ["2.0", "photo"]:
        return _photos(request, photos)
    if len(parts) == 3 and parts[0] == "storage" and parts[1] in photos and parts[2] == "proc.jpg":
        return picture(photos[parts[1]], 2048)
    return None


def _photos(request: Request, photos: dict[str, Row]) -> Response:
    query = {k: v[-1] for k, v in request.query.items()}
    if "id" in query:
        found = [query["id"]] if query["id"] in photos else []
        return _answer([_photo(i, photos[i], request.base) for i in found], False)
    try:
        lat, lng, radius = (float(query[k]) for k in ("lat", "lng", "radius"))
        count, page = min(int(query.get("itemsPerPage", "40")), _MOST), int(query.get("page", "1"))
    except (KeyError, ValueError):
        return Response.json({"status": {"apiCode": _BAD, "apiMessage": "bad request", "httpCode": 400}}, 400)
    near = [
        i
        for i, row in photos.items()
        if _GEOD.inv(lng, lat, row["lon_original"], row["lat_original"])[2] <= min(radius, _RADIUS)
    ]
    near.sort(key=int, reverse=query.get("orderDirection") == "desc")
    part = near[count * (page - 1) : count * page]
    return _answer([_photo(i, photos[i], request.base) for i in part], count * page < len(near))


def _answer(data: list[dict[str, Any]], more: bool) -> Response:
    code, message = (_FOUND, "The request has been processed without incidents") if data else (_NONE, "Empty")
    status = {"apiCode": code, "apiMessage": message, "httpCode": 200, "httpMessage": "Success"}
    return Response.json({"status": status, "result": {"data": data, "hasMoreData": more}})


def _photo(number: str, row: Row, base: str) -> dict[str, Any]:
    sphere = row["projection"] == "equirectangular"
    return {
        "id": number, "lat": _text(row["lat_original"]), "lng": _text(row["lon_original"]),
        "matchLat": _text(row["lat_corrected"]), "matchLng": _text(row["lon_corrected"]),
        "heading": _text(row["heading_original"]), "gpsAccuracy": _text(row["accuracy_m"]),
        "shotDate": None if row["captured_at"] is None else row["captured_at"].replace("T", " ").removesuffix("Z"),
        "fieldOfView": "360" if sphere else None, "projection": "SPHERE" if sphere else "PLANE",
        "sequenceId": row["sequence"], "sequenceIndex": _text(row["index"]), "status": "active",
        "sequence": {"id": row["sequence"], "user": {"username": row["author"]}},
        "fileurl": f"{base}/storage/{number}/{{{{sizeprefix}}}}.jpg",
        "fileurlProc": f"{base}/storage/{number}/proc.jpg",
    }  # fmt: skip


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
