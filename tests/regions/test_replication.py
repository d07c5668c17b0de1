"""Replication servers: their states, their diffs, and what they may send instead."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from osmium.replication.server import ReplicationServer

from pipeline.regions.replication import Server, State, check_diff, diff_name, parse_state
from schemas.errors import InputError
from tests.mirror.faults import cut, only
from tests.mirror.server import Mirror
from tests.net.sources import FAST
from tests.regions.diffs import BEGIN, osc, publish, state_text, time_of

EMPTY = osc("")


@pytest.fixture
def folder(mirror: Mirror) -> Path:
    """A server's folder on the mirror."""
    return mirror.folder / "geofabrik" / "europe" / "here-updates"


def server(mirror: Mirror, tmp_path: Path) -> Server:
    return Server(f"{mirror.url}/geofabrik/europe/here-updates/", FAST, tmp_path / "cache", quiet=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (state_text(3402, "2022-07-24T20:21:51Z"), State(3402, datetime(2022, 7, 24, 20, 21, 51, tzinfo=UTC))),
        (b"# original minutely 5\nsequenceNumber=0\n", State(0, None)),
        (b"sequenceNumber : 999999999\r\ntimestamp = 2026-01-01T00\\:00\\:00Z\r\n", State(999_999_999, BEGIN)),
        (b"sequenceNumber=12\ntimestamp=soon\n", State(12, None)),
    ],
)
def test_a_state_is_read_as_java_properties(text: bytes, expected: State) -> None:
    assert parse_state(text, "x") == expected


@pytest.mark.parametrize(
    "text", [b"", b"<html>login</html>", b"sequenceNumber=-1", b"sequenceNumber=1e9", b"sequenceNumber=1234567890",
             b"#sequenceNumber=5", b"\xff\xfe\x00", "sequenceNumber=٣".encode()],
)  # fmt: skip
def test_what_is_no_state_is_refused_by_its_name(text: bytes) -> None:
    with pytest.raises(InputError, match=r"^https://x/state\.txt is no state file .* give the folder"):
        parse_state(text, "https://x/state.txt")


def test_states_and_names_are_those_that_pyosmium_sees(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    publish(folder, dict.fromkeys([*range(995, 1012)], EMPTY))
    ours, judge = server(mirror, tmp_path), ReplicationServer(ours_url(mirror))
    newest = ours.newest()
    found = judge.get_state_info()
    assert found is not None
    assert (newest.sequence, newest.time) == (found.sequence, found.timestamp) == (1011, BEGIN + timedelta(hours=1011))
    for number in (0, 995, 123_456_789):
        assert judge.get_diff_url(number).endswith(f"/{diff_name(number)}.osc.gz")
    for hours in range(995, 1013):
        time = BEGIN + timedelta(hours=hours)
        assert ours.at(time, newest).sequence == min(hours, 1011)
        time += timedelta(minutes=1)
        assert ours.at(time, newest).sequence == judge.timestamp_to_sequence(time) == min(hours, 1011)


def ours_url(mirror: Mirror) -> str:
    return f"{mirror.url}/geofabrik/europe/here-updates"


def test_a_time_before_all_that_is_left_is_a_gap_that_says_so(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    publish(folder, dict.fromkeys(range(900, 950), EMPTY))
    own = server(mirror, tmp_path)
    with pytest.raises(InputError, match=rf"here-updates begins at {time_of(900)}, after .* a newer extract"):
        own.at(BEGIN + timedelta(hours=899), own.newest())
    assert own.at(BEGIN + timedelta(hours=901), own.newest(), overlap=True).sequence == 900


def test_a_search_by_time_asks_for_few_states_and_for_none_twice(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    publish(folder, dict.fromkeys(range(1, 401), EMPTY))
    own = server(mirror, tmp_path)
    newest = own.newest()
    assert own.at(BEGIN + timedelta(hours=37), newest).sequence == 37
    asked = [s.path for s in mirror.log]
    assert len(asked) == len(set(asked)) <= 1 + 2 * 9
    assert server(mirror, tmp_path).at(BEGIN + timedelta(hours=37), newest).sequence == 37
    assert [s.path for s in mirror.log] == asked


def test_a_server_without_a_clock_serves_by_number_and_says_why_not_by_time(
    mirror: Mirror, folder: Path, tmp_path: Path
) -> None:
    publish(folder, {1: EMPTY, 2: EMPTY}, clock=False)
    own = server(mirror, tmp_path)
    assert own.newest() == State(2, None)
    assert len(own.fetch(1, 2)) == 2
    with pytest.raises(InputError, match=r"does not say of which time .* leave --until out"):
        own.at(BEGIN, own.newest())


def test_fetching_goes_on_where_it_stopped_and_asks_for_nothing_twice(
    mirror: Mirror, folder: Path, tmp_path: Path
) -> None:
    publish(folder, {n: osc(f"<!--{n}-->") for n in range(1, 8)})
    fourth = folder / "000/000/004.osc.gz"
    kept = fourth.read_bytes()
    fourth.unlink()
    own = server(mirror, tmp_path)
    own.fetch(1, 3)
    with pytest.raises(InputError, match=r"/here-updates/000/000/004\.osc\.gz answered 404 .* --replication$"):
        own.fetch(1, 7)
    fourth.write_bytes(kept)
    done = {p.name for p in tmp_path.glob("cache/**/[0-9]*.osc.gz")}
    assert len(done) >= 3
    files = server(mirror, tmp_path).fetch(1, 7)
    assert [gzip.decompress(f.read_bytes()).count(f"<!--{n}-->".encode()) for n, f in enumerate(files, 1)] == [1] * 7
    sent = [s.path[-10:] for s in mirror.log if s.status == 200]
    assert {name: sent.count(name) for name in done} == dict.fromkeys(done, 1)
    assert server(mirror, tmp_path).fetch(1, 7) == files
    assert len([s for s in mirror.log if s.status == 200]) == len(sent)


def test_a_diff_cut_on_its_way_is_completed(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    publish(folder, {1: osc("<!--" + "".join(map(str, range(40_000))) + "-->")})
    mirror.faults.append(only("*.osc.gz", cut(5000), times=1))
    (path,) = server(mirror, tmp_path).fetch(1, 1)
    assert path.read_bytes() == (folder / "000/000/001.osc.gz").read_bytes()


def test_more_diffs_than_sense_are_refused_before_any_is_asked_for(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 999,999,999 diffs since the extract.* newer extract"):
        server(mirror, tmp_path).fetch(1, 999_999_999)
    assert not mirror.log


BROKEN = {
    "unpacks to over": lambda: gzip.compress(b"<osmChange>" + b" " * (40 << 20) + b"</osmChange>"),
    "elements has over": lambda: gzip.compress(b"<osmChange><node user='" + b"x" * (3 << 20) + b"'/></osmChange>"),
    "no gzipped XML: mismatched": lambda: gzip.compress(b"<osmChange><node></osmChange>"),
    "no gzipped XML: no element": lambda: gzip.compress(b""),
    "holds <osm> where": lambda: gzip.compress(b"<osm></osm>"),
    "document type": lambda: gzip.compress(b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><osmChange>&a;</osmChange>"),
    "no gzipped XML: Not a gzipped": lambda: b"<osmChange></osmChange>",
    "no gzipped XML: Compressed file ended": lambda: osc("<!--abc-->")[:-6],
    "no gzipped XML: unknown encoding": lambda: gzip.compress(b"<?xml version='1.0' encoding='UTF-6'?><osmChange/>"),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_diff_that_is_none_is_one_line_with_its_url_and_is_not_kept(
    mirror: Mirror, folder: Path, tmp_path: Path, words: str
) -> None:
    publish(folder, {1: BROKEN[words]()})
    own = server(mirror, tmp_path)
    with pytest.raises(
        InputError, match=rf"^http://.*/here-updates/000/000/001\.osc\.gz was fetched .*{re.escape(words)}"
    ):
        own.fetch(1, 1)
    publish(folder, {1: EMPTY})
    assert len(own.fetch(1, 1)) == 1  # mended


def test_a_diff_of_many_plain_changes_passes(tmp_path: Path) -> None:
    path = tmp_path / "x.osc.gz"
    body = "".join(f'<delete><node id="{n}" version="2"/></delete>' for n in range(400_000))
    path.write_bytes(osc(body))
    check_diff(path)


def test_addresses_that_are_none_are_refused(mirror: Mirror, tmp_path: Path) -> None:
    for url in ("ftp://x/y", "/data/updates", "https://"):
        with pytest.raises(InputError, match="no http"):
            Server(url, FAST, tmp_path)
    with pytest.raises(InputError, match=r"here-updates/state\.txt answered 404"):
        server(mirror, tmp_path).newest()


def test_the_diffs_of_geofabrik_come_from_the_mirror_where_one_is_set(
    mirror: Mirror, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSHARDS_MIRROR", mirror.url)
    publish(folder, {5: EMPTY})
    for scheme in ("http", "https"):
        own = Server(f"{scheme}://download.geofabrik.de/europe/here-updates", replace(FAST, retries=0), tmp_path)
        assert own.newest().sequence == 5
