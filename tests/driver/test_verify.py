"""`geoshards verify` names each damaged, missing, extra or swapped file, and what hashes do not know; it repairs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from pipeline.alignment import lonlat_to_normalised
from pipeline.catalog.content import ShardCheck
from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main
from pipeline.cli.verify import parse_share
from pipeline.driver.shards import make_shards
from pipeline.formats.tar import TarWriter
from schemas.catalog import TABLES, catalog_file
from schemas.errors import ConfigError, DatasetError
from schemas.features import drop_row
from schemas.footprint import Footprints
from schemas.index import IndexPart, index_file
from schemas.sample import JSON, OSM_TOKENS, SampleMeta, canonical_json, sample_hash
from schemas.splits import SplitConfig
from schemas.tokens import FIELDS, OsmTokens
from storage.dataset import read_samples
from storage.manifest import MANIFEST, amend_manifest, digests, read_manifest, write_manifest
from storage.store import Store
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import Village


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(village: Village, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of several shards with photos and a buffer between its splits."""
    out = tmp_path_factory.mktemp("whole") / "village"
    split = SplitConfig(block_degrees=0.004, val=0.3, test=0.2, buffer_degrees=0.0005)
    make_shards(config_of(village, out, split=split, cache=str(cache)), quiet=True)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def named(folder: Path, **how: Any) -> set[str]:
    return {problem.file for problem in find_problems(str(folder), **how)}


def test_a_whole_dataset_has_no_problem_in_any_mode(whole: Path) -> None:
    assert [find_problems(str(whole), fast, share) for fast, share in ((False, 1.0), (True, 1.0), (False, 0.1))] == [
        [], [], [],
    ]  # fmt: skip


def test_sha256sum_reads_the_manifest_which_lists_every_file_but_itself(copy: Path) -> None:
    assert sorted(read_manifest(Store(copy))) == [name for name in files(copy) if name != MANIFEST]
    words = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    assert subprocess.run(words, cwd=copy, check=True, capture_output=True).stderr == b""
    (copy / "ATTRIBUTION.md").write_text("nobody")
    assert b"ATTRIBUTION.md: FAILED" in subprocess.run(words, cwd=copy, check=False, capture_output=True).stdout


def test_every_damage_to_every_file_is_named(copy: Path) -> None:
    for name in files(copy):
        path = copy / name
        data, middle = path.read_bytes(), path.stat().st_size // 2
        for damaged in (data[:-1], data + b"\n", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], b""):
            path.write_bytes(damaged)
            found = named(copy, fast=True)
            assert name in found if name != MANIFEST else found
        path.unlink()
        assert f"{name}: missing" in map(str, find_problems(str(copy), fast=True))
        path.write_bytes(data)
    assert find_problems(str(copy), fast=True) == []


@pytest.mark.parametrize("harm", ["cut", "flipped", "text"])
@pytest.mark.parametrize("table", sorted(TABLES.keys() - {"statistics", "stages"}))
def test_a_damaged_table_is_named_and_nothing_breaks(copy: Path, table: str, harm: str) -> None:
    path = copy / f"catalog/{table}"
    file = next(path.glob("part-*.parquet"))
    data = file.read_bytes()
    middle = len(data) // 2
    changed = {"cut": data[:-9], "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]}
    file.write_bytes(changed.get(harm, b"no Parquet"))
    assert file.relative_to(copy).as_posix() in named(copy)


@pytest.mark.parametrize("table", ["samples", "streetview", "vocabulary", "shards", "drops"])
@pytest.mark.parametrize("harm", ["cut", "gone", "other"])
def test_a_damaged_table_blames_no_other_file_that_a_repair_would_build_again(
    copy: Path, table: str, harm: str
) -> None:
    file = copy / catalog_file(table, 0)
    if harm == "gone":
        file.unlink()
    else:
        other = (copy / "catalog/classes/part-00000.parquet").read_bytes()
        file.write_bytes(file.read_bytes()[:-9] if harm == "cut" else other)
    assert named(copy) == {catalog_file(table, 0)}


@pytest.mark.parametrize("name", ["catalog/drops/part-00000.parquet", "shards/part-0000000.tar", "README.md"])
def test_what_is_no_file_in_the_place_of_one_is_named_and_not_waited_for(copy: Path, name: str) -> None:
    path = copy / name
    harms: list[Callable[[], object]] = [
        lambda: path.symlink_to(path.name), lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), path.mkdir,
    ]  # fmt: skip
    for harm in harms:
        path.unlink()
        harm()
        for how in ({"fast": True}, {}, {"share": 0.5}):
            assert named(copy, **how) == {name}
        if path.is_dir():
            break


def test_files_that_are_swapped_or_too_many_are_named(copy: Path) -> None:
    first, second = (copy / f"shards/part-000000{n}.tar" for n in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    (copy / "shards/part-0000099.tar").write_bytes(data)
    found = [str(p) for p in find_problems(str(copy), fast=True)]
    assert found == [
        "shards/part-0000000.tar: holds what shards/part-0000001.tar should",
        "shards/part-0000001.tar: holds what shards/part-0000000.tar should",
        f"shards/part-0000099.tar: not in {MANIFEST}",
    ]


def test_what_is_wrong_while_somebody_writes_is_not_called_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / ".lock").write_text("")
    assert find_problems(str(copy), fast=True) == []  # somebody reads it, or is about to write
    (copy / "README.md").write_text("half")
    with pytest.raises(DatasetError, match=r"copy is being written, or that was stopped \(.*\.lock\)"):
        find_problems(str(copy), fast=True)
    (copy / ".lock").unlink()
    assert named(copy, fast=True) == {"README.md"}

    def meanwhile(*given: Any) -> dict[str, Any]:
        (copy / "dataset.json").write_text((copy / "dataset.json").read_text() + " ")
        return digests(*given)

    monkeypatch.setattr("pipeline.catalog.verify.digests", meanwhile)
    with pytest.raises(DatasetError, match="copy has changed while it was read; verify it again"):
        find_problems(str(copy), fast=True)


def rewrite(folder: Path, table: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change rows of a table, and all that says what its bytes are."""
    store, file = Store(folder), catalog_file(table, 0)
    rows = store.read_table(file).to_pylist()
    change(rows)
    changed = pa.Table.from_pylist(rows, schema=TABLES[table])
    store.write_table(file, changed)
    if table == "samples":
        with suppress(DatasetError):
            store.write(index_file(0), IndexPart.of(changed).to_bytes())
    amend_manifest(store, [file, index_file(0)])


DROP = drop_row("samples", "x", "nodata")


def put(column: str, value: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: rows[0].update({column: value})


#: Changes that every hash agrees with, and what is said of them.
CONTENT: list[tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = [
    ("samples", put("split", "buffer"), "split of 1 samples is not that of the settings"),
    ("samples", put("split", None), "split of 1 samples is not that of the settings"),
    ("samples", put("n_line", 999), "n_line is"),
    ("samples", put("n_streetview", 7), "has not 7 photos"),
    ("samples", put("lon", 0.0), "lon is"),
    ("samples", put("gsd_x", 0.5), "gsd is"),
    ("samples", put("rs_time", "1999-01-01T00:00:00Z"), "rs_time is"),
    ("samples", put("sha256", "0" * 64), "content_hash is not that of the catalog"),
    ("samples", lambda rows: rows.pop(), "samples is"),
    ("samples", lambda rows: rows.append(rows[-1]), "stands there 2 times"),
    ("samples", lambda rows: rows[0]["members"][0].update(offset=0), "does not lie where catalog/samples says"),
    ("samples", lambda rows: rows[0]["members"][0].update(size=2**60), "does not lie where catalog/samples says"),
    ("samples", lambda rows: rows[0]["members"][0].update(name="../../x"), "does not lie where catalog/samples says"),
    ("samples", lambda rows: rows[0]["members"][0].update(crc32=7), "CRC-32 of"),
    ("shards", put("samples", 3), "shards/part-0000000.tar: samples is"),
    ("shards", put("n_edges", 10**6), "1000000 in catalog/shards"),
    ("shards", put("index", 5), "numbers are not 0, 1, 2"),
    ("shards", lambda rows: rows.pop(), "but not in catalog/shards"),
    ("streetview", lambda rows: rows.pop(), "photos there"),
    ("streetview", put("x", 0.9999), "is another photo in catalog/streetview"),
    ("streetview", put("key", "xyz-1-0-0-256"), "is no sample"),
    ("vocabulary", lambda rows: rows.pop(len(rows) // 2), "holds a tag that catalog/vocabulary lacks"),
    ("vocabulary", lambda rows: rows.append(rows[-1]), "a tag stands there twice"),
    ("drops", lambda rows: rows.clear() if rows else rows.append(DROP), f"{catalog_file('drops', 0)}: "),
]


@pytest.mark.parametrize(("table", "change", "said"), CONTENT, ids=[f"{t}: {s}" for t, _, s in CONTENT])
def test_tables_whose_hashes_are_right_are_held_against_the_samples(
    copy: Path, table: str, change: Callable[[list[dict[str, Any]]], Any], said: str
) -> None:
    rewrite(copy, table, change)
    assert find_problems(str(copy), fast=True) == []
    assert said in "\n".join(map(str, find_problems(str(copy))))


@pytest.mark.parametrize("table", ["drops", "streetview", "vocabulary"])
def test_a_table_of_other_columns_is_named(copy: Path, table: str) -> None:
    store, file = Store(copy), catalog_file(table, 0)
    held = store.read_table(file)
    store.write_table(file, held.append_column("more", pa.nulls(held.num_rows)))
    amend_manifest(store, [file])
    said = map(str, find_problems(str(copy), share=0.01))
    assert f"{file}: its columns are not those of {table}" in said


def test_an_index_that_is_not_that_of_its_samples_is_named(copy: Path) -> None:
    store = Store(copy)
    rows = store.read_table(catalog_file("samples", 0))

    def said(group: int, data: bytes | None) -> str:
        if data is None:
            store.remove(index_file(group))
        else:
            store.write(index_file(group), data)
        write_manifest(store)
        assert find_problems(str(copy), fast=True) == []
        return "\n".join(map(str, find_problems(str(copy), share=0.01)))

    assert (
        said(0, IndexPart.of(rows.slice(1)).to_bytes()) == f"{index_file(0)}: not that of {catalog_file('samples', 0)}"
    )
    assert said(0, None) == f"{index_file(0)}: missing"
    assert said(0, right := IndexPart.of(rows).to_bytes()) == ""
    assert said(1, right) == f"{index_file(1)}: without its samples"


def test_groups_of_shards_are_held_against_each_other(copy: Path) -> None:
    """Tables that are read a group at a time: the same dataset as two groups is right; a key of both is named."""
    store = Store(copy)
    tables = {name: store.read_table(catalog_file(name, 0)) for name in ("shards", "samples", "streetview", "drops")}
    first = tables["shards"]["shard"][:1]
    cut = tables["shards"]["n_drops"][0].as_py()
    parts = {name: [t.filter(pc.is_in(t["shard"], value_set=first)), t.filter(pc.invert(pc.is_in(t["shard"], first)))]
             for name, t in tables.items() if name != "drops"}  # fmt: skip
    parts["drops"] = [tables["drops"][:cut], tables["drops"][cut:]]

    def written() -> list[str]:
        for group in (0, 1):
            for name, own in parts.items():
                store.write_table(catalog_file(name, group), own[group])
            store.write(index_file(group), IndexPart.of(parts["samples"][group]).to_bytes())
        write_manifest(store)
        return [str(problem) for problem in find_problems(str(copy))]

    assert written() == []
    twice = parts["samples"][0][:1]
    parts["samples"][1] = pa.concat_tables([parts["samples"][1], twice])
    assert f"catalog/samples: {twice['key'][0]} stands there 2 times" in written()


@pytest.mark.parametrize("name", ["config", "sources", "versions", "samples", "counts", "splits", "name", "bytes"])
def test_a_changed_document_is_named(copy: Path, name: str) -> None:
    document = json.loads((copy / "dataset.json").read_text())
    old = document[name]
    document[name] = {**old, "zoom": 3} if isinstance(old, dict) else [] if isinstance(old, list) else 7
    (copy / "dataset.json").write_text(json.dumps(document))
    amend_manifest(Store(copy), ["dataset.json"])
    assert [p for p in find_problems(str(copy)) if p.file == "dataset.json"]


def test_tokens_that_break_a_law_are_named(copy: Path) -> None:
    """A law of two arrays, whose hashes and headers are all right."""
    store = Store(copy)
    rows = store.read_table(catalog_file("samples", 0)).to_pylist()
    row = next(r for r in rows if r["n_edges"])
    ((_, members),) = read_samples(store, [row])
    tokens = OsmTokens.from_bytes(members[OSM_TOKENS])
    edges = tokens.edges.copy()
    edges[:, 0] = edges[::-1, 0]
    broken = OsmTokens(**{**vars_of(tokens), "edges": edges}).to_bytes()
    assert len(broken) == len(members[OSM_TOKENS])
    place = next(m for m in row["members"] if m["name"] == OSM_TOKENS)
    path = copy / "shards" / row["shard"]
    data = bytearray(path.read_bytes())
    data[place["offset"] : place["offset"] + place["size"]] = broken
    path.write_bytes(data)
    row["sha256"], place["crc32"] = sample_hash(members | {OSM_TOKENS: broken}), crc32(broken)
    store.write_table(catalog_file("samples", 0), pa.Table.from_pylist(rows, schema=TABLES["samples"]))
    write_manifest(store)
    assert "edges do not keep i < j" in "\n".join(map(str, find_problems(str(copy))))


def vars_of(tokens: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: getattr(tokens, name) for name in FIELDS}


@dataclass
class Sample:
    """One sample with its rows, to be changed and written again: its hashes then agree with it."""

    row: dict[str, Any]
    photos: list[dict[str, Any]]
    members: dict[str, bytes]
    document: dict[str, Any]

    def tokens(self, **changed: Any) -> None:
        tokens = OsmTokens.from_bytes(self.members[OSM_TOKENS])
        self.members[OSM_TOKENS] = OsmTokens(**{**vars_of(tokens), **changed}).to_bytes()

    def moved(self, metres: float) -> None:
        """The photo lies so far beyond the right edge, and all that is said of it agrees."""
        info, footprint = self.document["streetview"][0], SampleMeta.from_bytes(self.members[JSON]).footprint
        width = footprint.width * self.document["gsd"][0]
        info["lon"] += (1 - info["x"] + metres / width) * (self.row["bbox"]["xmax"] - self.row["bbox"]["xmin"])
        at = lonlat_to_normalised(Footprints.of([footprint]), np.array([0]), np.array([[info["lon"], info["lat"]]]))
        info["x"], info["y"] = at[0].tolist()
        self.photos[0].update({name: info[name] for name in ("lon", "x", "y")})

    def twice(self, name: str, value: Any, *more: dict[str, Any]) -> None:
        """A value that the document and a row agree in."""
        for place in more or (self.document, self.row):
            place[name] = value


def checked(whole: Path, folder: Path, change: Callable[[Sample], Any], margin: float = 0.0) -> str:
    """What is said of a sample with a photo after a change."""
    store = Store(whole)
    table = store.read_table(catalog_file("samples", 0))
    row = table.filter(pc.greater(table["n_streetview"], 0)).to_pylist()[0]
    photos = [p for p in store.read_table(catalog_file("streetview", 0)).to_pylist() if p["key"] == row["key"]]
    ((_, members),) = read_samples(store, [row])
    sample = Sample(row, photos, dict(members), json.loads(members[JSON]))
    change(sample)
    sample.members[JSON] = canonical_json(sample.document)
    tar = TarWriter()
    row["members"] = [
        {"name": n, "offset": tar.add(f"{row['key']}.{n}", data), "size": len(data), "crc32": crc32(data)}
        for n, data in sample.members.items()
    ]
    row["sha256"] = row["sha256"] and sample_hash(sample.members)
    Store(folder).write(f"shards/{row['shard']}", tar.finish())
    tags = np.sort(store.read_table(catalog_file("vocabulary", 0))["tag_id"].to_numpy())
    job = (
        row["shard"],
        pa.Table.from_pylist([row], TABLES["samples"]),
        pa.Table.from_pylist(photos, TABLES["streetview"]),
    )
    found = [str(problem) for problem in ShardCheck(Store(folder), tags, margin, True)(job)]
    assert all(said.startswith(f"shards/{row['shard']}: {row['key']}: ") for said in found if len(said) < 290)
    return "\n".join(found)


def picture(width: int, height: int, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB" if form == "JPEG" else "L").save(out, form)
    return out.getvalue()


def banded(sample: Sample, shape: tuple[int, ...], said: int = 5) -> None:
    """Its image is an array of so many bands, lines and columns; its document says that there are ``said`` bands."""
    out = io.BytesIO()
    np.save(out, np.zeros(shape, np.uint16))
    del sample.members["rs.jpg"]
    sample.members["rs.npy"] = out.getvalue()
    sample.document["rs"][0].update(member="rs.npy", bands=[f"b{i}" for i in range(said)])


def plane(missing: int) -> bytes:
    out = io.BytesIO()
    there = np.ones((128, 128), bool)
    there[0, :missing] = False
    Image.fromarray(there).save(out, "PNG")
    return out.getvalue()


#: Changes of a sample that its hashes and its row agree with, and what is said of them.
SAMPLE: list[tuple[Callable[[Sample], Any], str]] = [
    (lambda s: s.twice("x", 0.6886, s.document["streetview"][0], s.photos[0]), "sv.0.jpg does not lie at 0.6886"),
    (lambda s: s.moved(0.1), "sv.0.jpg lies outside, at 1.00"),
    (lambda s: s.moved(-104.5), "sv.0.jpg lies outside, at -0.00"),
    (lambda s: s.twice("lon", s.row["lon"] + 1e-8), "its centre is not that of its footprint"),
    (lambda s: s.photos.append(s.photos[0]), "sv.0.jpg is another photo"),
    (lambda s: s.photos.clear(), "sv.0.jpg is another photo"),
    (lambda s: s.row.update(n_edges=999), "n_edges is"),
    (lambda s: s.row.update(n_rs=9), "n_rs is 1 in the sample, 9"),
    (lambda s: s.row["bbox"].update(xmax=9.6), "bbox is"),
    (lambda s: s.row.update(sha256=None), "it is not what was written"),
    (lambda s: s.document["footprint"].update(key="xyz-18-137996-92094-128"), "key is xyz-18-137996-92094-128"),
    (lambda s: s.members.update({"sv.1.jpg": s.members["sv.0.jpg"]}), "names other images than it has: sv.1.jpg"),
    (lambda s: s.document["rs"][0].update(member="rs.png"), "names other images than it has: rs.jpg, rs.png"),
    (lambda s: s.members.update({"rs.jpg": picture(128, 127)}), "rs.jpg: size is (128, 127)"),
    (lambda s: banded(s, (5, 127, 128)), "rs.npy: size is (128, 127)"),
    (lambda s: banded(s, (4, 128, 128)), "rs.npy: bands is 4 in the sample, 5"),
    (lambda s: s.members.update({"osm.png": picture(127, 128, "PNG")}), "osm.png: size is (127, 128)"),
    (lambda s: s.members.update({"rs.jpg": picture(128, 128)[:2000]}), "Premature end of JPEG"),
    (lambda s: s.members.update({"sv.0.jpg": s.members["sv.0.jpg"][:-9]}), "Premature end of JPEG"),
    (lambda s: s.document["rs"][0].update(nodata_share=0.25), "rs.valid.png and nodata_share 0.25 do not agree"),
    (lambda s: s.members.update({"rs.valid.png": plane(8)}), "rs.valid.png and nodata_share 0 do not agree"),
    (lambda s: (s.members.update({"rs.valid.png": plane(8)}), s.document["rs"][0].update(nodata_share=9 / 128**2)),
     "rs.valid.png leaves 0.000488 without data, its document 0.000549"),
    (lambda s: s.tokens(tag_ids=OsmTokens.from_bytes(s.members[OSM_TOKENS]).tag_ids - 1), "tag_ids holds a tag that"),
    (lambda s: s.tokens(region_tag_id=OsmTokens.from_bytes(s.members[OSM_TOKENS]).region_tag_id - 1),
     "region_tag_id holds a tag that"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), SAMPLE)
def test_a_sample_that_its_hashes_agree_with_is_held_against_its_laws(
    whole: Path, tmp_path: Path, change: Callable[[Sample], Any], said: str
) -> None:
    found = checked(whole, tmp_path, change)
    assert said in found
    assert found


def test_a_photo_may_lie_beside_its_footprint_by_the_margin_and_no_more(whole: Path, tmp_path: Path) -> None:
    def said(metres: float, margin: float) -> str:
        return checked(whole, tmp_path, lambda sample: sample.moved(metres), margin)

    assert checked(whole, tmp_path, lambda sample: banded(sample, (5, 128, 128))) == ""
    assert checked(whole, tmp_path, lambda _: None) == said(-0.5, 0.0) == said(2.9, 3.0) == said(-107.0, 3.0) == ""
    assert "lies outside" in said(3.1, 3.0)
    assert "lies outside" in said(-108.0, 3.0)


@pytest.mark.parametrize(
    "names",
    [
        ["shards/part-0000001.tar"], ["catalog/samples/part-00000.parquet"], ["catalog/vocabulary/part-00000.parquet"],
        ["README.md", "croissant.json"], [MANIFEST], ["catalog/index/part-00000.safetensors", "ATTRIBUTION.md"],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_damaged_is_built_again(
    whole: Path, copy: Path, cache: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (copy / name).write_bytes((copy / name).read_bytes()[:-40])
    sound = {p: p.stat() for p in (copy / "shards").iterdir() if f"shards/{p.name}" not in names}
    words = ["verify", str(copy), "--cache", str(cache), "--workers", "1"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert all(name in said.out for name in names)
    assert "--repair builds them again" in said.err
    assert main([*words, "--repair"]) == 0
    assert find_problems(str(copy)) == []
    assert bytes_of(copy) == bytes_of(whole)
    if not any(name.startswith(("shards/", "catalog/samples", "catalog/index")) for name in names):
        assert all(path.stat().st_ino == was.st_ino for path, was in sound.items())  # they were not built again


def test_what_cannot_be_repaired_says_why(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "README.md").unlink()
    assert main(["verify", str(copy), "--repair", "--cache", str(tmp_path / "empty")]) == 1
    assert "does not know what this dataset was made from" in capsys.readouterr().err
    (copy / "dataset.json").write_text("{")
    assert main(["verify", str(copy), "--repair", "--cache", str(tmp_path / "empty")]) == 1
    assert "dataset.json cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_a_share_of_the_samples_is_the_same_each_time_and_reads_no_other(copy: Path) -> None:
    rows = Store(copy).read_table(catalog_file("samples", 0)).to_pylist()
    for row in rows:  # damage every sample: what is found says which were looked at
        path = copy / "shards" / row["shard"]
        data = bytearray(path.read_bytes())
        data[row["members"][-1]["offset"] + 5] ^= 0xFF
        path.write_bytes(data)
    looked = [{p.what.split(":")[0] for p in find_problems(str(copy), share=share)} for share in (0.2, 0.2, 0.5, 1.0)]
    assert looked[0] == looked[1] < looked[2] < looked[3]
    assert 0 < len(looked[0]) < len(rows) / 2
    assert ["its content is not what was written" in said for said in looked] == [False, False, False, True]


def test_shares_are_per_cent_or_fractions() -> None:
    assert [parse_share(text) for text in ("1%", "0.01", "100%", "1")] == [0.01, 0.01, 1.0, 1.0]
    for text in ("0", "101%", "2", "-1%", "x", ""):
        with pytest.raises(ConfigError, match="--sample"):
            parse_share(text)
