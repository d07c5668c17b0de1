"""Feature tables of several extracts made one: each (type, id) once, its newest version."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.features import DROPS, FEATURES, drop_row

_TYPE_ORDER = pa.array(["node", "way", "relation"])


def merge_features(tables: list[tuple[str, pa.Table]]) -> tuple[pa.Table, pa.Table]:
    """One FEATURES table sorted by type (node, way, relation) and id, and DROPS rows that count what was repeated.

    Neighbouring extracts share the objects on their border. The newest version wins; where versions are equal or
    missing, the newest timestamp, then the extract named first.

    Args:
        tables: (source name, FEATURES table), one each extract.
    """
    if not tables:
        return FEATURES.empty_table(), DROPS.empty_table()
    whole = pa.concat_tables([t for _, t in tables])
    source = np.repeat(np.arange(len(tables)), [t.num_rows for _, t in tables])
    kind = pc.index_in(whole["osm_type"], _TYPE_ORDER).to_numpy()
    osm_id = whole["osm_id"].to_numpy()
    stamp = whole["timestamp"].cast(pa.int64()).fill_null(0).to_numpy()
    order = np.lexsort((source, -stamp, -whole["version"].to_numpy().astype(np.int64), osm_id, kind))
    first = np.ones(len(order), bool)
    first[1:] = (kind[order[1:]] != kind[order[:-1]]) | (osm_id[order[1:]] != osm_id[order[:-1]])
    repeated = np.bincount(source[order[~first]], minlength=len(tables))
    drops = [
        drop_row("features", name, "repeated_in_extracts", detail="an equal or newer version is kept", count=int(n))
        for (name, _), n in zip(tables, repeated, strict=True)
        if n
    ]
    return whole.take(pa.array(order[first])), pa.Table.from_pylist(drops, schema=DROPS)
