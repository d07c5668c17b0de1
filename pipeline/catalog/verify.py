"""Whether a dataset is what was written, and whether what was written is right: each law of its parts, checked.

Hashes say that no byte has changed; the rest is what no hash knows: that the tables are those of the samples, that
tokens keep their laws and have tags of the vocabulary, that photos lie where their footprints are, that splits are
those of the settings.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.alignment import lonlat_to_normalised, place
from pipeline.catalog.describe import dataset_document, fingerprint_of
from pipeline.catalog.statistics import by_shard
from pipeline.run.ray_map import Runner
from schemas.catalog import SHARDS_PER_FILE, TABLES, catalog_file
from schemas.config import build
from schemas.errors import CorruptSampleError, DatasetError, GeoshardsError
from schemas.footprint import Footprints
from schemas.index import IndexPart, index_file
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, SampleMeta, is_image, sample_hash, valid_member
from schemas.splits import SplitConfig, assign_split
from schemas.tokens import OsmTokens
from storage.dataset import load_dataset, read_members
from storage.manifest import MANIFEST, digests, read_manifest
from storage.progress import Progress
from storage.store import Store

_IDENTITY = ("config", "sources", "footprints", "versions")
#: Identity of a dataset that `dataset_document` does not work out.
_GIVEN = (*_IDENTITY, "fingerprint")
_COUNTED = ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")
_FLOATS = ("patch_cover", "region_area", "region_length")
#: Samples that one process checks in about the time that Ray takes to start.
_SMALL = 10_000
#: How far the place of a photo may be from where its coordinates lie: they are rounded to 1e-9 of a degree, it to 1e-9.
_METRES, _ROUNDED = 2e-4, 2e-9


@dataclass(frozen=True, order=True)
class Problem:
    """Something wrong."""

    file: str  # in the dataset
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


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
    found = _file_problems(store, store.walk(), share, quiet)
    return sorted({*found, *(() if fast else _content_problems(store, share, workers, quiet))})


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


@dataclass(frozen=True)
class _Tables:
    """The catalog, as far as it can be read."""

    tables: dict[str, pa.Table]
    rows: dict[str, int]  # of each file
    problems: list[Problem]

    @classmethod
    def read(cls, store: Store) -> _Tables:
        tables, rows, problems = {}, dict[str, int](), list[Problem]()
        for name, schema in TABLES.items():
            parts = []
            for file in (f"catalog/{name}/{n}" for n in store.names(f"catalog/{name}") if n.endswith(".parquet")):
                try:
                    part = store.read_table(file)
                except DatasetError:
                    problems.append(Problem(file, "cannot be read as Parquet"))
                    continue
                if part.schema.equals(schema):
                    parts.append(part)
                    rows[file] = part.num_rows
                else:
                    problems.append(Problem(file, f"its columns are not those of {name}"))
            tables[name] = pa.concat_tables([schema.empty_table(), *parts])
        return cls(tables, rows, problems)

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return list(self.tables["samples"].to_pylist())

    @cached_property
    def shards(self) -> dict[str, dict[str, Any]]:
        return {row["shard"]: row for row in self.tables["shards"].sort_by("index").to_pylist()}


def _content_problems(store: Store, share: float, workers: int, quiet: bool) -> Iterator[Problem]:
    """What no hash of a file knows."""
    catalog = _Tables.read(store)
    yield from catalog.problems
    try:
        document = load_dataset(store)
    except DatasetError as error:
        yield Problem("dataset.json", str(error).partition("dataset.json ")[2] or str(error))
        document = {}
    if not catalog.problems and document:
        yield from _guarded("dataset.json", _document_problems(store, document))
    yield from _guarded("catalog", _catalog_problems(catalog))
    yield from _guarded("catalog/index", _index_problems(store))
    yield from _guarded("catalog/samples", _split_problems(catalog.samples, document.get("config", {}).get("split")))
    rows = [r for r in catalog.samples if share == 1 or _drawn(r["key"], share)]
    photos: dict[str, list[dict[str, Any]]] = {}
    for photo in catalog.tables["streetview"].to_pylist():
        photos.setdefault(photo["key"], []).append(photo)
    vocabulary = np.sort(catalog.tables["vocabulary"]["tag_id"].to_numpy())
    margin = float(document.get("config", {}).get("sv", {}).get("margin", 0.0) or 0.0)
    check = ShardCheck(store, vocabulary, margin, share == 1)
    jobs = [(name, own, [photos.get(r["key"], []) for r in own]) for name, own in sorted(by_shard(rows).items())]
    with Runner(workers) as runner, Progress("samples", len(rows), "samples", quiet) as progress:
        for index, found, _ in runner.map(check, jobs, small=len(rows) < _SMALL):
            yield from found
            progress.advance(len(jobs[index][1]))


def _guarded(file: str, found: Iterator[Problem]) -> Iterator[Problem]:
    """What is found, and one more where values are such that nothing can be said of them."""
    try:
        yield from found
    except Exception as error:  # noqa: BLE001  # whatever a damaged table or document makes of itself
        yield Problem(file, f"cannot be checked: {_short(error)}")


def _drawn(key: str, share: float) -> bool:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") < share * 2**64


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


def _catalog_problems(catalog: _Tables) -> Iterator[Problem]:
    """Tables that disagree."""
    samples, shards = catalog.samples, catalog.shards
    keys = Counter(row["key"] for row in samples)
    yield from (Problem("catalog/samples", f"{key} stands there {n} times") for key, n in keys.items() if n > 1)
    held = by_shard(samples)
    yield from (Problem(f"shards/{n}", "in catalog/samples, but not in catalog/shards") for n in held.keys() - shards)
    photos = catalog.tables["streetview"]
    for name, shard in shards.items():
        own = held.get(name, [])
        for column, count in {"samples": len(own), **{c: sum(r[c] for r in own) for c in _COUNTED}}.items():
            if shard[column] != count:
                yield Problem(
                    f"shards/{name}", f"{column} is {count} in catalog/samples, {shard[column]} in catalog/shards"
                )
    indices = [row["index"] for row in shards.values()]
    if indices != list(range(len(indices))):
        yield Problem("catalog/shards", "its numbers are not 0, 1, 2 …")
    taken = Counter(photos["key"].to_pylist())
    for row in samples:
        if taken.pop(row["key"], 0) != row["n_streetview"]:
            yield Problem("catalog/streetview", f"{row['key']} has not {row['n_streetview']} photos there")
    yield from (Problem("catalog/streetview", f"{key} is no sample") for key in taken)
    parts = Counter[str]()
    for row in shards.values():
        parts[catalog_file("drops", row["index"] // SHARDS_PER_FILE)] += row["n_drops"] or 0
    for file, count in parts.items():
        if catalog.rows.get(file, 0) != count:
            yield Problem(file, f"{catalog.rows.get(file, 0)} rows, {count} in catalog/shards")
    ids = catalog.tables["vocabulary"]["tag_id"].to_numpy()
    if len(np.unique(ids)) < len(ids):
        yield Problem("catalog/vocabulary", "a tag stands there twice")


def _index_problems(store: Store) -> Iterator[Problem]:
    """Index files that are not those of the samples beside them."""
    names = [n for n in store.names("catalog/samples") if n.endswith(".parquet")]
    groups = sorted(int(n.removeprefix("part-").removesuffix(".parquet")) for n in names)
    held = set(store.names("catalog/index"))
    for group in groups:
        file = index_file(group)
        try:
            right = IndexPart.of(store.read_table(catalog_file("samples", group))).to_bytes()
        except (GeoshardsError, KeyError, pa.ArrowException):
            continue  # the table itself is a problem
        if file.rsplit("/", 1)[-1] not in held:
            yield Problem(file, "missing")
        elif store.read(file) != right:
            yield Problem(file, f"not that of {catalog_file('samples', group)}")
    for name in sorted(held - {index_file(group).rsplit("/", 1)[-1] for group in groups}):
        yield Problem(f"catalog/index/{name}", "without its samples")


def _split_problems(samples: Sequence[Mapping[str, Any]], config: Any) -> Iterator[Problem]:
    """Samples whose split, the buffer among them, is not that of the settings."""
    if config is None:
        return
    rule = build(SplitConfig, config)
    wrong = [r["key"] for r in samples if r["split"] != assign_split(tuple(r["bbox"].values()), rule)]
    if wrong:
        yield Problem(
            "catalog/samples", f"the split of {len(wrong):,} samples is not that of the settings: {wrong[0]}, say"
        )


@dataclass(frozen=True)
class ShardCheck:
    """Checks samples of one shard. Picklable: the workers' function."""

    store: Store
    vocabulary: NDArray[np.int64]  # tag ids, rising
    margin: float  # metres, within which photos may lie beside a footprint
    whole: bool  # every sample of each shard is checked

    def __call__(self, job: tuple[str, list[dict[str, Any]], list[list[dict[str, Any]]]]) -> list[Problem]:
        """Args: name of a shard, rows of its samples, and of the photos of each."""
        name, rows, photos = job
        file = f"shards/{name}"
        try:
            members = read_members(self.store, name, rows, self.whole)
        except DatasetError as error:
            return [Problem(file, _short(error))]
        found: list[Problem] = []
        metas: list[tuple[dict[str, Any], SampleMeta]] = []
        for row, own, taken in zip(rows, members, photos, strict=True):
            if isinstance(own, DatasetError):
                found.append(Problem(file, _short(own)))
                continue
            try:
                metas.append((row, _check_sample(row, own, taken)))
            except Exception as error:  # noqa: BLE001  # whatever a decoder raises
                found.append(Problem(file, f"{row['key']}: {_short(error)}"))
        held = [(row, own) for row, own in zip(rows, members, strict=True) if not isinstance(own, DatasetError)]
        found += [Problem(file, f"{key}: {what}") for key, what in self._token_problems(held)]
        return found + [Problem(file, f"{key}: {what}") for key, what in _place_problems(metas, self.margin)]

    def _token_problems(self, held: Sequence[tuple[dict[str, Any], dict[str, bytes]]]) -> Iterator[tuple[str, str]]:
        """Laws of the tokens, of all samples at once, and tags that the vocabulary lacks."""
        rows = [row for row, own in held if OSM_TOKENS in own]
        tokens = OsmTokens.from_buffers([own[OSM_TOKENS] for _, own in held if OSM_TOKENS in own])
        for row, one in zip(rows, tokens, strict=True):
            if isinstance(one, CorruptSampleError):
                yield row["key"], _short(one)
                continue
            for name in ("tag_ids", "region_tag_id"):
                ids = getattr(one, name)
                if len(ids) and not np.isin(ids, self.vocabulary, kind="sort").all():
                    yield row["key"], f"{name} holds a tag that catalog/vocabulary lacks"
            counts = dict(zip(("n_point", "n_line", "n_polygon"), one.counts(), strict=True))
            for name, count in (counts | {"n_edges": len(one.relation)}).items():
                if row[name] != count:
                    yield row["key"], f"{name} is {count}, {row[name]} in catalog/samples"
            if not all(np.isfinite(getattr(one, n)).all() for n in _FLOATS):
                yield row["key"], "a number of its tokens is not finite"


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _check_sample(
    row: Mapping[str, Any], members: Mapping[str, bytes], photos: Sequence[Mapping[str, Any]]
) -> SampleMeta:
    """Its JSON document, checked against its row and its members.

    Raises:
        Exception: something is wrong with it.
    """
    if sample_hash(members) != row["sha256"]:
        raise DatasetError("it is not what was written")
    for member in row["members"]:
        _expect(f"CRC-32 of {member['name']}", crc32(members[member["name"]]), member["crc32"])
    meta = SampleMeta.from_bytes(members[JSON])
    _expect("key", meta.footprint.key, row["key"])
    for name in ("lon", "lat"):
        _expect(name, getattr(meta, name), row[name])
    _expect("gsd", meta.gsd, (row["gsd_x"], row["gsd_y"]))
    _expect("bbox", meta.bbox, tuple(row["bbox"].values()))
    _expect("n_rs", len(meta.rs), row["n_rs"])
    _expect("rs_time", meta.rs[0].acquired if meta.rs else None, row["rs_time"])
    named = {info.member for info in meta.rs} | {info.member for info in meta.streetview}
    held = {name for name in members if is_image(name) or name.startswith("sv.")}
    if named != held:
        raise DatasetError(f"its document names other images than it has: {', '.join(sorted(named ^ held))}")
    for info in meta.streetview:
        rows = [p for p in photos if p["member"] == info.member]
        if len(rows) != 1 or any(getattr(info, c) != rows[0][c] for c in rows[0] if c not in ("key", "shard")):
            raise DatasetError(f"{info.member} is another photo in catalog/streetview")
    size = meta.footprint.width, meta.footprint.height
    for image in meta.rs:
        shape = _shape(image.member, members[image.member])
        if image.member.endswith(".npy"):
            _expect(f"{image.member}: bands", shape[2], len(image.bands))
        _expect(f"{image.member}: size", shape[:2], size)
        plane = valid_member(image.member)
        if (plane in members) != (image.nodata_share > 0):
            raise DatasetError(f"{plane} and nodata_share {image.nodata_share:g} do not agree")
        if plane in members:
            missing = 1.0 - float(np.asarray(Image.open(io.BytesIO(members[plane])), bool).mean())
            if not math.isclose(missing, image.nodata_share, abs_tol=1e-6):
                raise DatasetError(f"{plane} leaves {missing:.6f} without data, its document {image.nodata_share:.6f}")
    for name in (OSM_RASTER, *(i.member for i in meta.streetview)):
        if name in members:
            shape = _shape(name, members[name])
            if name == OSM_RASTER:
                _expect(f"{name}: size", shape[:2], size)
    return meta


def _expect(what: str, found: Any, row: Any) -> None:
    if found != row:
        raise DatasetError(f"{what} is {found} in the sample, {row} in the catalog")


def _shape(name: str, data: bytes) -> tuple[int, int, int]:
    """Width, height and channels of an image, decoded."""
    if name.endswith(".npy"):
        array = np.load(io.BytesIO(data), allow_pickle=False)
        bands, height, width = array.shape
        return width, height, bands
    if name.endswith(".jpg"):
        height, width, _ = simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True).shape  # colours take longer
        return width, height, 3
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return *image.size, len(image.getbands())


def _place_problems(metas: Sequence[tuple[Mapping[str, Any], SampleMeta]], margin: float) -> Iterator[tuple[str, str]]:
    """Photos that do not lie where their coordinates say, or outside; footprints that lie elsewhere than they say."""
    if not metas:
        return
    footprints = Footprints.of([meta.footprint for _, meta in metas])
    placement = place(footprints)
    moved = np.abs(placement.centre - [(m.lon, m.lat) for _, m in metas]).max(axis=1) > 2e-9
    yield from (
        (row["key"], "its centre is not that of its footprint")
        for (row, _), bad in zip(metas, moved, strict=True)
        if bad
    )
    photos = [(i, row["key"], info) for i, (row, meta) in enumerate(metas) for info in meta.streetview]
    if not photos:
        return
    rows = np.array([i for i, _, _ in photos])
    at = lonlat_to_normalised(footprints, rows, np.array([(p.lon, p.lat) for _, _, p in photos]))
    said = np.array([(p.x, p.y) for _, _, p in photos])
    side = (placement.gsd * footprints.size)[rows]
    shift, room = _METRES / side + _ROUNDED, margin / side
    around = placement.bbox[rows, 0] > placement.bbox[rows, 2]  # across 180°: once around the world, say
    wrong = (np.abs(at - said) > shift).any(axis=1) & ~around
    outside = ((said < -room - shift) | (said >= 1.0 + room + shift)).any(axis=1)
    for (_, key, info), bad, out in zip(photos, wrong, outside, strict=True):
        if bad:
            yield key, f"{info.member} does not lie at {info.x:g}, {info.y:g}"
        elif out:
            yield key, f"{info.member} lies outside, at {info.x:g}, {info.y:g}"
