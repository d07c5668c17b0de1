"""Features to cells: cut slab by slab and merged by cell, it is what one table in memory gives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.osm.cells.parts
from pipeline.osm import stage
from pipeline.osm.cells import slabs
from pipeline.osm.cells.cut import cut_to_cells, whole_features
from pipeline.osm.cells.slabs import count_slabs, plan_runs
from pipeline.osm.stage import Cells, export_features, features_stage, read_cell, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.run.ray_map import Runner
from schemas.features import CELL_ZOOM, ObjectType
from schemas.tags import tag_id
from storage.store import Store
from tests.osm.opl import GRID, RULES, opl
from tests.osm.tables import table_of, tag_features

#: Two towns 60 km apart, so that there are several cells, with a road between them.
TOWNS = "\n".join(
    [f"n{1 + i + 3 * j} v1 x{9 + i / 1000} y{47 + j / 1000}" for j in range(3) for i in range(3)]
    + [f"n{11 + i + 3 * j} v1 x{9.8 + i / 1000} y{47.2 + j / 1000}" for j in range(3) for i in range(3)]
)


def build(
    folder: Path, texts: list[str], cleaning: CleaningConfig = CleaningConfig(1, 1), workers: int = 1
) -> tuple[Cells, list[dict[str, Any]]]:
    """Cells and drops of some OPL extracts."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, text in enumerate(texts):
        paths.append(folder / f"{n}.opl")
        paths[-1].write_text(opl(text), encoding="utf-8")
    cache = folder / "cache"
    with Runner(workers) as runner:
        features, _ = features_stage(paths, RULES, cache, runner, True)
        cells, _ = vocabulary_stage(features, RULES, cleaning, CELL_ZOOM, cache, runner, True)
    return cells, cells.store.read_table("drops.parquet").to_pylist()


def rows_of(cells: Cells) -> list[tuple[Any, ...]]:
    """(cell, kind, type, id, tags, WKB) of every row, cell by cell."""
    rows = []
    for cell in sorted(stage._cell_index(cells.path).places):
        batch = read_cell(cells.path, cell)
        for n in range(len(batch)):
            tags = batch.tag_ids[batch.tag_offsets[n] : batch.tag_offsets[n + 1]].tolist()
            rows.append((cell, batch.kind[n], batch.osm_type[n], batch.osm_id[n], tags, batch.geometry[n].wkb))
    return rows


def objects_of(cells: Cells) -> set[tuple[int, int]]:
    return {(int(r[2]), int(r[3])) for r in rows_of(cells)}


WAY = st.tuples(
    st.lists(st.sampled_from([1, 2, 3, 5, 6, 9, 11, 12, 15, 19]), min_size=2, max_size=5),
    st.sampled_from(("highway=path", "building=yes", "building=hut,sport=tennis;golf", "name=x", "higway=track")),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.lists(WAY, max_size=8), slab=st.integers(1, 4), run=st.integers(1, 6))
def test_slabs_and_runs_of_any_size_give_what_one_table_gives(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, ways: list[Any], slab: int, run: int
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    lines = [f"w{n} v1 T{tags} N{','.join(f'n{r}' for r in refs)}" for n, (refs, tags) in enumerate(ways, 1) if refs]
    text = "\n".join([TOWNS, "n30 v1 Tnatural=tree x9 y47", *lines])
    monkeypatch.setattr(stage, "plan_slabs", lambda parts: pipeline.osm.cells.parts.plan_slabs(parts, slab))
    monkeypatch.setattr(slabs, "plan_runs", partial(plan_runs, size=run))
    cells, drops = build(folder, [text])
    extract = pipeline.osm.extracts.read.read_extract(folder / "0.opl", RULES, folder / "whole")
    table = table_of(extract)
    tagged = tag_features(table["tags"], RULES, 1)
    whole, _ = cut_to_cells(whole_features(table), tagged.offsets, tagged.ids, tagged.paint)
    expected, seen = [], set()
    for row in whole.to_pylist():
        key = row["cell"], row["kind"], row["twin"], tuple(row["tag_ids"])
        if row["tag_ids"] and key not in seen:
            seen.add(key)
            expected.append((row["cell"], row["kind"], row["osm_type"], row["osm_id"], row["tag_ids"], row["geometry"]))
    assert rows_of(cells) == expected
    vocabulary = cells.store.read_table("vocabulary.parquet")
    assert vocabulary.equals(tagged.vocabulary)
    made = objects_of(cells)
    gone = {(["node", "way", "relation"].index(d["osm_type"]), d["osm_id"]) for d in drops if d["osm_id"] is not None}
    assert len(made) + len(gone) + sum(
        d["count"] for d in drops if d["stage"] == "features" and d["osm_id"] is None
    ) == (extract.objects)
    assert not made & gone


def test_the_same_object_drawn_twice_is_there_once_and_the_other_is_named(tmp_path: Path) -> None:
    """Also across a border of cells; other tags or other vertices are no duplicate."""
    text = f"""{TOWNS}
    w5 v1 Tbuilding=yes,name=a Nn1,n2,n5,n1
    w6 v1 Tbuilding=yes,name=b Nn2,n5,n1,n2
    w7 v1 Tbuilding=hut Nn1,n2,n5,n1
    w8 v1 Tbuilding=yes Nn1,n3,n5,n1
    w20 v1 Thighway=primary Nn1,n2,n19
    w21 v1 Thighway=primary Nn19,n2,n1
    n40 v1 Tnatural=tree x9.5 y47.1
    n41 v1 Tnatural=tree x9.5 y47.1
    n42 v1 Tnatural=tree,leaf_type=broadleaved x9.5 y47.1"""
    cells, drops = build(tmp_path, [text])
    assert objects_of(cells) == {(1, 5), (1, 7), (1, 8), (1, 20), (0, 40), (0, 42)}
    assert len({r[0] for r in rows_of(cells) if r[3] == 20}) > 1
    found = [(d["osm_type"], d["osm_id"], d["detail"]) for d in drops if d["reason"] == "duplicate"]
    assert found == [
        ("node", 41, "same shape and tags as node 40"),
        ("way", 6, "same shape and tags as way 5"),
        ("way", 21, "same shape and tags as way 20"),
    ]


def test_misspelt_tags_are_corrected_and_malformed_or_rare_ones_go_each_counted(tmp_path: Path) -> None:
    text = f"""{GRID}
    n10 v1 Tbuidling=yes x9.01 y47
    n11 v1 Tbuilding=yes x9.02 y47
    n12 v1 Tbuilding=%3f% x9.03 y47
    n13 v1 Tamenity=bench,oneway=true x9.04 y47
    n14 v1 Tamenity=bench,a%3d%b=c x9.05 y47"""
    cells, drops = build(tmp_path, [text], CleaningConfig(min_tag_count=1, min_key_count=2))
    tags = {int(r[3]): r[4] for r in rows_of(cells)}
    building, bench = [tag_id("building:building")], [tag_id("amenity:bench")]
    assert tags == {10: building, 11: building, 13: bench, 14: bench}
    rules = {(d["reason"], d["osm_id"], d["detail"]): d["count"] for d in drops if d["stage"] != "features"}
    assert rules == {
        ("corrected_tag", None, "buidling=yes is building=yes"): 1,
        ("corrected_tag", None, "oneway=true is oneway=yes"): 1,
        ("malformed_tag", None, "building=?"): 1,
        ("malformed_tag", None, "a=b=c"): 1,
        ("rare_key", None, "oneway"): 1,
        ("no_tags_left", 12, "every tag was malformed, or of a rare key"): 1,
    }


def test_neighbouring_extracts_give_each_object_once(tmp_path: Path) -> None:
    shared = f"{GRID}\nw1 v{{}} Thighway={{}} Nn1,n2"
    a, b = shared.format(3, "path") + "\nw2 v1 Thighway=track Nn2,n3", shared.format(4, "steps")
    cells, drops = build(tmp_path / "ab", [a, b])
    swapped, _ = build(tmp_path / "ba", [b, a])
    assert rows_of(cells) == rows_of(swapped)
    assert {int(r[3]): r[4] for r in rows_of(cells)} == {1: [tag_id("highway:steps")], 2: [tag_id("highway:track")]}
    assert [(d["source"], d["count"]) for d in drops if d["reason"] == "repeated_in_extracts"] == [("0.opl", 1)]


def test_extracts_are_read_once_in_whatever_order_they_are_named(tmp_path: Path) -> None:
    paths = []
    for n, text in enumerate((f"{GRID}\nw1 v1 Thighway=path Nn1,n2", f"{GRID}\nw1 v1 Thighway=steps Nn1,n2", "")):
        paths.append(tmp_path / f"{n}.opl")
        paths[-1].write_text(opl(text))
    with Runner(1) as runner:
        first, row = features_stage(paths, RULES, tmp_path / "cache", runner, True)
        again, cached = features_stage(paths[::-1], RULES, tmp_path / "cache", runner, True)
        fewer, other = features_stage(paths[:1], RULES, tmp_path / "cache", runner, True)
    assert (row.cached, cached.cached, other.cached) == (False, True, False)
    assert (again.store.root, again.extents, again.count) == (first.store.root, first.extents, first.count)
    assert again.names == first.names[::-1] == ["2.opl", "1.opl", "0.opl"]
    assert again.hashes == first.hashes[::-1]
    assert len(first.extents) == 2  # one has no nodes
    assert fewer.store.root != first.store.root


def test_what_the_cache_holds_serves_the_same_rules_settings_and_zoom_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.opl"
    path.write_text(opl(f"{GRID}\nw1 v1 Thighway=path Nn1,n2"))
    others = [(RULES, CleaningConfig(2, 1), 10), (RULES, CleaningConfig(1, 2), 10), (RULES, CleaningConfig(1, 1), 11),
              (replace(RULES, fingerprint="other"), CleaningConfig(1, 1), 10)]  # fmt: skip
    usual = (RULES, CleaningConfig(1, 1), 10)
    folders, taken = [], []
    with Runner(1) as runner:
        for rules, cleaning, zoom in (usual, usual, *others):
            features, _ = features_stage([path], rules, tmp_path / "cache", runner, True)
            cells, row = vocabulary_stage(features, rules, cleaning, zoom, tmp_path / "cache", runner, True)
            folders.append((features.store.root, cells.path))
            taken.append(row.cached)
    assert taken == [False, True] + [False] * len(others)
    assert len({cells for _, cells in folders}) == 1 + len(others)
    assert len({features for features, _ in folders}) == 2  # other rules alone read the extract again


def test_an_interrupted_build_goes_on_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(f"w{n} v1 Tbuilding=yes,height={n % 3} Nn{n},n{n + 1},n{n + 3},n{n}" for n in range(1, 6))
    monkeypatch.setattr(stage, "plan_slabs", lambda parts: pipeline.osm.cells.parts.plan_slabs(parts, 2))
    text = f"{TOWNS}\n{lines}\nw9 v1 Thighway=path Nn1,n19"
    whole, _ = build(tmp_path / "whole", [text])
    expected = {p.name: p.read_bytes() for p in sorted(Path(whole.path).iterdir())}

    class Killed(Exception):
        pass

    real, seen = stage.cut_slab, []

    def dies(job: Any) -> int:
        if job.index == 2 and len(seen) < 3:
            raise Killed
        seen.append(job.index)
        return real(job)

    monkeypatch.setattr(stage, "cut_slab", dies)
    with pytest.raises(Killed):
        build(tmp_path / "again", [text])
    monkeypatch.setattr(stage, "cut_slab", real)
    (spill,) = (tmp_path / "again").rglob("slab-000000.json")
    stamp = spill.stat().st_mtime_ns
    stamps = []

    def count(store: Store, *rest: Any) -> Any:
        stamps.append(Path(store.path(spill.name)).stat().st_mtime_ns)
        return count_slabs(store, *rest)

    monkeypatch.setattr(slabs, "count_slabs", count)
    cells, _ = build(tmp_path / "again", [text])
    assert stamps == [stamp]  # finished work was not done again
    assert {p.name: p.read_bytes() for p in sorted(Path(cells.path).iterdir())} == expected


def test_exported_features_are_the_merged_parts_in_order(tmp_path: Path) -> None:
    paths = []
    for n, text in enumerate(
        (f"{GRID}\nw1 v3 Thighway=path Nn1,n2", f"{GRID}\nw1 v4 Thighway=path Nn1,n2\nn10 v1 Tnatural=tree x9 y47")
    ):
        paths.append(tmp_path / f"{n}.opl")
        paths[-1].write_text(opl(text))
    with Runner(1) as runner:
        features, _ = features_stage(paths, RULES, tmp_path / "cache", runner, True)
    rows, drops = export_features(features, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "features.parquet")
    assert rows == table.num_rows == 2
    assert table.select(["osm_type", "osm_id", "version"]).to_pylist() == [
        {"osm_type": "node", "osm_id": 10, "version": 1}, {"osm_type": "way", "osm_id": 1, "version": 4},
    ]  # fmt: skip
    assert drops.replace_schema_metadata(None).equals(
        pq.read_table(tmp_path / "out" / "drops.parquet").replace_schema_metadata(None)
    )
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == ["drops.parquet", "features.parquet"]


def test_a_coastline_that_another_contradicts_is_another_row_and_is_named(tmp_path: Path) -> None:
    """What was built of it is built anew, though it did not change itself."""
    coast = f"{GRID}\nw1 v1 Tnatural=coastline Nn1,n2"
    others = {
        "alone": "w2 v1 Thighway=path Nn3,n2",
        "along": "w2 v1 Tnatural=coastline Nn2,n3",
        "against": "w2 v1 Tnatural=coastline Nn3,n2",
        "relation": "w2 v1 Thighway=path Nn3,n2\nr1 v1 Ttype=multipolygon,natural=coastline Mw3@\nw3 v1 Nn4,n5,n8,n4",
    }
    found, stops = {}, {}
    for name, other in others.items():
        cells, drops = build(tmp_path / name, [f"{coast}\n{other}"])
        (cell,) = stage._cell_index(cells.path).places
        own = read_cell(cells.path, cell)
        hashes = stage.read_cell_column(cells.path, cell, "hash")
        found[name] = hashes[(own.osm_id == 1) & (own.osm_type == ObjectType.WAY)].tolist()
        stops[name] = [(d["osm_type"], d["osm_id"], d["detail"]) for d in drops if d["reason"] == "coastline_stops"]
    assert found["alone"] == found["along"] == found["relation"] != found["against"]
    beside = "at 9.0010000,47.0000000 beside others that do; kept, no sea is painted there"
    assert {(i, detail) for _, i, detail in stops["against"]} >= {(1, f"ends {beside}"), (2, f"ends {beside}")}
    assert [i for _, i, _ in stops["along"]] == [1, 2]
    assert [(kind, i) for kind, i, _ in stops["relation"]] == [("way", 1)] * 2
