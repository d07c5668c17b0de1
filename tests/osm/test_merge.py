"""Several extracts made one."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.cells.merge import describe_parts, load_slab, newest, plan_slabs, repeated_rows
from schemas.features import DROPS, FEATURES
from tests.osm.opl import read
from tests.osm.tables import feature_table, table_of

ROW = st.tuples(
    st.sampled_from(("node", "way", "relation")), st.integers(1, 5), st.integers(0, 3), st.none() | st.integers(1, 3)
)
EXTRACT = st.lists(ROW, max_size=6, unique_by=lambda r: r[:2])


def table(rows: list[Any], source: str) -> pa.Table:
    stamps = [None if r[3] is None else datetime.datetime(2020, 1, r[3], tzinfo=datetime.UTC) for r in rows]
    return feature_table(
        [r[0] for r in rows], [r[1] for r in rows], ["point"] * len(rows), [{"source": source}] * len(rows),
        shapely.points([[1.0, 2.0]] * len(rows)) if rows else shapely.points([]), [r[2] for r in rows], stamps,
    )  # fmt: skip


def merge(named: list[tuple[str, pa.Table]]) -> tuple[pa.Table, pa.Table]:
    source = np.repeat(np.arange(len(named)), [t.num_rows for _, t in named])
    merged, repeated = newest(pa.concat_tables([FEATURES.empty_table(), *(t for _, t in named)]), source)
    return merged, repeated_rows([n for n, _ in named], repeated)


@given(st.lists(EXTRACT, max_size=4))
def test_each_object_comes_out_once_in_its_newest_version(extracts: list[list[Any]]) -> None:
    named = [(f"e{n}.osm.pbf", table(rows, f"e{n}")) for n, rows in enumerate(extracts) if rows]
    merged, drops = merge(named)
    best: dict[tuple[int, int], Any] = {}
    for _, t in named:
        for row in t.to_pylist():
            key = (("node", "way", "relation").index(row["osm_type"]), row["osm_id"])
            stamp = row["timestamp"].timestamp() if row["timestamp"] else 0
            if key not in best or (row["version"], stamp) > best[key][0]:
                best[key] = ((row["version"], stamp), dict(row["tags"])["source"])
    found = merged.to_pylist()
    assert merged.schema.equals(FEATURES)
    assert [(("node", "way", "relation").index(r["osm_type"]), r["osm_id"]) for r in found] == sorted(best)
    assert [dict(r["tags"])["source"] for r in found] == [best[k][1] for k in sorted(best)]
    assert drops.schema.equals(DROPS)
    assert merged.num_rows + sum(drops["count"].to_pylist()) == sum(t.num_rows for _, t in named)


def test_neighbouring_extracts_share_a_way_once(tmp_path: Path) -> None:
    nodes = "n1 v1 x9 y47\nn2 v1 x9.1 y47"
    a = read(tmp_path, f"{nodes}\nw5 v3 Thighway=path,state=old Nn1,n2", "a.opl")
    b = read(tmp_path, f"{nodes}\nw5 v4 Thighway=path,state=new Nn1,n2\nw6 v1 Thighway=path Nn2,n1", "b.opl")
    for order in ((a, b), (b, a)):
        merged, drops = merge([(f"{n}.opl", table_of(e)) for n, e in enumerate(order)])
        assert merged["osm_id"].to_pylist() == [5, 6]
        assert dict(merged["tags"].to_pylist()[0])["state"] == "new"
        assert drops["count"].to_pylist() == [1]
        assert drops["source"].to_pylist() == [f"{order.index(a)}.opl"]


@given(st.lists(EXTRACT.filter(bool), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 12))
def test_slabs_together_are_the_whole_merge_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, extracts: list[list[Any]], chunk: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    named, parts = [], []
    for n, rows in enumerate(extracts):
        t = table(sorted(rows, key=lambda r: (("node", "way", "relation").index(r[0]), r[1])), f"e{n}")
        named.append((f"e{n}", t))
        paths = []
        for osm_type in ("node", "way", "relation"):
            own = t.filter(pc.equal(t["osm_type"], osm_type))
            for at in range(0, own.num_rows, chunk):
                paths.append(folder / f"{n}-{osm_type}-{at}.parquet")
                pq.write_table(own.slice(at, chunk), paths[-1])
        parts += describe_parts(paths, n)
    whole, drops = merge(named)
    slabs = plan_slabs(parts, size)
    loaded = [load_slab(s) for s in slabs]
    together = pa.concat_tables([FEATURES.empty_table(), *(t for t, _ in loaded)])
    assert together.equals(whole)
    repeated: Counter[int] = Counter()
    for _, left in loaded:
        repeated.update(left)
    assert repeated_rows([n for n, _ in named], dict(repeated)).equals(drops)
    ranges = [(("node", "way", "relation").index(s.osm_type), s.first, s.last) for s in slabs]
    assert ranges == sorted(ranges)
