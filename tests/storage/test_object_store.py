"""Datasets in an object store, here moto's S3 server: several writers, a store that fails, what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import DatasetError, DependencyError, InputError, LockError
from storage.locks import one_writer
from storage.owner import Owner
from storage.store import Store
from tests.buckets import every, s3_server

ROOT = Path(__file__).resolve().parents[2]
GONE = replace(Owner.here("dead"), pid=2**22 + 1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with s3_server("there") as fs:
        yield fs


def test_a_second_writer_is_refused_and_what_a_dead_one_left_is_taken_over(bucket: Any) -> None:
    said = r"s3://there/d is being written by process \d+ on .*; wait for it"
    with one_writer("s3://there/d"), pytest.raises(LockError, match=said):
        one_writer("s3://there/d").__enter__()
    assert not bucket.exists("there/d/.lock")
    bucket.pipe_file("there/d/.lock", GONE.text().encode())
    with one_writer("s3://there/d"):
        assert Owner.parse(bucket.cat_file("there/d/.lock").decode()) != GONE
    elsewhere = replace(GONE, boot="another boot")
    bucket.pipe_file("there/d/.lock", elsewhere.text().encode())
    with pytest.raises(LockError, match=r"or delete s3://there/d/\.lock if that process is gone"):
        one_writer("s3://there/d").__enter__()
    bucket.rm_file("there/d/.lock")


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


def test_a_store_that_fails_now_and_then_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth answer is an error of the server; s3fs itself asks again some times."""
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.001)
    with s3_server("flaky", every(5)):
        store = Store("s3://flaky/d")
        for n in range(4):
            store.write(f"a/{n}", json.dumps(n).encode())
        assert [json.loads(store.read(f"a/{n}")) for n in range(4)] == list(range(4))
        with one_writer("s3://flaky/d"), pytest.raises(LockError):
            one_writer("s3://flaky/d").__enter__()
