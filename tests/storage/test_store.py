"""A store behind a URL whose answers are torn, lost or late, without a server: fsspec's store in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from schemas.errors import DatasetError, LockError
from storage.locks import one_writer
from storage.owner import Owner
from storage.store import Store
from storage.urls import _options


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    found = Store(f"memory://{uuid4().hex}")
    yield found
    with suppress(FileNotFoundError):
        MemoryFileSystem().rm(found.root, recursive=True)


def first_answers(monkeypatch: pytest.MonkeyPatch, change: Any, times: int = 1) -> list[int]:
    """Let the first answers to each kind of read be changed ones; how many were asked for."""
    right, asked = MemoryFileSystem.cat_file, list[int]()

    def cat_file(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        asked.append(1)
        data = right(self, path, start=start, end=end, **options)
        return bytes(change(data, right(self, path))) if len(asked) <= times else bytes(data)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return asked


TORN = [lambda data, _: data[:-1], lambda _, whole: whole]


@pytest.mark.parametrize("change", TORN, ids=["torn", "the whole file for a range"])
def test_an_answer_of_another_length_is_asked_for_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    table = pa.table({name: np.random.default_rng(number).random(20_000) for number, name in enumerate("ab")})
    store.write_table("t.parquet", table)
    store.write("x", b"12345")
    first_answers(monkeypatch, change)
    assert store.read("x", 5) == b"12345"
    asked = first_answers(monkeypatch, change, times=3)
    assert store.read_table("t.parquet") == table
    assert len(asked) > 3


def test_a_listed_file_that_is_not_there_yet_is_asked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("x", b"12345")

    def late(_: Any, __: Any) -> bytes:
        raise FileNotFoundError("x")

    asked = first_answers(monkeypatch, late, times=2)
    assert store.read_range("x", 1, 3) == b"23"
    assert store.read("x", 5) == b"12345"
    assert len(asked) == 4
    first_answers(monkeypatch, late)
    with pytest.raises(DatasetError, match="x does not exist"):  # nobody has listed it
        store.read("x")


@pytest.mark.parametrize("remote", [False, True])
def test_a_walk_leaves_out_what_is_hidden_however_deep(store: Store, tmp_path: Path, remote: bool) -> None:
    there = store if remote else Store(tmp_path)
    for name in ("a", "b/c", ".lock", "b/.d", "b/.e/f", "catalog/.pending/run.json"):
        there.write(name, b"1")
    assert there.walk() == ["a", "b/c"]


def test_a_sweep_takes_what_is_unfinished_of_the_dataset_and_nothing_else(tmp_path: Path) -> None:
    swept = (".a.tmp", "shards/.b.tmp", "catalog/samples/.c.tmp")
    kept = ("a.tmp", ".a", "other/.d.tmp", "shards/part-0000000.tar", "catalog/samples/x.tmp")
    for name in (*swept, *kept):
        Store(tmp_path).write(name, b"1")
    Store(tmp_path).sweep()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_what_is_gone_already_may_be_removed(store: Store) -> None:
    store.write("x", b"1")
    for _ in range(2):
        store.remove("x")
    assert not store.exists("x")


def test_a_claim_whose_answer_is_lost_is_held_and_no_other_s(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = MemoryFileSystem.pipe_file
    asked: list[str] = []

    def pipe_file(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        right(self, path, value, mode=mode, **options)
        asked.append(mode)
        if len(asked) == 1:
            raise TimeoutError("the answer is lost")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    with one_writer(store.root):
        with pytest.raises(LockError, match="is being written by process"):
            one_writer(store.root).__enter__()
        assert set(asked) == {"create"}
    assert not store.exists(".lock")


def test_a_store_without_conditions_refuses_a_second_writer_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = MemoryFileSystem.pipe_file

    def pipe_file(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create":
            raise NotImplementedError
        right(self, path, value, mode=mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    with one_writer(store.root), pytest.raises(LockError, match="is being written by process"):
        one_writer(store.root).__enter__()
    assert not store.exists(".lock")


@pytest.mark.parametrize("text", [b"", b"?", b"\xff\xfe"])
def test_a_lock_that_names_nobody_is_not_taken_over(store: Store, text: bytes) -> None:
    store.write(".lock", text)
    with pytest.raises(LockError, match="is being written by another process"):
        one_writer(store.root).__enter__()
    assert store.read(".lock") == text


def test_a_writer_whose_lock_was_taken_leaves_that_of_the_other(store: Store) -> None:
    other = Owner.here("other").text().encode()
    with one_writer(store.root):
        store.write(".lock", other)
    assert store.read(".lock") == other
    store.remove(".lock")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"AWS_S3_ENDPOINT": "h:9"}, {"endpoint_url": "https://h:9"}),
        ({"AWS_S3_ENDPOINT": "h:9", "AWS_HTTPS": "no"}, {"endpoint_url": "http://h:9"}),
        ({"AWS_S3_ENDPOINT": "http://h"}, {"endpoint_url": "http://h"}),
        ({"AWS_S3_ENDPOINT": "h", "AWS_ENDPOINT_URL": "http://other"}, {}),
        ({"AWS_NO_SIGN_REQUEST": "yes", "AWS_REQUEST_PAYER": "requester"}, {"anon": True, "requester_pays": True}),
        ({"AWS_NO_SIGN_REQUEST": "NO", "AWS_REQUEST_PAYER": "BucketOwner"}, {}),
    ],
)
def test_variables_that_gdal_reads_hold_for_all_of_s3(
    names: dict[str, str], found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert _options("s3://b/x") == found
    assert _options("gs://b/x") == {}
