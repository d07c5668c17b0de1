"""``geoshards stats``: exact, the same for any number of workers, and nothing else of the dataset changes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.catalog.statistics import ShardImages, Tally, by_shard, statistics
from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main
from pipeline.cli.query import connect
from pipeline.cli.stats import write_statistics
from pipeline.imagery.encode import encode_valid
from schemas.catalog import STATISTICS, catalog_file
from schemas.errors import DatasetError, InputError, LockError
from schemas.sample import JSON, RsInfo, image_infos
from storage.dataset import read_samples, sample_rows
from storage.locks import one_writer
from storage.store import Store
from tests.trainers.synthetic import SyntheticSettings, write_dataset

SMALL = SyntheticSettings(
    samples=20, size=40, photos=0, samples_per_shard=7, splits=("train", "val", "train", "buffer")
)
TWELVE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
MADE = {
    "jpg": SMALL,
    "png": replace(SMALL, form="png", bands=("B", "G", "R")),
    "npy": replace(SMALL, form="npy", dtype="uint16", bands=TWELVE),
}


def pixels_of(root: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """All values of each channel's name, decoded here."""
    store = Store(root)
    found: dict[str, list[np.ndarray]] = {}
    for row, members in read_samples(store, sample_rows(store)):
        if row["split"] in splits:
            for name, info in image_infos(members[JSON]).items():
                data = io.BytesIO(members[name])
                image = np.load(data) if name.endswith(".npy") else np.asarray(Image.open(data)).transpose(2, 0, 1)
                for band, own in zip(info.bands, image, strict=True):
                    found.setdefault(band, []).append(own.ravel())
    return {band: np.concatenate(parts) for band, parts in found.items()}


def assert_is_numpy_s(row: dict[str, Any], values: np.ndarray) -> None:
    assert row["count"] == values.size
    exact = values.astype(np.float64)
    assert row["mean"] == pytest.approx(exact.mean(), rel=1e-12)
    assert row["std"] == pytest.approx(exact.std(), rel=1e-9)
    assert (row["min"], row["max"]) == (values.min(), values.max())
    if values.dtype.kind in "iu":
        wanted = np.percentile(values, (2, 50, 98), method="inverted_cdf").tolist()
        assert [row[p] for p in ("p2", "p50", "p98")] == wanted


@pytest.mark.parametrize(("split", "splits"), [("train", ["train"]), ("all", ["train", "val", "buffer"])])
@pytest.mark.parametrize("form", MADE)
def test_statistics_are_those_of_numpy_on_the_decoded_pixels(
    form: str, split: str, splits: list[str], tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "d", MADE[form])
    table = write_statistics(str(root), split, workers=1)
    assert table.schema.equals(STATISTICS)
    truth = pixels_of(root, splits)
    rows = {r["names"][0]: r for r in table.to_pylist()}
    assert rows.keys() == truth.keys()
    for name, values in truth.items():
        assert_is_numpy_s(rows[name], values)
        assert (rows[name]["dtype"], rows[name]["split"]) == (str(values.dtype), split)
        assert rows[name]["images"] == values.size // 40**2


def test_nothing_else_of_the_dataset_changes_and_every_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "d", MADE["npy"])
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    problems = find_problems(str(root))
    assert main(["stats", str(root), "--workers", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    after = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert after.keys() - before.keys() == {root / catalog_file("statistics", 0)} == {Path(printed["out"])}
    assert all(after[p] == data for p, data in before.items())
    assert find_problems(str(root)) == problems
    found = (
        connect(str(root)).sql("SELECT band, wavelength, content_hash FROM statistics ORDER BY wavelength").fetchall()
    )
    assert [f[0] for f in found][:4] == ["coastal", "blue", "green", "red"]
    assert {f[2] for f in found} == {json.loads((root / "dataset.json").read_text())["content_hash"]}
    assert [r["band"] for r in printed["bands"]] == sorted(f[0] for f in found)
    assert main(["stats", str(root), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "rededge071" in text
    assert text.splitlines()[-1].endswith("12 bands, split train")
    assert main(["stats", str(root), "--workers", "1", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_remote_dataset_has_the_same_statistics(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", MADE["npy"])
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/stats-test", recursive=True)
    try:
        write_statistics("memory://stats-test", workers=1)
        remote = memory.cat_file(f"/stats-test/{catalog_file('statistics', 0)}")
    finally:
        memory.rm("/stats-test", recursive=True)
    write_statistics(str(root), workers=1)
    assert remote == (root / catalog_file("statistics", 0)).read_bytes()


def packed(folder: Path, images: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> tuple[Store, list[dict[str, Any]]]:
    """A store of one image a sample and a shard, and the rows that find them."""
    (folder / "shards").mkdir(parents=True)
    rows = []
    for number, (pixels, facts) in enumerate(images):
        plane = facts.pop("valid", None)
        info = {"member": "rs.npy", "dtype": str(pixels.dtype), "source": "x", **facts}
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        members = {"rs.npy": buffer.getvalue(), JSON: json.dumps({"rs": [info]}).encode()}
        if plane is not None:
            members["rs.valid.png"] = encode_valid(plane)
        places, data = [], b""
        for name, content in members.items():
            places.append({"name": name, "offset": len(data), "size": len(content)})
            data += content
        shard = f"part-{number:07d}.tar"
        (folder / "shards" / shard).write_bytes(data)
        rows.append({"key": f"k{number}", "shard": shard, "members": places})
    return Store(folder), rows


def tallied(store: Store, rows: list[dict[str, Any]], backwards: bool = False) -> list[dict[str, Any]]:
    shards = list(enumerate(own for _, own in sorted(by_shard(rows).items())))
    total: dict[Any, Tally] = {}
    for shard in reversed(shards) if backwards else shards:
        for key, tally in ShardImages(store)(shard).items():
            total.setdefault(key, Tally()).join(tally)
    return statistics(total, "train", "hash").to_pylist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_every_type_and_any_order_of_shards(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    low = -3000 if dtype in ("int16", "float32") else 0
    images = [(rng.normal(120 * (k + 1), 60, (2, 9, 7)).clip(low, 255 * (k + 1))).astype(dtype) for k in range(3)] \
        if dtype != "uint8" else [rng.integers(0, 256, (2, 9, 7), dtype=np.uint8) for _ in range(3)]  # fmt: skip
    store, rows = packed(tmp_path, [(image, {"bands": ["Own", "B4"]}) for image in images])
    found = tallied(store, rows)
    assert found == tallied(store, rows, backwards=True)
    assert [r["band"] for r in found] == ["own", "red"]
    for channel, row in enumerate(found):
        assert_is_numpy_s(row, np.stack(images)[:, channel].ravel())
    assert (found[0]["p50"] is None) == (dtype == "float32")


def test_one_band_of_two_types_and_two_names(tmp_path: Path) -> None:
    images = [
        (np.full((1, 2, 2), v, t), {"bands": [n]}) for v, t, n in ((7, "u1", "R"), (7, "u2", "B4"), (9, "u2", "B04"))
    ]
    found = tallied(*packed(tmp_path, images))
    assert [(r["band"], r["dtype"], r["names"], r["mean"]) for r in found] == [
        ("red", "uint16", ["B04", "B4"], 8.0), ("red", "uint8", ["R"], 7.0),
    ]  # fmt: skip


def test_squares_of_a_continent_do_not_overflow() -> None:
    histogram = np.zeros(65536, np.int64)
    histogram[[60_000, 60_002]] = 1 << 46
    row = statistics({("red", "uint16"): Tally({"R"}, 1, 0, histogram)}, "train", "h").to_pylist()[0]
    assert (row["mean"], row["std"], row["count"]) == (60_001.0, 1.0, 1 << 47)


def test_pixels_without_data_are_left_out_as_the_sample_s_plane_says(tmp_path: Path) -> None:
    """Whatever value stands there; a data pixel of the same value counts."""
    pixels = np.arange(5, 5 + 32, dtype=np.int16).reshape(2, 4, 4)
    pixels[:, 0, :3] = pixels[:, 3, 3:] = 0
    valid = np.ones((4, 4), bool)
    valid[0, :3] = False
    facts = {"bands": ["a", "b"], "nodata_share": 3 / 16}
    a, b = tallied(*packed(tmp_path / "told", [(pixels, {**facts, "valid": valid})]))
    assert_is_numpy_s(a, pixels[0][valid])
    assert_is_numpy_s(b, pixels[1][valid])
    # where nothing says which pixels lack data the image is left out, and counted
    rows = tallied(*packed(tmp_path / "untold", [(pixels, dict(facts))]))
    assert [(r["count"], r["images"], r["left_out"], r["mean"]) for r in rows] == [(0, 0, 1, None)] * 2
    # and where none lacks data, every value is one
    assert_is_numpy_s(tallied(*packed(tmp_path / "whole", [(pixels, {"bands": ["a", "b"]})]))[0], pixels[0].ravel())
    with pytest.raises(DatasetError, match=r"the plane of .* is \[3, 4\]"):
        tallied(*packed(tmp_path / "other", [(pixels, {**facts, "valid": valid[:3]})]))


def test_what_is_no_number_is_no_pixel(tmp_path: Path) -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    pixels[0, 0, 0] = np.nan
    assert_is_numpy_s(tallied(*packed(tmp_path / "d", [(pixels, {"bands": ["a"]})]))[0], pixels.ravel()[1:])


def test_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_dataset(tmp_path / "d", replace(SMALL, splits=("train",)))
    assert main(["stats", str(root), "--split", "val", "--quiet"]) == 1
    assert "has no sample of the split val with an image" in capsys.readouterr().err
    with one_writer(str(root)), pytest.raises(LockError):
        write_statistics(str(root), workers=1)
    row = sample_rows(Store(root))[8]
    member = next(m for m in row["members"] if m["name"] == "rs.jpg")
    path = root / "shards" / row["shard"]
    data = bytearray(path.read_bytes())
    data[member["offset"] : member["offset"] + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(
        DatasetError, match=rf"{row['shard']}: {row['key']}\.rs\.jpg cannot be decoded.*build the sample again"
    ):
        write_statistics(str(root), workers=1)
    store, rows = packed(tmp_path / "twice", [(np.zeros((2, 3, 3), np.uint8), {"bands": ["B4", "red"]})])
    with pytest.raises(InputError, match=r"k0\.rs\.npy has the bands B4 and red"):
        tallied(store, rows)


def test_a_reader_of_the_table_needs_parquet_alone(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", SMALL)
    write_statistics(str(root), workers=1)
    assert pq.read_schema(root / catalog_file("statistics", 0)).equals(STATISTICS)
    assert RsInfo("rs.jpg", ["R", "G", "B"], "uint8", "x").names == ("R", "G", "B")
