"""Raster files as scenes: GeoTIFF, COG, VRT and whatever else GDAL reads; any CRS, bands and transform."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.alignment import place
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.grids.check import outline
from pipeline.imagery.nodata import Alpha, Stated, alpha_band, check_palette, settle_alpha
from pipeline.imagery.raster import open_raster
from pipeline.imagery.scene import DTYPES, Asset, Mask, Scene
from schemas.bands import channels, find
from schemas.errors import InputError
from schemas.footprint import Footprint
from storage.urls import expand

_COLOURS = ("red", "green", "blue", "gray")


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
    mask = _mask(names, config, href)
    chosen = choose_bands(names, config, href, mask)
    dtypes = {source.dtypes[b - 1] for b in chosen}
    dtype = source.dtypes[chosen[0] - 1]
    if len(dtypes) > 1:
        raise InputError(f"imagery {href} has bands of {', '.join(sorted(dtypes))}; choose those of one with rs.bands")
    check_dtype(dtype, config, href)
    check_palette(source, chosen, config.resampling, f"imagery {href}")
    tags, imagery = source.tags(), source.tags(ns="IMAGERY")
    return Scene(
        name=name,
        area=outline(source, href),
        bands=[names[b] for b in chosen],
        dtype=dtype,
        acquired=_acquired(tags, imagery),
        assets=(Asset(href, tuple(chosen), Stated(config.nodata, alpha=alpha)),),
        cloud=_number(imagery.get("CLOUDCOVER") or tags.get("CLOUDY_PIXEL_PERCENTAGE")),
        gsd=true_gsd(source),
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


def choose_bands(names: dict[int, str], config: ImageryConfig, where: str, mask: int | None = None) -> list[int]:
    """Numbers of the bands of ``rs.bands``, by any name or by number from 1; all but the mask where none are named.

    Raises:
        InputError: one is missing, or two of them are one band.
    """
    numbers, held = list(names), list(names.values())
    chosen = [] if config.bands else [b for b in names if b != mask]
    for wanted in config.bands:
        at = find(wanted, held, f"imagery {where}")
        if at is None and not (wanted.isdecimal() and int(wanted) in names):
            raise InputError(f"imagery {where} has no band {wanted}; it has {', '.join(held)}: set rs.bands")
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
        raise InputError(f"imagery {where} has no band {config.mask}; it has {', '.join(names.values())}: set rs.mask")
    if not (config.mask_values or config.mask_bits):
        raise InputError(
            f"rs.mask={config.mask} needs rs.mask_values or rs.mask_bits: which of its values hide the ground"
        )
    return list(names)[at]


def _acquired(tags: dict[str, str], imagery: dict[str, str]) -> str | None:
    """Time of acquisition, ISO 8601, of what GDAL, TIFF and Earth Engine call it."""
    if milliseconds := _number(tags.get("system-time_start")):
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = (imagery.get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME") or "").strip()
    match = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d:\d\d:\d\d)", text)
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}Z" if match else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
