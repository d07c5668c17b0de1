"""Whether samples are right: members, documents, images, tokens and photos of one shard, held against the catalog."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from pipeline.alignment import lonlat_to_normalised, place
from pipeline.formats.members import decode_array, decode_picture
from schemas.errors import CorruptSampleError, DatasetError
from schemas.footprint import Footprints
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, SampleMeta, is_image, sample_hash, valid_member
from schemas.tokens import OsmTokens
from storage.dataset import read_members
from storage.store import Store

#: How far the place of a photo may be from where its coordinates lie: they are rounded to 1e-9 of a degree, it to 1e-9.
_METRES, _ROUNDED = 2e-4, 2e-9


@dataclass(frozen=True, order=True)
class Problem:
    """Something wrong."""

    file: str  # in the dataset
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class ShardCheck:
    """Checks samples of one shard. Picklable: the workers' function."""

    store: Store
    vocabulary: NDArray[np.int64] | None  # tag ids, rising; None: not known
    margin: float  # metres, within which photos may lie beside a footprint
    whole: bool  # every sample of each shard is checked

    def __call__(self, job: tuple[str, pa.Table, pa.Table | None]) -> list[Problem]:
        """Args: name of a shard, rows of its samples, and of its photos; None: not known."""
        name, rows = job[0], job[1].to_pylist()
        of_photos: dict[str, list[dict[str, Any]]] = {}
        for photo in [] if job[2] is None else job[2].to_pylist():
            of_photos.setdefault(photo["key"], []).append(photo)
        photos = [None if job[2] is None else of_photos.get(row["key"], []) for row in rows]
        file = f"shards/{name}"
        try:
            members = read_members(self.store, name, rows, self.whole)
        except DatasetError as error:
            return [Problem(file, short(error))]
        found: list[Problem] = []
        metas: list[tuple[dict[str, Any], SampleMeta]] = []
        for row, own, taken in zip(rows, members, photos, strict=True):
            if isinstance(own, DatasetError):
                found.append(Problem(file, short(own)))
                continue
            try:
                metas.append((row, _check_sample(row, own, taken)))
            except Exception as error:  # noqa: BLE001  # whatever a decoder raises
                found.append(Problem(file, f"{row['key']}: {short(error)}"))
        held = [(row, own) for row, own in zip(rows, members, strict=True) if not isinstance(own, DatasetError)]
        found += [Problem(file, f"{key}: {what}") for key, what in self._token_problems(held)]
        return found + [Problem(file, f"{key}: {what}") for key, what in _place_problems(metas, self.margin)]

    def _token_problems(self, held: Sequence[tuple[dict[str, Any], dict[str, bytes]]]) -> Iterator[tuple[str, str]]:
        """Laws of the tokens, of all samples at once, and tags that the vocabulary lacks."""
        rows = [row for row, own in held if OSM_TOKENS in own]
        tokens = OsmTokens.from_buffers([own[OSM_TOKENS] for _, own in held if OSM_TOKENS in own])
        for row, one in zip(rows, tokens, strict=True):
            if isinstance(one, CorruptSampleError):
                yield row["key"], short(one)
                continue
            for name in ("tag_ids", "region_tag_id"):
                ids = getattr(one, name)
                if self.vocabulary is not None and len(ids) and not np.isin(ids, self.vocabulary, kind="sort").all():
                    yield row["key"], f"{name} holds a tag that catalog/vocabulary lacks"
            counts = dict(zip(("n_point", "n_line", "n_polygon"), one.counts(), strict=True))
            for name, count in (counts | {"n_edges": len(one.relation)}).items():
                if row[name] != count:
                    yield row["key"], f"{name} is {count}, {row[name]} in catalog/samples"


def short(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _check_sample(
    row: Mapping[str, Any], members: Mapping[str, bytes], photos: Sequence[Mapping[str, Any]] | None
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
    if photos is not None:
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
            missing = 1.0 - float(np.asarray(decode_picture(members[plane], plane), bool).mean())
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
        bands, height, width = decode_array(data, name).shape
        return width, height, bands
    if name.endswith(".jpg"):
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        # An eighth of the side: all that can be wrong with its bytes is told on the way there.
        simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1)
        return width, height, 3
    image = decode_picture(data, name)
    return *image.size, len(image.getbands())


def _place_problems(metas: Sequence[tuple[Mapping[str, Any], SampleMeta]], margin: float) -> Iterator[tuple[str, str]]:
    """Photos that do not lie where their coordinates say, or outside; footprints that lie elsewhere than they say."""
    if not metas:
        return
    footprints = Footprints.of([meta.footprint for _, meta in metas])
    try:
        placement = place(footprints)
    except Exception as error:  # noqa: BLE001  # whatever PROJ makes of a CRS
        if len(metas) == 1:
            yield metas[0][0]["key"], f"its footprint has no place: {short(error)}"
        for one in metas if len(metas) > 1 else ():
            yield from _place_problems([one], margin)
        return
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
