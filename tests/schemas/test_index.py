"""Promises of the flat index of a catalog file."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import SAMPLES
from schemas.errors import DatasetError
from schemas.index import SPLIT_CODES, IndexPart, index_file, key_hashes
from schemas.tensors import PAGE, PAGE_SUMS

MEMBERS = ("json", "osm.png", "osm.safetensors", "rs.jpg", "rs.npy", "sv.0.jpg", "sv.12.jpg")
NUMBERS = st.integers(0, 1 << 40)
DEGREES = st.floats(-180, 180)
ROW: dict[str, Any] = {
    "key": "a", "shard": "part-0000000.tar", "split": "train", "members": [], "sha256": "0" * 64, "lon": 0, "lat": 0,
    "gsd_x": 1, "gsd_y": 1, "bbox": dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 0),
}  # fmt: skip


@st.composite
def rows(draw: Any) -> list[dict[str, Any]]:
    """Rows of the samples table, by shard, of any number, with any members."""
    keys = draw(st.lists(st.text("abcXYZ019_-", min_size=1, max_size=80), max_size=12, unique=True))
    shards = sorted(draw(st.lists(st.integers(0, 9), min_size=len(keys), max_size=len(keys))))
    return [
        {
            "key": key, "shard": f"part-{shard:07d}.tar", "split": draw(st.sampled_from(SPLIT_CODES)),
            "members": [
                {"name": n, "offset": draw(NUMBERS), "size": draw(NUMBERS), "crc32": draw(st.integers(0, 2**32 - 1))}
                for n in draw(st.lists(st.sampled_from(MEMBERS), unique=True))
            ],
            "sha256": draw(st.binary(min_size=32, max_size=32)).hex(),
            "lon": draw(DEGREES), "lat": draw(DEGREES), "gsd_x": draw(DEGREES), "gsd_y": draw(DEGREES),
            "bbox": {side: draw(DEGREES) for side in ("xmin", "ymin", "xmax", "ymax")},
        }
        for key, shard in zip(keys, shards, strict=True)
    ]  # fmt: skip


def table(held: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(held, SAMPLES)


@given(rows(), st.integers(0, 5))
def test_an_index_holds_what_the_samples_table_holds(held: list[dict[str, Any]], cut: int) -> None:
    samples = table(held)
    # A table of several chunks, the first of which begins in the middle of a buffer, is the same table.
    samples = pa.concat_tables([samples.slice(0, cut), samples.slice(cut)])
    part = IndexPart.from_buffer(IndexPart.of(samples).to_bytes(), "here")
    assert len(part) == len(held)
    a = part.arrays
    np.testing.assert_array_equal(a["key_hash"], key_hashes(r["key"] for r in held))
    for i, row in enumerate(held):
        key = a["key_bytes"][a["key_offsets"][i] : a["key_offsets"][i + 1]].tobytes().decode()
        own = slice(a["member_offsets"][i], a["member_offsets"][i + 1])
        numbers = (a[n][own].tolist() for n in ("member_start", "member_size", "member_crc"))
        members = zip(part.layouts[a["layout"][i]], *numbers, strict=True)
        assert (key, part.shards[a["shard"][i]], SPLIT_CODES[a["split"][i]]) == (row["key"], row["shard"], row["split"])
        assert [dict(zip(row["members"][0], m, strict=True)) for m in members] == row["members"]
        assert a["sha256"][i].tobytes().hex() == row["sha256"]
        assert a["lonlat"][i].tolist() == [row["lon"], row["lat"]]
        assert a["gsd"][i].tolist() == [row["gsd_x"], row["gsd_y"]]
        assert a["bbox"][i].tolist() == list(row["bbox"].values())


@given(rows())
def test_equal_rows_give_equal_bytes_and_stock_safetensors_reads_them(held: list[dict[str, Any]]) -> None:
    data = IndexPart.of(table(held)).to_bytes()
    assert all(IndexPart.of(table(held)).to_bytes() == data for _ in range(3))
    stock = safetensors.numpy.load(data)
    assert stock.pop(PAGE_SUMS).dtype == np.uint32
    mine = IndexPart.from_buffer(data, "here").arrays
    assert stock.keys() == mine.keys()
    assert all(np.array_equal(stock[name], mine[name]) and stock[name].dtype == mine[name].dtype for name in stock)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shard", "../part-0000000.tar", "names the shard"), ("split", "hidden", "'hidden' is none of train"),
        ("sha256", "zz", "sha256 of the samples table is none"),
        ("members", [{"name": "rs.exe", "offset": 0, "size": 0, "crc32": 0}], "names the member 'rs.exe'"),
    ],
)  # fmt: skip
def test_names_that_no_dataset_has_are_refused(column: str, value: object, message: str) -> None:
    IndexPart.of(table([ROW]))
    with pytest.raises(DatasetError, match=message):
        IndexPart.of(table([ROW | {column: value}]))


def test_a_slice_is_checked_on_both_pages_that_it_lies_on() -> None:
    keys = [f"{i:03d}" * 20 for i in range(100)]  # one lies across the border of two pages
    data = IndexPart.of(table([{**ROW, "key": key} for key in keys])).to_bytes()
    text = "".join(keys).encode()
    (across,) = (i for i in range(100) if 60 * i // PAGE != (60 * i + 59) // PAGE)
    at = np.array([across, across - 1, across + 1])
    for damaged, wrong in ((60 * across, [0, 1]), (60 * across + 59, [0, 2]), (PAGE - 1, [0, 1]), (PAGE, [0, 2])):
        held = bytearray(data)
        held[data.index(text) + damaged] ^= 1
        for i in range(3):
            part = IndexPart.from_buffer(held, "here")
            first, last = 60 * at[i : i + 1], 60 * at[i : i + 1] + 60
            with pytest.raises(DatasetError, match="key_bytes") if i in wrong else nullcontext():
                assert part.run("key_bytes", first, last)[first[0] : last[0]].tobytes().decode() == keys[at[i]]
            with pytest.raises(DatasetError, match="key_bytes"):
                part.whole()


def test_the_file_stands_beside_its_samples() -> None:
    assert index_file(3) == "catalog/index/part-00003.safetensors"
