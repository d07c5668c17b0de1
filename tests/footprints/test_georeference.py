"""Where a chip lies: the footprint is the one that the image was cut along."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.footprints.chips.georeference import (
    COLLECTIONS,
    Georeference,
    GeoreferenceError,
    envelope,
    georeference,
    skyscript_name,
)
from pipeline.footprints.chips.metadata import Metadata, read_metadata
from pipeline.footprints.chips.plan import DescribeJob, columns_of, describe_chips
from pipeline.footprints.chips.scan import find_chips
from schemas.errors import InputError
from schemas.footprint import Footprint
from tests.footprints.chips import geotiff, picture, skyscript_size
from tests.grounds import lonlat_to_normalised

OWN = (None, None)
PATCHES = 14


def utm(zone: int, south: bool = False) -> str:
    return f"EPSG:{32700 + zone if south else 32600 + zone}"


#: Collection, GSD, a CRS that its chips have, lon and lat range to draw from.
SOURCES = [
    ("FI", 0.5, "EPSG:3067", (20.5, 30.5), (60.0, 69.5)),
    ("DE", 0.2, "EPSG:25833", (11.5, 14.6), (51.5, 53.5)),
    ("CH", 0.1, "EPSG:2056", (6.2, 10.3), (46.0, 47.6)),
    ("US", 0.6, "EPSG:26911", (-119.9, -114.1), (33.0, 48.0)),
    ("S2", 10.0, utm(43), (73.1, 76.9), (10.0, 60.0)),
    ("L8", 30.0, utm(33, south=True), (14.1, 15.9), (-50.0, -10.0)),
]


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, float, str, tuple[float, float, float, float]]:
    """A collection, its GSD and CRS, and a lon/lat box of 100 to 400 of its pixels."""
    source, gsd, crs, lons, lats = draw(st.sampled_from(SOURCES))
    lon, lat = draw(st.floats(*lons)), draw(st.floats(*lats))
    width, height = draw(st.floats(100, 400)) * gsd, draw(st.floats(100, 400)) * gsd
    east = lon + math.degrees(width / 6378137 / math.cos(math.radians(lat)))
    return source, gsd, crs, (lon, lat, east, lat + math.degrees(height / 6378137))


@given(cut())
def test_a_skyscript_chip_lies_where_it_was_cut(
    case: tuple[str, float, str, tuple[float, float, float, float]],
) -> None:
    """Against pyproj alone: the place of every lon/lat in the image is that in the source image."""
    source, gsd, crs, box = case
    size = skyscript_size(box, crs, gsd)
    found = georeference(f"w1_{source}_20", size, OWN, Metadata(bbox=box), "auto")
    assert found.crs == crs
    lon, lat = np.random.default_rng(1).uniform(box[:2], box[2:], (50, 2)).T
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    corner = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    edge = np.linspace(0, 1, 33)
    xs, ys = corner.transform(
        np.concatenate((box[0] + (box[2] - box[0]) * edge, np.full(33, box[0]))),
        np.concatenate((np.full(33, box[3]), box[1] + (box[3] - box[1]) * edge)),
    )
    left, top = math.floor(xs.min() / gsd) * gsd, math.ceil(ys.max() / gsd) * gsd
    wanted = np.stack(((x - left) / gsd, (top - y) / gsd), axis=1) / size
    seen = lonlat_to_normalised(Footprint("chip-x", found.crs, found.transform, *size), np.stack((lon, lat), axis=1))
    assert np.abs(seen - wanted).max() * PATCHES < 0.05
    assert (seen > -1e-9).all()
    assert (seen < 1 + 1e-9).all()


@given(st.floats(0.02, 0.98), st.floats(5, 65), st.booleans(), st.floats(100, 300), st.floats(100, 300))
def test_near_the_border_of_a_zone_a_chip_lies_right_or_not_at_all(
    off: float, lat: float, east_of: bool, width: float, height: float
) -> None:
    """A Sentinel-2 image may be of either zone. The size of the chip tells, or the chip is refused."""
    lon = 72.0 + (off if east_of else -off)
    own = 43 if lon >= 72 else 42
    for zone in (42, 43):
        box = (
            lon,
            lat,
            lon + math.degrees(width * 10 / 6378137 / math.cos(math.radians(lat))),
            lat + math.degrees(height * 10 / 6378137),
        )
        assume((box[2] < 72) == (lon < 72))
        size = skyscript_size(box, utm(zone), 10.0)
        found = unless_ambiguous(size, box)
        if found is None:
            continue
        if found.crs != utm(zone):  # the other fits the size too: then it is the same place
            assert zone != own
        true = georeference("a1_S2_20", size, OWN, Metadata(bbox=box, crs=utm(zone), gsd=10.0), "auto")
        corners = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])
        seen, wanted = (
            lonlat_to_normalised(Footprint("chip-x", g.crs, g.transform, *size), corners) for g in (found, true)
        )
        assert np.abs(seen - wanted).max() * PATCHES < 0.05


def unless_ambiguous(size: tuple[int, int], box: tuple[float, float, float, float]) -> Georeference | None:
    try:
        return georeference("a1_S2_20", size, OWN, Metadata(bbox=box), "auto")
    except GeoreferenceError as error:
        if error.reason != "ambiguous_crs":
            raise
        return None


def test_the_size_tells_one_zone_from_the_other() -> None:
    box = (72.39691347516327, 37.097331419017664, 72.41982976645282, 37.12813243366936)
    assert skyscript_size(box, "EPSG:32642", 10.0) == (217, 350)
    assert georeference("a1_S2_20", (217, 350), OWN, Metadata(bbox=box), "auto").crs == "EPSG:32642"
    assert georeference("a1_S2_20", (214, 348), OWN, Metadata(bbox=box), "auto").crs == "EPSG:32643"


def test_the_axes_of_a_chip_are_turned_by_the_meridian_convergence() -> None:
    """A chip in Finland's CRS, far west of its central meridian: 5.28 degrees."""
    box = (21.0909, 63.3061, 21.0926, 63.3073)
    size = skyscript_size(box, "EPSG:3067", 0.5)
    found = georeference("a1_FI_21", size, OWN, Metadata(bbox=box), "auto")
    footprint = Footprint("chip-x", found.crs, found.transform, *size)
    lon, lat = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    (x0, y0), (x1, y1) = lonlat_to_normalised(footprint, np.array([[lon, lat], [lon, lat + 1e-4]])) * size
    factors = pyproj.Proj("EPSG:3067").get_factors(lon, lat)
    assert math.degrees(math.atan2(x1 - x0, y0 - y1)) == pytest.approx(-factors.meridian_convergence, abs=0.01)
    assert factors.meridian_convergence == pytest.approx(-5.28, abs=0.02)


def test_a_bbox_with_a_crs_fills_the_image() -> None:
    box, crs, size = (9.5, 47.1, 9.51, 47.108), "EPSG:2056", (200, 240)
    found = georeference("x", size, OWN, Metadata(bbox=box, crs=crs), "auto")
    by_setting = georeference("x", size, OWN, Metadata(bbox=box), crs)
    assert found == by_setting
    t = np.linspace(0, 1, 41)
    around = np.concatenate(
        [np.stack((box[0] + (box[2] - box[0]) * t, np.full(41, lat)), axis=1) for lat in (box[1], box[3])]
        + [np.stack((np.full(41, lon), box[1] + (box[3] - box[1]) * t), axis=1) for lon in (box[0], box[2])]
    )
    seen = lonlat_to_normalised(Footprint("chip-x", found.crs, found.transform, *size), around)
    np.testing.assert_allclose(seen.min(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(seen.max(axis=0), 1, atol=1e-6)


def test_heights_in_a_crs_are_left_out() -> None:
    found = georeference("x", (10, 20), OWN, Metadata(bbox=(5.0, 52.0, 5.1, 52.1), crs="EPSG:7415"), "auto")
    assert found.crs == "EPSG:28992"


def test_a_lonlat_chip_is_its_bbox() -> None:
    found = georeference("x", (10, 20), OWN, Metadata(bbox=(9.0, 47.0, 9.1, 47.2), crs="EPSG:4326"), "auto")
    assert found.transform == pytest.approx((0.01, 0, 9.0, 0, -0.01, 47.2))


def test_the_first_known_place_counts() -> None:
    size, own = (10, 10), ("EPSG:32632", (2.0, 0.0, 5e5, 0.0, -2.0, 5e6))
    known = Metadata(
        bbox=(9.0, 47.0, 9.1, 47.1),
        crs="EPSG:3857",
        bounds=(0.0, 0.0, 10.0, 20.0),
        transform=(1.0, 0.0, 7.0, 0.0, -1.0, 7.0),
    )
    assert georeference("x", size, own, known, "auto").how == "raster"
    assert georeference("x", size, (None, own[1]), known, "auto").crs == "EPSG:3857"  # a world file names no CRS
    assert georeference("x", size, OWN, known, "auto").transform == known.transform
    bounds = georeference("x", size, OWN, Metadata(bounds=known.bounds, crs="EPSG:3857"), "auto")
    assert (bounds.how, bounds.transform) == ("bounds", (1.0, 0.0, 0.0, 0.0, -2.0, 20.0))


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (None, "no_metadata"),
        ({}, "no_bbox"),
        ({"bbox": [9, 47, 9.1, 47.1]}, "no_crs"),
        ({"bbox": [9.1, 47, 9, 47.1], "crs": "EPSG:3857"}, "bbox_inverted"),
        ({"bbox": [9, 47.1, 9.1, 47], "crs": "EPSG:3857"}, "bbox_inverted"),
        ({"bbox": [9, 47, 9, 47.1], "crs": "EPSG:3857"}, "bbox_inverted"),
        ({"bbox": [179.9, 47, -179.9, 47.1], "crs": "EPSG:3857"}, "antimeridian"),
        ({"bbox": [500000, 5200000, 500100, 5200100], "crs": "EPSG:32632"}, "bbox_out_of_range"),
        ({"bbox": [9, 47, 9.1, 97], "crs": "EPSG:3857"}, "bbox_out_of_range"),
        ({"bbox": [9, 47, 9.1, 47.1], "crs": "EPSG:99999"}, "unknown_crs"),
        ({"bbox": [9, 47, 9.1, 47.1], "crs": "EPSG:4978"}, "unknown_crs"),  # geocentric
        ({"bbox": [9, 47, 9.1, 47.1], "crs": "nonsense"}, "unknown_crs"),
        ({"bbox": [100, 0, 100.1, 0.1], "crs": "EPSG:32632"}, "outside_crs"),
        ({"bounds": [0, 0, 10, 10]}, "no_crs"),
        ({"bounds": [10, 0, 0, 10], "crs": "EPSG:3857"}, "bbox_inverted"),
        ({"bbox": [9, 47, 9.1, 47.1], "crs": "EPSG:32632", "gsd": 1.0}, "footprint_mismatch"),
    ],
)
def test_a_chip_without_a_place_says_why(known: dict[str, Any] | None, reason: str) -> None:
    metadata = None if known is None else read_metadata(json.dumps(known).encode(), "x.json")
    with pytest.raises(GeoreferenceError) as caught:
        georeference("x", (10, 10), OWN, metadata, "auto")
    assert caught.value.reason == reason


@pytest.mark.parametrize("crs", ["EPSG:32760", "EPSG:32701", "EPSG:3832", "EPSG:3413", "EPSG:2193"])
def test_a_bbox_across_180_is_the_envelope_of_both_its_sides(crs: str) -> None:
    lat = 72.0 if crs == "EPSG:3413" else -44.0
    found = georeference("x", (10, 20), OWN, Metadata(bbox=(179.99, lat, -179.98, lat + 0.01), crs=crs), "auto")
    west, east = envelope((179.99, lat, 180.0, lat + 0.01), crs), envelope((-180.0, lat, -179.98, lat + 0.01), crs)
    whole = (min(west[0], east[0]), min(west[1], east[1]), max(west[2], east[2]), max(west[3], east[3]))
    a, _, c, _, e, f = found.transform
    assert (c, f, c + 10 * a, f + 20 * e) == pytest.approx((whole[0], whole[3], whole[2], whole[1]), abs=0.2)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:4087"])
def test_a_bbox_across_the_end_of_its_crs_is_refused_with_one_that_goes_on(crs: str) -> None:
    with pytest.raises(GeoreferenceError, match=r"across the end of EPSG:.*gdalwarp -t_srs EPSG:326NN"):
        georeference("x", (10, 20), OWN, Metadata(bbox=(179.99, 1.0, -179.98, 1.01), crs=crs), "auto")


def test_a_skyscript_chip_of_another_size_is_refused() -> None:
    box = (21.0909, 63.3061, 21.0926, 63.3073)
    with pytest.raises(GeoreferenceError, match="px, but its bbox") as caught:
        georeference("a1_FI_21", (300, 200), OWN, Metadata(bbox=box), "auto")
    assert caught.value.reason == "footprint_mismatch"
    with pytest.raises(GeoreferenceError):
        georeference("a1_XX_21", (300, 200), OWN, Metadata(bbox=box), "auto")


def test_skyscript_names() -> None:
    assert skyscript_name("a1085095888_S2_20") == ("S2", "2020")
    assert skyscript_name("n4503852781_DE_") == ("DE", None)
    assert skyscript_name("x4503852781_DE_20") is None
    assert skyscript_name("n4503852781_ZZ_20") is None
    assert set(COLLECTIONS) == {"US", "DE", "FI", "CH", "ES", "P3", "P5", "S2", "L8", "L9"}


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda v: (
            st.lists(v)
            | st.dictionaries(
                st.sampled_from(["bbox", "box", "crs", "gsd", "bounds", "transform", "time", "source"]), v
            )
        ),
        max_leaves=8,
    )
)
def test_no_metadata_break_the_reader(value: Any) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        metadata = read_metadata(data, "x.json")
        georeference("w1_S2_20", (217, 350), OWN, metadata, "auto")
    except InputError:
        return


def test_a_geotiff_keeps_its_own_affine_even_a_turned_one(tmp_path: Path) -> None:
    affine = rasterio.Affine(1.9, 0.4, 500000, 0.3, -2.1, 5216000)
    geotiff(tmp_path / "turned.tif", "EPSG:32632", 0, 0, 1, (40, 30), transform=affine)
    files, _ = find_chips(tmp_path)
    table, drops = describe_chips(DescribeJob(tmp_path, files))
    footprint = columns_of(table.to_pylist())[0]
    assert not drops
    assert (footprint.crs, footprint.transform, footprint.width) == ("EPSG:32632", tuple(affine)[:6], 40)


def test_a_world_file_and_a_sidecar_place_a_picture(tmp_path: Path) -> None:
    picture(tmp_path / "world.jpg", 20, 10)
    (tmp_path / "world.jgw").write_text("2.0\n0\n0\n-2.0\n500001.0\n5215999.0\n")  # centre of the first pixel
    (tmp_path / "world.json").write_text('{"crs": "EPSG:32632"}')
    picture(tmp_path / "pam.png", 20, 10)
    (tmp_path / "pam.png.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32632</SRS>"
        "<GeoTransform>500000.0, 2.0, 0, 5216000.0, 0, -2.0</GeoTransform></PAMDataset>"
    )
    picture(tmp_path / "bare.jpg", 20, 10)
    (tmp_path / "bare.jgw").write_text("2.0\n0\n0\n-2.0\n500001.0\n5215999.0\n")
    files, _ = find_chips(tmp_path)
    table, drops = describe_chips(DescribeJob(tmp_path, files))
    found = {r["stem"]: columns_of([r])[0] for r in table.to_pylist()}
    assert found.keys() == {"world", "pam"}
    for footprint in found.values():
        assert (footprint.crs, footprint.transform) == ("EPSG:32632", (2.0, 0.0, 500000.0, 0.0, -2.0, 5216000.0))
    assert [(d["key"], d["reason"]) for d in drops] == [("chip-bare", "no_crs")]
