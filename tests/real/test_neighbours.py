"""A country cut in overlapping parts, as download services cut a continent, and read from them: it is the country."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import numpy as np
import osmium
import pyarrow as pa
import pytest

from pipeline.osm.extracts.read import Extract, read_extract, read_extracts
from pipeline.rules import load_rules
from tests.osm.tables import table_of

RULES = load_rules()


def cut(path: Path, folder: Path, parts: int) -> list[Path]:
    """Parts of about as many nodes from west to east, which overlap: the nodes in each, all ways that have one of them,
    whole, and the relations that have a member there, whose other members are left out."""
    lon = {n.id: n.lon for n in osmium.FileProcessor(str(path), osmium.osm.NODE)}
    shares = np.clip([(n / parts - 0.02, (n + 1) / parts + 0.02) for n in range(parts)], 0, 1)
    limits = np.quantile(list(lon.values()), shares)
    ways = {w.id: [n.ref for n in w.nodes] for w in osmium.FileProcessor(str(path), osmium.osm.WAY)}
    targets = [folder / f"part-{n}.osm.pbf" for n in range(parts)]
    chosen: list[dict[str, set[int]]] = []
    for low, high in limits.tolist():
        inside = {i for i, x in lon.items() if low <= x <= high}
        own = {i for i, refs in ways.items() if not inside.isdisjoint(refs)}
        chosen.append({"n": inside | {r for i in own for r in ways[i]}, "w": own})
    with ExitStack() as writing:
        writers = [writing.enter_context(osmium.SimpleWriter(str(t))) for t in targets]
        for thing in osmium.FileProcessor(str(path)):
            kind = thing.type_str()
            for writer, own in zip(writers, chosen, strict=True):
                if kind == "r":
                    if any(m.ref in own.get(m.type, ()) for m in thing.members):
                        writer.add(thing)
                elif thing.id in own[kind]:
                    writer.add(thing)
    return targets


def sorted_rows(extract: Extract) -> pa.Table:
    return table_of(extract).sort_by([("osm_type", "ascending"), ("osm_id", "ascending")])


@pytest.mark.timeout(600)
def test_a_country_read_from_overlapping_parts_is_the_country(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    whole_file = real_file("osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf")
    parts = cut(whole_file, tmp_path, 3)
    whole = sorted_rows(read_extract(whole_file, RULES, tmp_path / "whole"))
    alone = [table_of(read_extract(p, RULES, tmp_path / f"alone-{n}")) for n, p in enumerate(parts)]
    found = {(r["osm_type"], r["osm_id"]) for t in alone for r in t.select(["osm_type", "osm_id"]).to_pylist()}
    assert whole.num_rows - len(found) >= 20  # what none of the parts holds whole
    assert sum(table.num_rows for table in alone) - len(found) > 1000  # what they share
    for n, order in enumerate(permutations(parts)):
        assert sorted_rows(read_extracts(order, RULES, tmp_path / f"parts-{n}")).equals(whole)
