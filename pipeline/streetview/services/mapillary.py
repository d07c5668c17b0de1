"""Mapillary, by version 4 of its API: vector tiles say which photos there are, the Graph API what each of them is.

https://www.mapillary.com/developer/api-documentation. The access token comes from the environment (`TOKEN`) and goes
nowhere but to the service: it is no setting, stands in no file and no message, and is cut out of what the HTTP library
logs.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geometry.tiles import tile_to_lonlat
from pipeline.formats.mvt import TilePoint, decode_points
from pipeline.net.client import Refused
from pipeline.streetview.files.table import LICENCES
from pipeline.streetview.record import PhotoError, number, point, projection, turn, words
from pipeline.streetview.services.web import GONE, Box, Rows, WebSource
from pipeline.times import iso_time
from schemas.errors import ConfigError, InputError

#: Environment variable that holds the access token.
TOKEN = "MAPILLARY_TOKEN"
#: Where the vector tiles lie.
TILES = "https://tiles.mapillary.com"

#: Layers of z14 tiles with the positions before and after correction.
_ORIGINAL, _CORRECTED = "mly1_public", "mly1_computed_public"
FIELDS = (
    "id", "geometry", "computed_geometry", "compass_angle", "computed_compass_angle", "captured_at", "camera_type",
    "is_pano", "sequence", "creator", "quality_score",
)  # fmt: skip
#: What is needed of the entities of an answer.
NEEDS = {
    "data[].id": "text", "data[].geometry.coordinates": "list", "data[].compass_angle": "number",
    "data[].captured_at": "number or text", "data[].sequence": "text",
}  # fmt: skip
_MANY = 50  # entities of one request
#: Widths in pixels of the versions of a photo.
_WIDTHS = ((256, "thumb_256_url"), (1024, "thumb_1024_url"), (2048, "thumb_2048_url"))
#: Degrees around a box within which a tile's point may be the rounded position of a photo in it: tiles have steps of
#: 1/4096 of a side, 5e-6 degrees.
_ROUNDING = 2e-5
#: Numbers of errors of the Graph API: of a token that is none or has expired, and of a request that cannot be met.
_BAD_TOKEN, _NO_SUCH_OBJECT = 190, 100
#: Loggers of the HTTP library that write addresses, tokens and all.
_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection")


class MapillarySource(WebSource):
    """Photos by vector tiles and `?ids=`; bytes by the address that the Graph API gives for a short time."""

    name = "mapillary"
    #: Pixels that a photo should be wide, and a panorama.
    width = panorama_width = 2048
    #: Base URL of the vector tiles.
    tiles = TILES

    def ask(self, tile: tuple[int, int], box: Box) -> Rows:
        """As in `WebSource`."""
        where = self._tile(_ORIGINAL, tile)
        if self.position == "corrected":
            better = self._tile(_CORRECTED, tile)
            where = {i: p for i, p in where.items() if i not in better} | better
        west, south, east, north = box[0] - _ROUNDING, box[1] - _ROUNDING, box[2] + _ROUNDING, box[3] + _ROUNDING
        names = sorted(n for n, (lon, lat) in where.items() if west <= lon <= east and south <= lat <= north)
        rows: Rows = []
        for first in range(0, len(names), _MANY):
            rows += [_row(entity) for entity in self._entities(names[first : first + _MANY])]
        found = {row["id"] for row in rows}
        return rows + [_gone(name, *where[name]) for name in names if name not in found]

    def settings(self) -> tuple[Any, ...]:
        """What decides the answer to `ask`."""
        return (self.licence, self.position)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """As in `WebSource`."""
        wide = self.panorama_width if row["projection"] == "equirectangular" else self.width
        version = next((name for most, name in _WIDTHS if wide <= most), "thumb_original_url")

        def address() -> str:
            """Asked for right before it is used, since it expires."""
            try:
                entity = self._graph(f"{self.base}/{row['id']}", {"fields": version})
            except Refused as error:
                raise PhotoError("refused", str(error)) from None
            url = words(entity.get(version)) if isinstance(entity, Mapping) else None
            if url is None:
                raise PhotoError("refused", f"Mapillary gives no {version} of photo {row['id']}")
            return url

        return self.store.fetch(f"mapillary {self.base} {row['id']} {version}", address)

    def _tile(self, layer: str, tile: tuple[int, int]) -> dict[str, tuple[float, float]]:
        """Positions by id of the photos in a z14 tile."""
        url = f"{self.tiles}/maps/vtp/{layer}/2/{self.zoom}/{tile[0]}/{tile[1]}"
        try:
            data = _guarded(lambda: self.client.get(url, params={"access_token": token()}))
        except Refused as error:
            if error.status == 404:  # nothing there
                return {}
            raise
        points = [p for p in decode_points(data, "image", url) if "id" in p.properties]
        return {
            str(p.properties["id"]): lonlat for p, lonlat in zip(points, _lonlat(points, tile, self.zoom), strict=True)
        }

    def _entities(self, names: list[str]) -> list[Mapping[str, Any]]:
        """Photos by their ids; those that are gone are left out.

        One that is deleted may refuse the whole request: the halves are asked for then, and their halves.

        Raises:
            Refused: every one of them is, and not for being gone.
        """
        try:
            answer = self._graph(self.base, {"ids": ",".join(names), "fields": ",".join(FIELDS)})
        except Refused as error:
            gone = _code(error) == _NO_SUCH_OBJECT
            if len(names) == 1 and gone:
                return []
            if len(names) == 1 or not (gone or error.status in (400, 404, 410)):
                raise
            return self._halves(names)
        if isinstance(answer, Mapping) and isinstance(answer.get("data"), list):
            found = answer["data"]
        elif isinstance(answer, Mapping):
            found = [answer[n] for n in names if n in answer]
        else:
            raise InputError(f"{self.base} answers with no entities; check sv.mapillary_url")
        return [e for e in found if isinstance(e, Mapping) and "id" in e]

    def _halves(self, names: list[str]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        refused: list[Refused] = []
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            try:
                found += self._entities(half)
            except Refused as error:
                refused.append(error)
        if len(refused) == 2:
            raise refused[0]
        return found

    def _graph(self, url: str, params: Mapping[str, str]) -> Any:
        return _guarded(lambda: self.client.get_json(url, params=params, headers={"Authorization": f"OAuth {token()}"}))


def token() -> str:
    """The access token.

    Raises:
        ConfigError: the environment has none, or one that no request can carry.
    """
    found = os.environ.get(TOKEN, "").strip()
    if not found:
        raise ConfigError(
            "Mapillary asks for an access token: get one at https://www.mapillary.com/dashboard/developers and set the "
            f"environment variable {TOKEN}"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        raise ConfigError(f"{TOKEN} holds characters that no access token has; copy it again")
    return found


class _WithoutToken(logging.Filter):
    """Cuts the token out of what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through."""
        secret = os.environ.get(TOKEN, "").strip()
        text = record.getMessage()
        if "access_token=" in text or (secret and secret in text):
            text = re.sub(r"access_token=[^&\s\"']*", "access_token=…", text)
            record.msg, record.args = text.replace(secret, "…") if secret else text, ()
        return True


def hide_token() -> None:
    """Keep the token out of the HTTP library's log, which at the level of debugging has every address."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(f, _WithoutToken) for f in logger.filters):
            logger.addFilter(_WithoutToken())


def _guarded(ask: Callable[[], Any]) -> Any:
    """``ask()``; a refusal of the token is said in plain words."""
    try:
        return ask()
    except Refused as error:
        if error.status in (401, 403) or _code(error) == _BAD_TOKEN:
            raise ConfigError(f"Mapillary refuses the access token in {TOKEN} (it answered {error.status})") from None
        raise


def _code(error: Refused) -> Any:
    """The number of an error of the Graph API, where an answer has one."""
    try:
        answer = json.loads(error.body)
        return answer["error"]["code"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _gone(name: str, lon: float, lat: float) -> dict[str, Any]:
    """What is known of a photo that tiles show and the API has not: where it was."""
    return {"source": "mapillary", "id": name, "lon_original": lon, "lat_original": lat, "projection": GONE}


def _lonlat(points: list[TilePoint], tile: tuple[int, int], zoom: int) -> list[tuple[float, float]]:
    place = np.array([(p.x, p.y) for p in points], np.float64).reshape(-1, 2) + tile
    return [(lon, lat) for lon, lat in tile_to_lonlat(place, zoom).tolist()]


def _row(entity: Mapping[str, Any]) -> dict[str, Any]:
    lon, lat = point(entity.get("geometry"))
    better_lon, better_lat = point(entity.get("computed_geometry"))
    creator = entity.get("creator")
    name = str(entity["id"])
    return {
        "source": "mapillary", "id": name, "url": f"https://www.mapillary.com/app/?pKey={name}&focus=photo",
        "lon_original": lon, "lat_original": lat, "heading_original": turn(entity.get("compass_angle")),
        "lon_corrected": better_lon, "lat_corrected": better_lat,
        "heading_corrected": turn(entity.get("computed_compass_angle")),
        "captured_at": iso_time(entity.get("captured_at")),
        "projection": projection(entity.get("camera_type"), entity.get("is_pano")),
        "sequence": words(entity.get("sequence")), "quality": number(entity.get("quality_score")),
        "author": words(creator.get("username")) if isinstance(creator, Mapping) else None,
        "licence": LICENCES["mapillary"],
    }  # fmt: skip
