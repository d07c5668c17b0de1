"""EXIF in every form that is out there, as exiftool reads it: positions, references, times, fractions and zones."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.streetview.files.exif import degrees
from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.record import Drops
from tests.streetview.exif import Entry, exif_photo
from tests.streetview.makers import reasons

EXACT: list[tuple[str, list[Entry], tuple[float, float] | None]] = [
    ("as the standard has it", [(1, "ascii", b"S\0"), (2, "rational", [(47, 1), (30, 1), (18, 1)]),
                                (3, "ascii", b"W\0"), (4, "rational", [(9, 1), (15, 1), (36, 1)])], (-9.26, -47.505)),
    ("minutes with decimals", [(1, "ascii", b"N\0"), (2, "rational", [(47, 1), (3030, 100), (0, 1)]),
                               (3, "ascii", b"E\0"), (4, "rational", [(9, 1), (156, 10), (0, 1)])], (9.26, 47.505)),
    ("decimal degrees", [(1, "ascii", b"N\0"), (2, "rational", [(47505, 1000)]),
                         (3, "ascii", b"W\0"), (4, "rational", [(926, 100)])], (-9.26, 47.505)),
    ("degrees and minutes alone", [(1, "ascii", b"N\0"), (2, "rational", [(47, 1), (303, 10)]),
                                   (3, "ascii", b"E\0"), (4, "rational", [(9, 1), (156, 10)])], (9.26, 47.505)),
    ("signed numbers beside a reference", [(1, "ascii", b"S\0"), (2, "srational", [(-47, 1), (-30, 1), (-18, 1)]),
                                           (3, "ascii", b"W\0"), (4, "srational", [(-926, 100)])], (-9.26, -47.505)),
    ("floating point", [(1, "ascii", b"S\0"), (2, "double", [47.505]),
                        (3, "ascii", b"W\0"), (4, "double", [-9.26])], (-9.26, -47.505)),
    ("text", [(1, "ascii", b"S\0"), (2, "ascii", b"47 30 18\0"),
              (3, "ascii", b"W\0"), (4, "ascii", b"9.26\0")], (-9.26, -47.505)),
    ("references as raw bytes", [(1, "undefined", b"S\0"), (2, "rational", [(47, 1), (30, 1), (18, 1)]),
                                 (3, "undefined", b"W\0"), (4, "rational", [(9, 1), (15, 1), (36, 1)])],
     (-9.26, -47.505)),
    ("references in words", [(1, "ascii", b"South\0"), (2, "rational", [(47505, 1000)]),
                             (3, "ascii", b"west\0"), (4, "rational", [(926, 100)])], (-9.26, -47.505)),
    ("a number without end", [(1, "ascii", b"N\0"), (2, "rational", [(47, 1), (30, 1), (0, 0)]),
                              (3, "ascii", b"E\0"), (4, "rational", [(9, 1), (1, 0), (0, 1)])], None),
]  # fmt: skip


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    drops = Drops()
    return FolderSource(path, "CC0-1.0").list(None, drops).to_pylist(), reasons(drops.rows())


def exiftool(folder: Path) -> dict[str, tuple[float, float] | None]:
    """Positions by file's name, as exiftool reads them."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed; the cases with known values stand for it")
    asked = [program, "-json", "-n", "-GPSLatitude#", "-GPSLongitude#", "-GPSPosition#", str(folder)]
    answers = json.loads(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)
    found: dict[str, tuple[float, float] | None] = {}
    for answer in answers:
        latitude, _, longitude = str(answer.get("GPSPosition", "")).partition(" ")
        found[Path(answer["SourceFile"]).name] = (float(longitude), float(latitude)) if longitude else None
    return found


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize(("form", "gps", "expected"), EXACT, ids=[e[0] for e in EXACT])
def test_positions_of_every_form_are_read(
    tmp_path: Path, form: str, gps: list[Entry], expected: tuple[float, float] | None, order: str
) -> None:
    exif_photo(tmp_path / "a.jpg", gps, order=order)
    rows, drops = read(tmp_path)
    if expected is None:
        assert drops == {"a.jpg": "no_position"}
    else:
        assert (rows[0]["lon"], rows[0]["lat"]) == pytest.approx(expected, abs=1e-9)


def test_a_reference_as_numbers_is_the_letter_they_stand_for(tmp_path: Path) -> None:
    """exiftool shows such a reference as "83 0"."""
    exif_photo(tmp_path / "a.jpg", [(1, "byte", [83, 0]), (2, "rational", [(47, 1), (30, 1), (18, 1)]),
                                    (3, "byte", [87, 0]), (4, "rational", [(9, 1), (15, 1), (36, 1)])])  # fmt: skip
    ((row,), _) = read(tmp_path)
    assert (row["lon"], row["lat"]) == pytest.approx((-9.26, -47.505))


@pytest.mark.parametrize(("reference", "heading"), [("T", 123.0), ("M", None), ("Magnetic", None), ("", 123.0)])
def test_a_heading_from_magnetic_north_is_none(tmp_path: Path, reference: str, heading: float | None) -> None:
    """It is some degrees off, by place and year."""
    place: list[Entry] = [(1, "ascii", b"N\0"), (2, "rational", [(47505, 1000)]), (3, "ascii", b"E\0"),
                          (4, "rational", [(926, 100)]), (17, "rational", [(123, 1)])]  # fmt: skip
    turned: list[Entry] = [(16, "ascii", f"{reference}\0".encode())] if reference else []
    exif_photo(tmp_path / "a.jpg", sorted(place + turned, key=lambda entry: entry[0]))
    ((row,), _) = read(tmp_path)
    assert row["heading_original"] == heading


def test_a_sign_counts_where_there_is_no_reference(tmp_path: Path) -> None:
    exif_photo(tmp_path / "a.jpg", [(2, "srational", [(-47505, 1000)]), (4, "srational", [(926, 100)])])
    ((row,), _) = read(tmp_path)
    assert (row["lon"], row["lat"]) == pytest.approx((9.26, -47.505))
    assert degrees((-9.0, 0.0, 0.0)) == -9  # minutes of nothing agree with either sign


def test_degrees_whose_parts_disagree_about_the_sign_are_no_position(tmp_path: Path) -> None:
    """-9° +30′ is 9.5° to who writes it so and 8.5° to who adds it up: a photo is not put 100 km off on a guess."""
    exif_photo(tmp_path / "a.jpg", [(1, "ascii", b"N\0"), (2, "rational", [(47, 1)]),
                                    (3, "ascii", b"W\0"), (4, "srational", [(-9, 1), (30, 1), (0, 1)])])  # fmt: skip
    assert read(tmp_path) == ([], {"a.jpg": "no_position"})


def test_positions_are_those_that_exiftool_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for i, (_, gps, _) in enumerate(EXACT):
        exif_photo(tmp_path / "in" / f"known{i}.jpg", gps)
    kinds = ("rational", "srational", "double", "float", "ascii")
    for i in range(120):
        gps = []
        for tag, most, letters in ((1, 89, b"NSns"), (3, 179, b"EWew")):
            letter = letters[rng.integers(4) :][:1]
            gps.append((tag, str(rng.choice(["ascii", "undefined"])), letter + b"\0"))
            kind, parts = str(rng.choice(kinds)), int(rng.integers(1, 4))
            sign = -1 if kind != "rational" and rng.random() < 0.3 else 1
            whole = [sign * int(rng.integers(0, n)) for n in (most, 60, 60)[:parts]]
            fraction = sign * int(rng.integers(0, 1000))
            pairs = [(1000 * n + (fraction if k == parts - 1 else 0), 1000) for k, n in enumerate(whole)]
            numbers = [a / b for a, b in pairs]
            text = " ".join(f"{n:.3f}" for n in numbers).encode() + b"\0"
            gps.append((tag + 1, kind, {"ascii": text}.get(kind, pairs if "rational" in kind else numbers)))
        exif_photo(tmp_path / "in" / f"random{i}.jpg", gps, order=str(rng.choice([">", "<"])))
    truth = exiftool(tmp_path / "in")
    rows, _ = read(tmp_path / "in")
    ours = {row["id"]: (row["lon"], row["lat"]) for row in rows}
    assert len(ours) > 120
    assert {k for k, v in truth.items() if v is not None} == set(ours)
    for name, found in ours.items():
        assert found == pytest.approx(truth[name], abs=1e-7), name


@pytest.mark.parametrize(
    ("exif", "gps", "expected"),
    [
        ([(0x9003, "ascii", b"2024:06:01 12:00:00\0")], [], "2024-06-01T12:00:00"),
        ([(0x9003, "ascii", b"2024:06:01 12:00:00\0"), (0x9291, "ascii", b"25\0")], [], "2024-06-01T12:00:00.25"),
        ([(0x9003, "ascii", b"2024:06:01 12:00:00\0"), (0x9291, "ascii", b"025  \0"),
          (0x9011, "ascii", b"+05:45\0")], [], "2024-06-01T06:15:00.025Z"),
        ([(0x9003, "ascii", b"2024:06:01 12:00:00\0"), (0x9291, "ascii", b"?\0"), (0x9011, "ascii", b"   :  \0")], [],
         "2024-06-01T12:00:00"),
        ([(0x9003, "ascii", b"2024:06:01 12:00:00.5+02:00\0")], [], "2024-06-01T10:00:00.5Z"),
        ([(0x9003, "ascii", b"0000:00:00 00:00:00\0"), (0x9004, "ascii", b"2024:06:01 12:00:00\0"),
          (0x9011, "ascii", b"+02:00\0")], [], "2024-06-01T12:00:00"),  # that zone is of the other time
        ([(0x9003, "undefined", b"2024:06:01 12:00:00\0")], [], "2024-06-01T12:00:00"),
        ([(0x9003, "ascii", b"2024:06:01 12:00:00\0")],
         [(7, "rational", [(10, 1), (0, 1), (1225, 100)]), (29, "ascii", b"2024:06:01\0")], "2024-06-01T10:00:12.25Z"),
        ([], [(7, "rational", [(10, 1), (0, 1), (5, 1)]), (29, "ascii", b"2024-06-01\0")], "2024-06-01T10:00:05Z"),
        ([], [(7, "rational", [(9, 1), (59, 1), (599999999, 10**7)]), (29, "ascii", b"2024-06-01\0")],
         "2024-06-01T10:00:00Z"),
        ([], [(7, "rational", [(25, 1), (0, 1), (5, 1)]), (29, "ascii", b"2024:06:01\0")], None),
        ([(0x9003, "ascii", b"    :  :     :  :  \0")], [(7, "rational", [(1, 0), (0, 0), (5, 1)])], None),
    ],
)  # fmt: skip
def test_times_keep_their_fraction_and_their_zone(
    tmp_path: Path, exif: list[Entry], gps: list[Entry], expected: str | None
) -> None:
    here: list[Entry] = [(1, "ascii", b"N\0"), (2, "rational", [(47, 1)]), (3, "ascii", b"E\0"),
                         (4, "rational", [(9, 1)])]  # fmt: skip
    exif_photo(tmp_path / "a.jpg", [*here, *gps], exif)
    ((row,), _) = read(tmp_path)
    assert row["captured_at"] == expected


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".insp"])
def test_a_jpeg_is_one_by_any_of_its_endings(tmp_path: Path, suffix: str) -> None:
    exif_photo(tmp_path / f"a{suffix}", EXACT[0][1])
    assert [row["id"] for row in read(tmp_path)[0]] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".heic", ".tif", ".TIFF", ".dng", ".avif", ".gif"])
def test_a_photo_of_a_format_that_is_not_read_is_a_drop_by_name(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    drops = Drops()
    assert not len(FolderSource(tmp_path).list(None, drops))
    ((row),) = drops.rows()
    assert (row["key"], row["reason"]) == (f"a{suffix}", "unreadable_image")
    assert "none of JPEG, PNG, WEBP; convert it" in str(row["detail"])
