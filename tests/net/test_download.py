"""Downloads: the file that upstream has, or a reason; never a mixture, and nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Refused, Unavailable
from pipeline.net.config import NetConfig
from pipeline.net.download import Download, download_all, known_version, remote_bytes
from pipeline.regions.resolve import check_pbf
from schemas.errors import InputError
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.net.sources import FAST, address, pbf_bytes, publish, raw_server

ROOT = Path(__file__).resolve().parents[2]


def item(mirror: Mirror, folder: Path, name: str = "x.osm.pbf") -> Download:
    return Download(address(mirror, name), folder / name, check=check_pbf)


def get(mirror: Mirror, folder: Path, **changes: object) -> Path:
    wanted = item(mirror, folder)
    download_all([wanted], FAST, quiet=True, **changes)  # type: ignore[arg-type]
    return wanted.path


def test_a_file_arrives_with_what_upstream_says_of_it(mirror: Mirror, tmp_path: Path) -> None:
    data = pbf_bytes(300_000)
    publish(mirror.folder, data)
    path = get(mirror, tmp_path / "cache")
    assert path.read_bytes() == data
    version = known_version(path)
    assert version is not None
    assert version.bytes == len(data)
    assert version.etag
    assert sorted(p.name for p in path.parent.iterdir()) == [".x.osm.pbf.json", "x.osm.pbf"]


def test_several_files_come_side_by_side(mirror: Mirror, tmp_path: Path) -> None:
    names = [f"{i}.osm.pbf" for i in range(9)]
    for i, name in enumerate(names):
        publish(mirror.folder, pbf_bytes(10_000 + i, i), name)
    most, now, lock = 0, 0, threading.Lock()

    def watch(request: Request, answer: Response) -> Response:
        nonlocal most, now
        if request.path.endswith(".pbf"):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.05)
            with lock:
                now -= 1
        return answer

    mirror.faults.append(watch)
    download_all([item(mirror, tmp_path / "c", n) for n in names], FAST, quiet=True)
    assert [(tmp_path / "c" / n).read_bytes() for n in names] == [pbf_bytes(10_000 + i, i) for i in range(9)]
    assert 2 <= most <= FAST.parallel


#: Faults of one request, as (name, number): the number is a byte, a rate or a difference.
FAULTS: dict[str, Callable[[int], faults.Fault]] = {
    "fine": lambda _: lambda _request, answer: answer,
    "cut": faults.cut,
    "reset": lambda n: faults.cut(n, reset=True),
    "longer": lambda n: faults.lengthened(1 + n),
    "shorter": lambda n: faults.lengthened(-1 - n // 2),
    "429": lambda _: faults.status(429, "0"),
    "503": lambda _: faults.status(503),
    "no ranges": lambda _: faults.whole,
    "cut, no ranges": lambda n: lambda request, answer: faults.cut(n)(request, faults.whole(request, answer)),
    "anonymous": lambda _: faults.anonymous,
    "anonymous, cut": lambda n: lambda request, answer: faults.cut(n)(request, faults.anonymous(request, answer)),
    "unconditional": lambda _: faults.unconditional,
    "stingy": lambda n: faults.stingy(1 + n),
    "web page": lambda _: faults.web_page("application/octet-stream"),
    "404": lambda _: faults.status(404),
}


@pytest.fixture(scope="module")
def shared_mirror() -> object:
    folder = Path(tempfile.mkdtemp())
    (folder / "geofabrik").mkdir()
    with Mirror(folder) as server:
        yield server
    shutil.rmtree(folder)


@given(
    st.integers(1, 30_000),
    st.lists(st.tuples(st.sampled_from(sorted(FAULTS)), st.integers(0, 20_000)), max_size=6),
    st.booleans(),
    st.integers(0, 7),
    st.booleans(),
)
def test_whatever_happens_the_file_is_one_that_upstream_had_or_there_is_none(
    shared_mirror: Mirror, size: int, plan: list[tuple[str, int]], summed: bool, change_at: int, same_size: bool
) -> None:
    mirror, versions = shared_mirror, [pbf_bytes(size, 1), pbf_bytes(size if same_size else size + 7, 2)]
    publish(mirror.folder, versions[0])
    requests = 0

    def go_wrong(request: Request, answer: Response) -> Response:
        nonlocal requests
        if request.path.endswith(".md5"):
            return answer if summed else Response(404)
        requests += 1
        if requests == change_at:
            publish(mirror.folder, versions[1])  # the answer on its way is still of the old file's headers
        name, number = plan[requests - 1] if requests <= len(plan) else ("fine", 0)
        return FAULTS[name](number)(request, answer)

    mirror.faults[:] = [go_wrong]
    with tempfile.TemporaryDirectory() as folder:
        wanted = item(mirror, Path(folder))
        reason = ""
        try:
            download_all([wanted], FAST, quiet=True)
        except InputError as error:
            reason = str(error)
        if reason:
            assert "/geofabrik/x.osm.pbf" in reason
            assert not wanted.path.exists()
            mirror.faults.clear()
            download_all([wanted], FAST, quiet=True)  # a later run mends it
        assert wanted.path.read_bytes() in versions


def test_passing_failures_are_survived_and_lasting_ones_named(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(1000))
    mirror.faults.append(faults.only("*.pbf", faults.status(503), times=3))
    get(mirror, tmp_path / "a")
    mirror.faults[:] = [faults.only("*.pbf", faults.status(502))]
    with pytest.raises(Unavailable, match=r"x\.osm\.pbf cannot be fetched: answered 502 4 times over"):
        get(mirror, tmp_path / "b")
    mirror.faults[:] = [faults.only("*.pbf", faults.status(404))]
    with pytest.raises(Refused, match=r"x\.osm\.pbf answered 404"):
        get(mirror, tmp_path / "c")


def test_a_cut_transfer_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    data = pbf_bytes(500_000)
    publish(mirror.folder, data)
    mirror.faults.append(faults.only("*.pbf", faults.cut(100_000, reset=False), times=3))
    assert get(mirror, tmp_path / "c").read_bytes() == data
    assert mirror.served("x.osm.pbf") == len(data)
    assert [s.status for s in mirror.log if s.path.endswith(".pbf")] == [200, 206, 206, 206]


def test_progress_renews_patience(mirror: Mirror, tmp_path: Path) -> None:
    """More cuts than retries, each after more than a megabyte."""
    data = pbf_bytes(12_000_000)
    publish(mirror.folder, data)
    mirror.faults.append(faults.only("*.pbf", faults.cut(1_500_000)))
    assert get(mirror, tmp_path / "c").read_bytes() == data
    assert mirror.served("x.osm.pbf") == len(data)


def begin(mirror: Mirror, folder: Path, *more: faults.Fault) -> None:
    """A download that ends, for now, after 60,000 of its bytes."""
    publish(mirror.folder, pbf_bytes(200_000, 1))
    gone = faults.only("*.pbf", lambda request, answer: Response(404) if request.header("Range") else answer)
    mirror.faults[:] = [*more, faults.only("*.pbf", faults.cut(60_000), times=1), gone]
    with pytest.raises(Refused):
        get(mirror, folder)
    assert (folder / ".x.osm.pbf.part").stat().st_size == 60_000
    mirror.faults[:] = more
    mirror.log.clear()


UNSUMMED = faults.only("*.md5", lambda *_: Response(404))


@pytest.mark.parametrize(
    ("upstream", "statuses"),
    [
        ([], [200]),  # its checksum says it
        ([faults.anonymous], [200]),
        ([UNSUMMED], [200]),  # If-Range says it
        ([UNSUMMED, faults.unconditional], [206, 200]),  # the ETag of the rest says it
    ],
)
def test_a_file_that_changed_upstream_between_two_runs_is_begun_anew(
    mirror: Mirror, tmp_path: Path, upstream: list[faults.Fault], statuses: list[int]
) -> None:
    begin(mirror, tmp_path / "c", *upstream)
    new = pbf_bytes(200_000, 2)
    publish(mirror.folder, new)
    assert get(mirror, tmp_path / "c").read_bytes() == new
    assert [s.status for s in mirror.log if s.path.endswith(".pbf")] == statuses


def test_a_part_that_nothing_tells_from_another_version_is_not_gone_on_with(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(200_000))
    mirror.faults[:] = [UNSUMMED, faults.anonymous, faults.only("*.pbf", faults.cut(60_000), times=1)]
    assert get(mirror, tmp_path / "c").read_bytes() == pbf_bytes(200_000)
    assert [s.status for s in mirror.log if s.path.endswith(".pbf")] == [200, 200]


def test_a_server_may_send_less_than_it_is_asked_for(mirror: Mirror, tmp_path: Path) -> None:
    begin(mirror, tmp_path / "c", faults.only("*.pbf", faults.stingy(10_000)))
    assert get(mirror, tmp_path / "c").read_bytes() == pbf_bytes(200_000, 1)
    assert [s.status for s in mirror.log if s.path.endswith(".pbf")] == [206] * 15


def test_a_checksum_that_never_fits_is_an_error(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(1000))
    mirror.faults.append(faults.only("*.md5", lambda *_: Response(200, b"0" * 32 + b"  x.osm.pbf\n")))
    with pytest.raises(InputError, match=r"x\.osm\.pbf: its content does not fit its \.md5, 4 times over"):
        get(mirror, tmp_path / "c")
    assert not (tmp_path / "c" / "x.osm.pbf").exists()


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
def test_a_web_page_is_no_extract_and_costs_no_part(mirror: Mirror, tmp_path: Path, kind: str) -> None:
    data = pbf_bytes(100_000)
    publish(mirror.folder, data)
    mirror.faults[:] = [
        faults.only(
            "*.pbf", lambda q, a: faults.web_page(kind)(q, a) if q.header("Range") else faults.cut(40_000)(q, a)
        )
    ]
    with pytest.raises(
        InputError, match=r"http://\S+x\.osm\.pbf is a web page where x\.osm\.pbf was expected: a login"
    ):
        get(mirror, tmp_path / "c")
    assert (tmp_path / "c" / ".x.osm.pbf.part").stat().st_size == 40_000
    mirror.faults.clear()
    assert get(mirror, tmp_path / "c").read_bytes() == data


def test_too_much_is_refused_before_and_while_it_comes(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(200_000))
    small = NetConfig(max_gb=0.0001)
    with pytest.raises(InputError, match=r"over net\.max_gb=0\.0001"):
        download_all([item(mirror, tmp_path)], small, quiet=True)
    url, listener = raw_server(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1_000_000))  # it does not say how much
    with listener, pytest.raises(InputError, match=r"over net\.max_gb=0\.0001"):
        download_all([Download(url, tmp_path / "y", md5=False)], small, quiet=True)
    assert (tmp_path / ".y.part").stat().st_size <= 100_000


def test_a_server_that_sends_nothing_is_left(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 0\r\n\r\n"
    url, listener = raw_server(answer)
    with listener, pytest.raises(Unavailable, match="sent nothing 4 times over"):
        download_all([Download(url, tmp_path / "y", md5=False)], FAST, quiet=True)


def test_a_full_disk_is_foreseen(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(mirror.folder, pbf_bytes(200_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100_000))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"needs 0\.0 GB, and .* free; free space or set GEOSHARDS_CACHE"):
        get(mirror, tmp_path / "c")


def test_a_stalled_server_is_left(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(50_000))
    mirror.faults.append(faults.only("*.pbf", faults.slow(100)))
    config = NetConfig(timeout=0.4, retries=1, backoff=0.0, min_rate=256)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="sent only"):
        download_all([item(mirror, tmp_path / "c")], config, quiet=True)
    assert time.monotonic() - start < 5


def test_what_is_there_is_not_fetched_again_and_news_are_told_once_a_day(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pbf_bytes(1000, 1), pbf_bytes(1000, 2)
    publish(mirror.folder, old)
    path = get(mirror, tmp_path / "c")
    publish(mirror.folder, new)
    before = len(mirror.log)
    get(mirror, tmp_path / "c")
    assert len(mirror.log) == before  # asked today already
    note = path.with_name(".x.osm.pbf.json")
    note.write_text(re.sub(r'"checked": [\d.]+', '"checked": 1.0', note.read_text()))
    download_all([item(mirror, tmp_path / "c")], FAST, "never")
    assert len(mirror.log) == before
    download_all([item(mirror, tmp_path / "c")], FAST, "notice")
    assert "has another version" in capsys.readouterr().err
    assert path.read_bytes() == old
    download_all([item(mirror, tmp_path / "c")], FAST, "notice")
    assert "another version" not in capsys.readouterr().err
    get(mirror, tmp_path / "c", refresh="newer")
    assert path.read_bytes() == new
    fetched = mirror.served("x.osm.pbf")
    get(mirror, tmp_path / "c", refresh="newer")
    assert mirror.served("x.osm.pbf") == fetched  # the same: one HEAD


def test_without_a_network_what_is_there_is_used(tmp_path: Path) -> None:
    path = tmp_path / "x.osm.pbf"
    path.write_bytes(b"x")
    wanted = Download("http://127.0.0.1:9/x.osm.pbf", path)
    (tmp_path / ".x.osm.pbf.json").write_text(
        '{"url": "http://127.0.0.1:9/x.osm.pbf", "etag": "a", "modified": null, "bytes": 1, "md5": null, "checked": 0}'
    )
    assert download_all([wanted], FAST, quiet=True)[0].etag == "a"
    with pytest.raises(Unavailable, match="Connection refused"):
        download_all([wanted], FAST, "newer", quiet=True)
    assert path.read_bytes() == b"x"


def test_a_silent_upstream_is_asked_for_news_of_one_file_only(tmp_path: Path) -> None:
    url, listener = raw_server(b"", asked := [])
    wanted = []
    for i in range(5):
        wanted.append(Download(f"{url}{i}", tmp_path / str(i)))
        (tmp_path / str(i)).write_bytes(b"x")
        note = {"url": wanted[i].url, "etag": "a", "modified": None, "bytes": 1, "md5": None, "checked": 0}
        (tmp_path / f".{i}.json").write_text(json.dumps(note))
    with listener:
        download_all(wanted, replace(FAST, parallel=1), quiet=True)
    assert len(asked) == 1


def test_one_failure_stops_the_others_and_keeps_what_they_have(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(3_000_000), "big.osm.pbf")
    mirror.faults.append(faults.only("big.osm.pbf", faults.slow(1_000_000)))
    wanted = [item(mirror, tmp_path / "c", "big.osm.pbf"), item(mirror, tmp_path / "c", "missing.osm.pbf")]
    mirror.faults.append(faults.only("missing*", lambda _q, a: (time.sleep(0.5), a)[1]))
    with pytest.raises(Refused, match="missing"):
        download_all(wanted, FAST, quiet=True)
    have = (tmp_path / "c" / ".big.osm.pbf.part").stat().st_size
    assert 0 < have < 3_000_000
    mirror.faults.clear()
    before = mirror.served("big.osm.pbf")
    download_all(wanted[:1], FAST, quiet=True)
    assert mirror.served("big.osm.pbf") - before < 3_000_100 - have + (1 << 18)  # what was under way


SCRIPT = """
import sys
from pathlib import Path
from pipeline.net.config import NetConfig
from pipeline.net.download import Download, download_all
urls = sys.argv[2:]
wanted = [Download(u, Path(sys.argv[1]) / u.rsplit("/", 1)[1]) for u in urls]
download_all(wanted, NetConfig(backoff=0.01), quiet=True)
print(*(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))  # ru_maxrss is the parent's too
"""


def start(folder: Path, *urls: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), *urls], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )


def test_killed_at_any_moment_and_run_again_no_byte_is_fetched_twice(mirror: Mirror, tmp_path: Path) -> None:
    sizes = {"a.osm.pbf": 6_000_000, "b.osm.pbf": 9_000_000}
    for seed, (name, size) in enumerate(sizes.items()):
        publish(mirror.folder, pbf_bytes(size, seed), name)
    mirror.faults.append(faults.only("*.pbf", faults.slow(6_000_000)))
    rng, kills = random.Random(4), 0
    while True:
        process = start(tmp_path / "c", *(address(mirror, n) for n in sizes))
        while process.poll() is None and not any(s.bytes for s in list(mirror.log)[-1:]) and kills == 0:
            time.sleep(0.01)
        if kills < 4:
            time.sleep(rng.uniform(0.2, 0.9))
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait(60) == 0:
            break
    for seed, (name, size) in enumerate(sizes.items()):
        assert (tmp_path / "c" / name).read_bytes() == pbf_bytes(size, seed)
        in_flight = kills * (1 << 19)  # written to the network, and lost with the process
        assert mirror.served(name) <= size + 100 + in_flight
    assert kills == 4


def test_two_processes_that_want_one_file_fetch_it_once(mirror: Mirror, tmp_path: Path) -> None:
    data = pbf_bytes(3_000_000)
    publish(mirror.folder, data)
    mirror.faults.append(faults.only("*.pbf", faults.slow(3_000_000)))
    processes = [start(tmp_path / "c", address(mirror)) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert (tmp_path / "c" / "x.osm.pbf").read_bytes() == data
    assert mirror.served("x.osm.pbf") == len(data)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's own peak memory from /proc")
def test_memory_does_not_grow_with_the_file(mirror: Mirror, tmp_path: Path) -> None:
    peaks = []
    for megabytes in (1, 100):
        publish(mirror.folder, pbf_bytes(megabytes << 20), f"{megabytes}.osm.pbf")
        process = start(tmp_path / "c", address(mirror, f"{megabytes}.osm.pbf"))
        peaks.append(int(process.communicate(timeout=60)[0]) / 1024)
    assert peaks[1] - peaks[0] < 10


def test_sizes_are_asked_for_without_the_files(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(5000))
    assert remote_bytes([address(mirror), address(mirror, "none.osm.pbf")], FAST) == [5000 + 18, None]
    assert mirror.served() == 0


def test_a_cache_that_cannot_be_written_is_named(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(5000))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file cannot be written"):
        get(mirror, tmp_path / "file")


def test_the_lock_of_a_dead_process_holds_nobody_up(mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror.folder, pbf_bytes(1000))
    (tmp_path / "c").mkdir()
    code = (
        "import sys, time; sys.path[0] = sys.argv[2]\nfrom pathlib import Path\nfrom storage.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "c" / ".x.osm.pbf.lock"), str(Path(__file__).parents[2])],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    threading.Timer(0.3, os.kill, (process.pid, signal.SIGKILL)).start()
    assert get(mirror, tmp_path / "c").exists()
    process.wait()
