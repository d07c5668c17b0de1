"""Raster files as scenes: GeoTIFF, COG, VRT and whatever else GDAL reads; any CRS, bands and transform."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.alignment import place
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.grids.check import outline
from pipeline.imagery.nodata import Alpha, Stated, alpha_band, check_palette, settle_alpha
from pipeline.imagery.raster import open_raster
from pipeline.imagery.scene import DTYPES, Asset, Mask, Scene
from pipeline.times import document_time, name_time, tag_time
from schemas.bands import band as known_band
from schemas.bands import canonical, channels, find
from schemas.errors import InputError
from schemas.footprint import Footprint
from storage.urls import expand

_COLOURS = ("red", "green", "blue", "gray")
#: Names that say nothing of what a band is, and words for a resolution.
_NAMELESS = re.compile(r"gr[ae]y|(band|layer)[ _]?(\d*|data)", re.IGNORECASE)
_RESOLUTION = re.compile(r"R?\d+c?m", re.IGNORECASE)
#: Beginnings of the names of Landsat's files, and of the names of its sensors' bands.
_LANDSAT = {"LC08": "OLI_", "LC09": "OLI_", "LO08": "OLI_", "LO09": "OLI_", "LE07": "ETM_", "LT04": "TM_",
            "LT05": "TM_"}  # fmt: skip
#: Bytes of the largest JSON file that is read for a time.
_SIDECAR = 1 << 20


class MissingBand(InputError):
    """A file lacks a band that is wanted."""


def find_rasters(parts: Sequence[str]) -> list[Path]:
    """Files of paths and glob patterns, each once; those of a pattern in the order of their names.

    Raises:
        InputError: a path does not exist, or a pattern matches no file.
    """
    found: list[Path] = []
    for part in parts:
        path = Path(expand(part))
        own = [path]
        if not path.is_file():
            own = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not own:
            what = "matches no file" if glob.has_magic(part) else "does not exist"
            raise InputError(f"imagery {path} {what}; give paths of GeoTIFF, COG or VRT files, or none")
        found += own
    return list(dict.fromkeys(found))


def open_scene(path: Path, config: ImageryConfig | None = None) -> Scene:
    """Describe one raster file.

    Raises:
        InputError: it cannot be read, has no CRS, lacks a band of ``rs.bands``, or holds a type that needs a stretch.
    """
    with open_raster(str(path)) as source:
        return describe(source, str(path), path.name, config or ImageryConfig())


def describe(source: Any, href: str, name: str, config: ImageryConfig) -> Scene:
    """The scene that an opened raster is by itself."""
    alpha = settle_alpha(source, config.alpha, config.bands)
    names = band_names(source, alpha)
    if (own := own_band(names, name, config)) is not None:
        names = dict.fromkeys(names, own)
    mask = _mask(names, config, href)
    chosen = choose_bands(names, config, href, mask)
    dtypes = {source.dtypes[b - 1] for b in chosen}
    dtype = source.dtypes[chosen[0] - 1]
    if len(dtypes) > 1:
        raise InputError(f"imagery {href} has bands of {', '.join(sorted(dtypes))}; choose those of one with rs.bands")
    check_dtype(dtype, config, href)
    check_palette(source, chosen, config.resampling, f"imagery {href}")
    try:
        gsd = true_gsd(source)
    except InputError as error:  # of its transform
        raise InputError(f"imagery {href}: {error}") from None
    tags, imagery = source.tags(), source.tags(ns="IMAGERY")
    return Scene(
        name=name,
        area=outline(source, href),
        bands=[names[b] for b in chosen],
        dtype=dtype,
        acquired=name_time(href, config.time_pattern) or _beside(href) or tag_time(tags, imagery),
        assets=(Asset(href, tuple(chosen), Stated(config.nodata, alpha=alpha)),),
        cloud=_number(imagery.get("CLOUDCOVER") or tags.get("CLOUDY_PIXEL_PERCENTAGE")),
        gsd=gsd,
        mask=Mask(Asset(href, (mask,)), config.mask_values, config.mask_bits) if mask else None,
        licence=tags.get("LICENSE"),
    )


def band_names(source: Any, alpha: Alpha) -> dict[int, str]:
    """Name of each data band by its number: its description, its colour, or ``bandN``."""
    masking = alpha_band(source, alpha)
    data = [b for b in source.indexes if b != masking]
    colours = {b: source.colorinterp[b - 1].name for b in data}
    names = {b: source.descriptions[b - 1] or (colours[b] if colours[b] in _COLOURS else f"band{b}") for b in data}
    if len(set(names.values())) < len(names):
        return {b: f"band{b}" for b in data}
    return names


def own_band(names: dict[int, str], name: str, config: ImageryConfig) -> str | None:
    """The band that a file's name gives to its only one, where that says nothing itself (``T30_B04_10m.jp2``)."""
    if len(names) != 1 or not _NAMELESS.fullmatch(next(iter(names.values()))):
        return None
    found = band_in(name, config)
    return None if found is None else found[0]


def band_in(name: str, config: ImageryConfig) -> tuple[str, str] | None:
    """The one band that a word of a file's name means, and the name without it and without a resolution.

    Words are what tables know by more than a letter, and what ``rs.bands`` and ``rs.mask`` name. Bare numbers of
    Landsat are its own: B5 of a file of Landsat 8 is ``OLI_B5``.

    >>> band_in("T30TVK_20210601_B04_10m.jp2", ImageryConfig()), band_in("LC09_L2_SR_B5.TIF", ImageryConfig())
    (('B04', 'T30TVK_20210601'), ('OLI_B5', 'LC09_L2_SR'))
    """
    pieces = re.split(r"([_\-. ]+)", Path(name).stem)  # words, and what stands between them
    words = pieces[::2]
    sensor = _LANDSAT.get(words[0][:4].upper(), "")
    asked = {canonical(b) for b in (*config.bands, *([config.mask] if config.mask else ()))}
    meant: dict[int, str] = {}
    for i, word in enumerate(words):
        own = f"{sensor}{word}" if sensor and re.fullmatch(r"B\d+", word, re.IGNORECASE) else word
        if len(word) > 1 and not word.isdecimal() and (known_band(own) or canonical(own) in asked):
            meant[i] = own
    if len({canonical(own) for own in meant.values()}) != 1:
        return None
    kept = [i for i, w in enumerate(words) if i not in meant and not _RESOLUTION.fullmatch(w)]
    rest = "".join(f"{pieces[2 * i - 1] if n else ''}{words[i]}" for n, i in enumerate(kept))
    return next(iter(meant.values())), rest


def choose_bands(names: dict[int, str], config: ImageryConfig, where: str, mask: int | None = None) -> list[int]:
    """Numbers of the bands of ``rs.bands``, by any name or by number from 1; all but the mask where none are named.

    Raises:
        MissingBand: one is missing.
        InputError: two of them are one band.
    """
    numbers, held = list(names), list(names.values())
    chosen = [] if config.bands else [b for b in names if b != mask]
    for wanted in config.bands:
        at = find(wanted, held, f"imagery {where}")
        if at is None and not (wanted.isdecimal() and int(wanted) in names):
            raise MissingBand(f"imagery {where} has no band {wanted}; it has {', '.join(held)}: set rs.bands")
        chosen.append(int(wanted) if at is None else numbers[at])
    channels([names[b] for b in chosen], f"imagery {where}")
    return chosen


def check_dtype(dtype: str, config: ImageryConfig, where: str) -> None:
    """Refuse a type that rs.npy cannot hold as it is.

    Raises:
        InputError: it is one, and nothing is said about 8 bits.
    """
    if dtype.startswith("complex"):
        raise InputError(f"imagery {where} is {dtype}; make amounts of them with gdal_calc.py --calc='abs(A)'")
    if config.stretch == "none" and dtype not in DTYPES:
        raise InputError(
            f"imagery {where} is {dtype}; rs.npy holds {', '.join(DTYPES)}. Make 8 bits of it with rs.stretch, or "
            "convert it with gdal_translate -ot"
        )


def true_gsd(source: Any) -> float:
    """Metres on the ground a pixel at the centre, the mean of both axes."""
    code = source.crs.to_epsg()
    crs = f"EPSG:{code}" if code else str(source.crs.to_wkt())
    return float(place([Footprint("raster", crs, tuple(source.transform[:6]), source.width, source.height)]).gsd.mean())


def _mask(names: dict[int, str], config: ImageryConfig, where: str) -> int | None:
    """Number of the band that ``rs.mask`` names."""
    if config.mask is None or config.mask == "none":
        return None
    at = find(config.mask, list(names.values()), f"imagery {where}")
    if at is None:
        raise MissingBand(f"imagery {where} has no band {config.mask}; it has {', '.join(names.values())}: set rs.mask")
    if not (config.mask_values or config.mask_bits):
        raise InputError(
            f"rs.mask={config.mask} needs rs.mask_values or rs.mask_bits: which of its values hide the ground"
        )
    return list(names)[at]


def _beside(href: str) -> str | None:
    """Time in a JSON file beside a raster, STEM_meta.json or STEM.json, as chips have it; a STAC item's too."""
    if "://" in href or href.startswith("/vsi"):
        return None
    for ending in ("_meta.json", ".json"):
        path = Path(href).with_name(f"{Path(href).stem}{ending}")
        try:
            if path.stat().st_size > _SIDECAR:
                continue
            document = json.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(document, dict) and (time := document_time(document)) is not None:
            return time
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
