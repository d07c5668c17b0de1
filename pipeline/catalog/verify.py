"""Whether a dataset is what was written, and whether what was written is right: each law of its parts, checked.

Hashes say that no byte has changed; the rest is what no hash knows: that the tables are those of the samples, that
tokens keep their laws and have tags of the vocabulary, that photos lie where their footprints are, that splits are
those of the settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.catalog.content import Problem, ShardCheck, short
from pipeline.catalog.describe import dataset_document, fingerprint_of
from pipeline.run.ray_map import Runner
from schemas.catalog import COUNTS, TABLES, catalog_file
from schemas.config import build
from schemas.errors import DatasetError, GeoshardsError
from schemas.index import IndexPart, index_file, key_hashes
from schemas.splits import SplitConfig, assign_splits
from storage.dataset import load_dataset, unfinished
from storage.manifest import MANIFEST, digests, read_manifest
from storage.progress import Progress
from storage.store import Store

_IDENTITY = ("config", "sources", "footprints", "versions")
#: Identity of a dataset that `dataset_document` does not work out.
_GIVEN = (*_IDENTITY, "fingerprint")
#: Tables that have a file for each group of shards; of the others there is one file.
_GROUPED = ("samples", "shards", "streetview", "drops")
#: Samples that one process checks in about the time that Ray takes to start.
_SMALL = 10_000
#: Rows that one sentence is said of, of each kind in each file.
_NAMED = 20


def find_problems(
    root: str, fast: bool = False, share: float = 1.0, workers: int = 1, quiet: bool = True
) -> list[Problem]:
    """What is wrong with a dataset; empty if all is well.

    Args:
        root: directory or URL.
        fast: hashes alone.
        share: of the samples that are checked, 0 < share <= 1, the same ones each time; below 1 shards are not hashed
            whole, and of those samples alone the bytes are read.
        workers: processes.
        quiet: no progress.

    Raises:
        DatasetError: ``root`` is no dataset.
    """
    store = Store(root)
    if not store.exists("dataset.json") and not store.exists(MANIFEST):
        load_dataset(store)  # says what it is not, before a whole disk is listed
    before = _version(store)
    found = _file_problems(store, store.walk(), share, quiet)
    problems = sorted(
        {*found, *(() if fast else _content_problems(store, share, workers, quiet, {p.file for p in found}))}
    )
    if problems and (what := _changing(store, before)):  # what was read is of no one moment
        raise DatasetError(what)
    return problems


def _version(store: Store) -> bytes:
    return store.read("dataset.json") if store.exists("dataset.json") else b""


def _changing(store: Store, before: bytes) -> str | None:
    """That somebody writes, or has written, while a dataset was read."""
    if (what := unfinished(store)) is not None:
        return what
    if store.exists(".lock"):
        return (
            f"{store.root} is being written, or that was stopped ({store.path('.lock')}); verify it again after that, "
            "or after the same run again"
        )
    return f"{store.root} has changed while it was read; verify it again" if _version(store) != before else None


def _file_problems(store: Store, names: Sequence[str], share: float, quiet: bool) -> list[Problem]:
    """Files that are missing, too many, damaged, or stand in each other's place."""
    try:
        listed = read_manifest(store)
    except DatasetError as error:
        name, _, what = str(error).partition(": ")
        return [Problem(MANIFEST, what if name == MANIFEST else "missing")]
    there = set(names) - {MANIFEST}
    found = [Problem(name, "missing") for name in sorted(listed.keys() - there)]
    found += [Problem(name, f"not in {MANIFEST}") for name in sorted(there - listed.keys())]
    whole = [n for n in sorted(there & listed.keys()) if share == 1 or not n.startswith("shards/")]
    with Progress("hashes", len(whole), "files", quiet) as progress:
        read = digests(store, whole, lambda done: progress.update(done, len(whole)))
    owner = {digest: name for name, digest in listed.items()}
    for name in whole:
        if read[name] != listed[name]:
            of = owner.get(read[name] or "")
            found.append(Problem(name, f"holds what {of} should" if of else "its content is not what was written"))
    return found


@dataclass
class _Catalog:
    """The tables of a dataset, a group of shards at a time: what no hash of a file knows."""

    store: Store
    known: Collection[str]  # files of which hashes say that they are not right
    found: list[Problem] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)  # of the keys, group by group
    shards: list[int] = field(default_factory=list)  # their numbers

    def doubtful(self, file: str) -> bool:
        """Whether a file is missing or damaged: nothing can be held against it."""
        return file in self.known or any(problem.file == file for problem in self.found)

    def groups(self) -> list[int]:
        """Those of which there is a file."""
        names = {n for table in _GROUPED for n in self.store.names(f"catalog/{table}") if n.endswith(".parquet")}
        numbers = [n.removeprefix("part-").removesuffix(".parquet") for n in names]
        return sorted({int(n) for n in numbers if n.isdecimal()})

    def table(self, name: str, group: int, there: set[str]) -> pa.Table:
        """One file, empty where it is missing or damaged, which is noted."""
        file, schema = catalog_file(name, group), TABLES[name]
        if file not in there:
            return schema.empty_table()
        try:
            table = self.store.read_table(file)
        except DatasetError:
            self.found.append(Problem(file, "cannot be read as Parquet"))
            return schema.empty_table()
        if not table.schema.equals(schema):
            self.found.append(Problem(file, f"its columns are not those of {name}"))
            return schema.empty_table()
        return table.combine_chunks()


def _content_problems(
    store: Store, share: float, workers: int, quiet: bool, known: Collection[str]
) -> Iterator[Problem]:
    """What no hash of a file knows. What is damaged makes no other file wrong: a repair would build that again too."""
    catalog = _Catalog(store, known)
    there = {f"catalog/{t}/{n}" for t in TABLES for n in store.names(f"catalog/{t}")}
    alone = {name: catalog.table(name, 0, there) for name in TABLES.keys() - set(_GROUPED)}
    try:
        document = load_dataset(store)
    except DatasetError as error:
        yield Problem("dataset.json", str(error).partition("dataset.json ")[2] or str(error))
        document = {}
    split, margin = _setting(document, "split"), _setting(document, "sv", "margin")
    tags = np.sort(alone["vocabulary"]["tag_id"].to_numpy())
    if (tags[1:] == tags[:-1]).any():
        yield Problem("catalog/vocabulary", "a tag stands there twice")
    known_tags = None if catalog.doubtful(catalog_file("vocabulary", 0)) else tags
    check = ShardCheck(store, known_tags, float(margin) if isinstance(margin, (int, float)) else 0.0, share == 1)
    groups = catalog.groups()
    total = _rows(store, there)
    with Runner(workers) as runner, Progress("samples", total, "samples", quiet) as progress:
        for group in groups:
            samples, shards, photos, drops = (catalog.table(name, group, there) for name in _GROUPED)
            file = catalog_file("samples", group)
            catalog.shards += shards["index"].to_pylist()
            if catalog.doubtful(file):
                catalog.hashes.append(np.zeros(0, np.uint64))
                continue
            if not any(catalog.doubtful(catalog_file(name, group)) for name in _GROUPED):
                yield from _guarded("catalog", _group_problems(group, samples, shards, photos, drops.num_rows))
            yield from _guarded(file, _split_problems(file, samples, split))
            hashes = _hashes(samples)
            yield from _guarded(index_file(group), _index_problems(store, group, samples, file in there))
            catalog.hashes.append(hashes)
            drawn = samples if share == 1 else samples.filter(pa.array(hashes < share * 2**64))
            jobs = _jobs(drawn, None if catalog.doubtful(catalog_file("streetview", group)) else photos)
            for index, found, _ in runner.map(check, jobs, small=total < _SMALL):
                yield from found
                progress.advance(jobs[index][1].num_rows)
    whole = not any(catalog.doubtful(catalog_file("shards", group)) for group in groups)
    if whole and sorted(n for n in catalog.shards if n is not None) != list(range(len(catalog.shards))):
        yield Problem("catalog/shards", "its numbers are not 0, 1, 2 …")
    yield from _guarded("catalog/samples", _twice(catalog, groups, there))
    held = {index_file(group) for group in groups if catalog_file("samples", group) in there}
    for name in store.names("catalog/index"):
        if f"catalog/index/{name}" not in held and not catalog.doubtful(
            f"catalog/samples/{name.partition('.')[0]}.parquet"
        ):
            yield Problem(f"catalog/index/{name}", "without its samples")
    yield from dict.fromkeys(catalog.found)
    if document and not catalog.found and not any(name.startswith("catalog/") for name in known):
        yield from _guarded("dataset.json", _document_problems(store, document))


def _guarded(file: str, found: Iterator[Problem]) -> Iterator[Problem]:
    """What is found, and one more where values are such that nothing can be said of them."""
    try:
        yield from found
    except Exception as error:  # noqa: BLE001  # whatever a damaged table or document makes of itself
        yield Problem(file, f"cannot be checked: {short(error)}")


def _setting(document: Any, *path: str) -> Any:
    """A setting of dataset.json; None where it has none of that name."""
    value = document.get("config")
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _rows(store: Store, there: set[str]) -> int:
    """Samples that the catalog has, as far as its files say."""
    total = 0
    for file in sorted(n for n in there if n.startswith("catalog/samples/") and n.endswith(".parquet")):
        with suppress(pa.ArrowException, OSError, GeoshardsError):
            total += store.parquet(file).metadata.num_rows
    return total


def _named(file: str, what: Iterable[str], count: int) -> Iterator[Problem]:
    """The first problems of a kind, and how many more there are."""
    yield from (Problem(file, text) for text in islice(what, _NAMED))
    if count > _NAMED:
        yield Problem(file, f"{count - _NAMED:,} more like it")


def _hashes(samples: pa.Table) -> NDArray[np.uint64]:
    return key_hashes(key or "" for key in samples["key"].to_pylist())


def _jobs(samples: pa.Table, photos: pa.Table | None) -> list[tuple[str, pa.Table, pa.Table | None]]:
    """Name of each shard, its rows of samples and of photos, each compact: workers get no more than their own."""
    names = samples["shard"]
    order = pc.sort_indices(names)
    shards, counts = np.unique(names.to_numpy(zero_copy_only=False).astype(str), return_counts=True)
    ends = np.cumsum(counts).tolist()
    rows = [samples.take(order[end - n : end]) for n, end in zip(counts.tolist(), ends, strict=True)]
    if photos is None:
        return [(str(name), own, None) for name, own in zip(shards, rows, strict=True)]
    of_photos = photos["shard"]
    photo_order = pc.sort_indices(of_photos).to_numpy()
    photo_names = of_photos.to_numpy(zero_copy_only=False).astype(str)[photo_order]
    lows, highs = (np.searchsorted(photo_names, shards, side) for side in ("left", "right"))
    return [
        (str(name), own, photos.take(pa.array(photo_order[low:high])))
        for name, own, low, high in zip(shards, rows, lows, highs, strict=True)
    ]


def _document_problems(store: Store, document: Mapping[str, Any]) -> Iterator[Problem]:
    """What dataset.json says otherwise than the tables do."""
    identity = {name: document[name] for name in _GIVEN if name in document}
    right = dataset_document(store, str(document.get("name", "")), identity)
    if not all(name in document for name in _GIVEN):
        yield Problem("dataset.json", "does not say what the dataset was made from")
    elif fingerprint_of({name: document[name] for name in _IDENTITY}) != document["fingerprint"]:
        yield Problem("dataset.json", "its fingerprint is not that of its settings, sources, footprints and versions")
    for name in sorted(right.keys() | document.keys()):
        if right.get(name) != document.get(name):
            yield Problem("dataset.json", f"{name} is not that of the catalog")


def _group_problems(group: int, samples: pa.Table, shards: pa.Table, photos: pa.Table, drops: int) -> Iterator[Problem]:
    """Tables of one group of shards that disagree."""
    sums = samples.group_by("shard").aggregate([("key", "count"), *((c, "sum") for c in COUNTS)])
    held = {row.pop("shard"): row for row in sums.to_pylist()}
    yield from (
        Problem(f"shards/{n}", "in catalog/samples, but not in catalog/shards")
        for n in held.keys() - set(shards["shard"].to_pylist())
    )
    for shard in shards.to_pylist():
        own = held.get(shard["shard"], {})
        for column, total in {"samples": "key_count", **{c: f"{c}_sum" for c in COUNTS}}.items():
            if shard[column] != (count := own.get(total) or 0):
                yield Problem(
                    f"shards/{shard['shard']}",
                    f"{column} is {count} in catalog/samples, {shard[column]} in catalog/shards",
                )
    taken = photos.group_by("key").aggregate([([], "count_all")])
    place = pc.index_in(samples["key"], value_set=taken["key"])
    count = pc.fill_null(taken["count_all"].take(place), 0)
    wrong = samples.filter(pc.fill_null(pc.not_equal(count, samples["n_streetview"]), True)).select(
        ["key", "n_streetview"]
    )
    file = "catalog/streetview"
    said = (f"{row['key']} has not {row['n_streetview']} photos there" for row in _rows_of(wrong))
    yield from _named(file, said, wrong.num_rows)
    none = taken.filter(pc.invert(pc.is_in(taken["key"], value_set=samples["key"])))
    yield from _named(file, (f"{row['key']} is no sample" for row in _rows_of(none)), none.num_rows)
    told = pc.sum(shards["n_drops"]).as_py() or 0
    if told != drops:
        yield Problem(catalog_file("drops", group), f"{drops} rows, {told} in catalog/shards")


def _rows_of(table: pa.Table) -> list[dict[str, Any]]:
    return list(table.slice(0, _NAMED).to_pylist())


def _index_problems(store: Store, group: int, samples: pa.Table, there: bool) -> Iterator[Problem]:
    """An index file that is not that of the samples beside it."""
    file = index_file(group)
    try:
        right = IndexPart.of(samples).to_bytes() if there else None
    except (GeoshardsError, KeyError, TypeError, pa.ArrowException):
        return  # the table itself is a problem
    if right is None:
        return
    if not store.exists(file):
        yield Problem(file, "missing")
    elif store.read(file) != right:
        yield Problem(file, f"not that of {catalog_file('samples', group)}")


def _split_problems(file: str, samples: pa.Table, config: Any) -> Iterator[Problem]:
    """Samples whose split, the buffer among them, is not that of the settings."""
    if config is None or not samples.num_rows:
        return
    boxes = samples["bbox"].combine_chunks()
    sides = np.stack([boxes.field(s).to_numpy(zero_copy_only=False) for s in ("xmin", "ymin", "xmax", "ymax")], 1)
    right = pa.array(assign_splits(sides, build(SplitConfig, config)), pa.string())
    wrong = samples["key"].filter(pc.fill_null(pc.not_equal(samples["split"], right), True))
    if len(wrong):
        yield Problem(file, f"the split of {len(wrong):,} samples is not that of the settings: {wrong[0]}, say")


def _twice(catalog: _Catalog, groups: Sequence[int], there: set[str]) -> Iterator[Problem]:
    """Keys that stand in the tables more than once: told by their hashes, then looked up."""
    hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *catalog.hashes]))
    again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(again):
        return
    counts = Counter[str]()
    for group, own in zip(groups, catalog.hashes, strict=True):
        rows = np.flatnonzero(np.isin(own, again))
        if len(rows):
            counts.update(catalog.table("samples", group, there)["key"].take(pa.array(rows)).to_pylist())
    wrong = {key: n for key, n in counts.items() if n > 1}
    yield from _named("catalog/samples", (f"{key} stands there {n} times" for key, n in wrong.items()), len(wrong))
