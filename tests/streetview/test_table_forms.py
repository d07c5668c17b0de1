"""Tables as spreadsheets, data frames and GIS write them: read as they are meant, or refused with what was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files import text
from pipeline.streetview.files.table import TableSource, _positive, spellings
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, to_photo
from schemas.errors import InputError
from tests.streetview.makers import picture

HERE = (9.5, 47.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a photo."""
    picture(tmp_path / "img" / "a.jpg")
    return tmp_path


def listed(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    drops = Drops()
    return TableSource(path, "CC0-1.0").list(None, drops).to_pylist(), drops.rows()


def lines(count: int, value: str = "Ada") -> list[str]:
    return [f"img/a.jpg,p{i},{9 + i / 1e4:.4f},47.1,{value}" for i in range(count)]


def csv_table(folder: Path, rows: Sequence[str], head: str = "file,id,lon,lat,author") -> Path:
    (folder / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize("at", [0, 10, 4998, 4999])
@pytest.mark.parametrize("value", ['"Ada', '"Ada, of the hill', '"', 'Ada"s" "house', '"Ada" of the hill'])
def test_a_stray_quote_costs_its_own_row_and_is_named_by_its_line(folder: Path, at: int, value: str) -> None:
    rows = lines(5000)
    rows[at] = rows[at].replace("Ada", value)
    found, drops = listed(csv_table(folder, rows))
    ids = [r["id"] for r in found]
    lost = [f"p{i}" for i in range(5000) if i == at] if drops else []
    assert ids == [f"p{i}" for i in range(5000) if f"p{i}" not in lost]
    assert [(d["key"], d["reason"]) for d in drops] == [(f"line {at + 2}", "bad_row") for _ in lost]
    assert bool(drops) == (value.startswith('"') and value.count('"') == 1)


@pytest.mark.parametrize(("first", "second"), [(10, 20), (10, 11), (0, 4999)])
def test_two_stray_quotes_do_not_swallow_what_lies_between_them(folder: Path, first: int, second: int) -> None:
    """To a reader of quotes alone everything from the one to the other is a value."""
    rows = lines(5000)
    rows[first], rows[second] = rows[first].replace("Ada", '"Ada'), rows[second].replace("Ada", 'Ada"')
    found, drops = listed(csv_table(folder, rows))
    assert len(found) + len(drops) == 5000
    assert {d["key"] for d in drops} <= {f"line {first + 2}", f"line {second + 2}"}
    assert f"line {first + 2}" in {d["key"] for d in drops}


def test_a_stray_quote_in_a_column_that_is_not_read_is_found_too(folder: Path) -> None:
    rows = [f"{row},fine" for row in lines(100)]
    rows[7] = rows[7].replace("fine", '"fine')
    found, drops = listed(csv_table(folder, rows, "file,id,lon,lat,author,remark"))
    assert (len(found), [d["key"] for d in drops]) == (99, ["line 9"])


@given(st.lists(st.text("ab,;\"\n '1.", max_size=12), min_size=1, max_size=8), st.integers(30, 200))
def test_values_that_a_csv_writer_quotes_come_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], block: int
) -> None:
    """Breaks, delimiters and quotes inside values, over the edges of blocks; Python's csv is the writer."""
    import csv

    folder = tmp_path_factory.mktemp("t")
    picture(folder / "a.jpg")
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "id", "lon", "lat", "author"), *(("a.jpg", i, *HERE, v) for i, v in
                                                                     enumerate(values))])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", block)
        found, drops = listed(folder / "t.csv")
    assert not drops
    assert [r["author"] for r in found] == [v.strip() or None for v in values]


def test_rows_of_another_length_are_named_by_their_line(folder: Path) -> None:
    rows = lines(6)
    rows[0] += "\n\n"
    rows[2] = rows[2].replace("Ada", '"Ada\nLovelace"')
    rows[3], rows[5] = "img/a.jpg,9.5", rows[5] + ",more"
    found, drops = listed(csv_table(folder, rows))
    assert [r["id"] for r in found] == ["p0", "p1", "p2", "p4"]
    assert [d["key"] for d in drops] == ["line 8", "line 10"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_delimiters_encodings_and_line_ends_of_every_kind(
    folder: Path, delimiter: str, coding: str, ending: str
) -> None:
    rows = [("file", "id", "lon", "lat", "author"), ("img/a.jpg", "x", "9.5", "47.1", "Zoë")]
    path = folder / "t.csv"
    path.write_bytes("".join(delimiter.join(r) + ending for r in rows).encode(coding))
    ((row,), drops) = listed(path)
    assert (row["id"], row["lon"], row["lat"], row["author"], drops) == ("x", *HERE, "Zoë", [])


def test_a_european_spreadsheet_has_decimal_commas(folder: Path) -> None:
    ((row,), drops) = listed(csv_table(folder, ["img/a.jpg;x;9,5;47,1;-12,25"], "sep=;\nfile;id;lon;lat;heading"))
    assert (row["lon"], row["lat"], row["heading"], drops) == (*HERE, 347.75, [])


def test_decimal_commas_between_commas_are_not_guessed_at(folder: Path) -> None:
    _, drops = listed(csv_table(folder, ['img/a.jpg,x,"9,5","47,1"'], "file,id,lon,lat"))
    assert [(d["reason"], d["detail"]) for d in drops] == [
        ("no_position", "lon '9,5', lat '47,1': no position that can be read")
    ]


@pytest.mark.parametrize(
    "name", ["img/a.jpg", "img\\a.jpg", ".\\img\\a.jpg", "./img/a.jpg", "{root}/img/a.jpg", "{root}\\img\\a.jpg"]
)
def test_a_photo_is_found_by_the_path_that_any_system_writes(folder: Path, name: str) -> None:
    ((row,), _) = listed(csv_table(folder, [f"{name.format(root=folder.name)},9.5,47.1"], "file,lon,lat"))
    assert Path(row["path"]) == (folder / "img" / "a.jpg").resolve()


@pytest.mark.parametrize(
    "name", ["C:\\img\\a.jpg", "\\\\server\\img\\a.jpg", "..\\img\\a.jpg", "c:a.jpg", "a\0b.jpg", "x" * 5000, "img/"]
)
def test_a_path_that_leads_elsewhere_is_a_drop_that_quotes_it(folder: Path, name: str) -> None:
    pq.write_table(pa.table({"file": [name], "lon": [9.5], "lat": [47.1]}), folder / "t.parquet")
    found, (drop,) = listed(folder / "t.parquet")
    assert not found
    assert drop["reason"] == "missing_file"
    assert name[:150] in drop["detail"]


def test_a_backslash_that_is_part_of_a_name_is_one(folder: Path) -> None:
    assert spellings("img\\a.jpg") == ["img\\a.jpg", "img/a.jpg"]
    picture(folder / "img" / "b\\c.jpg")
    ((row,), _) = listed(csv_table(folder, ["img/b\\c.jpg,9.5,47.1"], "file,lon,lat"))
    assert row["path"].endswith("b\\c.jpg")


def test_ids_that_became_floating_point_find_their_photo(folder: Path) -> None:
    picture(folder / "123.jpg")
    for ids in (pa.array([123.0, None]), pa.array(["123.0", None])):
        pq.write_table(pa.table({"id": ids, "lon": [9.5, 9.5], "lat": [47.1, 47.1]}), folder / "t.parquet")
        ((row,), drops) = listed(folder / "t.parquet")
        assert (row["id"], Path(row["path"]).name, [d["key"] for d in drops]) == ("123", "123.jpg", ["row 2"])


def test_an_id_that_two_files_are_named_after_is_a_drop_that_names_them(folder: Path) -> None:
    for name in ("one/5.jpg", "two/5.jpg", "6.jpg"):
        picture(folder / name)
    (folder / "6.heic").write_bytes(b"heic")  # cannot be read, so it is no rival
    found, (drop,) = listed(csv_table(folder, ["5,9.5,47.1", "6,9.5,47.1"], "id,lon,lat"))
    assert [Path(r["path"]).name for r in found] == ["6.jpg"]
    assert (drop["key"], drop["reason"]) == ("5", "missing_file")
    assert "one/5.jpg and two/5.jpg" in drop["detail"]


def test_a_photo_of_a_format_that_is_not_read_is_found_and_named_when_it_is_opened(folder: Path) -> None:
    (folder / "7.heic").write_bytes(b"heic")
    ((row,), _) = listed(csv_table(folder, ["7,9.5,47.1"], "id,lon,lat"))
    drops = Drops()
    assert not encode_photos([to_photo(row, row["path"])], StreetviewConfig(), drops)
    assert [(d["key"], d["reason"]) for d in drops.rows()] == [("7", "unreadable_image")]


@pytest.mark.parametrize("value", ["1.05567E+16", "1.055678178162720e+16", "12345678901234567.0"])
def test_ids_that_lost_digits_are_refused(folder: Path, value: str) -> None:
    path = csv_table(folder, [f"img/a.jpg,{value},9.5,47.1"], "file,id,lon,lat")
    with pytest.raises(InputError, match=r"t\.csv: column id holds 1.*lost its last digits; save it as text"):
        listed(path)


def geo(column: str, encoding: str, crs: Any = None) -> dict[bytes, bytes]:
    about: dict[str, Any] = {"encoding": encoding, "geometry_types": ["Point"]}
    if crs is not None:
        about["crs"] = pyproj.CRS.from_user_input(crs).to_json_dict()
    return {b"geo": json.dumps({"version": "1.1.0", "primary_column": column, "columns": {column: about}}).encode()}


def write_points(path: Path, points: pa.Array, name: str = "geometry", metadata: dict[bytes, bytes] | None = None,
                 field: dict[str, str] | None = None) -> Path:  # fmt: skip
    schema = pa.schema(
        [("file", pa.string()), ("id", pa.string()), pa.field(name, points.type, metadata=field)], metadata
    )
    ids = [f"p{i}" for i in range(len(points))]
    pq.write_table(pa.table([["img/a.jpg"] * len(points), ids, points], schema=schema), path)
    return path


XY = pa.struct([("x", pa.float64()), ("y", pa.float64())])
INTERLEAVED = pa.list_(pa.float64(), 2)
FORMS = {
    "GeoParquet point": (pa.array([{"x": 9.5, "y": 47.1}, None], XY), geo("geometry", "point"), None),
    "GeoArrow separated": (
        pa.array([{"x": 9.5, "y": 47.1}, None], XY), None, {"ARROW:extension:name": "geoarrow.point"},
    ),
    "GeoArrow interleaved": (
        pa.array([[9.5, 47.1], None], INTERLEAVED), None, {"ARROW:extension:name": "geoarrow.point"},
    ),
    "GeoArrow with z": (pa.array([[9.5, 47.1, 460.0], None], pa.list_(pa.float64(), 3)), None, None),
    "WKB": (pa.array([shapely.to_wkb(shapely.Point(HERE)), None]), geo("geometry", "WKB"), None),
    "WKB with z, EWKB": (
        pa.array([shapely.to_wkb(shapely.set_srid(shapely.Point(9.5, 47.1, 460), 4326), include_srid=True), None]),
        None, None,
    ),
    "WKT": (pa.array(["POINT (9.5 47.1)", None]), None, {"ARROW:extension:name": "geoarrow.wkt"}),
    "GeoJSON": (pa.array(['{"type": "Point", "coordinates": [9.5, 47.1]}', None]), None, None),
    "single precision": (
        pa.array([{"x": 9.5, "y": 47.125}, None], pa.struct([("x", pa.float32()), ("y", pa.float32())])), None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_points_of_geoarrow_and_geoparquet_are_read(folder: Path, form: str) -> None:
    points, metadata, field = FORMS[form]
    ((row,), (drop,)) = listed(write_points(folder / "t.parquet", points, metadata=metadata, field=field))
    assert (row["id"], row["lon"], row["lat"]) == ("p0", 9.5, pytest.approx(47.1, abs=0.03))
    assert (drop["key"], drop["reason"], drop["detail"]) == ("p1", "no_position", "the source gives none")


def test_the_geometry_of_geoparquet_may_have_any_name(folder: Path) -> None:
    points = pa.array([shapely.to_wkb(shapely.Point(HERE))])
    ((row,), _) = listed(write_points(folder / "t.geoparquet", points, "wkb", geo("wkb", "WKB")))
    assert (row["lon"], row["lat"]) == HERE


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:3857", "EPSG:4326"])
def test_geoparquet_in_another_crs_is_brought_to_degrees(folder: Path, crs: str) -> None:
    """Its coordinates are x and y whatever the order of the CRS's own axes."""
    xy = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(*HERE)
    points = pa.array([shapely.to_wkb(shapely.Point(xy))])
    ((row,), _) = listed(write_points(folder / "t.parquet", points, metadata=geo("geometry", "WKB", crs)))
    assert (row["lon"], row["lat"]) == pytest.approx(HERE, abs=1e-9)


def test_a_column_that_holds_no_points_is_refused_with_what_was_seen(folder: Path) -> None:
    path = write_points(folder / "t.parquet", pa.array([7, 8]))
    with pytest.raises(InputError, match="column geometry is of type int64; points are WKB, WKT, GeoJSON or x and y"):
        listed(path)
    lines = pa.array([shapely.to_wkb(shapely.LineString([HERE, (9.6, 47.2)])), b"\x01\x02"])
    _, drops = listed(write_points(folder / "t.parquet", lines))
    assert [d["detail"] for d in drops] == [
        "geometry 'LINESTRING (9.5 47.1, 9.6 47.2)': no position that can be read",
        "geometry '0102': no position that can be read",
    ]


def test_columns_of_parquet_may_be_of_any_type_that_says_the_same(folder: Path) -> None:
    moment = datetime(2024, 6, 1, 10, 0, 0, 123_000, UTC)
    columns = {
        "file": pa.array(["img/a.jpg"]).dictionary_encode(), "id": pa.array([12], pa.uint64()),
        "lon": pa.array(["9.5"]), "lat": pa.array([47.1]).cast(pa.decimal128(9, 6)),
        "captured_at": pa.array([1717236000123456789]).cast(pa.timestamp("ns", "Europe/Berlin")),
        "heading": pa.array([370], pa.int16()), "author": pa.array(["Ada"], pa.large_string()),
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "t.parquet")
    ((row,), _) = listed(folder / "t.parquet")
    assert (row["id"], row["lon"], row["lat"], row["heading"], row["author"]) == ("12", *HERE, 10.0, "Ada")
    assert row["captured_at"] == "2024-06-01T10:00:00.123456Z"
    pq.write_table(pa.table(columns | {"captured_at": pa.array([moment])}), folder / "t.parquet")
    assert listed(folder / "t.parquet")[0][0]["captured_at"] == "2024-06-01T10:00:00.123Z"


@pytest.mark.parametrize("column", ["lon", "lat", "id", "file", "captured_at", "heading", "author", "projection"])
def test_columns_of_a_strange_type_break_nothing(folder: Path, column: str) -> None:
    strange = [
        pa.array([[1.0]]), pa.array([{"a": 1}]), pa.array([b"\xff"]), pa.array([True]), pa.array([None]),
        pa.array([3 * 10**17], pa.timestamp("us")), pa.array([1], pa.duration("s")), pa.array([1], pa.time32("s")),
    ]  # fmt: skip
    plain = {"file": ["img/a.jpg"], "id": ["x"], "lon": [9.5], "lat": [47.1]}
    for values in strange:
        pq.write_table(pa.table(plain | {column: values}), folder / "t.parquet")
        try:
            found, drops = listed(folder / "t.parquet")
        except InputError as error:
            found, drops = [], [{"detail": str(error)}]
        assert len(found) + len(drops) == 1
        assert found or "t.parquet" in drops[0]["detail"] or drops[0]["key"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,lon,lat\n" + b"a,9,47\n" * 20_000 + b"\xe9,9,47\n", "not UTF-8; .*line 20002"),
        ("file,lon,lat\na,9,47\n".encode("utf-16-le"), "zero bytes"),
        (b"\xff\xfef\0i\0l\0e", "no column lon|not UTF-16"), (bytes(1000), "zero bytes"),
        (b"file,lon,lat\n" + b"x" * (17 << 20), "characters in line 2"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_name(folder: Path, content: bytes, message: str) -> None:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"t\.csv .*({message})"):
        listed(folder / "t.csv")


def test_quotes_do_not_make_a_large_table_slow(folder: Path) -> None:
    """Every row with a quoted value, and one line in three with a quote that belongs to the value."""
    rows = [f'img/a.jpg,p{i},{9 + i / 1e6:.6f},47.1,"a, b"' if i % 3 else f'img/a.jpg,p{i},9,47,5" lens'
            for i in range(10_000)]  # fmt: skip
    path = csv_table(folder, rows)
    began = time.process_time()
    found, drops = listed(path)
    assert (len(found), drops) == (10_000, [])
    assert time.process_time() - began < 10
    assert np.unique([r["id"] for r in found]).size == 10_000


@pytest.mark.parametrize(
    ("value", "metres"), [("0.4", 0.4), (1, 1.0), ("0", None), (-3, None), (None, None), ("?", None)]
)
def test_an_accuracy_of_zero_or_less_is_not_known(value: Any, metres: float | None) -> None:
    assert _positive(value) == metres
