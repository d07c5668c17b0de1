"""A dataset reads the same from a folder, with ``~`` and ``file://`` too, and from behind a URL; faults are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pytest

from schemas.catalog import SCHEMA_VERSION
from schemas.errors import DatasetError
from storage.dataset import find_catalog, load_dataset, read_catalog, read_members, read_samples, sample_rows
from storage.store import Store
from tests.trainers.synthetic import SyntheticSettings, write_dataset


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("d") / "d", SyntheticSettings(samples=6, size=32, samples_per_shard=3))


@pytest.fixture
def memory(local: Path) -> Iterator[str]:
    name = f"memory://{uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.put(str(local), name, recursive=True)
    yield name
    fs.rm(name, recursive=True)


def everything(root: str) -> tuple[Any, ...]:
    store = Store(root)
    samples = list(read_samples(store, sample_rows(store)))
    tables = [read_catalog(store, t).to_pydict() for t in ("samples", "shards", "vocabulary")]
    return load_dataset(store), tables, samples, store.sizes("shards"), store.names("catalog/samples")


def test_every_form_of_a_root_reads_the_same(local: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(local.parent))
    found = everything(str(local))
    assert len(found[2]) == 6
    for root in (f"{local}/", f"file://{local}", "~/d", memory):
        assert everything(root) == found


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_written_is_read_listed_and_removed(tmp_path: Path, remote: bool) -> None:
    store = Store(f"memory://{uuid4().hex}" if remote else tmp_path)
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    store.write("sub/x.bin", b"123")
    store.write_table("sub/t.parquet", table, {b"k": b"v"})
    assert store.names("sub") == ["t.parquet", "x.bin"]
    assert store.sizes("sub")["x.bin"] == 3
    assert store.read("sub/x.bin") == b"123"
    assert store.read_table("sub/t.parquet") == table
    assert store.read_table("sub/t.parquet", without={"a"}).column_names == ["b"]
    assert store.parquet("sub/t.parquet").schema_arrow.metadata[b"k"] == b"v"
    store.write("sub/y.bin", b"")  # a list made before does not hide it
    assert store.names("sub") == ["t.parquet", "x.bin", "y.bin"]
    for name in ("x.bin", "x.bin"):
        store.remove(f"sub/{name}")
    assert not store.exists("sub/x.bin")
    assert store.exists("sub/y.bin")
    assert store.names("nowhere") == []
    with pytest.raises(DatasetError, match=r"sub/x\.bin does not exist"):
        store.read("sub/x.bin")


def test_a_table_that_the_dataset_lacks_is_none_or_named(local: Path) -> None:
    store = Store(local)
    assert find_catalog(store, "classes") is None
    with pytest.raises(DatasetError, match="has no catalog/classes"):
        read_catalog(store, "classes")


@pytest.mark.parametrize("remote", [False, True])
def test_a_damaged_table_is_named(tmp_path: Path, remote: bool) -> None:
    store = Store(f"memory://{uuid4().hex}" if remote else tmp_path)
    store.write("catalog/shards/part-00000.parquet", b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"catalog/shards/part-00000\.parquet cannot be read"):
        find_catalog(store, "shards")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "does not exist; give a dataset directory"),
        ("no json", "cannot be read"),
        ("[]", "cannot be read"),
        ({"schema_version": SCHEMA_VERSION + 1}, f"has schema version {SCHEMA_VERSION + 1}, this reader knows"),
        ({"content_hash": None}, "lacks content_hash: the run that made it did not finish"),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_named(local: Path, tmp_path: Path, change: Any, said: str) -> None:
    if change is not None:
        document = json.loads((local / "dataset.json").read_text())
        text = change if isinstance(change, str) else json.dumps(document | change)
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=f"dataset.json {said}"):
        load_dataset(Store(tmp_path))


def test_a_member_past_the_end_of_its_shard_is_named(local: Path, memory: str) -> None:
    rows = sample_rows(Store(local))
    rows[1]["members"][-1]["size"] += 10**9
    key, name = rows[1]["key"], rows[1]["members"][-1]["name"]
    for root in (str(local), memory):
        with pytest.raises(DatasetError, match=rf"{key}\.{name} lies outside the shard"):
            list(read_samples(Store(root), rows))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"size": -1}, {"size": 1}, {"offset": 512}, {"offset": -512}, {"offset": 10**9}, {"offset": -(10**9)}],
    ids=str,
)
def test_a_member_that_its_header_does_not_bear_out_is_named(local: Path, change: dict[str, int], whole: bool) -> None:
    """A truncated content may have the hash that a catalog says: tars of other readers are longer then."""
    store = Store(local)
    rows = [row for row in sample_rows(store) if row["shard"] == "part-0000000.tar"]
    right = read_members(store, "part-0000000.tar", rows, whole)
    assert right == [members for row, members in read_samples(store, rows)]
    wrong = rows[1]["members"][1]
    wrong.update({name: wrong[name] + more for name, more in change.items()})
    found = read_members(store, "part-0000000.tar", rows, whole)
    assert found[::2] == right[::2]
    assert re.match(rf"{rows[1]['key']}\.\S+ does not lie where", str(found[1]))
