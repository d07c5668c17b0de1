"""One shard: its planned footprints in, one tar and its index rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment import Placement, place
from pipeline.footprints.chips.image import ChipImage, read_image
from pipeline.imagery.encode import encode, encode_valid
from pipeline.imagery.read import read_images
from pipeline.imagery.scene import TileImage
from pipeline.imagery.sources import licence_of
from pipeline.osm.vectors.features import PartFeatures, load_part
from pipeline.samples.job import ExtractObjects, ShardJob
from pipeline.samples.reuse import adopt, shard_inputs
from pipeline.samples.write import ShardResult, ShardWriter, sample_meta
from pipeline.streetview.members import add_photos
from pipeline.tokens.raster import encode_png
from pipeline.tokens.sheet import FootprintTokens, TokenMaker, extract_tokens, vector_tokens
from schemas.errors import InputError
from schemas.features import drop_row
from schemas.footprint import Footprint
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, Provenance, RsInfo, SampleMeta, rounded, valid_member
from storage.nodes.copies import node_cache

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _OwnImage:
    """A chip's own image."""

    image: ChipImage
    row: dict[str, Any]  # of CHIPS

    @property
    def acquired(self) -> str | None:
        time: str | None = self.row["acquired"]
        return time


Images = Sequence[TileImage | _OwnImage]


@dataclass(frozen=True, eq=False)
class _Objects:
    """OSM objects of a shard's footprints."""

    tokens: list[FootprintTokens]  # [C]
    time: list[str | None]  # [C] of the OSM data, ISO 8601
    outside: Ints  # [C] objects of a chip's own vector files that lie outside of it


def build_shard(job: ShardJob) -> ShardResult:
    """Build and write one shard, or take it over from an earlier version of the dataset.

    Raises:
        Unavailable: a server of images does not answer, now; the next run goes on with this shard.
    """
    inputs = shard_inputs(job)
    if job.previous is not None and (kept := adopt(job, job.previous, inputs)) is not None:
        return kept
    writer = ShardWriter(job.out, job.index, job.config.split, inputs)
    part = None if isinstance(job.objects, ExtractObjects) else load_part(job.objects.part, job.objects.ids)
    lost = frozenset[int]() if part is None else part.unreadable  # named where their vector files were read
    images = _images(job, [i for i in range(job.planned) if i not in lost], writer.drops)
    chosen = np.array(sorted(images), np.int64)
    if len(chosen):
        footprints, placement = [job.footprints[i] for i in chosen.tolist()], place(job.footprints.take(chosen))
        objects = _objects(job, part, chosen, footprints, placement, [images[i] for i in chosen.tolist()])
        for position, i in enumerate(chosen.tolist()):
            _add(job, writer, footprints[position], placement, position, images[i], objects)
    return writer.finish(job.planned)


def _images(job: ShardJob, wanted: list[int], drops: list[dict[str, Any]]) -> dict[int, Images]:
    """Images of the footprints that may be samples, by number; the others are drops."""
    found: dict[int, Images] = {}
    groups: dict[tuple[int, int, int], dict[int, Footprint]] = {}
    for i in wanted:
        footprint = job.footprints[i]
        if job.chips is not None and job.config.chips.image == "own" and footprint.key in job.chips.rows:
            if (own := _own_image(job, job.chips.rows[footprint.key], drops)) is not None:
                found[i] = [own]
        elif job.with_imagery:
            kind = (int(job.footprints.crs_code[i]), footprint.width, footprint.height)
            groups.setdefault(kind, {})[i] = footprint
        else:
            found[i] = []
    cache = node_cache(job.config.cache)
    for members in groups.values():
        images, rows = read_images(job.scenes, members, job.config.rs, job.config.net, cache=cache)
        drops += rows
        found |= images
    return found


def _own_image(job: ShardJob, row: dict[str, Any], drops: list[dict[str, Any]]) -> _OwnImage | None:
    config = job.config.rs
    try:
        image = read_image(job.chips.folder / row["image"], config)  # type: ignore[union-attr]
    except InputError as error:
        drops.append(drop_row("samples", row["image"], "unreadable_image", key=row["key"], detail=str(error)[:200]))
        return None
    if image.nodata_share > config.max_nodata:
        detail = f"{image.nodata_share:.4f} of the pixels, over rs.max_nodata={config.max_nodata}"
        drops.append(drop_row("samples", row["image"], "nodata", key=row["key"], detail=detail))
        return None
    return _OwnImage(image, row)


def _objects(
    job: ShardJob,
    part: PartFeatures | None,
    chosen: Ints,
    footprints: list[Footprint],
    placement: Placement,
    images: list[Images],
) -> _Objects:
    """OSM objects of the chosen footprints."""
    maker = TokenMaker(job.config.tokens, job.paint)
    if isinstance(job.objects, ExtractObjects):
        at = [job.objects.at(own[0].acquired if own else None) for own in images]
        tokens = extract_tokens(maker, footprints, placement, [s.cells for s in at], job.objects.zoom)
        return _Objects(tokens, [s.time for s in at], np.zeros(len(chosen), np.int64))
    assert part is not None
    place_of = np.full(job.planned, -1, np.int64)
    place_of[chosen] = np.arange(len(chosen))
    own = np.flatnonzero(place_of[part.chip] >= 0)
    chip = place_of[part.chip[own]]
    tokens = vector_tokens(maker, footprints, placement, chip, part.features.take(own))
    given = np.bincount(chip, minlength=len(chosen))
    outside = given - np.array([len(t.tokens) for t in tokens], np.int64)
    return _Objects(tokens, [job.objects.time] * len(chosen), outside)


def _add(
    job: ShardJob,
    writer: ShardWriter,
    footprint: Footprint,
    placement: Placement,
    position: int,
    images: Images,
    objects: _Objects,
) -> None:
    """Add the sample of one footprint, unless it has too few objects."""
    osm, outside, chips = objects.tokens[position], int(objects.outside[position]), job.chips
    if outside and chips is not None:
        files = ",".join(chips.rows[footprint.key]["vectors"])[:200]
        writer.drops.append(drop_row("samples", files, "outside_footprint", key=footprint.key, count=outside))
    least = job.config.plan.least_objects(bool(images))
    if len(osm.tokens) < least:
        detail = f"{len(osm.tokens)} objects, under plan.min_objects={least}"
        writer.drops.append(drop_row("samples", "", "too_few_objects", key=footprint.key, detail=detail))
        return
    if osm.broken_coast:
        detail = "a coastline in it stops or contradicts another; its sea is left unpainted"
        writer.drops.append(drop_row("raster", "", "coastline_broken", key=footprint.key, detail=detail))
    members, meta = _members(job, footprint, images, osm, placement, position, writer.drops)
    writer.add(
        members, meta, osm.tokens, placement.corners[position], _licences(job, images, osm), objects.time[position]
    )


def _licences(job: ShardJob, images: Images, osm: FootprintTokens) -> set[str]:
    """Licences of a sample's images and OSM data."""
    named = [job.licences.get("osm")] if len(osm.tokens) else []
    rs, elsewhere = job.config.rs, job.licences.get("rs")
    for image in images:
        if isinstance(image, TileImage):
            named += [licence_of(scene, rs, elsewhere) for scene in image.scenes]
        else:
            named.append(rs.licence or elsewhere)
    return {licence for licence in named if licence}


def _members(
    job: ShardJob,
    footprint: Footprint,
    images: Images,
    osm: FootprintTokens,
    placement: Placement,
    position: int,
    drops: list[dict[str, Any]],
) -> tuple[dict[str, bytes], SampleMeta]:
    """Members of one sample, and its JSON document as an object."""
    members = {OSM_TOKENS: osm.tokens.to_bytes()}
    if osm.raster is not None:
        members[OSM_RASTER] = encode_png(osm.raster, job.paint.palette)
    rs: list[RsInfo] = []
    for number, image in enumerate(images):
        data, info, valid = _rs(job, image, number)
        members[info.member] = data
        if valid is not None:
            members[valid_member(info.member)] = encode_valid(valid)
        rs.append(info)
    photos = job.photos.get(footprint.key, [])
    streetview = add_photos(photos, job.config.sv, rs[0].acquired if rs else None, members, drops)
    meta = sample_meta(
        footprint, placement, position, osm_edited=osm.edited, rs=rs, streetview=streetview,
        provenance=_provenance(job, footprint.key),
    )  # fmt: skip
    members[JSON] = meta.to_bytes()
    return members, meta


def _rs(job: ShardJob, image: TileImage | _OwnImage, number: int) -> tuple[bytes, RsInfo, NDArray[np.bool_] | None]:
    """One image as a member, what the JSON document says of it, and which pixels are data where not all of them are.

    ``number`` is its place among several dates.
    """
    if isinstance(image, _OwnImage):
        row, own = image.row, image.image
        source = row["source"] or row["image"].rsplit("/", 1)[-1]
        info = RsInfo(own.member, row["bands"], row["dtype"], source, image.acquired, rounded(own.nodata_share))
        return own.data, info, own.valid
    config = job.config.rs
    name, data = encode(image.pixels, config, number if config.dates > 1 else None, image.original)
    source = ", ".join(image.sources)
    share = rounded(image.nodata_share)
    info = RsInfo(name, image.scene.bands, str(image.pixels.dtype), source, image.acquired, share, image.stretch)
    return data, info, None if image.missing is None else ~image.missing


def _provenance(job: ShardJob, key: str) -> Provenance:
    row = None if job.chips is None else job.chips.rows.get(key)
    return Provenance() if row is None else Provenance(row["stem"], row["how"])
