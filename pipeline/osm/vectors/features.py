"""From vector files to features with tag ids, for the chips of one shard at a time: read, count, name.

What a shard's vector files hold lies in the cache, named by the hash of those files; their tags are indices of the
part's own texts until all parts are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, ranges
from pipeline.osm.cells.hashes import combine, list_hash, shape_hash
from pipeline.osm.features import FeatureBatch
from pipeline.osm.vectors.objects import ChipObjects, read_objects
from pipeline.osm.vocabulary import Counted, LocalTags, Vocabulary, id_pairs, list_arrays, name_tags, read_tags
from pipeline.rules import Rules
from schemas.errors import InputError
from schemas.features import FEATURES, drop_row
from storage.entries import find_entry, have_entry
from storage.store import Store

Ints = NDArray[np.int64]

_OBJECTS = "objects.parquet"
_TAGS = FEATURES.field("tags").type
#: Objects of a part: sorted by chip, kind, type and id.
_PART = pa.schema(
    [
        ("chip", pa.int32()),  # position in the part
        ("osm_type", pa.uint8()),
        ("osm_id", pa.int64()),
        ("kind", pa.uint8()),
        ("texts", pa.list_(pa.int32())),  # into the part's texts
        ("geometry", pa.binary()),  # WKB, lon lat in degrees
        ("paint", pa.uint16()),
    ]
)


@dataclass(frozen=True)
class PartJob:
    """The vector files of one shard's chips."""

    index: int
    folder: Path  # of the chips
    cache: Path
    chips: list[tuple[str, list[str], str]]  # key, vector files, hash of their content
    rules: Rules
    code: str  # fingerprint of what reads them

    @property
    def name(self) -> str:
        """Name of its entry in the cache."""
        parts = [self.code, self.rules.fingerprint, *(f"{k} {' '.join(v)} {h}" for k, v, h in self.chips)]
        return f"chips-{sha256(chr(10).join(parts).encode()).hexdigest()[:20]}"


@dataclass(frozen=True)
class PartResult:
    """What the driver is told."""

    drops: int
    cached: bool


def read_part(job: PartJob) -> PartResult:
    """Read the vector files of one part into the cache."""
    about, cached = have_entry(job.cache / job.name, partial(_write_part, job))
    return PartResult(sum(r["count"] for r in about["drops"]), cached)


def _write_part(job: PartJob, folder: Path) -> dict[str, Any]:
    drops: list[dict[str, Any]] = []
    found: list[tuple[int, ChipObjects]] = []
    unreadable: list[int] = []
    for i, (key, paths, _) in enumerate(job.chips):
        try:
            objects = read_objects(job.folder, paths)
        except InputError as error:
            unreadable.append(i)
            drops.append(drop_row("chips", paths[0], "unreadable_vectors", key=key, detail=str(error)[:200]))
            continue
        found.append((i, objects))
        drops += [_dropped(path, reason, key, n) for (path, reason), n in sorted(objects.dropped.items())]
    table, local = _part_table(found, job.rules)
    table, local, left_out = _clean(table, local)
    for (chip, reason), count in sorted(left_out.items()):
        key, paths, _ = job.chips[chip]
        drops.append(_dropped(",".join(paths)[:200], reason, key, count))
    Store(folder).write_table(_OBJECTS, table)
    cleaned = [[*what, n] for what, n in sorted(local.cleaned.items())]
    return {
        "texts": local.texts, "cleaned": cleaned, "drops": drops, "objects": table.num_rows, "unreadable": unreadable,
    }  # fmt: skip


def _dropped(path: str, reason: str, key: str, count: int) -> dict[str, Any]:
    detail = "kept, made valid" if reason == "geometry_repaired" else ""
    return drop_row("features", path, reason, key=key, detail=detail, count=count)


def _part_table(found: list[tuple[int, ChipObjects]], rules: Rules) -> tuple[pa.Table, LocalTags]:
    """All objects of a part, tags still as indices."""
    tags = pa.array([list(t.items()) for _, objects in found for t in objects.tags], _TAGS)
    local = read_tags(tags, rules)
    geometry = np.concatenate([np.zeros(0, object), *(objects.geometry for _, objects in found)])

    def column(name: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(objects, name) for _, objects in found)])

    columns = [
        pa.array(np.repeat([i for i, _ in found], [len(o.kind) for _, o in found]).astype(np.int32)),
        pa.array(column("osm_type", np.uint8)), pa.array(column("osm_id", np.int64)),
        pa.array(column("kind", np.uint8)), _lists(local.offsets, local.index),
        pa.array(shapely.to_wkb(geometry), pa.binary()), pa.array(local.paint),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=_PART), local


def _lists(offsets: Ints, values: Ints) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int32()))


def _clean(table: pa.Table, local: LocalTags) -> tuple[pa.Table, LocalTags, Counter[tuple[int, str]]]:
    """Without objects that carry no kept key, and without the second of equal shape and tags in one chip."""
    chip = table["chip"].to_numpy()
    bare = np.diff(local.offsets) == 0
    geometry = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    twin = combine(shape_hash(geometry, table["kind"].to_numpy()), list_hash(local.offsets, local.index), chip)
    order = np.lexsort((np.arange(len(twin)), twin))
    repeat = np.zeros(len(twin), bool)
    repeat[order] = ~changes(twin[order])
    repeat &= ~bare
    left_out = Counter((int(c), "no_kept_key") for c in chip[bare])
    left_out.update((int(c), "duplicate") for c in chip[repeat])
    rows = np.flatnonzero(~bare & ~repeat)
    at, offsets = ranges(local.offsets, rows)
    kept = LocalTags(offsets, local.index[at], local.texts, local.paint[rows], local.cleaned)
    return table.take(pa.array(rows)), kept, left_out


@dataclass(frozen=True, eq=False)
class NamedParts:
    """All parts, counted."""

    vocabulary: Vocabulary
    ids: list[Ints]  # by part: (tag id, kept) of its texts, i64[L,2]
    drops: list[dict[str, Any]]  # of reading and of cleaning
    objects: int


def name_parts(jobs: Sequence[PartJob], min_tag_count: int, min_key_count: int) -> NamedParts:
    """The vocabulary of all parts, from their texts and lists alone."""
    counted, objects = Counted(), 0
    drops: list[dict[str, Any]] = []
    for job in jobs:
        document, local = _local_tags(job)
        counted.add(local)
        counted.cleaned.update({(rule, detail): n for rule, detail, n in document["cleaned"]})
        drops += document["drops"]
        objects += document["objects"]
    vocabulary = Vocabulary(counted, min_tag_count, min_key_count)
    ids: list[Ints] = []
    bare = 0
    for job in jobs:
        _, local = _local_tags(job)
        vocabulary.add(local)
        ids.append(id_pairs(vocabulary, local.texts))
        bare += int((np.diff(name_tags(local.offsets, local.index, ids[-1])[0]) == 0).sum())
    if bare:
        detail = "every tag was malformed, or of a rare key"
        drops.append(drop_row("vocabulary", "features", "no_tags_left", detail=detail, count=bare))
    return NamedParts(vocabulary, ids, [*drops, *vocabulary.drops()], objects - bare)


def _local_tags(job: PartJob) -> tuple[dict[str, Any], LocalTags]:
    document = _document(job)
    table = pq.read_table(job.cache / job.name / _OBJECTS, columns=["texts"])
    return document, LocalTags(*list_arrays(table["texts"]), document["texts"], np.zeros(0, np.uint16), Counter())


def _document(job: PartJob) -> dict[str, Any]:
    found = find_entry(job.cache / job.name)
    if found is None:
        raise InputError(f"{job.cache / job.name} was changed while it was in use; run the same again")
    return found


@dataclass(frozen=True, eq=False)
class PartFeatures:
    """Features of a part's chips."""

    chip: Ints  # [F] position in the part; rises
    features: FeatureBatch  # [F] sorted by chip, kind, type, id
    unreadable: frozenset[int]  # chips whose vector files could not be read


def load_part(job: PartJob, ids: Ints) -> PartFeatures:
    """Features of one part with their tag ids; those whose every tag was of a rare key are left out."""
    table = pq.read_table(job.cache / job.name / _OBJECTS).combine_chunks()
    document = _document(job)
    offsets, tag_ids = name_tags(*list_arrays(table["texts"]), ids)
    whole = FeatureBatch(
        table["osm_type"].to_numpy(), table["osm_id"].to_numpy(), table["kind"].to_numpy(), offsets, tag_ids,
        table["paint"].to_numpy(), shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False)),
    )  # fmt: skip
    rows = np.flatnonzero(np.diff(offsets) > 0)
    return PartFeatures(
        table["chip"].to_numpy()[rows].astype(np.int64), whole.take(rows), frozenset(document["unreadable"])
    )
