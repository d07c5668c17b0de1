"""Times as files, services and people write them: one reader for photos, rasters and chips."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.times import any_time, compile_pattern, document_time, iso_time, name_time, tag_time
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1717236000000, "2024-06-01T10:00:00Z"), ("1717236000000", "2024-06-01T10:00:00Z"),
        ("1717236000000.0", "2024-06-01T10:00:00Z"), ("2016-03-23 09:33:51.000", "2016-03-23T09:33:51"),
        ("2022-10-19T07:56:34.021000+02:00", "2022-10-19T05:56:34.021Z"), ("2018-08-02", "2018-08-02"),
        ("2011:01:01 16:02:54", "2011-01-01T16:02:54"), ("0000:00:00 00:00:00", None), ("None", None), (None, None),
        ("99999999999999", None), ("2024-13-45", None),
        # Seconds, milli-, micro- and nanoseconds since 1970 are told apart by their digits.
        (1717236000, "2024-06-01T10:00:00Z"), ("1717236000.25", "2024-06-01T10:00:00.25Z"),
        (1717236000123, "2024-06-01T10:00:00.123Z"), (1717236000123456, "2024-06-01T10:00:00.123456Z"),
        ("1717236000123456789", "2024-06-01T10:00:00.123456Z"), (998_000_000, "2001-08-16T22:13:20Z"),
        # Digits that are a date are one.
        ("20200601123000", "2020-06-01T12:30:00"), (20200601123000, "2020-06-01T12:30:00"),
        ("202006011230", "2020-06-01T12:30:00"), ("20200601123000123", "2020-06-01T12:30:00.123"),
        ("20200601", "2020-06-01"), ("20200631", None), ("20201301123000", None), (20200601.0, "2020-06-01"),
        # Zones and fractions are kept, however they are written.
        ("2020-06-01 12:30:00.5 +0200", "2020-06-01T10:30:00.5Z"),
        ("2020:06:01 12:30:00-03:30", "2020-06-01T16:00:00Z"), ("2020/06/01 12:30", "2020-06-01T12:30:00"),
        ("2020-06-01 12:30:00−02:00", "2020-06-01T14:30:00Z"),
        ("2020-06-01 12:30:00 UTC", "2020-06-01T12:30:00Z"), ("20200601T123000Z", "2020-06-01T12:30:00Z"),
        ("2020_06_01_12_30_00_123", "2020-06-01T12:30:00.123"),
        (datetime(2020, 6, 1, 12, 30, 0, 250_000, timezone(timedelta(hours=2))), "2020-06-01T10:30:00.25Z"),
        # What is no time.
        (0, None), ("0", None), (-1717236000, None), (float("nan"), None), (True, None), ("06/01/2020", None),
        ("2020-06-01T25:00:00", None), ("2020-06-01T12:30:00+99:00", None), ("9" * 30, None), ("12", None),
    ],
)  # fmt: skip
def test_times_of_every_source_are_understood(value: object, expected: str | None) -> None:
    assert iso_time(value) == expected


@pytest.mark.parametrize(
    ("given_time", "wanted"),
    [
        ([2020, 8, 6, 6, 8], "2020-08-06T06:08:00Z"), ((2020, 8, 6), "2020-08-06T00:00:00Z"), (2021, "2021"),
        ("2021-05", "2021-05"), ("2021-13", None), ("0000", None), (float("nan"), None),
        ("2021", "2021"), ("2021-05-06", "2021-05-06"), ("2021-05-06T10:00:00+02:00", "2021-05-06T08:00:00Z"),
        ("2021-05-06 10:00:00", "2021-05-06T10:00:00"), (None, None), ("soon", None), ([2020, 13, 1], None),
        (True, None), (-5, None), ({}, None), ([1, 2], None),
    ],
)  # fmt: skip
def test_years_months_and_lists_of_metadata_are_times_too(given_time: Any, wanted: str | None) -> None:
    assert any_time(given_time) == wanted


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"TIFFTAG_DATETIME": "2021:06:23 19:03:52"}, "2021-06-23T19:03:52"),  # TIFF names no zone
        ({"TIFFTAG_DATETIME": "2021:06:23 19:03:52.25+02:00"}, "2021-06-23T17:03:52.25Z"),
        ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None), ({"TIFFTAG_DATETIME": "2021:06:23 25:00:00"}, None),
        ({"TIFFTAG_DATETIME": "yesterday"}, None), ({"TIFFTAG_DATETIME": ""}, None), ({}, None),
        ({"system-time_start": "1624475032118"}, "2021-06-23T19:03:52.118Z"),
        ({"system:time_start": "80000000000"}, "1972-07-14T22:13:20Z"),
        *(({"system-time_start": v}, None) for v in ("soon", "nan", "inf", "-1e300", "", "0", "0.0")),
        ({"system-time_start": "nan", "TIFFTAG_DATETIME": "2021:06:23 19:03:52"}, "2021-06-23T19:03:52"),
        ({"ACQUISITIONDATETIME": "2021-06-23 19:03:52"}, "2021-06-23T19:03:52Z"),  # GDAL: in UTC
        ({"ACQUISITIONDATETIME": "0000-00-00 00:00:00", "DATE_ACQUIRED": "2021-06-23"}, "2021-06-23"),
        ({"PRODUCT_START_TIME": "2021-06-23T19:03:52.118Z"}, "2021-06-23T19:03:52.118Z"),
        ({"NITF_IDATIM": "20210623190352"}, "2021-06-23T19:03:52Z"),
        ({"EXIF_DateTimeOriginal": "2021:06:23 19:03:52", "EXIF_SubsecTimeOriginal": "25",
          "EXIF_OffsetTimeOriginal": "+02:00", "EXIF_DateTime": "2022:01:01 00:00:00"}, "2021-06-23T17:03:52.25Z"),
    ],
)  # fmt: skip
def test_what_a_raster_s_tags_say_is_a_time_or_none(tags: dict[str, str], wanted: str | None) -> None:
    assert tag_time(tags) == wanted


@given(st.dictionaries(st.sampled_from(["TIFFTAG_DATETIME", "system-time_start", "ACQUISITIONDATETIME"]), st.text()))
def test_no_tag_breaks_the_reader(tags: dict[str, str]) -> None:
    found = tag_time(tags)
    assert found is None or re.fullmatch(r"\d{4}-\d\d-\d\d(T[\d:.]+Z?)?", found)


@pytest.mark.parametrize(
    ("path", "pattern", "wanted"),
    [
        ("scenes/2020-09-17_Sentinel_2_L1C_B04.tiff", "%Y-%m-%d", "2020-09-17"),
        ("T30TVK_20210601T110619_B04_10m.jp2", "%Y%m%dT%H%M%S", "2021-06-01T11:06:19"),
        ("madrid_202107.tif", "%Y%m", "2021-07"), ("madrid_2021_summer.tif", "%Y", "2021"),
        ("LC08_2021152.tif", "%Y%j", "2021-06-01"), ("x_01Jun21.tif", "%d%b%y", "2021-06-01"),
        ("x_99.tif", "_%y", "1999"), ("x_69.tif", "_%y", "1969"), ("x_68.tif", "_%y", "2068"),  # as POSIX has it
        ("2021-06-01/ortho.tif", "%Y-%m-%d", "2021-06-01"), ("2021-06-01/2022-06-01.tif", "%Y-%m-%d", "2022-06-01"),
        ("x_2021-06-01T12:00:00.5+02:00.tif", "%Y-%m-%dT%H:%M:%S.%f%z", "2021-06-01T10:00:00.5Z"),
        ("tile_12345678_20210601.tif", "%Y%m%d", "2021-06-01"),  # the first that is a date
        ("x_20211301.tif", "%Y%m%d", None), ("x_20210601T250000.tif", "%Y%m%dT%H%M%S", None),
        ("x_00000000.tif", "%Y%m%d", None), ("x_120210601.tif", "%Y%m%d", None), ("2021_366.tif", "%Y_%j", None),
        ("flug 1.6.2021.tif", r"(?P<day>\d+)\.(?P<month>\d+)\.(?P<year>\d{4})", "2021-06-01"),
        ("x.tif", "%Y", None), ("2021.tif", "", None),
    ],
)  # fmt: skip
def test_names_have_a_time_by_a_pattern(path: str, pattern: str, wanted: str | None) -> None:
    assert name_time(path, pattern) == wanted


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("%Q", "%Q is unknown"), ("%m-%d", "has no year"), ("(?P<year>", "is no pattern"), ("%Y%", "% is unknown"),
     ("%Y%Y", "is no pattern"), (r"(?P<year>\d+)(?P<century>\d)", "century is unknown")],
)  # fmt: skip
def test_a_pattern_that_means_nothing_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"rs.time_pattern.*{message}"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "document",
    [{"time": "2021-06-01"}, {"acquired": "2021-06-01"}, {"time": "0000-00-00", "datetime": "2021-06-01"},
     {"type": "Feature", "properties": {"datetime": None, "start_datetime": "2021-06-01"}}],
)  # fmt: skip
def test_a_document_beside_an_image_says_its_time(document: dict[str, Any]) -> None:
    assert document_time(document) == "2021-06-01"
