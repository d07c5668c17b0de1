"""What bands are called, where in the spectrum they lie, and which values they have been found to hold.

One band has many names: red is B4 or B04 of Sentinel-2, OLI_B4 of Landsat 8, R of an aerial image. Whatever a producer
calls it, every alias finds it. Canonical names are the common names of STAC's EO extension
(https://github.com/stac-extensions/eo). A name that no table knows is a band of the user's own: it stays itself,
compared without case. Bare ``B1`` … ``B12`` are Sentinel-2's; ``SR_B4`` is red of one Landsat and infrared of another,
so it is nobody's alias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from schemas.errors import ConfigError, InputError

#: Bands that a model takes: names in channel order, or ``all`` that the dataset has.
Bands = tuple[str, ...] | Literal["all"]


@dataclass(frozen=True)
class Band:
    """One band, whoever measures it."""

    name: str  # canonical
    wavelength: float | None  # nm, of the centre; Sentinel-2A's where it has the band; None: of no single one
    unit: str  # of what is measured
    aliases: tuple[str, ...]  # case, spaces, hyphens and underscores do not matter


#: Sentinel-2: User Handbook (ESA), table of band centres of S2A. Landsat: band designations of OLI, TIRS, TM and ETM+
#: (USGS); ETM names are those of Landsat 7. NAIP and other aerial images: R, G, B, N.
BANDS = (
    Band("coastal", 442.7, "reflectance", ("B1", "B01", "OLI_B1", "coastal aerosol", "aerosol", "ultra blue")),
    Band("blue", 492.4, "reflectance", ("B2", "B02", "OLI_B2", "TM_B1", "ETM_B1", "B")),
    Band("green", 559.8, "reflectance", ("B3", "B03", "OLI_B3", "TM_B2", "ETM_B2", "G")),
    Band("red", 664.6, "reflectance", ("B4", "B04", "OLI_B4", "TM_B3", "ETM_B3", "R")),
    Band("rededge071", 704.1, "reflectance", ("B5", "B05", "red edge 1")),
    Band("rededge075", 740.5, "reflectance", ("B6", "B06", "red edge 2")),
    Band("rededge078", 782.8, "reflectance", ("B7", "B07", "red edge 3")),
    Band("nir", 832.8, "reflectance", ("B8", "B08", "TM_B4", "ETM_B4", "N", "near infrared", "infrared")),
    Band("nir08", 864.7, "reflectance", ("B8A", "B08A", "OLI_B5", "narrow nir", "nir narrow", "red edge 4")),
    Band("nir09", 945.1, "reflectance", ("B9", "B09", "water vapour", "water vapor")),
    Band("cirrus", 1373.5, "reflectance", ("B10", "OLI_B9")),
    Band("swir16", 1613.7, "reflectance", ("B11", "OLI_B6", "TM_B5", "ETM_B5", "swir 1")),
    Band("swir22", 2202.4, "reflectance", ("B12", "OLI_B7", "TM_B7", "ETM_B7", "swir 2")),
    Band("pan", 590.0, "reflectance", ("OLI_B8", "ETM_B8", "P", "panchromatic")),
    Band("lwir", 11450.0, "kelvin", ("TM_B6", "ETM_B6", "thermal")),
    Band("lwir11", 10895.0, "kelvin", ("TIRS_B10", "lwir 1")),
    Band("lwir12", 12005.0, "kelvin", ("TIRS_B11", "lwir 2")),
    Band("gray", None, "level", ("grey",)),
)
#: Of a picture, which has no other bands.
RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Published:
    """Mean and standard deviation of bands as others have found them."""

    dtype: str  # of the values that they are of
    unit: str  # of a step of 1
    source: str
    moments: Mapping[str, tuple[float, float]]  # by canonical name


#: Of values before the offset of processing baseline 04.00. B1 and B9 are of a class there that only debugs.
SENTINEL2 = Published(
    "uint16", "reflectance / 10,000", "GAIR's released code, Sentinel-2 L2A tiles: docs/papers/gair.md#images",
    {
        "coastal": (1051.6516, 441.2129), "blue": (1172.9397, 706.6250), "green": (1378.0846, 720.1862),
        "red": (1509.3327, 783.1424), "rededge071": (1750.0275, 707.1962), "rededge075": (2073.2758, 714.2782),
        "rededge078": (2207.3283, 748.1827), "nir": (2245.1629, 852.3585), "nir08": (2284.6384, 762.0849),
        "nir09": (2337.5222, 681.2236), "swir16": (2231.7283, 690.0165), "swir22": (1899.1932, 669.9036),
    },
)  # fmt: skip
#: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 times 255.
IMAGENET = Published(
    "uint8", "level of 255", "ImageNet's training images, as torchvision and timm give them",
    {"red": (123.675, 58.395), "green": (116.28, 57.12), "blue": (103.53, 57.375)},
)  # fmt: skip

_SENTINEL2_NAME = re.compile(r"B(0?[1-9]|0?8A|1[0-2])", re.IGNORECASE)


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


_BY_ALIAS = {_squeezed(alias): band for band in BANDS for alias in (band.name, *band.aliases)}


def band(name: str) -> Band | None:
    """The band that any of its aliases names; None where it is a user's own."""
    return _BY_ALIAS.get(_squeezed(name))


@lru_cache(1 << 12)
def canonical(name: str) -> str:
    """The one name of a band.

    >>> canonical("B04"), canonical("R"), canonical("red"), canonical("Lidar Height")
    ('red', 'red', 'red', 'lidar height')
    """
    known = band(name)
    return known.name if known else name.strip().casefold()


def channels(names: Sequence[str], where: str = "the image") -> dict[str, int]:
    """Channel, from 0, of each band of an image by its canonical name.

    >>> channels(("B2", "B3", "B4"))["red"]
    2

    Raises:
        InputError: two channels are one band; the message names both, and ``where``.
    """
    found: dict[str, int] = {}
    for number, name in enumerate(names):
        first = found.setdefault(canonical(name), number)
        if first != number:
            raise InputError(
                f"{where} has the bands {names[first]} and {name}, which are both {canonical(name)}; "
                "keep one of them: rs.bands=[…] of imagery when it is built, gdal_translate -b of a chip"
            )
    return found


def find(wanted: str, names: Sequence[str], where: str = "the image") -> int | None:
    """Which of the ``names`` is meant by ``wanted``: the very name, else the band; None where it has none.

    Raises:
        InputError: two of them are that band.
    """
    if wanted in names:
        return names.index(wanted)
    same = [i for i, name in enumerate(names) if canonical(name) == canonical(wanted)]
    if len(same) > 1:
        channels([names[i] for i in same], where)
    return same[0] if same else None


def named(bands: Bands) -> tuple[str, ...]:
    """Canonical names of the bands that a model takes.

    Raises:
        ConfigError: none, or one twice; or ``all``, which only a dataset can tell.
    """
    if bands == "all":
        raise ConfigError("arch.bands=all: which those are is known with a dataset; name them with arch.bands=[…]")
    found = tuple(canonical(b) for b in bands)
    twice = [b for i, b in enumerate(bands) if found[i] in found[:i]]
    if twice or not found:
        raise ConfigError(f"arch.bands names {f'{canonical(twice[0])} twice' if twice else 'no band'}; give each once")
    return found


def published(name: str, dtype: str) -> tuple[float, float] | None:
    """Mean and standard deviation that are known of a band's values without a look at them.

    ``name`` is what the producer calls it: 16-bit values are Sentinel-2's only where it has Sentinel-2's name.
    """
    if dtype == IMAGENET.dtype:
        return IMAGENET.moments.get(canonical(name))
    if dtype == SENTINEL2.dtype and _SENTINEL2_NAME.fullmatch(name):
        return SENTINEL2.moments.get(canonical(name))
    return None
