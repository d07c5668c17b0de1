"""Vector tiles as GDAL reads and writes them; damaged ones refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from geometry.tiles import tile_to_lonlat
from pipeline.formats.mvt import EXTENT, MOST_BYTES, TilePoint, decode_points, encode_points
from schemas.errors import InputError

VALUES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text(max_size=8), st.floats(allow_nan=False))


@given(
    st.lists(
        st.tuples(
            st.integers(-64, EXTENT + 64),
            st.integers(-64, EXTENT + 64),
            st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
        ),
        max_size=8,
    )
)
def test_what_is_written_is_read(points: list[tuple[int, int, dict[str, object]]]) -> None:
    made = [TilePoint(x / EXTENT, y / EXTENT, properties) for x, y, properties in points]  # type: ignore[arg-type]
    found = decode_points(encode_points(made, "image"), "image", "x")
    assert found == made
    assert [{k: type(v) for k, v in p.properties.items()} for p in found] == [
        {k: type(v) for k, v in p.properties.items()} for p in made
    ]
    assert decode_points(encode_points(made, "image"), "sequence", "x") == []


def test_gdal_reads_what_is_written(tmp_path: Path) -> None:
    points = [
        TilePoint(0.25, 0.5, {"id": 2**60 + 1, "is_pano": True, "sequence_id": "ä", "compass_angle": -3}),
        TilePoint(0.75, 0.125, {"id": 7, "is_pano": False, "sequence_id": "x", "compass_angle": 359}),
    ]
    path = tmp_path / "a.pbf"
    path.write_bytes(encode_points(points, "image"))
    meta, _, geometry, columns = pyogrio.raw.read(path, layer="image")
    found = dict(zip(meta["fields"], columns, strict=True))
    assert [shapely.get_coordinates(g)[0].tolist() for g in shapely.from_wkb(geometry)] == [[1024, 2048], [3072, 3584]]
    assert {k: found[k].tolist() for k in points[0].properties} == {
        k: [p.properties[k] for p in points] for k in points[0].properties
    }


def test_what_gdal_writes_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    place = rng.uniform(0.01, 0.99, (40, 2))
    lonlat = tile_to_lonlat(place + np.array([8624, 5742]), 14)
    xy = Transformer.from_crs(4326, 3857, always_xy=True).transform(lonlat[:, 0], lonlat[:, 1])
    columns = [
        np.arange(40, dtype=np.int64) + 2**40,
        np.array([f"s{i}" for i in range(40)], object),
        rng.uniform(size=40),
    ]
    pyogrio.raw.write(
        tmp_path / "tree", np.array(shapely.to_wkb(shapely.points(*xy)), object), columns, ["id", "s", "q"],
        driver="MVT", layer="image", geometry_type="Point", crs="EPSG:3857",
        dataset_options={"MINZOOM": "14", "MAXZOOM": "14", "COMPRESS": "NO", "FORMAT": "DIRECTORY"},
    )  # fmt: skip
    found = decode_points((tmp_path / "tree/14/8624/5742.pbf").read_bytes(), "image", "x")
    by_id = {int(p.properties["id"]) - 2**40: p for p in found}
    assert sorted(by_id) == list(range(40))
    for i, p in by_id.items():
        assert (p.x, p.y) == pytest.approx(place[i], abs=1.0 / EXTENT)
        assert p.properties["s"] == f"s{i}"
        assert p.properties["q"] == pytest.approx(columns[2][i], rel=1e-6)


def test_other_geometries_and_an_empty_tile_have_no_points() -> None:
    assert decode_points(b"", "image", "x") == []
    line = encode_points([TilePoint(0.5, 0.5)], "image").replace(b"\x18\x01", b"\x18\x02")
    assert decode_points(line, "image", "x") == []


@given(st.integers(0, 100_000))
def test_a_damaged_tile_is_refused_or_read_and_never_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = [TilePoint(float(x), float(y), {"id": int(i), "s": "abc"}) for i, (x, y) in enumerate(rng.random((20, 2)))]
    data = bytearray(encode_points(made, "image"))
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] = rng.integers(256)
    if rng.random() < 0.5:
        data = data[: rng.integers(len(data))]
    with contextlib.suppress(InputError):
        assert len(decode_points(bytes(data), "image", "x")) <= 40


def test_a_tile_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="tile 14/1/2 is no vector tile that can be read"):
        decode_points(b"<html>log in</html>", "image", "tile 14/1/2")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1a\x00" * (MOST_BYTES // 2 + 1), "it has over 8 MiB"),
        (b"\x0b" * 1000, "Tile is damaged"),
        (b"\x1a\x09\x0a\x05image\x28\x00", "no extent"),
        (b"\x1a\x0a\x0a\x05image\x1a\x01\xff", "utf-8"),
        (b"\x1a\x0f\x0a\x05image\x12\x06\x18\x01\x22\x02\xff\x7f", "geometry is none"),
        (b"\x1a\x14\x0a\x05image\x12\x0b\x18\x01\x12\x02\x05\x05\x22\x03\x09\x02\x02", "out of range"),
    ],
)
def test_a_hostile_tile_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=f"tile is no vector tile that can be read: .*{reason}"):
        decode_points(data, "image", "tile")
