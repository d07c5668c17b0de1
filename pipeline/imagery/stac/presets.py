"""Sentinel-2 L2A as two public services have it.

Bands: names of Google Earth Engine's COPERNICUS/S2_SR_HARMONIZED, which GAIR's images are from, to asset keys. Values
are reflectance times 10,000 in uint16, 0 is no data. From processing baseline 04.00 (25 January 2022, and every older
scene that was processed anew for Collection 1) on, ESA adds 1000 to every value, so that small negative ones fit.
Whether a service has taken that away again differs:

- Planetary Computer: values are ESA's.
- Earth Search, ``sentinel-2-c1-l2a``: values are ESA's.
- Earth Search, ``sentinel-2-l2a``: taken away, if ``earthsearch:boa_offset_applied`` is true. Items that say false
  cannot be trusted (Element84/earth-search issues 66 and 71): they are passed over.

Scene classes (SCL), Sentinel-2 Products Specification Document: 0 no data, 1 saturated or defective, 2 dark, 3 cloud
shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 8 and 9 cloud of medium and high probability, 10 thin cirrus,
11 snow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_EARTH_SEARCH = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2", "B7": "rededge3",
    "B8": "nir", "B8A": "nir08", "B9": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
_ESA = {name: name if name == "B8A" else f"B{int(name[1:]):02}" for name in _EARTH_SEARCH}
#: Zoom of the tiles, at 256 px: GAIR's, and the natural one of 10 m at most latitudes that people live at.
SENTINEL_ZOOM = 14
_OFFSET = 1000
_SHIFTED = 4.0  # processing baseline


@dataclass(frozen=True)
class Preset:
    """A service, and what it calls things. An entry of ``PRESETS`` is all that a service needs."""

    url: str  # of the STAC API
    collections: tuple[str, ...]  # the first is the default
    bands: Mapping[str, str]  # name to asset key, in the order that they have where none are chosen
    mask: str  # asset key of the scene classes
    tokens: str = ""  # path of the signatures' service, from the root of the server; {collection} is filled in
    #: Collection to the property that says whether the offset has been taken away; others have ESA's values.
    harmonised: Mapping[str, str] = field(default_factory=dict)
    mask_values: tuple[int, ...] = (3, 8, 9, 10)
    dtype: str = "uint16"
    nodata: float = 0.0
    gsd: float = 10.0
    zoom: int = SENTINEL_ZOOM
    #: One season, so that a continent is some ten thousand items; a dataset does not change with the day it is made on.
    datetime: str = "2024-05-01/2024-09-30"
    licence: str = (
        "contains modified Copernicus Sentinel data (free, full and open; Copernicus Sentinel Data Legal Notice)"
    )
    #: What the licence asks of those who use the images.
    demand: str = "Copernicus Sentinel data: free, full and open; say “contains modified Copernicus Sentinel data”"

    def offset(self, collection: str, properties: Mapping[str, Any]) -> int | None:
        """What is to be taken from an item's values to have them as before baseline 04.00; None: it cannot be known."""
        try:
            baseline = float(properties.get("s2:processing_baseline", ""))
        except (TypeError, ValueError):
            return None
        if baseline < _SHIFTED:
            return 0
        if collection in self.harmonised:
            return 0 if properties.get(self.harmonised[collection]) is True else None
        return _OFFSET


PRESETS = {
    "earth-search": Preset(
        "https://earth-search.aws.element84.com/v1", ("sentinel-2-l2a", "sentinel-2-c1-l2a"), _EARTH_SEARCH, "scl",
        harmonised={"sentinel-2-l2a": "earthsearch:boa_offset_applied"},
    ),
    "planetary-computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1", ("sentinel-2-l2a",), _ESA, "SCL",
        tokens="/api/sas/v1/token/{collection}",
    ),
}  # fmt: skip


def needs(preset: Preset, collection: str) -> dict[str, str]:
    """What a page of items must hold for `items.find_scenes`, as `pipeline.net.shape` has it."""
    properties = {"datetime": "text", "eo:cloud_cover": "number", "s2:processing_baseline": "text"}
    if collection in preset.harmonised:
        properties[preset.harmonised[collection]] = "true or false"
    assets = [f"features[].assets.{key}.href" for key in (*preset.bands.values(), preset.mask)]
    found = {"features[].id": "text", "features[].geometry.coordinates": "list"}
    return found | {f"features[].properties.{k}": v for k, v in properties.items()} | dict.fromkeys(assets, "text")
