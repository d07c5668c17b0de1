"""The hash by which an update keeps a shard: all that decides its bytes changes it, and nothing else does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.catalog.fold import finished, fold
from pipeline.osm.stage import features_stage, vocabulary_stage
from pipeline.osm.vectors.features import PartJob
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import Chips, ExtractObjects, Previous, ShardJob, Snapshot, VectorObjects
from pipeline.samples.reuse import adopt, is_kept, shard_inputs
from pipeline.streetview.record import Photo
from schemas.catalog import pending_file, shard_name
from schemas.footprint import Footprint, Footprints
from storage.store import Store
from tests.osm.opl import RULES, write_opl
from tests.samples.shards import extract, write

#: Squares of 0.001 degrees beside each other, 9.500 to 9.502 E, and one far from them.
NEAR = [Footprint(f"a-{k}", "EPSG:4326", (1e-5, 0, 9.5 + k / 1000, 0, -1e-5, 47.101), 100, 100) for k in range(2)]
OTHER = Footprint("b", "EPSG:3857", (1.0, 0, 1e6, 0, -1.0, 6e6), 100, 100)


def columns(*footprints: Footprint) -> Footprints:
    return Footprints.of(footprints, "xyz")


@pytest.fixture
def job(tmp_path: Path) -> ShardJob:
    """A shard of two chips with a photo in the first."""
    (tmp_path / "a.jpg").write_bytes(b"photo")
    photo = Photo(str(tmp_path / "a.jpg"), "1", 9.5, 47.1, 10.0, "2024-01-01", x=0.25, y=0.5)
    part = PartJob(0, tmp_path, tmp_path, [("a-0", ["v.geojson"], "hash")], RULES, "code")
    rows = {f.key: {"key": f.key, "image_hash": "one", "image": "x.png"} for f in NEAR}
    return ShardJob(
        str(tmp_path), 0, columns(*NEAR), ShardsConfig(), RULES.paint,
        VectorObjects(part, np.array([[5, 1]]), "2024-01-01"), {"osm": "ODbL-1.0", "rs": "CC0-1.0"}, chips=Chips(
        tmp_path, rows), photos={"a-0": [photo]}, salt="salt", imagery="scenes",
    )  # fmt: skip


def chip(job: ShardJob, **values: str) -> ShardJob:
    assert job.chips is not None
    return replace(job, chips=replace(job.chips, rows=job.chips.rows | {"a-1": job.chips.rows["a-1"] | values}))


def photo(job: ShardJob, **values: Any) -> ShardJob:
    return replace(job, photos={"a-0": [replace(job.photos["a-0"][0], **values)]})


def first(job: ShardJob, **values: Any) -> ShardJob:
    """Another first footprint."""
    return replace(job, footprints=columns(Footprint(**{**vars(NEAR[0]), **values}), NEAR[1]))


def vectors(job: ShardJob, **values: Any) -> ShardJob:
    return replace(job, objects=replace(job.objects, **values))


CHANGES: dict[str, Callable[[ShardJob], ShardJob]] = {
    "settings, code or libraries": lambda j: replace(j, salt="other"),
    "scenes": lambda j: replace(j, imagery="other"),
    "licence of the images": lambda j: replace(j, licences=j.licences | {"rs": "CC-BY-4.0"}),
    "licence that is no more": lambda j: replace(j, licences={"osm": "ODbL-1.0"}),
    "key": lambda j: first(j, key="a-2"),
    "CRS": lambda j: first(j, crs="EPSG:4258"),
    "place": lambda j: first(j, transform=(1e-5, 0, 9.49, 0, -1e-5, 47.101)),
    "size": lambda j: first(j, width=99),
    "order": lambda j: replace(j, footprints=columns(*NEAR[::-1])),
    "how the place is known": lambda j: replace(j, footprints=Footprints.of(NEAR, "bbox")),
    "image of a chip": lambda j: chip(j, image_hash="two"),
    "vector files": lambda j: vectors(j, part=replace(j.objects.part, chips=[("a-0", ["v.geojson"], "new")])),
    "tags that are kept": lambda j: vectors(j, ids=np.array([[5, 0]])),
    "time of the vector files": lambda j: vectors(j, time="2025-01-01"),
    "place of a photo": lambda j: photo(j, x=0.26),
    "licence of a photo": lambda j: photo(j, licence="CC0-1.0"),
    "photo that is no more": lambda j: replace(j, photos={}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_anything_that_decides_a_shards_bytes_is_noticed(job: ShardJob, what: str) -> None:
    assert shard_inputs(CHANGES[what](job)) != shard_inputs(job)


def test_a_photo_counts_by_its_bytes_wherever_its_file_lies(job: ShardJob, tmp_path: Path) -> None:
    moved = tmp_path / "b.jpg"
    moved.write_bytes(b"photo")
    assert shard_inputs(photo(job, path=str(moved))) == shard_inputs(job)
    moved.write_bytes(b"another")
    assert shard_inputs(photo(job, path=str(moved))) != shard_inputs(job)


def test_place_and_number_of_a_shard_and_what_stands_in_others_do_not_matter(job: ShardJob) -> None:
    among = columns(OTHER, *NEAR).take(np.array([1, 2]))
    for same in (
        replace(job, index=7, out="elsewhere", previous=Previous("there", "x")),
        replace(job, footprints=among),
        replace(job, photos=job.photos | {"b": job.photos["a-0"]}),
        chip(job, image="moved/x.png"),
    ):
        assert shard_inputs(same) == shard_inputs(job)


def test_features_count_where_they_meet_a_footprint_of_the_shard(job: ShardJob, tmp_path: Path) -> None:
    near, far = (1, 9.5005, 47.1005, "natural=tree"), (2, 9.6, 47.2, "natural=tree")

    def inputs(*snapshots: Snapshot) -> str:
        return shard_inputs(dataclasses.replace(job, objects=ExtractObjects(snapshots, 10)))

    one = extract(tmp_path / "one", [near, far])
    away = extract(tmp_path / "away", [near, (2, 9.7, 47.2, "amenity=cafe")])
    assert inputs(one) == inputs(away._replace(time="2025-01-01T00:00:00Z"))
    for name, node in {"moved": (1, 9.5006, 47.1005, "natural=tree"), "tag": (1, 9.5005, 47.1005, "shop=yes")}.items():
        assert inputs(extract(tmp_path / name, [node, far])) != inputs(one)
    assert inputs(extract(tmp_path / "gone", [far])) != inputs(one)
    apart = dataclasses.replace(job, footprints=columns(NEAR[0], Footprint(**vars(NEAR[1]) | {"transform": (
        1e-5, 0, 9.51, 0, -1e-5, 47.11)})))  # fmt: skip
    between = extract(tmp_path / "between", [near, (2, 9.506, 47.106, "natural=tree")])
    none, some = (dataclasses.replace(apart, objects=ExtractObjects((s,), 10)) for s in (one, between))
    assert shard_inputs(none) == shard_inputs(some)
    assert inputs(one, away) != inputs(one, away._replace(time="2025-01-01T00:00:00Z"))


def test_a_coastline_elsewhere_counts_where_it_decides_whether_a_footprint_is_sea(
    job: ShardJob, tmp_path: Path
) -> None:
    """It lies north of the footprints, with land to the north or to the south of it."""
    near = (1, 9.5005, 47.1005, "natural=tree")

    def inputs(name: str, west: float, east: float, lat: float) -> str:
        (tmp_path / name).mkdir()
        nodes = [near, (2, west, lat, ""), (3, east, lat, "")]
        osm = write_opl(tmp_path / name / "a.opl", nodes, [(1, [2, 3], "natural=coastline")])
        features, _ = features_stage([osm], RULES, tmp_path / name, Runner(1), True)
        cells, _ = vocabulary_stage(features, RULES, CleaningConfig(1, 1), 10, tmp_path / name, Runner(1), True)
        return shard_inputs(dataclasses.replace(job, objects=ExtractObjects((Snapshot(None, cells.path),), 10)))

    sea = inputs("sea", 9.4, 9.6, 47.12)
    assert inputs("nearer", 9.4, 9.6, 47.11) == sea
    assert inputs("land", 9.6, 9.4, 47.12) != sea


def test_a_shard_is_taken_over_with_its_own_rows_and_as_another_number(job: ShardJob, tmp_path: Path) -> None:
    """Drops name no shard: they lie in its place among those of the group."""
    for index, drops in ((0, 2), (1, 3), (2, 1)):
        write(tmp_path / "old", index, [(9.5, 47.1), (9.6, 47.2)], drops)
    fold(Store(str(tmp_path / "old")), 0, range(3))
    new, previous = Store(str(tmp_path / "new")), Previous(str(tmp_path / "old"), "x")
    for index, drops in ((0, 2), (1, 3), (2, 1)):
        result = adopt(replace(job, out=new.root, index=index + 5), previous, f"inputs {index}")
        assert result is not None
        assert (result.index, result.samples, result.drops, result.adopted) == (index + 5, 2, drops, True)
        rows = {t: new.read_table(pending_file(t, index + 5)).to_pylist() for t in ("samples", "drops", "streetview")}
        assert [r["key"] for r in rows["drops"]] == [f"d{index}-{n}" for n in range(drops)]
        assert [r["key"] for r in rows["samples"]] == [f"f{index}-0", f"f{index}-1"]
        assert [r["id"] for r in rows["streetview"]] == [f"{index}-1-0"]
        (tar,) = {r["shard"] for r in rows["samples"]}
        assert new.read(f"shards/{tar}") == (tmp_path / f"old/shards/{shard_name(index)}.tar").read_bytes()
    assert adopt(replace(job, out=new.root), previous, "other inputs") is None


def test_a_shard_whose_tar_is_gone_or_cut_short_is_built_again(job: ShardJob, tmp_path: Path) -> None:
    inputs = shard_inputs(job)
    for what in ("whole", "short", "gone"):
        root = tmp_path / what
        write(root, 0, [(9.5, 47.1)], inputs=inputs)
        fold(Store(str(root)), 0, range(1))
        tar = root / f"shards/{shard_name(0)}.tar"
        if what == "short":
            tar.write_bytes(tar.read_bytes()[:-1])
        elif what == "gone":
            tar.unlink()
        assert is_kept(replace(job, previous=Previous(str(root), "x"))) == (what == "whole")
        assert finished(Store(str(root))) == (({0}, {0}) if what == "whole" else (set(), set()))
