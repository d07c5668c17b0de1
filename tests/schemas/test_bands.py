"""One table says what a band is called."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from schemas.bands import BANDS, IMAGENET, RGB, SENTINEL2, band, canonical, channels, find, named, published
from schemas.errors import ConfigError, InputError

ALIASES = [(b.name, alias) for b in BANDS for alias in (b.name, *b.aliases)]
#: Asset keys of Earth Search, and names of Google Earth Engine and ESA's files, band by band of Sentinel-2 L2A.
SERVICES = {
    "earth-search": "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 swir16 swir22",
    "earth-engine": "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12",
    "esa": "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12",
}
#: Common names, and the range of their centre in µm, of STAC's EO extension 1.1.
STAC = {
    "pan": (0.40, 1.00), "coastal": (0.40, 0.45), "blue": (0.45, 0.53), "green": (0.51, 0.60), "red": (0.62, 0.69),
    "rededge071": (0.69, 0.73), "rededge075": (0.73, 0.76), "rededge078": (0.76, 0.80), "nir": (0.76, 1.00),
    "nir08": (0.80, 0.90), "nir09": (0.90, 1.00), "cirrus": (1.35, 1.40), "swir16": (1.55, 1.75),
    "swir22": (2.08, 2.35), "lwir": (10.4, 12.5), "lwir11": (10.5, 11.5), "lwir12": (11.5, 12.5),
}  # fmt: skip


@pytest.mark.parametrize(("name", "alias"), ALIASES)
def test_every_alias_means_one_band_however_it_is_written(name: str, alias: str) -> None:
    for text in (alias, alias.upper(), alias.lower(), f" {alias} ", alias.replace(" ", "_"), alias.replace(" ", "-")):
        assert canonical(text) == name


def test_no_alias_means_two_bands() -> None:
    squeezed = [alias.replace(" ", "").replace("_", "").lower() for _, alias in ALIASES]
    assert len(set(squeezed)) == len(squeezed)
    assert len({b.name for b in BANDS}) == len(BANDS)


def test_names_and_wavelengths_are_those_of_stac() -> None:
    assert {b.name for b in BANDS} - {"gray"} == set(STAC)
    for name, (low, high) in STAC.items():
        wavelength = band(name).wavelength  # type: ignore[union-attr]
        assert low * 1000 <= wavelength <= high * 1000, name  # type: ignore[operator]


def test_wavelengths_are_those_that_the_sensors_makers_publish() -> None:
    """In nm: ESA's centres of Sentinel-2A; middles of USGS's ranges of Landsat 8's and 7's thermal and pan bands."""
    bands = SERVICES["esa"].split()
    bands.insert(10, "B10")
    centres = (442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1373.5, 1613.7, 2202.4)
    assert [band(name).wavelength for name in bands] == list(centres)  # type: ignore[union-attr]
    ranges = {"TIRS_B10": (10600, 11190), "TIRS_B11": (11500, 12510), "ETM_B6": (10400, 12500), "OLI_B8": (503, 676)}
    for name, (low, high) in ranges.items():
        assert band(name).wavelength == pytest.approx((low + high) / 2, abs=0.6), name  # type: ignore[union-attr]


def test_services_call_the_same_bands_by_other_names() -> None:
    assert len({tuple(map(canonical, names.split())) for names in SERVICES.values()}) == 1
    for names in itertools.product(*(n.split() for n in SERVICES.values())):
        assert (len(set(map(canonical, names))) == 1) == (len({SERVICES[k].split().index(n) for k, n in zip(SERVICES, names, strict=True)}) == 1)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", ["band1", "Band 4", "SR_B4", "lidar", "rededge", "b13", "B8B", "VV"])
def test_a_name_of_no_table_stays_itself_without_case(name: str) -> None:
    assert canonical(name) == name.lower()
    assert band(name) is None
    assert find(name.upper(), ["x", name.lower()]) == 1


def test_two_channels_of_one_band_are_named() -> None:
    with pytest.raises(InputError, match=r"imagery x\.tif has the bands B04 and Red, which are both red"):
        channels(("B02", "B04", "Red"), "imagery x.tif")
    with pytest.raises(InputError, match="DEM and dem, which are both dem"):
        channels(("DEM", "dem"))
    assert channels(("N", "R", "G")) == {"nir": 0, "red": 1, "green": 2}


def test_the_very_name_comes_before_an_alias() -> None:
    assert find("red", ("B4", "red")) == 1
    assert find("B4", ("B4", "red")) == 0
    with pytest.raises(InputError, match="B4 and red"):
        find("R", ("B4", "red"))
    assert find("nir", ("B4", "red")) is None


def test_a_model_takes_each_band_once() -> None:
    assert named(("R", "B03", "Blue")) == RGB
    for wrong in (("red", "B4"), (), "all"):
        with pytest.raises(ConfigError, match=r"arch\.bands"):
            named(wrong)  # type: ignore[arg-type]


def test_published_statistics_are_those_of_the_sensor_and_the_type() -> None:
    assert set(SENTINEL2.moments) == set(map(canonical, SERVICES["esa"].split()))
    assert published("B04", "uint16") == published("b4", "uint16") == (1509.3327, 783.1424)
    assert published("red", "uint16") is None  # whose 16 bits?
    assert published("OLI_B4", "uint16") is None
    assert published("B4", "float32") is None  # reflectance may be 0 to 1
    assert published("R", "uint8") == published("B4", "uint8") == IMAGENET.moments["red"] == (0.485 * 255, 0.229 * 255)
    assert published("nir", "uint8") is None


def test_published_moments_are_those_of_the_page_that_cites_them() -> None:
    """A band's mean before its deviation, none in another's place; B1 and B9 stand in words below the table."""
    page = (Path(__file__).parents[2] / "docs" / "papers" / "gair.md").read_text()
    names, means, deviations = (
        [cell.strip() for cell in line.strip("|").split("|")[1:]]
        for start in ("| band |", "| μ |", "| σ |")
        for line in page.splitlines()
        if line.startswith(start)
    )
    stated = dict(zip(names, zip(map(float, means), map(float, deviations), strict=True), strict=True))
    stated |= {b: (float(m), float(s)) for b, m, s in re.findall(r"(B[19]) \(([\d.]+), ([\d.]+)\)", page)}
    assert len(stated) == 12
    assert SENTINEL2.moments == {canonical(name): moments for name, moments in stated.items()}
