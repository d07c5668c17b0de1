"""Promises of remote datasets: few requests, few bytes, a shared cache, faults endured. Against a real S3 server."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from schemas.errors import DatasetError
from schemas.tokens import GRANULARITIES
from storage.ranges import CacheSettings
from tests.trainers.stream.indexes import members_of, shard_of
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.index import load_index
from trainers.stream.members.read import ShardReader, Verify
from trainers.stream.order import Place
from trainers.stream.stream import GeoStream

VIEW = View(image_size=32, osm=GRANULARITIES, tag_width=8)


def same(a: TileBatch, b: TileBatch) -> bool:
    def equal(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return x.shape == y.shape and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        return x == y

    return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


class Files(ThreadingHTTPServer):
    """Files of a folder over HTTP with ranges; counts what is served and can misbehave."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.served = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.fault = ""  # error, short or slow
        self.every = 0  # n-th request of a shard
        self.opening = False  # or of any file
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def clear(self, fault: str = "", every: int = 0) -> None:
        self.served, self.fault, self.every, self.opening = 0, fault, every, False
        self.requests.clear()


class Handler(BaseHTTPRequestHandler):
    server: Files
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.root / self.path.strip("/")
        if path.is_dir():
            rows = "".join(f'<a href="{p.name}{"/" * p.is_dir()}">{p.name}</a>' for p in sorted(path.iterdir()))
            return self.answer(200, rows.encode(), {"Content-Type": "text/html"})
        if not path.exists():
            return self.answer(404, b"", {})
        data = path.read_bytes()
        span = self.headers.get("Range")
        total = len(data)
        headers = {"Accept-Ranges": "bytes"}
        if span:
            first, last = (int(v) for v in span.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{min(last, total - 1)}/{total}"
        if path.suffix == ".tar" or self.server.opening:
            with self.server.lock:
                self.server.requests[self.path, span or ""] += 1
                self.server.served += len(data)
                bad = self.server.every and sum(self.server.requests.values()) % self.server.every == 0
            if bad and self.server.fault == "error":
                return self.answer(503, b"slow down", {})
            if bad and self.server.fault == "short":
                data = data[: len(data) // 2]
            if bad and self.server.fault == "slow":
                time.sleep(0.3)
        return self.answer(206 if span else 200, data, headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 samples with images of usual size, three shards."""
    small = SyntheticSettings(samples=48, size=256, photos=0, objects=30, samples_per_shard=16)
    return write_dataset(tmp_path_factory.mktemp("remote") / "d", small)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Files]:
    pytest.importorskip("aiohttp")
    files = Files(root)
    thread = threading.Thread(target=files.serve_forever, daemon=True)
    thread.start()
    yield files
    files.shutdown()


def stream(url: object, cache: object, **options: object) -> GeoStream:
    return GeoStream(str(url), VIEW, batch_size=8, cache=str(cache), **options)  # type: ignore[arg-type]


def used(root: Path) -> int:
    """Bytes of the members that the view takes."""
    index = load_index(str(root))
    return sum(members_of(index, i)[n][1] for i in range(48) for n in ("rs.jpg", "osm.safetensors"))


def test_block_order_reads_little_more_than_it_uses_and_each_block_once(
    root: Path, server: Files, tmp_path: Path
) -> None:
    server.clear()
    remote = stream(server.url, tmp_path, shuffle="block", block=8, window=3)
    alone = stream(root, "none", shuffle="block", block=8, window=3)
    assert all(same(a, b) for a, b in zip(alone, remote, strict=True))
    assert server.served <= 1.1 * used(root)
    assert sum(server.requests.values()) <= 48 // 8  # one request a block, or for two that lie side by side
    before = server.served
    assert len(list(remote)) == 6  # another epoch comes from the cache
    assert server.served == before


def test_global_order_asks_for_a_sample_in_one_request(root: Path, server: Files, tmp_path: Path) -> None:
    server.clear()
    for _ in stream(server.url, tmp_path):
        pass
    assert sum(server.requests.values()) <= 48
    assert max(server.requests.values()) == 1


def test_processes_of_a_machine_share_the_cache(root: Path, server: Files, tmp_path: Path) -> None:
    server.clear()
    script = (
        "import os, sys; sys.path[0] = sys.argv[1]\n"
        "from trainers.stream.batch import View\nfrom trainers.stream.stream import GeoStream\n"
        "child = os.fork()\n"
        "s = GeoStream(sys.argv[2], View(32, osm=('objects',), tag_width=8), batch_size=8, shuffle='block', block=8,\n"
        "              cache=sys.argv[3])\nos.write(1, b'%d\\n' % sum(b.samples for b in s))\n"
        "if child: os.waitpid(child, 0)\n"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).resolve().parents[3]), server.url, str(tmp_path)]
    assert subprocess.check_output(words, text=True, timeout=200).split() == ["48"] * 2
    assert sum(server.requests.values()) <= 6
    assert server.served <= 1.1 * used(root)


@pytest.mark.parametrize("fault", ["error", "short", "slow"])
def test_a_flaky_or_slow_store_changes_nothing_but_the_time(
    root: Path, server: Files, tmp_path: Path, fault: str
) -> None:
    server.clear(fault, every=3)
    remote = list(stream(server.url, tmp_path if fault != "error" else "none"))
    server.clear()
    assert all(same(a, b) for a, b in zip(stream(root, "none"), remote, strict=True))
    assert not any(b.corrupt for b in remote)


def test_a_store_that_does_not_answer_is_named(
    root: Path, server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.001)
    server.clear("error", every=1)
    try:
        with pytest.raises(DatasetError, match=r"part-\d+.tar: no answer after 8 attempts .*resume=auto"):
            next(iter(stream(server.url, tmp_path)))
    finally:
        server.clear()


def test_a_shard_cut_short_is_corrupt_and_one_that_is_missing_stops(root: Path, tmp_path: Path) -> None:
    import shutil

    import fsspec

    memory = fsspec.filesystem("memory")
    shutil.copytree(root, tmp_path / "d")
    shard = tmp_path / "d" / "shards" / "part-0000001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size * 3 // 4])
    memory.put(str(tmp_path / "d"), "/cut", recursive=True)
    try:
        batches = list(stream("memory://cut", tmp_path / "cache"))
        assert {b.samples for b in batches} != {8}
        assert all("part-0000001.tar: ends before" in c for b in batches for c in b.corrupt)
        memory.rm("/cut/shards/part-0000002.tar")
        with pytest.raises(DatasetError, match=r"part-0000002.tar is missing"):
            list(stream("memory://cut", tmp_path / "other"))
    finally:
        memory.rm("/cut", recursive=True)


def test_reads_by_range_equal_reads_of_files(root: Path, server: Files, tmp_path: Path) -> None:
    index, far = load_index(str(root)), load_index(server.url)
    here, there = ShardReader(index), ShardReader(far, CacheSettings(str(tmp_path)))
    samples = np.arange(48)
    assert [dict(m) for m in here.read(samples)] == [dict(m) for m in there.read(samples)]  # type: ignore[call-overload]


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_damaged_bytes_are_fetched_again_and_not_kept(root: Path, server: Files, tmp_path: Path, shuffle: str) -> None:
    right = list(stream(root, "none", shuffle=shuffle, block=8))
    list(stream(server.url, tmp_path, shuffle=shuffle, block=8))
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"]
    for file in kept:  # the disk of the cache
        data = bytearray(file.read_bytes())
        data[len(data) * 3 // 4] ^= 16
        file.write_bytes(data)
    server.clear()
    for _ in range(2):
        healed = list(stream(server.url, tmp_path, shuffle=shuffle, block=8))
        assert all(same(a, b) for a, b in zip(right, healed, strict=True))
        assert 0 < sum(server.requests.values()) <= len(kept)


@pytest.mark.parametrize("verify", ["crc", "sha256"])
def test_of_samples_that_are_asked_for_different_members_each_damaged_one_is_fetched_again(
    root: Path, server: Files, tmp_path: Path, verify: Verify
) -> None:
    wanted = [("json",), ("rs.jpg",), ("osm.safetensors",), ("rs.jpg", "json")]
    right = ShardReader(load_index(str(root))).read(range(4), wanted)
    server.clear()
    reader = ShardReader(load_index(server.url), CacheSettings(str(tmp_path)), verify)
    assert [dict(m) for m in reader.read(range(4), wanted)] == [dict(m) for m in right]  # type: ignore[call-overload]
    for file in [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 16
        file.write_bytes(data)
    reader = ShardReader(load_index(server.url), CacheSettings(str(tmp_path)), verify)
    assert [dict(m) for m in reader.read(range(4), wanted)] == [dict(m) for m in right]  # type: ignore[call-overload]


def test_bytes_that_are_damaged_at_their_source_are_masked_and_not_kept(root: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/rot", recursive=True)
    index = load_index(str(root))
    start, size = members_of(index, 3)["rs.jpg"]
    shard = f"/rot/shards/{shard_of(index, 3)}"
    whole = memory.cat_file(shard)
    try:
        memory.pipe_file(shard, whole[: start + size // 2] + b"?" + whole[start + size // 2 + 1 :])
        batches = list(stream("memory://rot", tmp_path))
        (said,) = (c for b in batches for c in b.corrupt)
        assert said.startswith(f"{index.key(3)}: {shard_of(index, 3)}: rs.jpg is not what was written")
        damaged = whole[start + size // 2 - 20 : start + size // 2] + b"?"
        kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
        assert len(kept) > 40
        assert not any(damaged in data for data in kept)
        memory.pipe_file(shard, whole)
        assert all(same(a, b) for a, b in zip(stream(root, "none"), stream("memory://rot", tmp_path), strict=True))
    finally:
        memory.rm("/rot", recursive=True)


@pytest.mark.parametrize("cached_from", [0, 1 << 23])
def test_a_dataset_of_a_faulty_server_is_opened_whole(
    root: Path, server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_from: int
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path))
    here = load_index(str(root), "n_polygon > 1")
    server.clear("error", every=3)
    server.opening = True
    try:
        there = load_index(server.url, "n_polygon > 1", cached_from=cached_from)
        asked = sum(server.requests.values())
    finally:
        server.clear()
    assert asked > 7
    assert here.keys() == there.keys()
    assert here.entries(np.arange(len(here))) == there.entries(np.arange(len(there)))
    assert bool(list(tmp_path.rglob("*.part-00000.safetensors"))) == (cached_from == 0)


def test_a_server_that_never_answers_is_given_up_by_name(server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.001)
    server.clear("error", every=1)
    server.opening = True
    try:
        with pytest.raises(DatasetError, match=r"dataset.json: no answer after 8 attempts .*503"):
            load_index(server.url)
    finally:
        server.clear()


class Faulty:
    """A WSGI application that answers some requests for shards late, with an error, or not whole."""

    def __init__(self, application: Any) -> None:
        self.application, self.fault, self.seen = application, "", 0

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        bad = False
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".tar"):
            self.seen += 1
            bad = self.seen % 3 == 0
        if bad and self.fault == "slow":
            time.sleep(0.2)
        if bad and self.fault == "error":
            start("500 Internal Server Error", [("Content-Type", "text/xml")])
            return [b"<Error><Code>InternalError</Code></Error>"]
        if bad and self.fault == "short":
            first, last = (int(v) for v in environ["HTTP_RANGE"].removeprefix("bytes=").split("-"))
            environ = {**environ, "HTTP_RANGE": f"bytes={first}-{(first + last) // 2}"}
        return self.application(environ, start)


class Bucket(NamedTuple):
    """A dataset in a bucket."""

    url: str
    faulty: Faulty


@pytest.fixture(scope="module")
def bucket(root: Path) -> Iterator[Bucket]:
    """The dataset in a bucket of an S3 server on loopback."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    from werkzeug.serving import make_server

    faulty = Faulty(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    multiprocessing.set_forkserver_preload(["torch", "trainers.stream.stream"])
    forkserver.ensure_running()  # loader processes take the credentials from this process, not from the one they fork
    patch = pytest.MonkeyPatch()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
    ):  # fmt: skip
        patch.setenv(name, value)
    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("geoshards-test")
    fs.put(str(root), "geoshards-test/d", recursive=True)
    yield Bucket("s3://geoshards-test/d", faulty)
    patch.undo()
    server.shutdown()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket_reads_as_a_folder(root: Path, bucket: Bucket, tmp_path: Path, workers: int) -> None:
    options = {"shuffle": "block", "block": 8, "place": Place(workers=workers)}
    bucket.faulty.fault = ""
    remote = list(stream(bucket.url, tmp_path, **options))
    assert all(same(a, b) for a, b in zip(stream(root, "none", shuffle="block", block=8), remote, strict=True))


@pytest.mark.parametrize("fault", ["slow", "error", "short"])
def test_a_faulty_bucket_reads_as_a_folder(root: Path, bucket: Bucket, tmp_path: Path, fault: str) -> None:
    bucket.faulty.fault, before = fault, bucket.faulty.seen
    remote = list(stream(bucket.url, tmp_path, shuffle="block", block=8))
    assert bucket.faulty.seen > before
    assert all(same(a, b) for a, b in zip(stream(root, "none", shuffle="block", block=8), remote, strict=True))
    assert not any(b.corrupt for b in remote)
