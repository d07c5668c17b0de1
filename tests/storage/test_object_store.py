"""Datasets in an object store, here moto's S3 server: several writers, a store that fails, what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.catalog.verify import find_problems
from pipeline.cli.query import connect
from schemas.errors import DatasetError, DependencyError, GeoshardsError, InputError, LockError
from storage.dataset import BEGUN, load_dataset, sample_rows
from storage.locks import one_writer
from storage.owner import Owner
from storage.store import Store
from tests.buckets import PASSING, s3_server

ROOT = Path(__file__).resolve().parents[2]
GONE = replace(Owner.here("dead"), pid=2**22 + 1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with s3_server("there") as fs:
        yield fs


def test_a_second_writer_is_refused_and_what_a_dead_one_left_is_taken_over(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"s3://there/d is being written by process \d+ on .*; wait for it"
    with one_writer("s3://there/d"), pytest.raises(LockError, match=said):
        one_writer("s3://there/d").__enter__()
    assert not bucket.exists("there/d/.lock")
    bucket.pipe_file("there/d/.lock", GONE.text().encode())
    with one_writer("s3://there/d"):
        assert Owner.parse(bucket.cat_file("there/d/.lock").decode()) != GONE
    elsewhere = replace(GONE, boot="another boot").text().encode()
    monkeypatch.setattr("storage.locks.BEAT", 1.0)
    monkeypatch.setattr("storage.locks.SILENCE", 30.0)
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.5):
            bucket.pipe_file("there/d/.lock", elsewhere)

    bucket.pipe_file("there/d/.lock", elsewhere)
    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(LockError, match=r"or delete s3://there/d/\.lock if that process is gone"):
        one_writer("s3://there/d").__enter__()
    over.set()
    thread.join()
    monkeypatch.setattr("storage.locks.SILENCE", 2.0)
    with one_writer("s3://there/d"):  # it has given no sign of life
        mine = bucket.info("there/d/.lock")["LastModified"]
        deadline = time.monotonic() + 60.0
        while bucket.info("there/d/.lock")["LastModified"] == mine:  # we do
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert not bucket.exists("there/d/.lock")


def test_of_two_that_ask_at_once_one_is_let_in(bucket: Any) -> None:
    code = (
        "import sys; sys.path[0] = sys.argv[1]\nfrom storage.locks import one_writer\n"
        "from schemas.errors import LockError\nprint('up', flush=True); sys.stdin.readline()\ntry:\n"
        "    with one_writer('s3://there/two'):\n        print('in', flush=True); sys.stdin.readline()\n"
        "except LockError:\n    print('refused', flush=True)\n"
    )
    pipe = subprocess.PIPE
    both = [subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdin=pipe, stdout=pipe, text=True) for _ in "ab"]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = sorted(str(one.stdout and one.stdout.readline()) for one in both)
    for one in both:
        one.communicate("\n", timeout=60)
    assert said == ["in\n", "refused\n"]


def test_what_another_process_has_written_is_seen_at_once(bucket: Any) -> None:
    """No listing is believed twice."""
    store = Store("s3://there/seen")
    store.write("a/y", b"2")
    assert store.names("a") == ["y"]
    assert store._fs("a")[0].ls("there/seen/a", detail=True)  # what a file system would remember
    assert not store.exists("a/x")
    code = (
        "import sys; sys.path[0] = sys.argv[1]\nfrom storage.store import Store\nStore(sys.argv[2]).write('a/x', b'1')"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT), "s3://there/seen"], check=True)
    assert store.exists("a/x")
    assert store.names("a") == ["x", "y"]
    assert store.walk() == ["a/x", "a/y"]
    assert store.read_range("a/x", 0, 1) == b"1"
    store.remove("a/x")
    store.remove("a/x")
    assert store.names("a") == ["y"]


def test_a_mistyped_bucket_is_refused_and_not_made(bucket: Any) -> None:
    with pytest.raises(InputError, match="s3://their/d: there is no such bucket; create it"):
        Store("s3://their/d").write("x", b"")
    with pytest.raises(InputError, match="no such bucket"):
        one_writer("s3://their/d").__enter__()
    assert not bucket.exists("their")


def test_missing_credentials_and_packages_are_one_line(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises((InputError, DatasetError), match="redentials") as found:
        Store("s3://there/d").write("x", b"")
    assert "\n" not in str(found.value)
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DependencyError, match=r"gs://b/d: .*geoshards\[cloud\]"):
        Store("gs://b/d").write("x", b"")
    with pytest.raises(InputError, match="is no address that is known"):
        Store("nothing://b/d").write("x", b"")


def ways(store: Store) -> dict[str, Callable[[], object]]:
    """Every way to ask a store."""
    return {
        "write": lambda: store.write("a/x", b"1"),
        "read": lambda: store.read("a/x"),
        "range": lambda: store.read_range("a/x", 0, 1),
        "table": lambda: store.read_table("a/t.parquet"),
        "exists": lambda: store.exists("a/x"),
        "names": lambda: store.names("a"),
        "walk": store.walk,
        "remove": lambda: store.remove("a/x"),
        "lock": lambda: one_writer(store.root).__enter__(),
        "dataset": lambda: load_dataset(store),
    }


def test_a_store_that_fails_is_slow_or_tears_its_answers_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth request ends in the next of those ways; s3fs itself asks again some times."""
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("tests.buckets.SLOW", 0.05)
    turns, seen = cycle(chain.from_iterable([["", "", "", kind] for kind in PASSING])), set[str]()

    def fault(_method: str, _path: str) -> str:
        seen.add(kind := next(turns))
        return kind

    with s3_server("flaky", fault):
        store = Store("s3://flaky/d")
        content = [json.dumps(n).encode() * 500 for n in range(6)]
        for n, data in enumerate(content):
            store.write(f"a/{n}", data)
        assert [store.read(f"a/{n}") for n in range(6)] == content
        assert [store.read_range(f"a/{n}", 1, 9) for n in range(6)] == [data[1:9] for data in content]
        assert store.names("a") == [str(n) for n in range(6)]
        with one_writer("s3://flaky/d"), pytest.raises(LockError):
            one_writer("s3://flaky/d").__enter__()
        assert seen == {"", *PASSING}


def test_credentials_that_expire_are_one_line_that_names_the_address_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 30.0)  # who asked again would wait for long
    expired: list[str] = []
    with s3_server("old", lambda *_: "expired" if expired else ""):
        store = Store("s3://old/d")
        store.write("a/x", b"1")
        store.write_table("a/t.parquet", pa.table({"n": [1]}))
        expired.append("now")
        for name, ask in ways(store).items():
            with pytest.raises(GeoshardsError, match=r"s3://old/d.*credentials.*again") as found:
                ask()
            assert "\n" not in str(found.value), name
        expired.clear()
        assert store.read("a/x") == b"1"
        assert not store.exists(".lock")


def test_who_may_not_write_is_told_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server("theirs", lambda method, _: "denied" if method == "PUT" else ""):
        for ask in (ways(Store("s3://theirs/d"))[name] for name in ("write", "lock")):
            with pytest.raises(InputError, match=r"s3://theirs/d/.*check your rights"):
                ask()


def test_a_reader_sees_no_dataset_until_it_is_whole(bucket: Any) -> None:
    """Its tables come before dataset.json; what a part of them says is no answer."""
    store = Store("s3://there/half")
    with pytest.raises(DatasetError, match=r"s3://there/half/dataset\.json does not exist"):
        load_dataset(store)
    store.write(BEGUN, b"{}")
    store.write_table("catalog/samples/part-00000.parquet", pa.table({"key": ["a"]}))
    said = "s3://there/half is not whole: the run that makes it goes on, or was stopped; wait for it, or run it again"
    for read, place in (
        (load_dataset, store),
        (sample_rows, store),
        (connect, store.root),
        (find_problems, store.root),
    ):
        with pytest.raises(DatasetError, match=said):
            read(place)
