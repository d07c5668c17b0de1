"""Which photos go with which footprints of a run, fetched and ready to be encoded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.alignment import Placement
from pipeline.streetview.choice import choose
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.filters import filter_photos
from pipeline.streetview.pairing import pair
from pipeline.streetview.position import Area
from pipeline.streetview.record import Drops, Photo, PhotoError, to_photo
from pipeline.streetview.sources import Source
from schemas.errors import ConfigError, InputError
from schemas.footprint import Footprints
from storage.nodes.held import hash_of
from storage.progress import Progress

#: Columns of PAIRS that say which photo stands where.
_PLACE = ("footprint", "photo", "x", "y", "north")
#: As many failures, and no success, mean that something else is wrong than the photos.
_HOPELESS = 3


@dataclass(frozen=True, eq=False)
class ChosenPhotos:
    """Photos of a run."""

    photos: dict[int, list[Photo]]  # by number of the footprint, by capture time and id
    drops: list[dict[str, object]]  # rows of DROPS


def photos_of(
    source: Source,
    config: StreetviewConfig,
    footprints: Footprints,
    placement: Placement,
    fetch: bool = True,
    quiet: bool = True,
) -> ChosenPhotos:
    """Photos for footprints of any CRS and rotation; the number of a footprint is its row.

    Without ``fetch``, photos of the web are listed and chosen, but not downloaded: their ``path`` is empty.

    Raises:
        ConfigError: the source declares no licence.
        InputError: the source cannot be used, or not now: the next run goes on where this one ended.
    """
    drops = Drops(source.name)
    listed = source.list(Area.around(placement.bbox, config.margin), drops)
    photos = filter_photos(licensed(listed, source.name, drops), config, drops)
    pairs = pair(photos, footprints, placement, config.margin)
    _without_footprint(photos, pairs, drops)
    chosen = choose(pairs, photos, config.max_per_tile, config.choose, drops, lambda i: str(footprints.keys[i]))
    rows = sorted({row for own in chosen.values() for row in own})
    wanted = dict(zip(rows, photos.take(pa.array(rows, pa.int64())).to_pylist(), strict=True))
    if fetch:
        paths = {row: str(path) for row, path in _fetch(source, wanted, drops, quiet).items()}
    else:
        paths = {row: values["path"] or "" for row, values in wanted.items()}
    ready = {row: to_photo(wanted[row], path) for row, path in paths.items()}
    at = {(f, p): tuple(place) for f, p, *place in zip(*(pairs[c].to_pylist() for c in _PLACE), strict=True)}
    found: dict[int, list[Photo]] = {}
    for number, own in chosen.items():
        places = [(ready[row], *at[number, row]) for row in own if row in ready]
        found[number] = [replace(photo, x=x, y=y, north=north) for photo, x, y, north in places]
    return ChosenPhotos({k: v for k, v in found.items() if v}, drops.rows())


def photos_row(photos: Sequence[Photo]) -> dict[str, Any]:
    """Row of ``dataset.json`` for the photos of a run, which have files: their hash, and every licence."""
    digests = [f"{hash_of(photo.path)} {json.dumps(asdict(photo) | {'path': ''}, sort_keys=True)}" for photo in photos]
    digest = sha256("\n".join(sorted(digests)).encode()).hexdigest()
    licences = ", ".join(sorted({p.licence for p in photos if p.licence}))
    return {"kind": "streetview", "name": photos[0].source, "sha256": digest, "licence": licences, "date": None}


def licensed(photos: pa.Table, source: str, drops: Drops) -> pa.Table:
    """The photos that have a licence; each of the others is added to ``drops``.

    Raises:
        ConfigError: none has.
    """
    has = np.asarray(photos.column("licence").is_valid().to_numpy(), bool)
    if len(has) and not has.any():
        raise ConfigError(
            f"street view {source} declares no licence for its photos; give sv.licence=… (an SPDX id such as "
            "CC-BY-SA-4.0, or its owner's words), or a column licence in the table"
        )
    for i in np.flatnonzero(~has).tolist():
        drops.add("no_licence", photos.column("id")[i].as_py(), "the source names none for it; sv.licence would")
    return photos.filter(pa.array(has))


def _without_footprint(photos: pa.Table, pairs: pa.Table, drops: Drops) -> None:
    """Name the photos that are near a footprint, and in none."""
    paired = np.zeros(len(photos), bool)
    paired[np.asarray(pairs.column("photo").to_numpy())] = True
    for i in np.flatnonzero(~paired).tolist():
        drops.add("outside_footprint", photos.column("id")[i].as_py(), "inside the box around one only")


def _fetch(source: Source, wanted: Mapping[int, Mapping[str, Any]], drops: Drops, quiet: bool) -> dict[int, Path]:
    """Files of photos, rows of PLACED by their number; those that cannot be had are added to ``drops``."""
    paths: dict[int, Path] = {}
    failed: list[tuple[int, PhotoError]] = []

    def one(row: Mapping[str, Any]) -> Path | PhotoError:
        try:
            return source.fetch(row)
        except PhotoError as error:
            return error

    pool = ThreadPoolExecutor(source.parallel, "photos")
    try:
        with Progress("photos", len(wanted), "photos", quiet) as progress:
            for row, result in zip(wanted, pool.map(one, wanted.values()), strict=True):
                if isinstance(result, PhotoError):
                    failed.append((row, result))
                else:
                    paths[row] = result
                progress.advance(1)
    except BaseException:
        source.close()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if len(failed) >= _HOPELESS and not paths:
        raise InputError(f"none of the {len(failed)} photos of {source.name} can be had; the first: {failed[0][1]}")
    for row, error in failed:
        drops.add(error.reason, wanted[row]["id"], str(error))
    return paths
