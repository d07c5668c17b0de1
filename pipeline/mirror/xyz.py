"""Map tiles out of a folder: ``Z/X/Y.jpg`` or ``.png``, by path or by the names of WMTS.

With a file ``key.txt`` in the folder, tiles are sent only to those who give its text as ``key``.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.mirror.messages import Request, Response

_TYPES = {"jpg": "image/jpeg", "png": "image/png"}
_PLACE = re.compile(r"(\d{1,2})/(\d{1,9})/(\d{1,9})(?:\.(jpg|png))?")


def respond(request: Request) -> Response | None:
    """``Z/X/Y.jpg``, or ``wmts?TileMatrix=Z&TileCol=X&TileRow=Y``."""
    query = {k.lower(): v[0] for k, v in request.query.items()}
    path = request.path
    if path == "wmts":
        path = "/".join(query.get(n, "") for n in ("tilematrix", "tilecol", "tilerow"))
    place = _PLACE.fullmatch(path)
    if place is None:
        return None
    key = request.folder / "key.txt"
    if key.is_file() and query.get("key") != key.read_text(encoding="utf-8").strip():
        return Response(403, b"no such key\n")
    for ending in [place[4]] if place[4] else list(_TYPES):
        file: Path = request.folder / str(int(place[1])) / str(int(place[2])) / f"{int(place[3])}.{ending}"
        if file.is_file():
            return Response.file(file, _TYPES[ending])
    return None
