"""Geofabrik's download server: a tree of extracts and its index.

The folder is laid out as the real one: ``europe/monaco-latest.osm.pbf`` is region ``monaco`` inside ``europe``. An
optional ``regions.json`` says more: ``{"monaco": {"name": "Monaco", "iso": ["MC"], "bbox": [7.4, 43.7, 7.5, 43.8]}}``;
a box that it lacks is read from the extract's header. Diffs lie beside, as on the original, in
``europe/monaco-updates/state.txt`` and ``…/000/003/919.osc.gz`` and ``.state.txt``.
The original: https://download.geofabrik.de/technical.html
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import osmium

from pipeline.mirror.messages import Request, Response
from schemas.errors import InputError

_SUFFIX = ".osm.pbf"
#: Files of replication; no part of a path begins with a dot.
_DIFF = re.compile(r"([\w-][\w.-]*/)*[\w-]+-updates/(state\.txt|\d{3}/\d{3}/\d{3}\.(state\.txt|osc\.gz))", re.ASCII)
Box = tuple[float, float, float, float]  # west, south, east, north in degrees


def respond(request: Request) -> Response | None:
    """``index-v1.json``, extracts, their ``.md5``, and diffs of them."""
    if request.path == "index-v1.json":
        return Response.json(build_index(request.folder, f"{request.base}/"))
    if _DIFF.fullmatch(request.path):
        found = request.folder / request.path
        return Response.file(found) if found.is_file() else None
    files = _files(request.folder)
    path = files.get(request.path.removesuffix(".md5"))
    if path is None:
        return None
    if request.path.endswith(".md5"):
        return Response(200, f"{_md5(path, *_stamp(path))}  {path.name}\n".encode())
    return Response.file(path)


def build_index(folder: Path, base: str) -> dict[str, Any]:
    """The index of a folder of extracts; ``base`` stands before every path in it, and may be empty.

    Raises:
        InputError: two extracts have one id, or ``regions.json`` cannot be read.
    """
    facts = _facts(folder / "regions.json")
    urls: dict[str, str] = {}
    parents: dict[str, str | None] = {}
    boxes: dict[str, list[Box]] = {}
    for name, path in _files(folder).items():
        *above, file = name.split("/")
        region = file.removesuffix(_SUFFIX).removesuffix("-latest")
        if region in urls:
            raise InputError(f"{folder} holds {urls[region]} and {name}, both of region {region}; rename one")
        urls[region] = name
        chain = [*above, region]
        for parent, child in zip([None, *chain], chain, strict=False):
            parents.setdefault(child, parent)
        box = facts.get(region, {}).get("bbox") or _header_box(path, *_stamp(path))
        if box:
            for member in chain:
                boxes.setdefault(member, []).append(tuple(box))
    features = []
    for region in sorted(parents):
        fact = facts.get(region, {})
        own: dict[str, Any] = {"id": region, "name": fact.get("name", region.replace("-", " ").title()), "urls": {}}
        if region in urls:
            own["urls"] = {"pbf": base + urls[region]}
        if (parent := parents[region]) is not None:
            own["parent"] = parent
        codes = fact.get("iso", [])
        for key, chosen in (
            ("iso3166-1:alpha2", [c for c in codes if "-" not in c]),
            ("iso3166-2", [c for c in codes if "-" in c]),
        ):
            if chosen:
                own[key] = chosen
        features.append({"type": "Feature", "properties": own, "geometry": _geometry(boxes.get(region, []))})
    return {"type": "FeatureCollection", "features": features}


def _files(folder: Path) -> dict[str, Path]:
    """Extracts by their path below the folder."""
    found = sorted(p for p in folder.rglob(f"*{_SUFFIX}") if not p.name.startswith(".") and p.is_file())
    return {p.relative_to(folder).as_posix(): p for p in found}


def _facts(path: Path) -> dict[str, dict[str, Any]]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(facts, dict) or not all(isinstance(v, dict) for v in facts.values()):
        raise InputError(f'{path} must map region ids to facts: {{"monaco": {{"name": "Monaco", "iso": ["MC"]}}}}')
    return facts


def _geometry(boxes: list[Box]) -> dict[str, Any] | None:
    if not boxes:
        return None
    rings = [[[[w, s], [e, s], [e, n], [w, n], [w, s]]] for w, s, e, n in boxes]
    return {"type": "MultiPolygon", "coordinates": rings}


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4096)
def _md5(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@lru_cache(maxsize=4096)
def _header_box(path: Path, _modified: int, _size: int) -> Box | None:
    """The box of a PBF header; None without one."""
    try:
        with osmium.io.Reader(str(path)) as reader:
            box = reader.header().box()
    except Exception:  # noqa: BLE001  # whatever libosmium meets: it has no box then
        return None
    if not box.valid():
        return None
    low, high = box.bottom_left, box.top_right
    return low.lon, low.lat, high.lon, high.lat
