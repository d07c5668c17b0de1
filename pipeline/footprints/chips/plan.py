"""Chips of a folder as footprints: where each lies, what it holds, which overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from pipeline.alignment import place
from pipeline.footprints.chips.georeference import SEAM, GeoreferenceError, georeference, skyscript_name
from pipeline.footprints.chips.image import read_header
from pipeline.footprints.chips.metadata import Metadata, read_metadata
from pipeline.footprints.chips.scan import ChipFiles
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.grids.turns import around
from pipeline.meridian import quadrilaterals
from pipeline.times import name_time
from schemas.errors import InputError, at_the_door
from schemas.features import drop_row
from schemas.footprint import Footprint, Footprints
from storage.files import file_sha256

#: One row a chip; a million of them are a few hundred MB, in this form.
CHIPS = pa.schema(
    [
        ("key", pa.string()),
        ("stem", pa.string()),
        ("image", pa.string()),  # path relative to the folder
        ("vectors", pa.list_(pa.string())),
        ("crs", pa.string()),
        ("transform", pa.list_(pa.float64(), 6)),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bands", pa.list_(pa.string())),
        ("dtype", pa.string()),
        ("how", pa.string()),  # where the footprint comes from
        ("source", pa.string()),  # collection; empty where none is named
        ("acquired", pa.string()),
        ("lon", pa.float64()),  # centre
        ("lat", pa.float64()),
        ("corners", pa.list_(pa.float64(), 8)),  # lon, lat of upper left, upper right, lower right, lower left
        ("image_hash", pa.string()),  # SHA-256 of the image, its sidecars and its metadata
        ("vectors_hash", pa.string()),  # of its vector files
    ]
)
#: Share of a footprint by which neighbours along one side overlap through rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class DescribeJob:
    """Some chips to describe."""

    folder: Path
    chips: list[ChipFiles]
    crs: str = "auto"  # as in ChipsConfig
    rs: ImageryConfig = ImageryConfig()  # of their images
    vectors: bool = True  # their vector files hold their objects


def describe_chips(job: DescribeJob) -> tuple[pa.Table, list[dict[str, Any]]]:
    """CHIPS rows of the chips whose place is known, and DROPS rows of the others."""
    rows: list[dict[str, Any]] = []
    drops: list[dict[str, Any]] = []
    for chip in job.chips:
        try:
            rows.append(_describe(job, chip))
        except GeoreferenceError as error:
            drops.append(drop_row("chips", chip.image, error.reason, key=chip.key, detail=str(error)[:200]))
        except _UnreadableError as error:
            drops.append(drop_row("chips", error.path, error.reason, key=chip.key, detail=str(error)[:200]))
    placed = _place(rows, drops)
    return pa.Table.from_pylist(placed, schema=CHIPS), drops


class _UnreadableError(InputError):
    """A file of a chip cannot be read."""

    def __init__(self, path: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.path, self.reason = path, reason


def _describe(job: DescribeJob, chip: ChipFiles) -> dict[str, Any]:
    """One row of CHIPS without what depends on its place."""
    folder = job.folder
    metadata = _metadata(folder, chip)
    try:
        header = read_header(folder / chip.image, bool(chip.sidecars), job.rs)
        digests = [
            _hash(folder, [chip.image, *chip.sidecars, *([chip.metadata] if chip.metadata else [])]),
            _hash(folder, [*chip.vectors, *chip.parts] if job.vectors else []),
        ]
    except InputError as error:
        raise _UnreadableError(chip.image, "unreadable_image", str(error)) from None
    size = header.width, header.height
    found = georeference(chip.stem, size, (header.crs, header.transform), metadata, job.crs)
    known, name = metadata or Metadata(), skyscript_name(chip.stem)
    try:
        Footprint(chip.key, found.crs, found.transform, *size)
    except InputError as error:
        raise GeoreferenceError("bad_transform", str(error)) from None
    return {
        "key": chip.key, "stem": chip.stem, "image": chip.image,
        "vectors": list(chip.vectors) if job.vectors else [],
        "crs": found.crs, "transform": found.transform, "width": size[0], "height": size[1],
        "bands": list(header.bands), "dtype": header.dtype, "how": found.how,
        "source": known.source or (name[0] if name else ""),
        "acquired": job.rs.acquired or name_time(chip.image, job.rs.time_pattern) or known.time or header.time
        or (name[1] if name else None),
        "image_hash": digests[0], "vectors_hash": digests[1],
    }  # fmt: skip


def _metadata(folder: Path, chip: ChipFiles) -> Metadata | None:
    if chip.metadata is None:
        return None
    try:
        with at_the_door("it cannot be read"):
            return read_metadata((folder / chip.metadata).read_bytes(), chip.metadata)
    except InputError as error:
        raise _UnreadableError(chip.metadata, "bad_metadata", str(error)) from None


def _hash(folder: Path, paths: list[str]) -> str:
    """SHA-256 (hex) over names and contents of some files."""
    digest = sha256()
    for path in paths:
        try:
            digest.update(f"{path.rsplit('/', 1)[-1]} {file_sha256(folder / path)}\n".encode())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def columns_of(rows: Sequence[dict[str, Any]]) -> Footprints:
    """The footprints of CHIPS rows."""
    single = [Footprint(r["key"], r["crs"], tuple(r["transform"]), r["width"], r["height"]) for r in rows]
    columns = Footprints.of(single)
    columns.origin[:] = [r["how"] for r in rows]
    return columns


def _place(rows: list[dict[str, Any]], drops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with centre and corners; footprints that are no place on Earth are dropped."""
    if not rows:
        return []
    placement = place(columns_of(rows))
    kept = []
    for i, row in enumerate(rows):
        west, south, east, north = placement.bbox[i].tolist()
        numbers = [*placement.bbox[i], *placement.gsd[i]]
        if not np.isfinite(numbers).all() or south < -90 or north > 90 or min(placement.gsd[i]) <= 0:
            reason, detail = "outside_crs", f"its corners are no places on Earth in {row['crs'][:40]}"
        elif _beyond_end(row):
            reason, detail = "antimeridian", f"it lies across the end of {row['crs'][:40]}; {SEAM}"
        elif east - west > 180:
            reason, detail = "outside_crs", "it lies around a pole, where no longitude is its own"
        else:
            lon, lat = placement.centre[i].tolist()
            kept.append(row | {"lon": lon, "lat": lat, "corners": placement.corners[i].ravel().tolist()})
            continue
        drops.append(drop_row("chips", row["image"], reason, key=row["key"], detail=detail))
    return kept


def _beyond_end(row: dict[str, Any]) -> bool:
    """Whether a chip reaches to where the x of its CRS begins anew."""
    world = around(row["crs"])
    if world is None:
        return False
    left, _, right, _ = Footprint(row["key"], row["crs"], row["transform"], row["width"], row["height"]).bounds()
    slack = abs(row["transform"][0]) / 2
    return bool(left < world.least - slack or right > world.least + world.turn + slack)


def same_bands(chips: pa.Table, image_format: str) -> None:
    """Check that all chips hold the same kind of image.

    Raises:
        InputError: they differ in bands or dtype, or cannot be written as ``image_format``.
    """
    rows = zip(chips["bands"].to_pylist(), chips["dtype"].to_pylist(), strict=True)
    kinds = Counter(f"{', '.join(bands)}; {dtype}" for bands, dtype in rows)
    if len(kinds) > 1:
        found = "; ".join(f"{count} of ({kind})" for kind, count in kinds.most_common(3))
        raise InputError(f"the chips differ in bands: {found}. Build a dataset of each")
    if image_format in ("jpg", "png"):
        bands, dtype = chips["bands"][0].as_py(), chips["dtype"][0].as_py()
        if (len(bands), dtype) != (3, "uint8"):
            raise InputError(
                f"rs.format={image_format} needs three 8-bit bands, the chips have {len(bands)} of {dtype}; "
                "use rs.format=npy"
            )


def drop_overlapping(chips: pa.Table, max_overlap: float) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Without chips that share more than ``max_overlap`` of the smaller footprint with another of their source.

    Chips are looked at in the order of their keys, and each is kept unless it overlaps one that is kept already. 1
    keeps all. GeoLink drops pairs with overlapping coverage (docs/papers/geolink.md#objects), which is 0.
    """
    if max_overlap >= 1 or not chips.num_rows:
        return chips, []
    corners = np.stack(chips["corners"].to_numpy(zero_copy_only=False)).reshape(-1, 4, 2)
    outline = quadrilaterals(corners)
    area = shapely.area(outline)
    i, j = shapely.STRtree(outline).query(outline, predicate="intersects")
    source = chips["source"].to_numpy(zero_copy_only=False)
    pair = (i < j) & (source[i] == source[j])
    i, j = i[pair], j[pair]
    share = shapely.area(shapely.intersection(outline[i], outline[j])) / np.minimum(area[i], area[j])
    over = np.flatnonzero(share > max_overlap + _ROUNDING)
    over = over[np.lexsort((i[over], j[over]))]  # rows are sorted by key
    keep = np.ones(chips.num_rows, bool)
    drops = []
    keys, images = chips["key"].to_pylist(), chips["image"].to_pylist()
    for a, b, part in zip(i[over].tolist(), j[over].tolist(), share[over].tolist(), strict=True):
        if keep[a] and keep[b]:
            keep[b] = False
            detail = f"{part:.1%} of the smaller footprint is shared with {keys[a]}, over {max_overlap=:g}"
            drops.append(drop_row("chips", images[b], "overlaps", key=keys[b], detail=detail))
    return chips.filter(pa.array(keep)), drops
