"""STAC items as scenes: which can be used, which assets hold the channels, and what is to be done to the values.

What the server was asked for is checked again: not all of them know all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import check_dtype, true_gsd
from pipeline.imagery.nodata import Stated
from pipeline.imagery.remote import Opener
from pipeline.imagery.scene import Asset, Mask, Scene
from pipeline.imagery.stac.presets import Preset
from pipeline.imagery.stac.search import Box, Item, Search, find_items, within
from pipeline.meridian import FARTHEST, jumps, laid_flat, on_the_map, split_boxes, wrapped
from pipeline.net.client import Unavailable
from pipeline.times import iso_time
from schemas.bands import canonical, channels
from schemas.errors import ConfigError, GeoshardsError, InputError, reason_of
from schemas.features import drop_row
from storage.urls import is_web, shown

#: Licences that say nothing: https://github.com/radiantearth/stac-spec, commons/common-metadata.md.
_VAGUE = ("proprietary", "various", "other", "")


class _Unusable(Exception):
    """An item that gives no scene."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason, self.message = reason, message


@dataclass
class _Maker:
    """Makes scenes of the items of one search."""

    search: Search
    preset: Preset | None
    config: ImageryConfig
    boxes: list[Box]
    opener: Opener
    facts: list[tuple[str, float]] = field(default_factory=list)  # dtype and GSD, once they are known

    def scene(self, item: Item) -> Scene:
        """The scene of an item.

        Raises:
            _Unusable: it is none that is wanted.
        """
        properties = item["properties"]
        area = shapely.make_valid(_outline(item))
        if self.boxes and not any(shapely.intersects(area, shapely.box(*box)) for box in self.boxes):
            raise _Unusable("outside_region")
        cloud = properties.get("eo:cloud_cover")
        if cloud is not None and float(cloud) > self.config.max_cloud:
            raise _Unusable("too_cloudy")
        acquired = _time(properties)
        if acquired is not None and not within(acquired, self.search.datetime):
            raise _Unusable("outside_datetime")
        channels = self._channels(item)
        hrefs = {key: self._href(item, key) for _, key, _ in channels}
        assets = tuple(
            Asset(hrefs[key], tuple(number for *_, number in own), self._stated(item["assets"][key]))
            for key, own in groupby(channels, key=lambda c: c[1])
        )
        mask, offset = self._mask(item), self._offset(item)
        dtype, gsd = (self.preset.dtype, self.preset.gsd) if self.preset else self._probed(assets[0].href)
        return Scene(
            name=item["id"], area=area, bands=[name for name, *_ in channels], dtype=dtype, acquired=acquired,
            assets=assets, cloud=None if cloud is None else float(cloud), gsd=gsd, mask=mask, offset=offset,
            token=self.search.tokens, licence=_licence(properties, self.preset), identity=_identity(item),
        )  # fmt: skip

    def _offset(self, item: Item) -> int:
        if self.preset is None or not self.config.harmonise:
            return 0
        offset = self.preset.offset(self.search.collection, item["properties"])
        if offset is None:
            raise _Unusable(
                "unknown_offset",
                f"STAC item {item['id']} does not say which offset its values have; try "
                "rs.collection=sentinel-2-c1-l2a, or take values as they are with rs.harmonise=false",
            )
        return offset

    def _channels(self, item: Item) -> list[tuple[str, str, int]]:
        """(name, asset key, band number) of each channel, whatever alias asks for it.

        Names are the preset's; else those that were asked for: asset keys, or what the assets call their bands. Where a
        name means something else than the band's common name does, as B5 of Landsat 8, the latter stands for it.
        """
        assets, wanted, where = item["assets"], self.config.bands, f"STAC item {item['id']}"
        known: dict[str, tuple[str, int, str]] = {}  # asset key, band number and the band's true name, by every name
        if self.preset is not None:
            known = {name: (key, 1, name) for name, key in self.preset.bands.items() if key in assets}
            wanted = wanted or tuple(self.preset.bands)
        else:
            declared = {key: _declared(asset) for key, asset in assets.items() if _holds_data(asset)}
            # a band's own asset comes before a picture of several
            for key, own in sorted(declared.items(), key=lambda d: len(d[1]) > 1):
                if len(own) < 2:
                    known[key] = (key, 1, _true_name(key, own[0][1] if own else None))
                for number, (name, common) in enumerate(own, 1):
                    known.setdefault(name, (key, number, _true_name(name, common)))
            if not wanted:
                raise ConfigError(f"name the bands of {item['id']} with rs.bands; it has {', '.join(known)}")
        by_band: dict[str, tuple[str, int, str]] = {}
        for place in known.values():
            by_band.setdefault(canonical(place[2]), place)
        found: list[tuple[str, str, int]] = []
        for asked in wanted:
            key, number, name = known.get(asked) or by_band.get(canonical(asked)) or ("", 0, "")
            if not key:
                message = f"{where} has no band {asked}; it has {', '.join(known)}: set rs.bands"
                raise _Unusable("missing_band", message)
            same = self.preset is None and canonical(asked) == canonical(name)
            found.append((asked if same else name, key, number))
        channels([name for name, *_ in found], where)
        return found

    def _stated(self, asset: Mapping[str, Any]) -> Stated:
        """What the settings, the asset and the preset say of its pixels without data."""
        fallback = () if self.preset is None else (self.preset.nodata,)
        described = sum(name.casefold() != "alpha" for name, _ in _declared(asset))
        return Stated(self.config.nodata, nodata_of(asset) or fallback, self.config.alpha, described)

    def _mask(self, item: Item) -> Mask | None:
        key = self.config.mask or (self.preset.mask if self.preset else None)
        if key in (None, "none"):
            return None
        if key not in item["assets"]:
            message = f"STAC item {item['id']} has no mask {key}; it has {', '.join(item['assets'])}: set rs.mask"
            raise _Unusable("missing_mask", message)
        values, bits = self.config.mask_values, self.config.mask_bits
        if not values and not bits:
            if self.preset is None:
                raise ConfigError(
                    f"rs.mask={key} needs rs.mask_values or rs.mask_bits: which of its values hide the ground"
                )
            values = self.preset.mask_values
        return Mask(Asset(self._href(item, key), (1,)), values, bits)

    def _href(self, item: Item, key: str) -> str:
        """An asset's http(s) URL; for items in local files it may be a path."""
        href: str = item["assets"][key]["href"]
        if is_web(href) or (self.search.static and not is_web(self.search.where) and "://" not in href):
            return href
        message = f"asset {key} of STAC item {item['id']} is at {shown(href)[:100]}, not at http(s)"
        raise _Unusable("unreachable_asset", message)

    def _probed(self, href: str) -> tuple[str, float]:
        """dtype and GSD of the collection, from the first asset of its first item that can be read."""
        if not self.facts:
            try:
                with self.opener.open(href, self.search.tokens) as source:
                    check_dtype(source.dtypes[0], self.config, shown(href))
                    self.facts.append((source.dtypes[0], true_gsd(source)))
            except Unavailable:
                raise
            except InputError as error:
                raise _Unusable("unreadable_asset", str(error)) from None
        return self.facts[0]


def find_scenes(
    search: Search,
    preset: Preset | None,
    boxes: list[Box],
    config: ImageryConfig,
    opener: Opener,
    cache: Path | None = None,
    renew: bool = False,
    quiet: bool = True,
) -> tuple[list[Scene], list[dict[str, Any]]]:
    """Scenes that meet any of the boxes, by id, and DROPS rows of the items that were passed over.

    Raises:
        Unavailable: the server does not answer, now.
        InputError: what it sends is no STAC, or nothing is found.
    """
    maker = _Maker(search, preset, config, boxes, opener)
    scenes: list[Scene] = []
    passed: dict[str, list[str]] = {}  # messages by reason
    for item in find_items(search, boxes, config, opener.client, cache, renew, quiet):
        try:
            scenes.append(maker.scene(item))
        except _Unusable as error:
            passed.setdefault(error.reason, []).append(error.message)
        except GeoshardsError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever is in a stranger's item is its fault alone
            passed.setdefault("malformed_item", []).append(f"STAC item {item['id']} is malformed: {reason_of(error)}")
    if not scenes:
        raise InputError(_nothing(search, passed, config))
    source = search.collection or shown(search.where)
    rows = [
        drop_row("imagery", source, reason, detail=messages[0][:200] or "STAC items", count=len(messages))
        for reason, messages in sorted(passed.items())
    ]
    return scenes, rows


def _nothing(search: Search, passed: Mapping[str, list[str]], config: ImageryConfig) -> str:
    where = f"{shown(search.where)} has no item of {search.collection or 'any collection'} for this region"
    if not passed:
        when = search.datetime or "any time"
        return f"{where} in {when} with at most {config.max_cloud:g} % cloud; widen rs.datetime"
    reasons = ", ".join(f"{len(messages)} {reason}" for reason, messages in sorted(passed.items()))
    first = next((m for messages in passed.values() for m in messages if m), "")
    return f"{where} that can be used ({reasons}){': ' if first else ''}{first}"


def _holds_data(asset: Mapping[str, Any]) -> bool:
    described = any(asset.get(key) for key in ("bands", "eo:bands"))
    return described or "tiff" in str(asset.get("type")) or "data" in (asset.get("roles") or [])


def _declared(asset: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Name, and common name or None, of each band that an asset declares, in STAC 1.1 or before."""
    bands = asset.get("bands") or asset.get("eo:bands") or []
    commons = [b.get("eo:common_name") or b.get("common_name") for b in bands]
    return [(str(b.get("name") or c or f"band{i}"), c) for i, (b, c) in enumerate(zip(bands, commons, strict=True), 1)]


def nodata_of(asset: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Value of nodata of each band of an asset, in STAC 1.1 or the raster extension before; one: of all of them.

    Raises:
        ValueError, TypeError: it is no number; nan, inf and -inf are written as words.
    """
    own = asset.get("nodata")
    for key in ("bands", "raster:bands"):
        values = [band.get("nodata", own) for band in asset.get(key) or []]
        if any(v is not None for v in values):
            return tuple(None if v is None else float(v) for v in values)
    return () if own is None else (float(own),)


def _true_name(name: str, common: str | None) -> str:
    """The common name, where ``name`` means another band or none; ``rededge`` is that of three."""
    return name if common in (None, "rededge") or canonical(name) == canonical(common) else common


def _outline(item: Item) -> Any:
    """Lon/lat (multi)polygon of an item, of two parts across the 180th meridian, however it is written."""
    if item["geometry"]:
        drawn = shapely.force_2d(shape(item["geometry"]))
        if not np.abs(drawn.bounds).max() <= FARTHEST:
            raise _Unusable("no_place", f"the geometry of STAC item {item['id']} is not in degrees")
        (area,) = wrapped(np.array([drawn]))
        if jumps(np.array([area]))[0]:  # what is left goes around a pole
            rings = [np.array(part.exterior.coords)[:-1] for part in shapely.get_parts(area)]
            area = shapely.union_all([laid_flat(ring) for ring in rings])
        if area.area or not item["bbox"]:
            return area
    if not item["bbox"]:
        raise _Unusable("no_place", f"STAC item {item['id']} has neither a geometry nor a bbox")
    box = np.array(item["bbox"], np.float64)
    boxes, _ = split_boxes(box[None, [0, 1, 3, 4] if len(box) == 6 else [0, 1, 2, 3]])
    return shapely.union_all(shapely.box(*on_the_map(boxes)[0].T))


def _time(properties: Mapping[str, Any]) -> str | None:
    """An item's time in UTC, ISO 8601, or the first of its times.

    Raises:
        ValueError: what it names is no time.
    """
    text = properties.get("datetime") or properties.get("start_datetime")
    if text is None:
        return None
    if (time := iso_time(text)) is None:
        raise ValueError(f"{text!r} is no time")
    return f"{time}Z" if "T" in time and not time.endswith("Z") else time


def _licence(properties: Mapping[str, Any], preset: Preset | None) -> str | None:
    if preset is not None:
        return preset.licence
    own = str(properties.get("license", "")).strip()
    return None if own.lower() in _VAGUE else own


def _identity(item: Item) -> str:
    """What an item is, wherever it lies: SHA-256 (hex)."""
    sums = {key: asset.get("file:checksum") for key, asset in item["assets"].items()}
    facts = [item["id"], item["collection"], item["properties"].get("updated"), sums]
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
