"""Monaco in 2012, 2021 and 2023: brought from one to the next, a dataset is what a full build gives."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import osmium
import pytest

from pipeline.driver.shards import make_shards
from pipeline.driver.update import update
from pipeline.osm.extracts.changes import apply_changes
from pipeline.samples.config import PlanConfig, ShardsConfig
from pipeline.tokens.config import TokensConfig
from tests.driver.test_shards import bytes_of
from tests.driver.test_update import write_change

DATES = ["2012-07-06", "2021-04-21", "2023-12-25"]


def test_three_dates_of_monaco_one_after_the_other(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    files = [real_file(f"osm/monaco/monaco_{d}.osm.pbf") for d in DATES]
    config = ShardsConfig(
        region=str(files[0]), out=str(tmp_path / "data"), name="monaco", zoom=16, workers=1,
        plan=PlanConfig(per_shard=16), tokens=TokensConfig(raster=False),
    )  # fmt: skip
    make_shards(config, quiet=True)
    for number in (1, 2):
        update(str(tmp_path / "data"), [files[number]], workers=1, quiet=True)
        full = tmp_path / f"full{number}"
        make_shards(dataclasses.replace(config, region=str(files[number]), out=str(full)), quiet=True)
        assert bytes_of(tmp_path / "data") == bytes_of(full)


def test_a_day_of_edits_leaves_most_shards_alone(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    """A tree added, a corner of a house moved (the way is not listed), a house retagged, another deleted."""
    base = real_file("osm/monaco/monaco_2023-12-25.osm.pbf")
    config = ShardsConfig(
        region=str(base), out=str(tmp_path / "data"), name="monaco", zoom=17, workers=1,
        plan=PlanConfig(per_shard=16), tokens=TokensConfig(raster=False),
    )  # fmt: skip
    first = make_shards(config, quiet=True)
    houses = []
    for way in osmium.FileProcessor(str(base)).with_locations():
        if way.is_way() and way.tags.get("building") and way.is_closed() and len(way.nodes) == 5:
            houses.append((way.id, way.version, [(n.ref, n.lon, n.lat) for n in way.nodes]))
    moved, retagged, deleted = houses[:3]
    stamp = 'timestamp="2024-01-01T00:00:00Z" changeset="1" uid="1" user="t"'
    corner = moved[2][0]
    refs = "".join(f'<nd ref="{ref}"/>' for ref, _, _ in retagged[2])
    change = write_change(
        tmp_path / "day.osc.gz",
        f'<create><node id="20000000000" version="1" {stamp} lon="{corner[1]}" lat="{corner[2]}">'
        f'<tag k="natural" v="tree"/></node></create><modify>'
        f'<node id="{corner[0]}" version="999" {stamp} lon="{corner[1] + 2e-5}" lat="{corner[2]}"/>'
        f'<way id="{retagged[0]}" version="999" {stamp}>{refs}<tag k="building" v="church"/></way></modify>'
        f'<delete><way id="{deleted[0]}" version="999" {stamp}/></delete>',
    )
    outcome = update(str(tmp_path / "data"), [change], workers=1, quiet=True)
    assert outcome.document["shards"] == first.document["shards"]
    assert outcome.document["shards"] - 4 <= outcome.adopted < outcome.document["shards"]
    newer = tmp_path / "monaco_2023-12-25.osm.pbf"
    apply_changes(base, [change], newer)
    make_shards(dataclasses.replace(config, region=str(newer), out=str(tmp_path / "full")), quiet=True)
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "full")


@pytest.mark.skipif(shutil.which("osmium") is None, reason="the osmium command (osmium-tool) is not installed")
def test_changes_are_applied_as_osmium_applies_them(real_file: Callable[[str], Path], tmp_path: Path) -> None:

    old, new = (real_file(f"osm/monaco/monaco_{d}.osm.pbf") for d in DATES[1:])
    change, ours, theirs = tmp_path / "c.osc.gz", tmp_path / "ours.osm.pbf", tmp_path / "theirs.osm.pbf"
    subprocess.run(["osmium", "derive-changes", str(old), str(new), "-o", str(change)], check=True)
    apply_changes(old, [change], ours)
    subprocess.run(["osmium", "apply-changes", str(old), str(change), "-o", str(theirs)], check=True)

    def objects(path: Path) -> list[object]:
        return [
            (
                o.type_str(), o.id, o.version, dict(o.tags), str(o.location) if o.is_node() else None,
                [n.ref for n in o.nodes] if o.is_way() else None,
                [(m.type, m.ref, m.role) for m in o.members] if o.is_relation() else None,
            )
            for o in osmium.FileProcessor(str(path))
        ]  # fmt: skip

    assert objects(ours) == objects(theirs)
