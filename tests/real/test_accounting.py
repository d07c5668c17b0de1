"""Every object of a real extract is a feature, a named drop or part of a count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import shapely

from pipeline.osm.extracts.read import read_extract
from tests.osm.opl import RULES
from tests.osm.tables import table_of

EXTRACTS = [
    "osm/andorra/andorra_2019.osm.pbf",
    "osm/helsinki/Helsinki.osm.pbf",
    "osm/lund/lund-station-sweden.osm.pbf",
    "osm/monaco/monaco_2012-07-06.osm.pbf",
    "osm/monaco/monaco_2021-04-21_lz4.osm.pbf",
    "osm/monaco/monaco_2023-12-25.osm.pbf",
    "osm/rome/rome_piazza_venezia_2015.osm.pbf",
    "osm/sfbay/West-Oakland.osm.bz2",
]


@pytest.mark.parametrize("name", EXTRACTS)
def test_nothing_is_lost_and_nothing_comes_twice(real_file: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    extract = read_extract(real_file(name), RULES, tmp_path)
    drops = extract.drops.to_pylist()
    table = table_of(extract)
    assert table.num_rows + sum(d["count"] for d in drops) == extract.objects
    made = list(zip(table["osm_type"].to_pylist(), table["osm_id"].to_pylist(), strict=True))
    gone = [(d["osm_type"], d["osm_id"]) for d in drops if d["osm_id"] is not None]
    assert len(made) > 50
    assert len({*made, *gone}) == len(made) + len(gone)
    assert shapely.is_valid(shapely.from_wkb(table["geometry"].to_numpy())).mean() > 0.999


def test_compressed_otherwise_an_extract_is_the_same(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    plain, lz4 = (
        read_extract(real_file(f"osm/monaco/monaco_2021-04-21{end}.osm.pbf"), RULES, tmp_path / f"m{end}")
        for end in ("", "_lz4")
    )
    assert table_of(plain).equals(table_of(lz4))
    assert plain.extents == lz4.extents
    west, pbf = (
        read_extract(real_file(n), RULES, tmp_path / Path(n).name)
        for n in ("osm/sfbay/West-Oakland.osm.bz2", "osm/sfbay/oakland_west_2016.osm.pbf")
    )
    assert table_of(west).equals(table_of(pbf))
