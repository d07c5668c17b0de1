"""Updates: the bytes of a full build, and no more work than what changed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import osmium
import pytest

from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main as geoshards
from pipeline.driver.shards import make_shards
from pipeline.driver.update import finish_exchange, preview_update, update
from pipeline.osm.extracts.changes import apply_changes
from pipeline.samples.config import ShardsConfig
from schemas.errors import ConfigError, DatasetError, GeoshardsError, InputError
from storage.dataset import sample_rows
from storage.store import Store
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import Village
from tests.osm.opl import opl

_STAMP = 'version="2" timestamp="2025-01-01T00:00:00Z" changeset="1" uid="1" user="t"'


def write_change(path: Path, body: str) -> Path:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<osmChange version="0.6">{body}</osmChange>\n'
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def village_change(village: Village, path: Path) -> Path:
    """A new tree, a moved corner of a house whose way is not listed, a house retagged and another deleted."""
    things = list(osmium.FileProcessor(str(village.osm)))
    ways = [(w.id, [n.ref for n in w.nodes]) for w in osmium.FileProcessor(str(village.osm), osmium.osm.WAY)]
    houses = [w for w in ways if len(w[1]) == 5][:3]
    corner = next(
        (n.id, n.lon, n.lat) for n in osmium.FileProcessor(str(village.osm), osmium.osm.NODE) if n.id == houses[0][1][0]
    )
    refs = "".join(f'<nd ref="{r}"/>' for r in houses[1][1])
    new = len(things) + 100_000
    return write_change(
        path,
        f'<create><node id="{new}" {_STAMP} lon="{corner[1]}" lat="{corner[2]}">'
        '<tag k="natural" v="tree"/></node></create>'
        f'<modify><node id="{corner[0]}" {_STAMP} lon="{corner[1] - 3e-5}" lat="{corner[2]}"/>'
        f'<way id="{houses[1][0]}" {_STAMP}>{refs}<tag k="building" v="barn"/></way></modify>'
        f'<delete><way id="{houses[2][0]}" {_STAMP}/></delete>',
    )


@pytest.mark.parametrize("imagery", [True, False])
def test_an_update_by_a_change_file_gives_the_bytes_of_a_full_build_and_rebuilds_only_what_changed(
    village: Village, tmp_path: Path, imagery: bool
) -> None:
    settings = {} if imagery else {"imagery": "none", "streetview": "none"}
    config = config_of(village, tmp_path / "data", name="village", **settings)
    make_shards(config, quiet=True)
    before = {r["key"]: r["sha256"] for r in sample_rows(Store(tmp_path / "data"))}
    tars = {p.name: p.stat().st_ino for p in (tmp_path / "data" / "shards").iterdir()}
    outcome = update(str(tmp_path / "data"), [village_change(village, tmp_path / "c.osc.gz")], workers=1, quiet=True)
    after = {r["key"]: r["sha256"] for r in sample_rows(Store(tmp_path / "data"))}
    changed = {k for k in before | after if before.get(k) != after.get(k)}
    assert 0 < len(changed) < len(after) / 2
    rows = {r["key"]: r["shard"] for r in sample_rows(Store(tmp_path / "data"))}
    kept = {p.name for p in (tmp_path / "data" / "shards").iterdir() if p.stat().st_ino in tars.values()}
    assert len(kept) == outcome.adopted > 0
    assert not kept & {rows[k] for k in changed if k in rows}
    assert outcome.adopted == len(set(rows.values()) - {rows[k] for k in changed if k in rows})

    newer = next((Path(os.environ["GEOSHARDS_CACHE"]) / "updated").rglob("village.osm.pbf"))
    full = dataclasses.replace(config, region=str(newer), out=str(tmp_path / "full"))
    make_shards(full, quiet=True)
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "full")
    assert find_problems(str(tmp_path / "data")) == []
    newer.unlink()


def test_a_newer_extract_replaces_the_old_one(village: Village, tmp_path: Path) -> None:
    config = config_of(village, tmp_path / "data", name="village", imagery="none", streetview="none")
    make_shards(config, quiet=True)
    newer = tmp_path / "newer.osm.pbf"
    apply_changes(village.osm, [village_change(village, tmp_path / "c.osc")], newer)
    left = tmp_path / "data/.next/shards"  # of an update to another extract, which was killed
    left.mkdir(parents=True)
    (left / "part-0000000.tar").write_bytes(b"of another extract")
    (left.parent / ".target.json").write_text('["another"]')
    outcome = update(str(tmp_path / "data"), [newer], workers=1, quiet=True)
    assert outcome.adopted > 0
    make_shards(dataclasses.replace(config, region=str(newer), out=str(tmp_path / "full")), quiet=True)
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "full")
    again = update(str(tmp_path / "data"), [newer], workers=1, quiet=True)
    assert again.adopted == again.document["shards"]


_RUN = """
import sys
from pathlib import Path
import pipeline.driver.update
kill = sys.argv[3]
real = getattr(pipeline.driver.update, kill, None)
import os, signal
def dies(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if kill == "rename":
    count = 0
    move = Path.rename
    def rename(self, target):
        global count
        count += 1
        if count == 4:
            dies()
        return move(self, target)
    Path.rename = rename
else:
    setattr(pipeline.driver.update, kill, dies)
pipeline.driver.update.update(sys.argv[1], [Path(sys.argv[2])], workers=1, quiet=True)
"""


@pytest.mark.parametrize("where", ["make_shards", "_exchange", "finish_exchange", "rename"])
def test_an_update_killed_anywhere_is_finished_by_running_it_again(
    village: Village, tmp_path: Path, where: str
) -> None:
    config = config_of(village, tmp_path / "data", name="village", imagery="none", streetview="none")
    make_shards(config, quiet=True)
    change = village_change(village, tmp_path / "c.osc")
    newer = tmp_path / "newer.osm.pbf"
    apply_changes(village.osm, [change], newer)
    done = subprocess.run([sys.executable, "-c", _RUN, str(tmp_path / "data"), str(newer), where], check=False)
    assert done.returncode == -9
    update(str(tmp_path / "data"), [newer], workers=1, quiet=True)
    make_shards(dataclasses.replace(config, region=str(newer), out=str(tmp_path / "full")), quiet=True)
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "full")
    assert not [p.name for p in (tmp_path / "data").iterdir() if p.name.startswith(".")]


def test_updates_refuse_what_they_cannot_do(village: Village, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(tmp_path / "data")
    config = config_of(village, tmp_path / "data", imagery="none", streetview="none")
    make_shards(config, quiet=True)
    change = village_change(village, tmp_path / "c.osc")
    wrong: list[tuple[type[GeoshardsError], str, dict[str, Any]]] = [
        (InputError, "does not exist", {"files": [tmp_path / "none.osc"]}),
        (ConfigError, "one newer extract", {"files": [change, village.osm]}),
        (ConfigError, "--extract", {"files": [change], "extract": "other.pbf"}),
        (DatasetError, "--cache", {"files": [change], "cache": str(tmp_path / "empty")}),
    ]
    for kind, message, arguments in wrong:
        with pytest.raises(kind, match=message):
            update(data, quiet=True, workers=1, **arguments)
    with pytest.raises(ConfigError, match="remote"):
        update("s3://bucket/data", [change])
    with pytest.raises(DatasetError, match="does not exist"):
        update(str(tmp_path / "nothing"), [change])
    (tmp_path / "bad.osc").write_text("<osmChange")
    with pytest.raises(InputError, match=r"bad\.osc cannot be read"):
        update(data, [tmp_path / "bad.osc"], quiet=True, workers=1)


def test_of_several_extracts_the_one_that_changes_must_be_named(village: Village, tmp_path: Path) -> None:
    other, data = tmp_path / "other.opl", str(tmp_path / "data")
    other.write_text("n900000 v1 x9.6 y47.1 Tnatural=tree\n")
    make_shards(
        config_of(village, tmp_path / "data", region=f"{village.osm},{other}", imagery="none", streetview="none"),
        quiet=True,
    )
    change = write_change(tmp_path / "c.osc", '<delete><node id="900000" version="2"/></delete>')
    with pytest.raises(ConfigError, match=rf"--extract: {village.osm.name}, other\.opl$"):
        preview_update(data, [change], workers=1, quiet=True)
    for name, deleted in ((village.osm.name, 0), ("other.opl", 1)):
        found = preview_update(data, [change], name, workers=1, quiet=True)
        assert found.objects == {"created": 0, "modified": 0, "deleted": deleted}
        assert found.samples["gone"] == deleted
    write_change(change, '<modify><node id="900000" version="2" lat="47.1" lon="9.6"/></modify>')  # the same file anew
    found = preview_update(data, [change], "other.opl", workers=1, quiet=True)
    assert found.objects == {"created": 0, "modified": 1, "deleted": 0}


def test_of_extracts_of_one_name_the_one_that_changes_is_named_by_its_path(tmp_path: Path) -> None:
    paths = [tmp_path / place / "map.opl" for place in "ab"]
    for n, path in enumerate(paths, 1):
        path.parent.mkdir()
        path.write_text(f"n{n} v1 x9.{n} y47.1 Tnatural=tree\n")
    region, data = ",".join(map(str, paths)), str(tmp_path / "data")
    make_shards(ShardsConfig(region=region, imagery="none", out=data, workers=1), quiet=True)
    change = write_change(tmp_path / "c.osc", '<delete><node id="2" version="2"/></delete>')
    with pytest.raises(ConfigError, match=f"--extract: {paths[0]}, {paths[1]}$"):
        preview_update(data, [change], "map.opl", workers=1, quiet=True)
    for path, deleted in zip(paths, (0, 1), strict=True):
        found = preview_update(data, [change], str(path), workers=1, quiet=True)
        assert found.objects == {"created": 0, "modified": 0, "deleted": deleted}


def test_changes_apply_as_the_newest_version_says(tmp_path: Path) -> None:
    base, target = tmp_path / "base.opl", tmp_path / "out.osm.pbf"
    base.write_text(
        opl("n1 v3 x9 y47\nn2 v1 x9.1 y47\nn3 v1 x9.2 y47\nw1 v1 Thighway=path Nn1,n2\nr1 v1 Ttype=site Mw1@")
    )
    attributes = 'timestamp="2025-01-01T00:00:00Z"'
    write_change(
        tmp_path / "1.osc",
        f'<modify><node id="1" version="2" {attributes} lon="8" lat="8"/>'
        f'<node id="2" version="2" {attributes} lon="8" lat="8"/></modify>'
        f'<create><relation id="2" version="1" {attributes}><member type="way" ref="1" role="x"/></relation></create>',
    )
    write_change(
        tmp_path / "2.osc",
        f'<delete><node id="3" version="2" {attributes}/></delete>'
        f'<modify><node id="2" version="3" {attributes} lon="7" lat="7"/></modify>'
        f'<create><node id="4" version="1" {attributes} lon="6" lat="6"><tag k="name" v="ü=,"/></node></create>',
    )
    apply_changes(base, [tmp_path / "1.osc", tmp_path / "2.osc"], target)
    found = [
        (o.type_str(), o.id, o.version, (o.lon, o.lat) if o.is_node() else None, dict(o.tags))
        for o in osmium.FileProcessor(str(target))
    ]
    assert found == [
        ("n", 1, 3, (9, 47), {}), ("n", 2, 3, (7, 7), {}), ("n", 4, 1, (6, 6), {"name": "ü=,"}),
        ("w", 1, 1, None, {"highway": "path"}), ("r", 1, 1, None, {"type": "site"}), ("r", 2, 1, None, {}),
    ]  # fmt: skip
    members = [
        [(m.type, m.ref, m.role) for m in r.members] for r in osmium.FileProcessor(str(target), osmium.osm.RELATION)
    ]
    assert members == [[("w", 1, "")], [("w", 1, "x")]]
    header = osmium.FileProcessor(str(target)).header
    assert header.get("osmosis_replication_timestamp") == "2025-01-01T00:00:00Z"


def test_of_equal_versions_that_of_a_change_counts_and_of_two_changes_the_later_file(tmp_path: Path) -> None:
    """As after `osmium derive-changes` of an edit that left the version as it was."""
    base, target = tmp_path / "base.opl", tmp_path / "out.osm.pbf"
    base.write_text("n1 v3 x9 y47\nn2 v3 x9 y47\nn3 v3 x9 y47\n")
    for name, lat, deleted in (("1.osc", 46, 2), ("2.osc", 45, 3)):
        nodes = "".join(f'<node id="{i}" version="3" lat="{lat}" lon="8"/>' for i in (1, deleted ^ 1))
        write_change(tmp_path / name, f'<modify>{nodes}</modify><delete><node id="{deleted}" version="3"/></delete>')
    apply_changes(base, [tmp_path / "1.osc"], target)
    assert listed(target) == [("n", 1, (8, 46)), ("n", 3, (8, 46))]
    apply_changes(base, [tmp_path / "1.osc", tmp_path / "2.osc"], target)
    assert listed(target) == [("n", 1, (8, 45)), ("n", 2, (8, 45))]


def test_changes_held_in_parts_give_what_osmium_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of two files in no order, several versions of them, deletions: as of all objects the newest."""
    monkeypatch.setattr("pipeline.osm.extracts.changes._PART", 3)
    dice = random.Random(7)
    kinds = {
        "node": lambda v: f'lat="{40 + v}" lon="8"/>',
        "way": lambda v: f'><nd ref="{v}"/><tag k="highway" v="path"/></way>',
        "relation": lambda v: f'><member type="way" ref="{v}" role="x"/></relation>',
    }
    base, changes = tmp_path / "base.opl", [tmp_path / "1.osc", tmp_path / "2.osc.gz"]
    newest: dict[tuple[str, int], tuple[int, bool]] = {}
    lines, bodies = [], ["", ""]
    for kind in kinds:
        for i in range(-5, 12):
            if dice.random() < 0.7:
                lines.append(f"{kind[0]}{i} v3 " + ("x9 y47" if kind == "node" else "Tname=a"))
                newest[kind[0], i] = 3, True
    for _ in range(80):
        kind, i, version, gone = (
            dice.choice(list(kinds)),
            dice.randrange(-6, 14),
            dice.randrange(1, 8),
            dice.random() < 0.3,
        )
        if version <= newest.get((kind[0], i), (0, True))[0]:
            continue
        newest[kind[0], i] = version, not gone
        action, end = ("delete", "/>") if gone else ("modify", kinds[kind](version))
        bodies[dice.randrange(2)] += f'<{action}><{kind} id="{i}" version="{version}" {end}</{action}>'
    lines.sort(key=lambda line: ("nwr".index(line[0]), int(line.split()[0][1:]) > 0, abs(int(line.split()[0][1:]))))
    base.write_text("\n".join(lines) + "\n")
    for path, body in zip(changes, bodies, strict=True):
        write_change(path, body)
    apply_changes(base, changes, tmp_path / "out.osm.pbf")
    found = [(o.type_str(), o.id, o.version) for o in osmium.FileProcessor(str(tmp_path / "out.osm.pbf"))]
    order = sorted(newest, key=lambda key: ("nwr".index(key[0]), key[1] > 0, abs(key[1])))
    assert found == [(*key, newest[key][0]) for key in order if newest[key][1]]
    merged = osmium.MergeInputReader()
    for path in (base, *changes):
        merged.add_file(str(path))
    with osmium.SimpleWriter(str(tmp_path / "all.osm.pbf")) as writer:
        merged.apply(writer)
    states = {(o.type_str(), o.id, o.version): str(o) for o in osmium.FileProcessor(str(tmp_path / "all.osm.pbf"))}
    assert [str(o) for o in osmium.FileProcessor(str(tmp_path / "out.osm.pbf"))] == [states[key] for key in found]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.osc", "2.osc.gz", "all.osm.pbf", "base.opl", "out.osm.pbf"]


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/hostname">',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>',
    ],
)
@pytest.mark.parametrize("name", ["c.osc", "c.osc.gz"])
def test_a_change_file_with_a_document_type_is_refused(tmp_path: Path, doctype: str, name: str) -> None:
    """Entities would grow without bound, be read from elsewhere, or be lost."""
    (tmp_path / "base.opl").write_text("n1 v1 x9 y47\n")
    body = f'{doctype}<osmChange version="0.6"><create><node id="2" version="1" lat="1" lon="1"><tag k="a" v="&b;"/>'
    text = f"<!--{'x' * 9000}-->{body}</node></create></osmChange>".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(InputError, match=rf"^change file .*{name} declares a document type"):
        apply_changes(tmp_path / "base.opl", [tmp_path / name], tmp_path / "out.osm.pbf")


@pytest.mark.parametrize(
    ("base_time", "times", "expected"),
    [
        ("2024-01-01T00:00:00Z", ["2025-01-01T00:00:00Z", "2024-06-01T00:00:00Z"], "2025-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", ["2025-01-01T00:00:00Z"], "2026-01-01T00:00:00Z"),  # it had the change already
        ("2024-01-01T00:00:00Z", [""], "2024-01-01T00:00:00Z"),
        ("", [""], ""),
    ],
)
def test_the_replication_time_moves_forward_to_the_newest_change_and_never_back(
    tmp_path: Path, base_time: str, times: list[str], expected: str
) -> None:
    header = osmium.io.Header()
    if base_time:
        header.set("osmosis_replication_timestamp", base_time)
    with osmium.SimpleWriter(str(tmp_path / "base.osm.pbf"), header=header) as writer:
        writer.add_node(osmium.osm.mutable.Node(id=1, version=1, location=(9, 47)))
    changes = [
        write_change(
            tmp_path / f"{n}.osc",
            f'<modify><node id="{n + 1}" version="2" lat="46" lon="8" {time and f"timestamp={time!r}"}/></modify>',
        )
        for n, time in enumerate(times)
    ]
    apply_changes(tmp_path / "base.osm.pbf", changes, tmp_path / "out.osm.pbf")
    assert (
        osmium.FileProcessor(str(tmp_path / "out.osm.pbf")).header.get("osmosis_replication_timestamp", "") == expected
    )


def test_an_unsorted_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.opl").write_text("n2 v1 x9 y47\nn1 v1 x9 y47\n")
    with pytest.raises(InputError, match="osmium sort"):
        apply_changes(tmp_path / "base.opl", [], tmp_path / "out.osm.pbf")
    assert [p.name for p in tmp_path.iterdir()] == ["base.opl"]


def test_a_base_with_several_versions_of_an_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.opl").write_text("n1 v1 x9 y47\nn1 v2 x9 y47\n")
    with pytest.raises(InputError, match=r"base\.opl holds several versions of an object"):
        apply_changes(tmp_path / "base.opl", [], tmp_path / "out.osm.pbf")


def listed(path: Path) -> list[tuple[str, int, Any]]:
    """Types, ids and positions of an extract, in its order."""
    return [(o.type_str(), o.id, (o.lon, o.lat) if o.is_node() else None) for o in osmium.FileProcessor(str(path))]


def test_a_base_may_have_negative_ids_in_the_order_of_osmium(tmp_path: Path) -> None:
    """0, then -1, -2 …, then 1, 2 …; the result is what osmium's own sorter makes of base and changes."""
    ids = [0, -1, -3, 1, 2]
    base = tmp_path / "base.opl"
    base.write_text("".join(f"n{i} v1 x9 y47\n" for i in ids) + "w-1 v1 Nn-1,n1\nw-2 v1 Nn-3,n0\nw1 v1 Nn1,n2\n")
    change = write_change(
        tmp_path / "c.osc",
        "".join(f'<modify><node id="{i}" version="2" lat="46" lon="8"/></modify>' for i in (-3, 1, -2, -10, 0, 3))
        + '<delete><way id="-2" version="2"/></delete>',
    )
    apply_changes(base, [change], tmp_path / "out.osm.pbf")
    sorter = osmium.MergeInputReader()
    sorter.add_file(str(base))
    sorter.add_file(str(change))
    expected: list[tuple[str, int]] = []
    handler = osmium.make_simple_handler(
        node=lambda n: expected.append(("n", n.id)), way=lambda w: w.visible and expected.append(("w", w.id))
    )
    sorter.apply(handler)
    found = listed(tmp_path / "out.osm.pbf")
    assert [(kind, i) for kind, i, _ in found] == [e for e in expected if e != ("w", -2)]
    assert [i for kind, i, place in found if place == (8, 46)] == [0, -2, -3, -10, 1, 3]


def test_a_base_in_the_order_of_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.opl").write_text("n-2 v1 x9 y47\nn-1 v1 x9 y47\nn1 v1 x9 y47\n")
    with pytest.raises(InputError, match=r"base\.opl is not sorted .* `osmium sort`"):
        apply_changes(tmp_path / "base.opl", [], tmp_path / "out.osm.pbf")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('<modify><node id="1" version="4"><tag k="natural" v="rock"/></node></modify>', "node 1 has no position"),
        ('<modify><node id="1" version="4" lat="47"/></modify>', "node 1 has no position"),
        ('<create><node id="-7" version="1" lat="95" lon="9"/></create>', "node -7 has no position"),
        ('<modify><node id="1" lat="47" lon="9"/></modify>', "node 1 has no version"),
        ('<modify><way id="1"><nd ref="1"/><nd ref="2"/></way></modify>', "way 1 has no version"),
        ('<modify><relation id="5" version="0"/></modify>', "relation 5 has no version"),
        ('<delete><node id="1"/></delete>', "node 1 has no version"),
        ('<modify><node id="1" version="x" lat="47" lon="9"/></modify>', "cannot be read: illegal version"),
    ],
)
def test_a_change_that_lacks_what_it_needs_is_refused_by_file_and_object(tmp_path: Path, body: str, words: str) -> None:
    base = tmp_path / "base.opl"
    base.write_text("n1 v3 x9 y47 Tnatural=tree\nn2 v3 x9.1 y47\nw1 v3 Thighway=path Nn1,n2\n")
    change = write_change(tmp_path / "day.osc", f'<modify><node id="2" version="4" lat="47" lon="9"/></modify>{body}')
    with pytest.raises(InputError, match=rf"^change file .*day\.osc:? {words}"):
        apply_changes(base, [change], tmp_path / "out.osm.pbf")
    assert not (tmp_path / "out.osm.pbf").exists()


def test_a_deleted_node_needs_no_position_and_an_unknown_one_is_added(tmp_path: Path) -> None:
    base = tmp_path / "base.opl"
    base.write_text("n1 v3 x9 y47 Tnatural=tree\nn2 v3 x9.1 y47\n")
    change = write_change(
        tmp_path / "day.osc",
        '<delete><node id="1" version="4"/></delete><modify><node id="3" version="2" lat="46.5" lon="8.5"/></modify>',
    )
    apply_changes(base, [change], tmp_path / "out.osm.pbf")
    assert listed(tmp_path / "out.osm.pbf") == [("n", 2, (9.1, 47)), ("n", 3, (8.5, 46.5))]


@pytest.mark.parametrize("form", ["osm.pbf", "osm", "opl"])
def test_a_base_with_positions_on_its_ways_is_refused(tmp_path: Path, form: str) -> None:
    """Untagged nodes are left out of such a file: their ways would be lost with the first change."""
    (tmp_path / "plain.opl").write_text("n1 v1 x9 y47\nn2 v1 x9.1 y47\nw1 v1 Thighway=path Nn1,n2\n")
    base = tmp_path / f"base.{form}"
    with osmium.SimpleWriter(osmium.io.File(str(base), f"{form},locations_on_ways=true")) as writer:
        for o in osmium.FileProcessor(str(tmp_path / "plain.opl")).with_locations():
            if o.is_way():
                writer.add(o)
    with pytest.raises(InputError, match=rf"base\.{form} has positions on its ways"):
        apply_changes(base, [], tmp_path / "out.osm.pbf")


def moved(village: Village, path: Path, degrees: float) -> Path:
    """The village elsewhere, with the same ids."""
    with osmium.SimpleWriter(str(path)) as writer:
        for o in osmium.FileProcessor(str(village.osm)):
            writer.add(o.replace(location=(o.lon + degrees, o.lat)) if o.is_node() else o)
    return path


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with what changes where one is written."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("gone", [False, True])
def test_an_extract_of_elsewhere_is_refused_with_the_way_to_add_a_region(
    village: Village, tmp_path: Path, gone: bool
) -> None:
    base = tmp_path / "village.osm.pbf"
    moved(village, base, 0)
    cache = str(tmp_path / "cache")
    config = config_of(village, tmp_path / "data", region=str(base), imagery="none", streetview="none", cache=cache)
    make_shards(config, quiet=True)
    if gone:  # the old extract is neither where it lay nor in the cache
        base.unlink()
        for kept in Path(cache, "bases").rglob("*.pbf"):
            kept.unlink()
    before = state(tmp_path / "data")
    for degrees in (20, 0.1):
        (tmp_path / str(degrees)).mkdir()
        other = moved(village, tmp_path / str(degrees) / "other.osm.pbf", degrees)
        for call in (update, preview_update):
            with pytest.raises(InputError, match=r"other\.osm\.pbf is no newer state of village\.osm\.pbf") as error:
                call(str(tmp_path / "data"), [other], workers=1, quiet=True, cache=cache)
            assert f"`geoshards shards --region {base},{other}`" in str(error.value)
            assert "`osmium merge`" in str(error.value)
    assert {**state(tmp_path / "data"), ".": before["."]} == before  # but for the lock that came and went
    both = tmp_path / "both.opl"
    both.write_text(village.osm.read_text() + "n900000 v1 x9.6 y47.1 Tnatural=tree\n")
    assert update(str(tmp_path / "data"), [both], workers=1, quiet=True, cache=cache).adopted > 0


def test_a_dry_run_says_what_the_update_then_does_and_leaves_the_dataset_alone(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, change = tmp_path / "data", village_change(village, tmp_path / "c.osc")
    first = make_shards(config_of(village, data, imagery="none", streetview="none"), quiet=True).document
    keys = {r["key"] for r in sample_rows(Store(data))}
    before = state(data)
    assert geoshards(["update", str(data), str(change), "--dry-run", "--json", "--workers", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert state(data) == before
    assert found["objects"] == {"created": 1, "modified": 2, "deleted": 1}
    assert found["shards"]["kept"] + found["shards"]["gone"] == first["shards"]

    assert geoshards(["update", str(data), str(change), "--dry-run", "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "objects: 1 created, 2 modified, 1 deleted" in text
    assert f"shards:  {found['shards']['built']} built, {found['shards']['kept']} kept" in text
    assert state(data) == before

    outcome = update(str(data), [change], workers=1, quiet=True)
    assert outcome.adopted == found["shards"]["kept"]
    assert outcome.document["shards"] == found["shards"]["kept"] + found["shards"]["built"]
    new = {r["key"]: r for r in sample_rows(Store(data))}
    assert (len(new.keys() - keys), len(keys - new.keys())) == (found["samples"]["new"], found["samples"]["gone"])

    again = preview_update(str(data), [village.osm], workers=1, quiet=True)  # back to the old extract
    assert again.objects == {"created": 1, "modified": 2, "deleted": 1}


def test_a_dry_run_without_the_old_extract_says_that_objects_are_not_known(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, cache, data = moved(village, tmp_path / "village.osm.pbf", 0), str(tmp_path / "cache"), str(tmp_path / "data")
    make_shards(
        config_of(village, tmp_path / "data", region=str(base), imagery="none", streetview="none", cache=cache),
        quiet=True,
    )
    base.unlink()
    for kept in Path(cache, "bases").rglob("*.pbf"):
        kept.unlink()
    assert geoshards(["update", data, str(village.osm), "--dry-run", "--cache", cache, "--workers", "1"]) == 0
    assert "objects: not known" in capsys.readouterr().out


def test_a_dry_run_takes_every_extract_that_the_update_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deletions, several versions of an object, and objects in no order."""
    old, new, mixed = (tmp_path / name for name in ("old.opl", "new.opl", "mixed.opl"))
    lines = ["n1 v1 x9 y47 Tnatural=tree", "n2 v1 x9.001 y47 Tnatural=tree", "n3 v1 x9.002 y47 Tnatural=tree"]
    changed = [
        lines[0],
        "n1 v2 x9 y47 Tnatural=peak",
        "n2 v2 dD",
        "n3 v1 x9.002 y47",
        "n3 v1 x9.002 y47",
        "n4 v1 x9 y47",
    ]
    for path, own in ((old, lines), (new, changed), (mixed, changed[::-1])):
        path.write_text("\n".join(own) + "\n")
    data = str(tmp_path / "data")
    fixed = {"imagery": "none", "streetview": "none"}
    make_shards(ShardsConfig(region=str(old), out=data, zoom=15, size=64, **fixed), quiet=True)
    assert preview_update(data, [new], workers=1, quiet=True).objects == {"created": 1, "modified": 1, "deleted": 1}
    assert preview_update(data, [mixed], workers=1, quiet=True).objects is None
    assert geoshards(["update", data, str(mixed), "--dry-run", "--workers", "1"]) == 0
    assert f"objects: not known: OSM extract {mixed} is not sorted" in capsys.readouterr().out
    update(data, [mixed], workers=1, quiet=True)

    # The cache keeps it under another name; what was given is named, and a way that works.
    for call in (update, preview_update):
        with pytest.raises(InputError, match=re.escape(f"OSM extract {mixed} is not sorted")):
            call(data, [write_change(tmp_path / "c.osc", "")], workers=1, quiet=True)
    assert preview_update(data, [new], workers=1, quiet=True).unknown.startswith(f"OSM extract {mixed} is not sorted")
    sorted_one = tmp_path / "sorted.opl"
    sorted_one.write_text("\n".join([changed[1], *changed[4:]]) + "\n")
    update(data, [sorted_one], workers=1, quiet=True)
    assert update(data, [tmp_path / "c.osc"], workers=1, quiet=True).adopted > 0


def test_a_dry_run_of_a_half_exchanged_dataset_is_refused(village: Village, tmp_path: Path) -> None:
    make_shards(config_of(village, tmp_path / "data", imagery="none", streetview="none"), quiet=True)
    (tmp_path / "data/.next").mkdir()
    (tmp_path / "data/.next/.complete.json").write_text("[]")
    with pytest.raises(DatasetError, match="run that `geoshards update` again first"):
        preview_update(str(tmp_path / "data"), [village.osm], workers=1, quiet=True)


def test_nothing_to_exchange_is_nothing_done(tmp_path: Path) -> None:
    (tmp_path / ".next").mkdir()
    finish_exchange(tmp_path)
    assert (tmp_path / ".next").exists()


@pytest.mark.parametrize("listed", ['["../kept", "/etc/hostname", "a"]', "[[1], null]", "[", "\xff"])
def test_an_exchange_moves_nothing_from_elsewhere(tmp_path: Path, listed: str) -> None:
    (tmp_path / "data/.next").mkdir(parents=True)
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "data/.next/a").write_text("new")
    (tmp_path / "data/.next/.complete.json").write_bytes(listed.encode("latin-1"))
    if listed.startswith('["'):
        finish_exchange(tmp_path / "data")
        assert (tmp_path / "data/a").read_text() == "new"
    else:
        with pytest.raises(DatasetError, match=r"complete\.json cannot be read.*run the same update again"):
            finish_exchange(tmp_path / "data")
    assert (tmp_path / "kept").read_text() == "mine"
