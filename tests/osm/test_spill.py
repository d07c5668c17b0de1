"""Tables between passes: what the parts hold comes out whole and sorted by id, whatever their order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.extracts import spill
from pipeline.osm.extracts.spill import Part, column, join, sort, sort_values, starts
from storage.store import Store

IDS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 20)


@pytest.mark.parametrize("chunk", [3, 1 << 21])
@given(parts=st.lists(st.lists(st.lists(IDS, max_size=6), max_size=3), max_size=5))
def test_a_table_is_sorted_by_id_and_equal_ids_keep_their_order(chunk: int, parts: list[list[list[int]]]) -> None:
    ids = np.array([i for part in parts for rows in part for i in rows], np.int64)
    number = np.arange(len(ids))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_CHUNK", chunk)
        folder, runs, done = Path(name), [], 0
        for index, rows in enumerate(parts):
            with Part(Store(folder), "nodes", index) as part:
                for few in rows:
                    own = number[done : done + len(few)]
                    part.append(id=np.array(few, np.int64), lonlat=np.stack((own, -own), axis=1))
                    done += len(few)
            runs.append(part.run)
        join(folder, "nodes")
        sort(folder, "nodes", runs)
        order = np.argsort(ids, kind="stable")
        assert column(Store(folder), "nodes", "id").tolist() == ids[order].tolist()
        assert column(Store(folder), "nodes", "lonlat").tolist() == np.stack((order, -order), axis=1).tolist()
        assert sorted(p.name for p in folder.iterdir()) == (["nodes.id", "nodes.lonlat"] if len(ids) else [])


@given(parts=st.lists(st.lists(IDS, max_size=6), max_size=4))
def test_a_column_is_sorted_in_its_file(parts: list[list[int]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for index, ids in enumerate(parts):
            with Part(Store(folder), "wanted", index) as part:
                part.append(id=np.array(ids, np.int64))
        join(folder, "wanted")
        sort_values(folder, "wanted", "id")
        assert column(Store(folder), "wanted", "id").tolist() == sorted(i for ids in parts for i in ids)


@given(counts=st.lists(st.integers(0, 9)))
def test_starts_are_the_sums_of_what_is_before(counts: list[int]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with Part(Store(folder), "members", 0) as part:
            part.append(
                id=np.arange(len(counts)), count=np.array(counts, np.int64), whole=np.ones(len(counts), np.bool_)
            )
        join(folder, "members")
        starts(folder, "members", "count", "start")
        assert column(Store(folder), "members", "start").tolist() == [sum(counts[:i]) for i in range(len(counts))]
