"""Tables of every kind that is out there, read by their own column names; rows that cannot be used, named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from geometry.tiles import tile_to_lonlat
from pipeline.streetview.files.table import TableSource
from pipeline.streetview.record import PLACED, Drops
from schemas.errors import InputError
from tests.grounds import TileArea
from tests.streetview.makers import picture, read_photos, reasons, write_table

AREA = TileArea(np.array([[8624, 5742]]), 14)


def listed(path: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    drops = Drops()
    table = TableSource(path, **options).list(None, drops)
    assert table.schema == PLACED
    return table.to_pylist(), reasons(drops.rows())


def one(path: Path, row: dict[str, Any], **options: Any) -> dict[str, Any]:
    (found,), drops = listed(write_table(path, [row], list(row)), **options)
    assert not drops
    return found


def has(row: dict[str, Any], **expected: Any) -> None:
    assert {k: row[k] for k in expected} == expected


def test_global_streetscapes_tables(tmp_path: Path) -> None:
    """Their joined tables: photos lie in folders of fifty, named by uuid."""
    picture(tmp_path / "img" / "1_50" / "06129dab-7e25.jpeg")
    row = {
        "uuid": "06129dab-7e25", "source": "Mapillary", "orig_id": "493446309826096", "lat": 48.7723306,
        "lon": 9.1744745, "datetime_local": "2024-07-09 03:25:24", "heading": 24.93, "projection_type": "spherical",
        "sequence_index": 12, "sequence_id": "abc", "mly_quality_score": 0.7, "mly_creator.username": "ada",
        "mly_computed_compass_angle": 26.0, "mly_computed_geometry.coordinates": "[9.17448, 48.77234]",
        "mly_is_pano": "True", "kv_gpsAccuracy": "", "calculated_day_night": "night",
    }  # fmt: skip
    found = one(tmp_path / "t.csv", row)
    has(found, id="06129dab-7e25", lon=9.17448, lat=48.77234, heading=26.0, lon_original=9.1744745,
        heading_original=24.93, captured_at="2024-07-09T03:25:24", projection="equirectangular", sequence="abc",
        index=12, author="ada",
        licence="CC-BY-SA-4.0", quality=0.7, night=True, accuracy_m=None)  # fmt: skip
    assert found["path"].endswith("img/1_50/06129dab-7e25.jpeg")
    has(one(tmp_path / "t.csv", row, position="original"), lon=9.1744745, lat=48.7723306, heading=24.93)


def test_kartaview_tables(tmp_path: Path) -> None:
    row = {
        "id": "470385", "sequenceId": "1282", "sequenceIndex": "7", "lat": "48.859002", "lng": "2.293298",
        "heading": "-35.58", "shotDate": "2016-03-23 09:33:51.000", "gpsAccuracy": "12.5", "fieldOfView": "360",
        "projection": "PLANE", "matchLat": "48.8591", "matchLng": "2.2934", "fileurlProc": "https://example.org/p.jpg",
        "filepath": "files/photo/2016/3/23/proc/x.jpg",
    }  # fmt: skip
    found = one(tmp_path / "t.csv", row)
    has(found, id="470385", lon=2.2934, lat=48.8591, captured_at="2016-03-23T09:33:51", accuracy_m=12.5, path=None,
        projection="equirectangular", sequence="1282", index=7, url="https://example.org/p.jpg")  # fmt: skip
    assert found["heading"] == pytest.approx(324.42)
    unmatched = one(tmp_path / "t.csv", row | {"matchLat": "0", "matchLng": "0", "fieldOfView": ""})
    has(unmatched, lon=2.293298, lat=48.859002, lon_corrected=None, projection="perspective")


def test_osv_5m_tables(tmp_path: Path) -> None:
    picture(tmp_path / "00" / "3081.jpg")
    row = {
        "id": "3081", "latitude": 12.5, "longitude": -8.25, "thumb_original_url": "https://example.org/x",
        "country": "ML", "sequence": "s", "captured_at": 1616582062000, "creator_username": "bo", "creator_id": "1",
        "quadtree_10_1000": 3,
    }  # fmt: skip
    found = one(tmp_path / "t.csv", row, licence="CC-BY-SA-4.0")
    has(found, id="3081", lon=-8.25, lat=12.5, captured_at="2021-03-24T10:34:22Z", author="bo", licence="CC-BY-SA-4.0")
    assert found["path"].endswith("00/3081.jpg")


def test_mapillary_entities_as_parquet(tmp_path: Path) -> None:
    """As the API gives them: points and creators are structs."""
    rows = [
        {"id": 11, "geometry": {"type": "Point", "coordinates": [9.5, 47.1]}, "compass_angle": 10.0,
         "computed_geometry": {"type": "Point", "coordinates": [9.6, 47.2]}, "computed_compass_angle": 20.0,
         "captured_at": 1717236000000, "camera_type": "fisheye", "is_pano": False, "sequence": "s",
         "creator": {"username": "ada", "id": "1"}, "quality_score": 0.5, "thumb_2048_url": "https://example.org/a"},
        {"id": 12, "geometry": {"type": "Point", "coordinates": [9.5, 47.1]}, "compass_angle": 10.0,
         "computed_geometry": None, "computed_compass_angle": None, "captured_at": None, "camera_type": "spherical",
         "is_pano": True, "sequence": None, "creator": None, "quality_score": None,
         "thumb_2048_url": "https://example.org/b"},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (a, b), drops = listed(tmp_path / "t.parquet")
    assert not drops
    has(
        a,
        id="11",
        lon=9.6,
        heading=20.0,
        captured_at="2024-06-01T10:00:00Z",
        projection="fisheye",
        author="ada",
        quality=0.5,
    )
    has(b, id="12", lon=9.5, heading=10.0, captured_at=None, projection="equirectangular", author=None, sequence=None)


def test_geoparquet_points(tmp_path: Path) -> None:
    points = shapely.to_wkb(shapely.points([[9.5, 47.1], [9.6, 47.2]])).tolist()
    picture(tmp_path / "a.jpg")
    pq.write_table(
        pa.table({"file": ["a.jpg", "a.jpg"], "id": ["x", "y"], "geometry": pa.array([points[0], None])}),
        tmp_path / "t.parquet",
    )
    (found,), drops = listed(tmp_path / "t.parquet")
    has(found, id="x", lon=9.5, lat=47.1)
    assert drops == {"y": "no_position"}


def test_csv_with_every_oddity(tmp_path: Path) -> None:
    """A byte order mark, quoted line breaks, spaces, a row too long and one too short."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_bytes(
        b'\xef\xbb\xbffile,lon,lat,id,author\r\na.png, 9.5 ,47.1,one,"Ada\nLovelace"\r\na.png,9.5,47.1,two,x,extra\r\n'
        b"a.png,9.5\r\na.png,x,47.1,three,\r\n\r\na.png,9.6,47.2,four,None\r\n"
    )
    found, drops = listed(tmp_path / "t.csv")
    assert [(r["id"], r["lon"], r["author"]) for r in found] == [("one", 9.5, "Ada\nLovelace"), ("four", 9.6, None)]
    assert sorted(drops.values()) == ["bad_row", "bad_row", "no_position"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,lon,lat\na.jpg,\xff\xfe,47\n", "is not UTF-8; save it as UTF-8"),
        (b"", "no column lon or longitude"), (b"file,where\n", "no column lon or longitude or lng"),
        (b"lon,lat\n9,47\n", "no column file or filename"),
        (b"file,lon,lat,lat\na.jpg,9,47,47\n", "column lat more than once"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"t\.csv .*{message}"):
        read_photos(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.parquet cannot be read"):
        read_photos(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_a_large_table_only_the_area_is_kept(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.streetview.files.text._BLOCK", 4096)
    monkeypatch.setattr("pipeline.streetview.files.parquet._ROWS", 100)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rng = np.random.default_rng(2)
    lonlat = tile_to_lonlat(rng.uniform(-3, 4, (3000, 2)) + np.array([8624, 5742]), 14)
    columns = {"file": ["a.png"] * 3000, "id": [f"p{i}" for i in range(3000)], "lon": lonlat[:, 0], "lat": lonlat[:, 1]}
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        write_table(path, pa.table(columns).to_pylist(), list(columns))
    drops = Drops()
    found = TableSource(path).list(AREA, drops)
    inside = AREA.holds(lonlat)
    assert 20 < inside.sum() < 200
    assert found.column("id").to_pylist() == [f"p{i}" for i in np.flatnonzero(inside)]
    assert reasons(drops.rows()) == {f"p{i}": "outside_tiles" for i in np.flatnonzero(~inside)}


def test_the_position_that_decides_is_the_one_in_use(tmp_path: Path) -> None:
    """A photo that its correction moves into the area is in it, and one that it moves out is not."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (lon, lat), (far, south) = tile_to_lonlat(np.array([[8624.5, 5742.5], [8630.5, 5742.5]]), 14).tolist()
    rows = [
        {"file": "a.png", "id": "in", "lon": far, "lat": south, "computed_lon": lon, "computed_lat": lat},
        {"file": "a.png", "id": "out", "lon": lon, "lat": lat, "computed_lon": far, "computed_lat": south},
    ]
    table = write_table(tmp_path / "t.csv", rows)
    assert TableSource(table).list(AREA, Drops()).column("id").to_pylist() == ["in"]
    assert TableSource(table, position="original").list(AREA, Drops()).column("id").to_pylist() == ["out"]


def test_read_photos_gives_them_by_time_and_id(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"file": "a.png", "id": i, "lon": 9.5, "lat": 47.1, "captured_at": t} for i, t in
            (("b", "2024-01-02"), ("c", "2024-01-01"), ("a", "2024-01-02"), ("d", None))]  # fmt: skip
    photos, drops = read_photos(write_table(tmp_path / "t.csv", rows), "CC0-1.0")
    assert [p.id for p in photos] == ["d", "c", "a", "b"]
    assert {p.licence for p in photos} == {"CC0-1.0"}
    assert not drops
    json.dumps([p.__dict__ for p in photos])  # goes into hashes and over to workers
