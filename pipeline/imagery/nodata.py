"""Which pixels of a raster are data: decided here for every way to read them, from everything that states it.

A pixel is data unless anything says that it is not: the file's own mask (inside it or beside it as .msk), its alpha
band, or one value of nodata in all the bands that are read. That value is the user's (``rs.nodata``), else the file's,
else what a catalog or a preset says of the file. What is no number is no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from schemas.bands import band as known_band
from schemas.bands import canonical
from schemas.errors import InputError

Alpha = Literal["auto", "mask", "band", "ignore"]
Affine = tuple[float, float, float, float, float, float]
#: Windows a side, and pixels a side of each, that tell an alpha band from amounts.
_SPOTS, _SPOT = 4, 64


@dataclass(frozen=True)
class Stated:
    """What is said of a raster's nodata outside of its file."""

    nodata: float | Literal["none"] | None = None  # the user's, in place of all others; none: no value is nodata
    #: A catalog's or a preset's, of each band, or one of all; asked where the file has none.
    declared: tuple[float | None, ...] = ()
    alpha: Alpha = "auto"  # what the alpha band is; auto: a mask, unless it is one of the bands that are read
    described: int = 0  # the first bands, which a catalog describes, so that ``auto`` takes none of them for a mask


@dataclass(frozen=True)
class Evidence:
    """All that says which pixels of some bands of one raster are data."""

    bands: tuple[int, ...]
    nodata: tuple[float, ...]  # a band each, as its type holds it; empty: no value
    mask: bool  # the file has one
    alpha: int | None  # number of the band
    fill: float  # value that pixels without data are given

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.nodata) or self.mask or self.alpha is not None


def weigh(source: Any, bands: Sequence[int], stated: Stated) -> Evidence:
    """What says which pixels of ``bands`` (from 1) of a raster opened in rasterio are data."""
    held = [_held(value, source.dtypes[b - 1]) for value, b in zip(_values(source, bands, stated), bands, strict=True)]
    own = source.nodatavals[bands[0] - 1]
    fill = next((v for v in (held[0], _held(own, source.dtypes[bands[0] - 1])) if v is not None), 0.0)
    flags = source.mask_flag_enums[bands[0] - 1]
    alpha = alpha_band(source, stated.alpha)
    if alpha in bands or (alpha is not None and stated.alpha == "auto" and alpha <= stated.described):
        alpha = None
    return Evidence(
        bands=tuple(bands),
        nodata=() if None in held else tuple(v for v in held if v is not None),
        mask=MaskFlags.per_dataset in flags and not {MaskFlags.alpha, MaskFlags.nodata} & set(flags),
        alpha=None if stated.alpha == "ignore" else alpha,
        fill=fill,
    )


def _values(source: Any, bands: Sequence[int], stated: Stated) -> list[float | None]:
    """The value of nodata of each band."""
    if stated.nodata is not None:
        return [None if stated.nodata == "none" else float(stated.nodata)] * len(bands)
    own = [source.nodatavals[b - 1] for b in bands]
    if all(v is None for v in own):
        own = _listed(source.tags().get("NODATA_VALUES", ""), bands)
    if all(v is None for v in own):
        every = stated.declared * source.count if len(stated.declared) == 1 else stated.declared
        own = [every[b - 1] if b <= len(every) else None for b in bands]
    return own


def _listed(text: str, bands: Sequence[int]) -> list[float | None]:
    """Values of the metadata item that GDAL reads them from."""
    try:
        values = [float(v) for v in text.split()]
    except ValueError:
        values = []
    return [values[b - 1] if b <= len(values) else None for b in bands]


def _held(value: float | None, dtype: str) -> float | None:
    """The value as pixels of a type can have it; None: none of them can."""
    kind = np.dtype(dtype)
    if value is None or kind.kind == "c":
        return None
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            held = float(kind.type(value))
        return held if np.isfinite(held) or not np.isfinite(value) else float(value)
    info = np.iinfo(kind)
    return float(value) if float(value).is_integer() and info.min <= value <= info.max else None


def alpha_band(source: Any, alpha: Alpha) -> int | None:
    """Number of the band that masks the others; None: there is none, or it is to be a band like them."""
    called = [b for b, c in zip(source.indexes, source.colorinterp, strict=True) if c == ColorInterp.alpha]
    if alpha == "mask" and not called and source.count in (2, 4):
        return int(source.count)
    return int(called[-1]) if called and alpha != "band" else None


def settle_alpha(source: Any, alpha: Alpha, wanted: Sequence[str] = ()) -> Alpha:
    """``auto`` decided: a band where it is ``wanted`` by number or name, is called what a band is, or holds amounts.

    GDAL calls the fourth of four 8-bit bands alpha unless it is told what else it is, so near infrared comes as one.
    Opaque and transparent pixels are no amounts: a mask has little else.
    """
    band = alpha_band(source, alpha)
    if alpha != "auto" or band is None:
        return alpha
    name = source.descriptions[band - 1] or f"band{band}"
    if known_band(name) or str(band) in wanted or canonical(name) in map(canonical, wanted):
        return "band"
    if source.driver != "GTiff" or np.dtype(source.dtypes[band - 1]).kind != "u":  # a PNG's alpha is nothing else
        return "mask"
    height, width = source.shape
    some = [
        source.read(band, window=Window(x, y, min(_SPOT, width - x), min(_SPOT, height - y)))
        for y in _spots(height)
        for x in _spots(width)
    ]
    values = np.concatenate([v.reshape(-1) for v in some])
    amounts = (values != 0) & (values != np.iinfo(values.dtype).max)
    return "band" if amounts.mean() > 0.5 else "mask"


def _spots(length: int) -> list[int]:
    return sorted({max(0, length * (2 * i + 1) // (2 * _SPOTS) - _SPOT // 2) for i in range(_SPOTS)})


def check_palette(source: Any, bands: Sequence[int], resampling: str, where: str) -> None:
    """Refuse to average the numbers of colours.

    Raises:
        InputError: a band is paletted, and the resampling is not ``nearest``.
    """
    if resampling != "nearest" and any(source.colorinterp[b - 1] == ColorInterp.palette for b in bands):
        raise InputError(
            f"{where} is paletted: its values are numbers of colours, which have no mean. Make colours of them with "
            "gdal_translate -expand rgb, or keep the numbers with rs.resampling=nearest"
        )


def is_nodata(pixels: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Which pixels are the value; real numbers as GDAL compares them, so that one in rounded decimals is found."""
    if pixels.dtype.kind != "f":
        return np.equal(pixels, value)
    if not np.isfinite(value):
        return np.isnan(pixels) if np.isnan(value) else pixels == value
    real = pixels.dtype.type
    near = 4 * float(np.finfo(real).eps) * abs(value)
    with np.errstate(over="ignore", invalid="ignore"):
        return (pixels == real(value)) | (np.abs(pixels - real(value)) < real(near))


def find_valid(
    source: Any, evidence: Evidence, pixels: NDArray[Any], window: Window, shape: tuple[int, int] | None = None
) -> NDArray[np.bool_] | None:
    """Which ``pixels`` [bands,h,w] of a window, read at ``shape`` (h, w), are data, bool[h,w]; None: all."""
    if not evidence.any and pixels.dtype.kind != "f":
        return None
    valid = np.ones(pixels.shape[1:], bool)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    if evidence.nodata:
        valid &= ~np.all([is_nodata(p, n) for p, n in zip(pixels, evidence.nodata, strict=True)], axis=0)
    if evidence.mask:
        valid &= source.read_masks(evidence.bands[0], window=window, out_shape=shape) > 0
    if evidence.alpha is not None:
        valid &= source.read(evidence.alpha, window=window, out_shape=shape) > 0
    return None if valid.all() else valid


def view(source: Any, evidence: Evidence, transform: Affine) -> str:
    """A VRT of the bands, placed by ``transform``, with one alpha band that holds all of the evidence, for GDAL's
    warper.

    The warper by itself heeds the first thing that a file says, and which that is depends on how it is asked.
    """
    name, bands = str(source.name), evidence.bands
    kinds = [_kind(source.dtypes[b - 1]) for b in bands]
    masks = [(name, "mask,1")] if evidence.mask else []
    if evidence.alpha is not None:
        masks.append((name, str(evidence.alpha)))
    real = np.dtype(source.dtypes[bands[0] - 1]).kind == "f"
    for values in [evidence.nodata, (float("nan"),) * len(bands) if real else ()]:
        if values:
            own = [_band(k, [(name, str(b))], nodata=v) for k, b, v in zip(kinds, bands, values, strict=True)]
            document = _document(source, own, transform)
            # NaN in one band is enough, of a value all of them must have it
            rule = "min" if np.isnan(values[0]) else "max"
            parts = [(document, f"mask,{i}") for i in range(1, len(bands) + 1)]
            masks.append((_document(source, [_band("Byte", parts, rule)], transform), "1"))
    own = [_band(k, [(name, str(b))]) for k, b in zip(kinds, bands, strict=True)]
    return _document(source, own + ([_band("Byte", masks, "min", colour="Alpha")] if masks else []), transform)


def _kind(dtype: str) -> str:
    """GDAL's name of a type."""
    return str(typename_fwd[dtype_rev[dtype]])


def _band(
    kind: str, parts: list[tuple[str, str]], rule: str = "", nodata: float | None = None, colour: str = "Undefined"
) -> str:
    """One band of a VRT, of a band of a raster; or, with GDAL's pixel function ``rule``, a mask of one or several."""
    several = len(parts) > 1
    text = f'<VRTRasterBand dataType="{kind}"' + (' subClass="VRTDerivedRasterBand">' if several else ">")
    text += f"<PixelFunctionType>{rule}</PixelFunctionType>" if several else ""
    text += "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>"
    text += f"<ColorInterp>{colour}</ColorInterp>"
    # a mask is all or nothing, or the warper weighs pixels by their opacity; and of a mask by itself it gets what lay
    # in memory before, unless it comes by way of a buffer
    source, table = ("ComplexSource", "<LUT>0:0,1e-30:255</LUT>") if rule else ("SimpleSource", "")
    for where, band in parts:
        text += (
            f'<{source}><SourceFilename relativeToVRT="0">{escape(where)}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>{table}</{source}>"
        )
    return text + "</VRTRasterBand>"


def _document(source: Any, bands: list[str], transform: Affine) -> str:
    a, b, c, d, e, f = transform
    place = ",".join(repr(float(v)) for v in (c, a, b, f, d, e))
    size = f'rasterXSize="{source.width}" rasterYSize="{source.height}"'
    return f"<VRTDataset {size}><GeoTransform>{place}</GeoTransform>{''.join(bands)}</VRTDataset>"
