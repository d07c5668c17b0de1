"""KartaView (formerly OpenStreetCam): photos around a point, by version 2.0 of its API.

It knows no boxes, and is slow around busy places: the area is asked for in circles around the tiles of zoom 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyproj import Geod

from pipeline.streetview.files.table import LICENCES
from pipeline.streetview.record import PhotoError, number, projection, turn, whole, words
from pipeline.streetview.services.web import Box, Rows, WebSource, ask_in_parts
from pipeline.times import iso_time
from schemas.errors import InputError
from storage.urls import shown

_PAGE = 150  # photos, the most that it gives
_MOST_PAGES = 1000
_RADIUS = 2000  # metres, likewise
_FOUND, _NONE, _LOGIN = 600, 601, 401  # status.apiCode
_GEOD = Geod(ellps="WGS84")


#: What is needed of an answer.
NEEDS = {
    "status.apiCode": "number or text", "result.data[].id": "number or text", "result.data[].lat": "number or text",
    "result.data[].lng": "number or text", "result.data[].heading": "number or text",
    "result.data[].shotDate": "text", "result.data[].fileurlProc": "text",
    "result.data[].sequenceId": "number or text", "result.data[].sequenceIndex": "number or text",
}  # fmt: skip


class KartaviewSource(WebSource):
    """Photos by `GET /2.0/photo/`."""

    name = "kartaview"
    zoom = 16

    def ask(self, _: tuple[int, int], box: Box) -> Rows:
        """As in `WebSource`."""
        return ask_in_parts(self._around, box, self.name)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """As in `WebSource`."""
        if not row["url"]:
            raise PhotoError("refused", f"KartaView names no file of photo {row['id']}")
        return self.store.fetch(f"kartaview {self.base} {row['id']}", row["url"])

    def _around(self, box: Box) -> Rows | None:
        """Photos of a box; None where it is wider than the service looks around."""
        west, south, east, north = box
        lon, lat = (west + east) / 2, (south + north) / 2
        radius = math.ceil(max(_GEOD.inv(lon, lat, x, y)[2] for x in (west, east) for y in (south, north))) + 1
        if radius > _RADIUS:
            return None
        rows: Rows = []
        for page in range(1, _MOST_PAGES + 1):
            photos, more = self._page(lon, lat, radius, page)
            rows += [self._row(p) for p in photos]
            if not photos or not more:
                return rows
        raise InputError(f"KartaView goes on to pages without end around {lat:.5f}, {lon:.5f}; try another source")

    def _page(self, lon: float, lat: float, radius: int, page: int) -> tuple[list[Mapping[str, Any]], bool]:
        """Photos of one page, and whether there are more."""
        url = f"{self.base}/2.0/photo/"
        answer = self.client.get_json(url, params={
            "lat": f"{lat:.7f}", "lng": f"{lon:.7f}", "radius": str(radius), "join": "sequence,user", "orderBy": "id",
            "orderDirection": "desc", "itemsPerPage": str(_PAGE), "page": str(page),
        })  # fmt: skip
        status = answer.get("status") if isinstance(answer, Mapping) else None
        code = whole(status.get("apiCode")) if isinstance(status, Mapping) else None
        if code == _NONE:
            return [], False
        if code == _LOGIN:
            raise InputError(f"{shown(url)} wants a login for this request by now; use panoramax or mapillary")
        result = answer.get("result") if isinstance(answer, Mapping) else None
        data = result.get("data") if isinstance(result, Mapping) else None
        if code != _FOUND or not isinstance(result, Mapping) or not isinstance(data, list):
            raise InputError(f"{shown(url)} answers with code {code}, which is not understood; check sv.kartaview_url")
        more = result.get("hasMoreData")
        photos = [p for p in data if isinstance(p, Mapping)]
        return photos, more if isinstance(more, bool) else len(data) >= _PAGE

    def _row(self, photo: Mapping[str, Any]) -> dict[str, Any]:
        matched = [number(photo.get(k)) for k in ("matchLng", "matchLat")]
        lon, lat = matched if all(matched) else (None, None)
        accuracy = number(photo.get("gpsAccuracy"))
        addresses = (words(photo.get(k)) for k in ("fileurlProc", "imageProcUrl", "fileurl"))
        return {
            "source": self.name, "id": words(photo.get("id")) or "?",
            "url": next((u for u in addresses if u and "{" not in u), None),  # some are patterns: {{sizeprefix}}
            "lon_original": number(photo.get("lng")), "lat_original": number(photo.get("lat")),
            "heading_original": turn(photo.get("heading")), "lon_corrected": lon, "lat_corrected": lat,
            "accuracy_m": accuracy if accuracy and accuracy > 0 else None,
            "captured_at": iso_time(photo.get("shotDate")),
            "projection": projection(photo.get("projection"), photo.get("fieldOfView")),
            "sequence": words(photo.get("sequenceId")), "index": whole(photo.get("sequenceIndex")),
            "author": _author(photo), "licence": LICENCES["kartaview"],
        }  # fmt: skip


def _author(photo: Mapping[str, Any]) -> str | None:
    sequence = photo.get("sequence")
    for user in (photo.get("user"), sequence.get("user") if isinstance(sequence, Mapping) else None):
        if isinstance(user, Mapping) and (name := words(user.get("username"))):
            return name
    return words(photo.get("username"))
