"""Several extracts made one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.features import merge_features
from schemas.features import DROPS, FEATURES
from tests.osm.opl import read
from tests.osm.tables import feature_table

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


@given(st.lists(EXTRACT, max_size=4))
def test_each_object_comes_out_once_in_its_newest_version(extracts: list[list[Any]]) -> None:
    named = [(f"e{n}.osm.pbf", table(rows, f"e{n}")) for n, rows in enumerate(extracts) if rows]
    merged, drops = merge_features(named)
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
        merged, drops = merge_features([(f"{n}.opl", e.features) for n, e in enumerate(order)])
        assert merged["osm_id"].to_pylist() == [5, 6]
        assert dict(merged["tags"].to_pylist()[0])["state"] == "new"
        assert drops["count"].to_pylist() == [1]
        assert drops["source"].to_pylist() == [f"{order.index(a)}.opl"]
