"""Updates by OSM's replication: the bytes of a build from a fresh extract in the same state."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import osmium
import pytest
from osmium.replication.server import ReplicationServer

from pipeline.cli.main import main as geoshards
from pipeline.driver.replication import Replication
from pipeline.driver.shards import make_shards
from pipeline.driver.update import preview_update, update
from pipeline.formats.libosmium import replication_header
from pipeline.samples.config import ShardsConfig
from schemas.errors import InputError
from storage.manifest import MANIFEST
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import EAST, NORTH, SOUTH, WEST, Village
from tests.mirror.server import Mirror
from tests.net.sources import FAST
from tests.regions.diffs import BEGIN, osc, publish, time_of, with_state

STAMP = 'timestamp="2026-01-03T00:00:00Z" changeset="1" uid="1" user="t"'
BOX = f"{WEST},{SOUTH},{EAST},{NORTH}"
TREE = '<node id="{}" version="{}" ' + STAMP + ' lat="{}" lon="{}"><tag k="natural" v="tree"/></node>'


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """A running mirror with a server of the village's diffs."""
    (tmp_path / "mirror/geofabrik/europe/village-updates").mkdir(parents=True)
    with Mirror(tmp_path / "mirror") as server:
        yield server


def newest() -> Path:
    """The extract that the one update of a test has made."""
    (path,) = (Path(os.environ["GEOSHARDS_CACHE"]) / "updated").rglob("*.osm.pbf")
    return path


def url_of(mirror: Mirror) -> str:
    return f"{mirror.url}/geofabrik/europe/village-updates"


def diffs(village: Village) -> dict[int, bytes]:
    """Diffs 41 to 44: created, modified, modified again and deleted; in 43 something of elsewhere."""
    ways = [(w.id, [n.ref for n in w.nodes]) for w in osmium.FileProcessor(str(village.osm), osmium.osm.WAY)]
    (_, refs), (gone, _), (barn, own) = [w for w in ways if len(w[1]) == 5][:3]
    nodes = {n.id: (n.lon, n.lat) for n in osmium.FileProcessor(str(village.osm), osmium.osm.NODE)}
    lon, lat = nodes[refs[0]]
    nds = "".join(f'<nd ref="{ref}"/>' for ref in own)
    return {
        40: osc(f"<create>{TREE.format(900_000, 1, lat, lon)}</create>"),  # the extract has it already
        41: osc(f"<create>{TREE.format(900_001, 1, lat, lon)}{TREE.format(900_002, 1, lat, lon - 1e-4)}</create>"),
        42: osc(
            f'<modify><node id="{refs[0]}" version="2" {STAMP} lat="{lat}" lon="{lon - 3e-5}"/>'
            f'{TREE.format(900_002, 2, lat, lon - 2e-4)}<way id="{barn}" version="2" {STAMP}>{nds}'
            f'<tag k="building" v="barn"/></way></modify>'
        ),
        43: osc(f'<delete><way id="{gone}" version="2" {STAMP}/><node id="900001" version="2" {STAMP}/></delete>'),
        44: osc(f"<modify>{TREE.format(900_002, 3, lat, lon - 3e-4)}</modify>"),
    }


def built(village: Village, mirror: Mirror, tmp_path: Path, **state: object) -> tuple[ShardsConfig, Path]:
    """A dataset of the village in state 40, and its extract."""
    known = {"url": url_of(mirror), "number": 40, "time": time_of(40), "box": BOX} | state
    base = with_state(village.osm, tmp_path / "village.osm.pbf", **known)  # type: ignore[arg-type]
    config = config_of(village, tmp_path / "data", region=str(base), name="village", imagery="none", streetview="none",
                       net=FAST)  # fmt: skip
    make_shards(config, quiet=True)
    return config, base


def told(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset, but for the hash of the extract, a file that two programs do not write alike."""
    files = bytes_of(folder)
    document = json.loads(files["dataset.json"])
    for of in (document, document["sources"][0]):
        assert of.pop("fingerprint", None) or of.pop("sha256")
    files["dataset.json"] = json.dumps(document).encode()
    files[MANIFEST] = b"\n".join(line for line in files[MANIFEST].splitlines() if b"dataset.json" not in line)
    return files


def full_build(config: ShardsConfig, base: Path, mirror: Mirror, last: int, folder: Path) -> dict[str, bytes]:
    """What a build from a fresh extract is: that which pyosmium's own replication makes."""
    folder.mkdir()
    fresh = folder / base.name
    done = ReplicationServer(url_of(mirror)).apply_diffs_to_file(str(base), str(fresh), 41, end_id=last)
    assert done is not None
    assert done[0] == last
    make_shards(dataclasses.replace(config, region=str(fresh), out=str(folder / "data")), quiet=True)
    return told(folder / "data")


def test_an_update_by_replication_gives_the_bytes_of_a_build_from_a_fresh_extract(
    village: Village, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, base = built(village, mirror, tmp_path)
    server, all_diffs = mirror.folder / "geofabrik/europe/village-updates", diffs(village)
    publish(server, {n: all_diffs[n] for n in range(40, 44)})
    data = str(tmp_path / "data")
    outcome = update(data, Replication(), workers=1, quiet=True)  # server and state are in the header
    assert outcome.adopted > 0
    assert told(tmp_path / "data") == full_build(config, base, mirror, 43, tmp_path / "full43")

    asked = len(mirror.log)
    again = update(data, Replication(), workers=1, quiet=True)
    assert (again.built, again.adopted) == (0, again.document["shards"])
    assert [s.path for s in list(mirror.log)[asked:]] == ["geofabrik/europe/village-updates/state.txt"]

    publish(server, {44: all_diffs[44]})
    assert geoshards(["update", data, "--replication", url_of(mirror), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert f"diffs 44 to 44 ({time_of(44)})" in said.err
    assert "1 of 1 changed objects belong to the extract" in said.err
    assert told(tmp_path / "data") == full_build(config, base, mirror, 44, tmp_path / "full44")
    fetched = [s.path[-10:] for s in mirror.log if s.path.endswith(".osc.gz") and s.status == 200]
    assert fetched.count("044.osc.gz") == 2  # by us and by the judge
    newest = next((tmp_path / "data").glob("dataset.json"))
    assert time_of(44) in newest.read_text()


def test_until_stops_at_a_time_and_a_dry_run_leaves_all_as_it_is(
    village: Village, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, base = built(village, mirror, tmp_path)
    publish(mirror.folder / "geofabrik/europe/village-updates", diffs(village))
    data, before = str(tmp_path / "data"), bytes_of(tmp_path / "data")
    found = preview_update(data, Replication(until=BEGIN + timedelta(hours=41, minutes=59)), workers=1, quiet=True)
    assert found.objects == {"created": 2, "modified": 0, "deleted": 0}
    assert bytes_of(tmp_path / "data") == before
    assert geoshards(["update", data, "--replication", "--until", time_of(42), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["built"] > 0
    assert told(tmp_path / "data") == full_build(config, base, mirror, 42, tmp_path / "full")
    assert not [s for s in mirror.log if re.search(r"04[34]\.osc\.gz", s.path) and s.status == 200]


def test_from_another_server_the_state_is_found_by_time_and_what_lies_elsewhere_stays_out(
    village: Village, mirror: Mirror, tmp_path: Path
) -> None:
    """The diffs of the planet, with numbers of their own, and an hour of overlap."""
    config, base = built(village, mirror, tmp_path, url="https://example.org/other-updates", number=7)
    own = diffs(village)
    far = osc(f"<create>{TREE.format(910_000, 1, 60, 20)}</create>")
    server = mirror.folder / "geofabrik/europe/village-updates"
    publish(server, {n: own[n] for n in range(40, 44)} | {39: far, 44: far})
    update(str(tmp_path / "data"), Replication(url_of(mirror)), workers=1, quiet=True)
    publish(server, {44: osc("")})
    full = full_build(config, _with_tree(base, own[40], tmp_path), mirror, 44, tmp_path / "full")
    assert told(tmp_path / "data") == full


def _with_tree(base: Path, diff: bytes, folder: Path) -> Path:
    """The base and diff 40, which the overlap repeats: with the clock of the state it has what it brings."""
    (folder / "40.osc.gz").write_bytes(diff)
    merged = osmium.MergeInputReader()
    for path in (base, folder / "40.osc.gz"):
        merged.add_file(str(path))
    target = folder / "with" / base.name
    target.parent.mkdir()
    with osmium.SimpleWriter(str(target), header=osmium.io.Reader(str(base)).header()) as writer:
        merged.apply(writer)
    return target


_KILLED = """
import os, signal, sys
import pipeline.driver.replication as room
from pipeline.driver.update import update
setattr(room, sys.argv[2], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
update(sys.argv[1], room.Replication(), workers=1, quiet=True)
"""


@pytest.mark.parametrize("where", ["clip_changes", "apply_changes"])
def test_an_update_killed_at_its_diffs_goes_on_and_fetches_none_again(
    village: Village, mirror: Mirror, tmp_path: Path, where: str
) -> None:
    config, base = built(village, mirror, tmp_path)
    publish(mirror.folder / "geofabrik/europe/village-updates", diffs(village))
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "data"), where], check=False)
    assert done.returncode == -9
    update(str(tmp_path / "data"), Replication(), workers=1, quiet=True)
    fetched = [s.path for s in mirror.log if s.path.endswith(".osc.gz")]
    assert len(fetched) == len(set(fetched)) == 4
    assert told(tmp_path / "data") == full_build(config, base, mirror, 44, tmp_path / "full")


WRONG: list[tuple[str, Callable[[Path], object], dict[str, object], str, Replication]] = [
    ("no server", lambda _: None, {"url": ""}, r"names no replication server; give its URL", Replication()),
    (
        "neither number nor time",
        lambda f: publish(f, {41: osc("")}),
        {"number": None, "time": ""},
        r"does not say of which state it is; give a newer extract",
        Replication(),
    ),
    (
        "a server behind",
        lambda f: publish(f, {7: osc("")}),
        {},
        r"village-updates is at diff 7, and OSM extract .* at 40: it lags",
        Replication(),
    ),
    (
        "a gap",
        lambda f: publish(f, {43: osc(""), 44: osc("")}),
        {},
        r"/000/000/041\.osc\.gz answered 404.* a newer extract in the place of --replication$",
        Replication(),
    ),
    (
        "a diff with an object that is none",
        lambda f: publish(f, {41: osc('<modify><node id="1" version="2"/></modify>')}),
        {},
        r"^change file http://.*/village-updates/000/000/041\.osc\.gz: node 1 has no position",
        Replication(),
    ),
    (
        "no clock for --until",
        lambda f: publish(f, {41: osc("")}, clock=False),
        {},
        r"does not say of which time its diffs are .* leave --until out",
        Replication(until=BEGIN),
    ),
]


@pytest.mark.parametrize(("what", "server", "state", "words", "asked"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_is_one_line_with_the_way_out(
    mirror: Mirror,
    tmp_path: Path,
    what: str,
    server: Callable[[Path], object],
    state: dict[str, object],
    words: str,
    asked: Replication,
) -> None:
    server(mirror.folder / "geofabrik/europe/village-updates")
    known = {"url": url_of(mirror), "number": 40, "time": time_of(40)} | state
    (tmp_path / "x.opl").write_text("n1 v1 x9 y47 Tnatural=tree\n")
    base = with_state(tmp_path / "x.opl", tmp_path / "x.osm.pbf", **known)  # type: ignore[arg-type]
    data = tmp_path / "data"
    make_shards(ShardsConfig(region=str(base), imagery="none", out=str(data), workers=1, net=FAST), quiet=True)
    before = bytes_of(data)
    with pytest.raises(InputError, match=words):
        update(str(data), asked, workers=1, quiet=True)
    assert bytes_of(data) == before


def test_a_server_without_a_clock_is_followed_by_number(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x.opl").write_text("n1 v1 x9 y47 Tnatural=tree\n")
    base = with_state(tmp_path / "x.opl", tmp_path / "x.osm.pbf", url_of(mirror), 40)
    data = tmp_path / "data"
    make_shards(ShardsConfig(region=str(base), imagery="none", out=str(data), workers=1, net=FAST), quiet=True)
    server = mirror.folder / "geofabrik/europe/village-updates"
    publish(server, {41: osc(f"<create>{TREE.format(2, 1, 47, 9.1)}</create>")}, clock=False)
    outcome = update(str(data), Replication(), workers=1, quiet=True)
    assert outcome.document["samples"] == 2
    assert replication_header(newest()) == (url_of(mirror), 41, datetime(2026, 1, 3, tzinfo=UTC))  # of its newest edit


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give change files, one newer extract, or --replication"),
        (["--until", "2026-01-01"], "give change files, one newer extract, or --replication"),
        (["x.osc", "--replication", "https://example.org/x"], "x.osc is a file"),
        (["--replication", "--until", "soon"], "--until soon is no time; write 2026-11-30"),
    ],
)
def test_wrong_calls_say_what_is_right(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert geoshards(["update", "data", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_header_says_the_new_state(village: Village, mirror: Mirror, tmp_path: Path) -> None:
    built(village, mirror, tmp_path)
    publish(mirror.folder / "geofabrik/europe/village-updates", diffs(village))
    update(str(tmp_path / "data"), Replication(), workers=1, quiet=True)
    assert replication_header(newest()) == (url_of(mirror), 44, BEGIN + timedelta(hours=44))
