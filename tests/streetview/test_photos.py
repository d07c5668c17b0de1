"""Photos: where they were taken, what is refused, what is stripped."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.net.client import Client
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.members import add_photos
from pipeline.streetview.record import Photo, PhotoError
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError
from tests.streetview.makers import FAST, encode_photo, picture, read_photos, write_photo


@given(lon=st.floats(-179.9, 179.9), lat=st.floats(-84, 84), heading=st.floats(0, 359.99))
def test_exif_position_and_heading_survive(
    tmp_path_factory: pytest.TempPathFactory, lon: float, lat: float, heading: float
) -> None:
    if abs(lon) < 1e-3 or abs(lat) < 1e-3:
        return
    path = write_photo(tmp_path_factory.mktemp("p") / "a.jpg", lon, lat, heading)
    (photo,), drops = read_photos(path)
    assert not drops
    assert photo.lon == pytest.approx(lon, abs=1e-7)  # 1 cm
    assert photo.lat == pytest.approx(lat, abs=1e-7)
    assert photo.heading == pytest.approx(heading, abs=1e-3)
    assert photo.captured_at == "2024-06-01T10:00:00"


def test_photo_without_gps_is_a_named_drop(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    photos, drops = read_photos(tmp_path)
    assert not photos
    assert [(d["key"], d["reason"]) for d in drops] == [("plain.jpg", "no_position")]


def test_truncated_photo_is_refused_by_name(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "cut.jpg", 9.5, 47.1)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        encode_photo(str(path), 64, 80)


def test_written_photo_is_upright_small_and_without_metadata(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90° clockwise to view
    exif.get_ifd(0x8825)[1] = "N"
    image.save(tmp_path / "turned.jpg", exif=exif)
    result = Image.open(io.BytesIO(encode_photo(str(tmp_path / "turned.jpg"), 100, 90)))
    assert result.size == (50, 100)
    top, bottom = result.getpixel((25, 10)), result.getpixel((25, 90))
    assert top[2] > 200 > 60 > top[0]  # type: ignore[index]
    assert bottom[0] > 200 > 60 > bottom[2]  # type: ignore[index]
    assert not result.getexif()


def test_a_photo_of_a_sample_tells_how_long_after_its_image_it_was_taken_and_what_else_it_is(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", 9.5, 47.1, 90.0)
    photo = Photo(
        str(path), "1", 9.5, 47.1, 90.0, "2024-06-03T12:00:00Z", licence="CC0-1.0", author="a", x=0.25, y=0.75
    )
    photos, members, drops = [photo, replace(photo, id="2", captured_at=None)], {}, []
    infos = add_photos(photos, StreetviewConfig(), "2024-06-01T00:00:00Z", members, drops)
    assert [(i.id, i.gap_days, i.x, i.y, i.lon, i.lat) for i in infos] == [
        ("1", 2.5, 0.25, 0.75, 9.5, 47.1), ("2", None, 0.25, 0.75, 9.5, 47.1),
    ]  # fmt: skip
    assert [(i.member, i.licence, i.author, i.heading) for i in infos] == [
        (f"sv.{n}.jpg", "CC0-1.0", "a", 90.0) for n in range(2)
    ]
    assert (list(members), drops) == (["sv.0.jpg", "sv.1.jpg"], [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.jpg,,47", "no_position"), ("a.jpg,200,47", "coordinate_out_of_range"),
        ("a.jpg,0,0", "coordinate_out_of_range"),
        ("none.jpg,9,47", "missing_file"), ("../a.jpg,9,47", "missing_file"), ("/etc/hostname,9,47", "missing_file"),
        ("a.jpg,nan,47", "coordinate_out_of_range"),
    ],
)  # fmt: skip
def test_bad_rows_of_a_table_are_named_drops(tmp_path: Path, row: str, reason: str) -> None:
    write_photo(tmp_path / "a.jpg", 9.5, 47.1)
    (tmp_path / "t.csv").write_text(f"file,lon,lat\n{row}\n")
    photos, drops = read_photos(tmp_path / "t.csv")
    assert not photos
    assert [d["reason"] for d in drops] == [reason]


def test_a_limit_holds_for_photos_of_the_cache_and_a_wider_one_asks_again(tmp_path: Path) -> None:
    """What a run takes does not depend on what another had fetched before it."""
    data = picture(tmp_path / "a.jpg", size=(400, 300)).read_bytes()
    fsspec.filesystem("memory").pipe("/limits/a.jpg", data)
    exact = len(data) / 1e6

    def fetched(cache: str, max_mb: float) -> str:
        store = PhotoStore(tmp_path / cache, Client(FAST), max_mb, scheme="memory")
        try:
            return "whole" if store.fetch("a", "memory://limits/a.jpg").read_bytes() == data else "other"
        except PhotoError as error:
            return f"{error.reason}: {error}"

    fresh = {limit: fetched(f"fresh {limit}", limit) for limit in (exact - 2e-6, exact - 1e-6, exact, exact + 1e-6)}
    assert [text.partition(":")[0] for text in fresh.values()] == ["too_many_bytes"] * 2 + ["whole"] * 2
    for order in (sorted(fresh), sorted(fresh, reverse=True)):
        assert {limit: fetched(str(order[0]), limit) for limit in order} == fresh
    (kept,) = (p for p in (tmp_path / str(order[0]) / "photos").rglob("*") if p.is_file() and p.suffix != ".json")
    kept.write_bytes(data[:-1])  # one that is cut short is fetched again
    assert fetched(str(order[0]), exact) == "whole"
    small, smaller = (f"fresh {exact - n * 1e-6}" for n in (1, 2))
    fsspec.filesystem("memory").rm("/limits/a.jpg")
    assert fetched(small, exact - 1e-6) == fresh[exact - 1e-6]  # the same limit asks nobody again
    assert fetched(small, exact - 2e-6) == fresh[exact - 2e-6]
    assert fetched(smaller, exact - 1e-6).startswith("refused: ")


def test_of_two_licences_the_setting_counts_for_a_folder_and_the_photos_own_in_a_table(tmp_path: Path) -> None:
    """As docs/streetview.md says; a licence of the EXIF is what a copyright notice happens to begin with."""
    path = write_photo(tmp_path / "a.jpg", 9.5, 47.1, licence="CC-BY-4.0")
    assert [read_photos(path, licence)[0][0].licence for licence in (None, "CC0-1.0")] == ["CC-BY-4.0", "CC0-1.0"]
    (tmp_path / "t.csv").write_text("file,id,lon,lat,licence\na.jpg,1,9.5,47.1,CC-BY-SA-4.0\na.jpg,2,9.5,47.1,\n")
    photos, _ = read_photos(tmp_path / "t.csv", "CC0-1.0")
    assert {p.id: p.licence for p in photos} == {"1": "CC-BY-SA-4.0", "2": "CC0-1.0"}


@pytest.mark.parametrize("name", ["captured_at", "time", "timestamp"])
def test_a_column_of_times_is_one_by_any_plain_name(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / "a.jpg", 1.0, 2.0)
    (tmp_path / "t.csv").write_text(f"file,lon,lat,{name}\na.jpg,9.5,47.1,1717236000\n")
    ((photo,), _) = read_photos(tmp_path / "t.csv")
    assert photo.captured_at == "2024-06-01T10:00:00Z"


def test_known_column_names_are_understood(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", 1.0, 2.0)
    (tmp_path / "t.csv").write_text(
        "uuid,filename,longitude,latitude,compass_angle,captured_at,license,creator_username\n"
        "u1,a.jpg,9.5,47.1,400,1717236000000,CC-BY-SA-4.0,ada\n"
    )
    (photo,), _ = read_photos(tmp_path / "t.csv")
    assert (photo.id, photo.lon, photo.lat, photo.heading) == ("u1", 9.5, 47.1, 40.0)
    assert (photo.captured_at, photo.licence, photo.author) == ("2024-06-01T10:00:00Z", "CC-BY-SA-4.0", "ada")


def test_table_without_positions_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,where\na.jpg,here\n")
    with pytest.raises(InputError, match="no column lon or longitude"):
        read_photos(tmp_path / "t.csv")
