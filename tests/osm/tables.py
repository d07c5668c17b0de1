"""FEATURES tables: written by hand, read whole, and their tags named at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.osm.extracts.read import Extract
from pipeline.osm.vocabulary import Counted, Vocabulary, id_pairs, name_tags, read_tags
from pipeline.rules import Rules
from schemas.features import FEATURES


def feature_table(
    osm_type: Any, osm_id: Any, kind: Any, tags: Any, geometry: Any, version: Any, stamp: Any
) -> pa.Table:
    """Columns (any sequences; geometry of shapely objects in lon/lat) to a FEATURES table."""
    bounds = shapely.bounds(geometry).reshape(-1, 4)
    bbox = pa.StructArray.from_arrays(
        [pa.array(bounds[:, i]) for i in range(4)], fields=list(FEATURES.field("bbox").type)
    )
    columns = [
        pa.array(osm_type, pa.string()),
        pa.array(osm_id, pa.int64()),
        pa.array(kind, pa.string()),
        pa.array([list(t.items()) for t in tags], FEATURES.field("tags").type),
        pa.array(shapely.to_wkb(geometry), pa.binary()),
        bbox,
        pa.array(version, pa.int32()),
        pa.array(stamp, FEATURES.field("timestamp").type),
    ]
    return pa.Table.from_arrays(columns, schema=FEATURES)


def table_of(extract: Extract) -> pa.Table:
    """All rows of an extract."""
    tables = [pq.ParquetFile(p.path).read(use_threads=False).replace_schema_metadata(None) for p in extract.parts]
    return pa.concat_tables([FEATURES.empty_table(), *tables])


@dataclass(frozen=True, eq=False)
class TaggedFeatures:
    """Tag ids of F features, in the table's order."""

    offsets: NDArray[np.int64]  # [F+1] into ids
    ids: NDArray[np.int64]  # [T] tag ids, sorted and distinct within a feature
    paint: NDArray[np.uint8]  # [F] pixel value of the class raster
    vocabulary: pa.Table  # schemas.features.VOCABULARY, sorted by text


def tag_features(tags: pa.ChunkedArray | pa.Array, rules: Rules, min_count: int) -> TaggedFeatures:
    """Tag ids, paint class and vocabulary of one whole FEATURES ``tags`` column."""
    local = read_tags(tags, rules)
    counted = Counted()
    counted.add(local)
    vocabulary = Vocabulary(counted, min_count, 1)
    vocabulary.add(local)
    offsets, ids = name_tags(local.offsets, local.index, id_pairs(vocabulary, local.texts))
    return TaggedFeatures(offsets, ids, local.paint, vocabulary.table())
