"""What photo services answer: their lists, and their photos."""

from __future__ import annotations

import json
import os
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.formats.mvt import TilePoint, encode_points
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.position import Area
from pipeline.streetview.record import Drops, PhotoError
from pipeline.streetview.services.mapillary import TOKEN
from pipeline.streetview.sources import open_source
from tests.fuzz.damage import Files, Rng, Target, by_bytes, by_value, ended, one_line
from tests.fuzz.imagery import FAST

_LON, _LAT = 9.5141, 47.1150
#: Which file answers which path, by the beginning of the path.
_ROADS = {"/api/search": "search.json", "/2.0/photo": "list.json", "/maps": "tile.mvt", "/photo": "photo.jpg",
          "/p1": "entity.json", "/?": "entities.json"}  # fmt: skip


def answers() -> list[Files]:
    """Of Panoramax, KartaView and Mapillary, one photo each; the first file is the list."""
    buffer = BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(buffer, "JPEG")
    photo = {"photo.jpg": buffer.getvalue()}
    item = {
        "type": "Feature", "id": "p1", "geometry": {"type": "Point", "coordinates": [_LON, _LAT]}, "collection": "s1",
        "properties": {"datetime": "2024-06-01T10:00:00Z", "view:azimuth": 90, "license": "CC-BY-SA-4.0",
                       "geovisio:producer": "Ada", "geovisio:rank_in_collection": 1, "quality:horizontal_accuracy": 2.5,
                       "pers:interior_orientation": {"field_of_view": 360, "visible_area": [0, 10, 0, 10],
                                                     "sensor_array_dimensions": [64, 48]}},
        "assets": {"sd": {"href": "URL/photo/1.jpg"}, "hd": {"href": "URL/photo/2.jpg"}},
        "providers": [{"name": "Ada", "roles": ["producer"]}],
        "links": [{"rel": "license", "title": "License (etalab-2.0)", "href": "https://h.example/l"}],
    }  # fmt: skip
    search = {"type": "FeatureCollection", "features": [item], "links": [{"rel": "self", "href": "URL/api/search"}]}
    listed = {
        "id": "p1", "lng": str(_LON), "lat": str(_LAT), "matchLng": str(_LON), "matchLat": str(_LAT), "heading": "90",
        "gpsAccuracy": "2", "shotDate": "2024-06-01 10:00:00", "projection": "PLANE", "fieldOfView": "90",
        "sequenceId": "7", "sequenceIndex": "1", "fileurlProc": "URL/photo/1.jpg", "user": {"username": "a"},
    }  # fmt: skip
    kartaview = {"status": {"apiCode": 600}, "result": {"data": [listed], "hasMoreData": False}}
    entity = {
        "id": "1", "geometry": {"type": "Point", "coordinates": [_LON, _LAT]}, "compass_angle": 90.0, "sequence": "s",
        "computed_geometry": {"type": "Point", "coordinates": [_LON, _LAT]}, "computed_compass_angle": 91.0,
        "captured_at": 1717236000000, "camera_type": "perspective", "is_pano": False, "creator": {"username": "a"},
        "quality_score": 0.5, "thumb_2048_url": "URL/photo/1.jpg",
    }  # fmt: skip
    tile = encode_points([TilePoint(0.5 + i / 9, 0.5, {"id": i, "is_pano": False}) for i in range(4)], "image")
    return [
        {"search.json": json.dumps(search).encode(), **photo}, {"list.json": json.dumps(kartaview).encode(), **photo},
        {"entities.json": json.dumps({"data": [entity]}).encode(), "tile.mvt": tile,
         "entity.json": json.dumps(entity).encode(), **photo},
    ]  # fmt: skip


def by_answer(data: bytes, name: str, rng: Rng) -> bytes:
    """A document by its values, another file by its bytes."""
    return by_value(data, name, rng) if name.endswith(".json") else by_bytes(data, name, rng)


@cache
def _server(_: int) -> tuple[str, list[Path]]:
    """Address of a service on loopback of this process whose answers lie in the folder that the list names."""
    folder: list[Path] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = next((n for road, n in _ROADS.items() if self.path.startswith(road)), "entity.json")
            file = folder[0] / name
            body = file.read_bytes().replace(b"URL", address.encode()) if file.exists() else b""
            self.send_response(200 if file.exists() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may have enough of an answer
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return address, folder


def read_service(path: Path) -> str:
    """As a source of photos of a block of a town: all are listed, and fetched."""
    address, folder = _server(os.getpid())
    folder[:] = [path.parent]
    os.environ[TOKEN] = "token"
    name = {"search.json": "panoramax", "list.json": "kartaview"}.get(path.name, "mapillary")
    config = StreetviewConfig(
        panoramax_url=address, kartaview_url=address, mapillary_url=address, mapillary_tiles_url=address
    )
    area = Area(np.array([[_LON - 0.0004, _LAT - 0.0004, _LON + 0.0004, _LAT + 0.0004]]))

    def found() -> str:
        drops = Drops()
        source = open_source(name, config, FAST, path.parent / "cache")
        rows = source.list(area, drops).to_pylist()
        for row in rows:
            try:
                assert source.fetch(row).is_file()
            except PhotoError as error:
                one_line(error)
                drops.add("refused", row["id"], str(error))
        told = drops.rows()
        return "read" if rows and not told else "dropped"

    return ended(found, lambda text: "127.0.0.1" in text or name in text.lower() or "sv." in text)


TARGETS = {"services": Target(answers, read_service, by_answer, cost=4)}
