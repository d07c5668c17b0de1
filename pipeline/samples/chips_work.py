"""One shard of chips: its planned chips in, one tar and its index rows out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.alignment import Placement
from pipeline.footprints.chips.image import ChipImage, read_image
from pipeline.footprints.chips.plan import footprint_of
from pipeline.osm.vectors.features import PartFeatures, PartJob, load_part
from pipeline.rules import PaintRules
from pipeline.samples.chips_config import ChipsConfig
from pipeline.samples.write import ShardResult, ShardWriter, sample_meta
from pipeline.streetview.members import add_photos
from pipeline.streetview.record import Photo
from pipeline.tokens.raster import encode_png
from pipeline.tokens.sheet import ChipTokens, TokenMaker, extract_tokens, place_chips, vector_tokens
from schemas.errors import InputError
from schemas.features import drop_row
from schemas.footprint import Footprint
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, RsInfo, SampleMeta, rounded


@dataclass(frozen=True, eq=False)
class ChipShardJob:
    """Everything one task needs."""

    out: str
    index: int
    folder: Path
    chips: pa.Table  # CHIPS rows in shard order
    config: ChipsConfig
    paint: PaintRules
    part: PartJob | None  # vector files, or
    ids: NDArray[np.int64] | None  # with the tag ids of its texts,
    cells: tuple[str, int] | None  # an extract's cells: path and zoom
    osm_time: str | None
    licences: dict[str, str]  # osm | rs
    source: str  # name of the folder
    photos: dict[str, list[Photo]] = field(default_factory=dict)  # by key of the chip

    @property
    def planned(self) -> int:
        """Chips to try."""
        return int(self.chips.num_rows)


def build_chip_shard(job: ChipShardJob) -> ShardResult:
    """Build and write one shard."""
    writer = ShardWriter(job.out, job.index, job.config.split)
    rows = job.chips.to_pylist()
    part = load_part(job.part, job.ids) if job.part is not None and job.ids is not None else None
    images = _images(job, rows, part, writer.drops)
    chosen = [i for i in range(len(rows)) if i in images]
    footprints = [footprint_of(rows[i]) for i in chosen]
    placement = place_chips(footprints)
    built, given = _tokens(job, part, np.array(chosen, np.int64), footprints, placement)
    for position, i in enumerate(chosen):
        osm, row = built[position], rows[i]
        outside = int(given[position]) - len(osm.tokens)
        if outside:
            writer.drops.append(
                drop_row("samples", ",".join(row["vectors"])[:200], "outside_footprint", key=row["key"], count=outside)
            )
        if len(osm.tokens) < job.config.chips.min_objects:
            detail = f"{len(osm.tokens)} objects, under chips.min_objects={job.config.chips.min_objects}"
            writer.drops.append(drop_row("samples", row["image"], "too_few_objects", key=row["key"], detail=detail))
            continue
        members, meta = _members(job, row, footprints[position], images[i], osm, placement, position, writer.drops)
        licences = {job.licences["rs"]} if "rs" in job.licences else set()
        licences |= {job.licences["osm"]} if len(osm.tokens) and "osm" in job.licences else set()
        writer.add(members, meta, osm.tokens, placement.corners[position], licences, job.osm_time)
    return writer.finish(job.planned)


def _images(
    job: ChipShardJob, rows: list[dict[str, Any]], part: PartFeatures | None, drops: list[dict[str, Any]]
) -> dict[int, ChipImage]:
    """Images that may be used, by position of the chip; the others are drops."""
    found: dict[int, ChipImage] = {}
    for i, row in enumerate(rows):
        if part is not None and i in part.unreadable:
            continue  # named where its vector files were read
        try:
            image = read_image(job.folder / row["image"], job.config.rs)
        except InputError as error:
            detail = str(error)[:200]
            drops.append(drop_row("samples", row["image"], "unreadable_image", key=row["key"], detail=detail))
            continue
        if image.nodata_share > job.config.rs.max_nodata:
            detail = f"{image.nodata_share:.4f} of the pixels, over rs.max_nodata={job.config.rs.max_nodata}"
            drops.append(drop_row("samples", row["image"], "nodata", key=row["key"], detail=detail))
            continue
        found[i] = image
    return found


def _tokens(
    job: ChipShardJob,
    part: PartFeatures | None,
    chosen: NDArray[np.int64],
    footprints: list[Footprint],
    placement: Placement,
) -> tuple[list[ChipTokens], NDArray[np.int64]]:
    """Tokens of the chosen chips, and how many objects of its own vector files each was given."""
    maker = TokenMaker(job.config.tokens, job.paint)
    if part is None:
        if job.cells is None:
            raise InputError("a shard of chips has neither vector files nor an extract")
        built = extract_tokens(maker, footprints, placement, *job.cells)
        return built, np.array([len(b.tokens) for b in built], np.int64)
    place_of = np.full(job.planned, -1, np.int64)
    place_of[chosen] = np.arange(len(chosen))
    own = np.flatnonzero(place_of[part.chip] >= 0)
    chip = place_of[part.chip[own]]
    built = vector_tokens(maker, footprints, placement, chip, part.features.take(own))
    return built, np.bincount(chip, minlength=len(chosen))


def _members(
    job: ChipShardJob,
    row: dict[str, Any],
    footprint: Footprint,
    image: ChipImage,
    osm: ChipTokens,
    placement: Placement,
    position: int,
    drops: list[dict[str, Any]],
) -> tuple[dict[str, bytes], SampleMeta]:
    """Members of one sample, and its JSON document as an object."""
    members = {OSM_TOKENS: osm.tokens.to_bytes(), image.member: image.data}
    if osm.raster is not None:
        members[OSM_RASTER] = encode_png(osm.raster, job.paint.palette)
    rs = RsInfo(
        image.member, row["bands"], row["dtype"], row["source"] or row["image"].rsplit("/", 1)[-1], row["acquired"],
        rounded(image.nodata_share),
    )  # fmt: skip
    photos = job.photos.get(row["key"], [])
    streetview = add_photos(footprint, photos, job.config.sv, row["acquired"], members, drops)
    meta = sample_meta(
        footprint, placement, position, osm_edited=osm.edited, rs=[rs], streetview=streetview,
        provenance={"chips": job.source, "stem": row["stem"], "footprint": row["how"]},
    )  # fmt: skip
    members[JSON] = meta.to_bytes()
    return members, meta
