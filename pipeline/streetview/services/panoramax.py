"""Panoramax: street view under open licences, by the STAC API of an instance or of the catalogue of all instances.

Fields as geovisio 2.15.1 writes them: https://docs.panoramax.fr. The search takes a box and at most 10,000 photos; one
that has more gives a link to the next page (the catalogue does) or the nearest to the box's middle (an instance does),
and is then asked in parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from pipeline.streetview.pictures.gpano import visible_part
from pipeline.streetview.record import PhotoError, number, point, projection, turn, whole, words
from pipeline.streetview.services.web import Box, Rows, WebSource, ask_in_parts
from pipeline.times import iso_time
from schemas.errors import InputError
from storage.urls import is_web, shown

#: Photos of one answer; it takes the server seconds already.
_LIMIT = 1000
#: Pages of one search that are followed.
_MOST_PAGES = 10_000
#: Widths in pixels up to which each version of a photo is wide enough; ``hd`` is as it was taken.
_WIDTHS = (("thumb", 500), ("sd", 2048))
#: Words in place of a licence that say that there is none to go by.
_NO_LICENCE = ("proprietary", "various", "other")


#: What is needed of the photos of an answer: without one of these they are dropped, or lose what is known of them.
NEEDS = {
    "features[].id": "text", "features[].geometry.coordinates": "list",
    "features[].assets.sd.href": "text", "features[].properties.datetime": "text",
    "features[].properties.view:azimuth": "number",
    "features[].properties.license": "text", "features[].collection": "text",
}  # fmt: skip


class PanoramaxSource(WebSource):
    """Photos by `GET /api/search`."""

    name = "panoramax"
    #: Pixels that a photo should be wide, and a panorama.
    width = panorama_width = 2048

    def settings(self) -> tuple[Any, ...]:
        """What decides the answer to `ask`."""
        return (self.licence, self.width, self.panorama_width)

    def ask(self, _: tuple[int, int], box: Box) -> Rows:
        """As in `WebSource`."""
        return ask_in_parts(self._search, box, self.name)

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """As in `WebSource`."""
        if not row["url"]:
            raise PhotoError("refused", f"Panoramax names no file of photo {row['id']}")
        version = urlsplit(row["url"]).path.rsplit("/", 1)[-1]
        return self.store.fetch(f"panoramax {self.base} {row['id']} {version}", row["url"])

    def _search(self, box: Box) -> Rows | None:
        """Photos of a box; None where there are more than one answer holds, and no next page."""
        url: str | None = f"{self.base}/api/search"
        params: dict[str, str] | None = {"bbox": ",".join(f"{v:.7f}" for v in box), "limit": str(_LIMIT)}
        rows: Rows = []
        seen: set[str] = set()
        while url is not None:
            answer = self.client.get_json(url, params=params)
            items = answer.get("features") if isinstance(answer, Mapping) else None
            if not isinstance(items, list):
                raise InputError(f"{shown(url)} is no STAC search: it answers without features; check sv.panoramax_url")
            rows += [self._row(item, url) for item in items if isinstance(item, Mapping)]
            seen.add(url)
            following = _next(answer, url) if items else None
            if following is None and len(items) >= _LIMIT and len(seen) == 1:
                return None
            if following in seen or len(seen) > _MOST_PAGES:
                raise InputError(f"{shown(url)} goes on to pages without end; try another sv.panoramax_url")
            url, params = following, None
        return rows

    def _row(self, item: Mapping[str, Any], where: str) -> dict[str, Any]:
        properties = _mapping(item.get("properties"))
        camera = _mapping(properties.get("pers:interior_orientation"))
        lon, lat = point(item.get("geometry"))
        shape = projection(None, camera.get("field_of_view"))
        if "tiles" in _mapping(item.get("asset_templates")):  # only spheres are cut into tiles
            shape = "equirectangular"
        panorama = shape == "equirectangular"
        return {
            "source": self.name, "id": words(item.get("id")) or "?",
            "url": self._asset(_mapping(item.get("assets")), where, self.panorama_width if panorama else self.width),
            "lon_original": lon, "lat_original": lat, "heading_original": turn(properties.get("view:azimuth")),
            "accuracy_m": number(properties.get("quality:horizontal_accuracy")),
            "captured_at": iso_time(properties.get("datetime")), "projection": shape,
            "visible": _visible(camera) if panorama else None, "sequence": words(item.get("collection")),
            "index": whole(properties.get("geovisio:rank_in_collection")), "author": _author(item, properties),
            "licence": _licence(item, properties) or self.licence,
        }  # fmt: skip

    def _asset(self, assets: Mapping[str, Any], where: str, width: int) -> str | None:
        """Address of the smallest version that is wide enough."""
        names = [name for name, most in _WIDTHS if width <= most] + ["hd", "sd", "thumb"]
        found = (words(_mapping(assets.get(name)).get("href")) for name in names)
        href = next((h for h in found if h), None)
        return None if href is None else urljoin(where, href)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _next(answer: Mapping[str, Any], here: str) -> str | None:
    """Address of the next page."""
    links = answer.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            if link.get("method", "GET") != "GET":
                raise InputError(
                    f"{shown(here)} has pages that are asked for by {link['method']}, which is not done here"
                )
            target = urljoin(here, link["href"])
            if not is_web(target):
                raise InputError(f"{shown(here)} goes on to {shown(target)[:200]!r}, which is no http(s) URL")
            return target
    return None


def _visible(camera: Mapping[str, Any]) -> list[float] | None:
    """The part of the sphere that a panorama has: ``visible_area`` are the pixels that it lacks at each side."""
    area, whole_sphere = camera.get("visible_area"), camera.get("sensor_array_dimensions")
    if not (isinstance(area, list) and isinstance(whole_sphere, list) and len(area) == 4 and len(whole_sphere) == 2):
        return None
    left, top, right, bottom = (number(v) or 0.0 for v in area)
    width, height = (number(v) or 0.0 for v in whole_sphere)
    return list(visible_part(width, height, width - left - right, height - top - bottom, left, top))


def _author(item: Mapping[str, Any], properties: Mapping[str, Any]) -> str | None:
    if name := words(properties.get("geovisio:producer")):
        return name
    providers = item.get("providers")
    for provider in providers if isinstance(providers, list) else ():
        if isinstance(provider, Mapping) and "producer" in (provider.get("roles") or ()):
            return words(provider.get("name"))
    return None


def _licence(item: Mapping[str, Any], properties: Mapping[str, Any]) -> str | None:
    """The SPDX id, or what the link to the licence is called; None for none."""
    own = words(properties.get("license"))
    if own and own.lower() not in _NO_LICENCE:
        return own
    links = item.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == "license":
            title = words(link.get("title")) or ""
            inner = re.search(r"\(([^()]+)\)\s*$", title)  # License for this object (etalab-2.0)
            name = inner[1].strip() if inner else title or words(link.get("href")) or ""
            if name and name.lower() not in _NO_LICENCE:
                return name
    return None
