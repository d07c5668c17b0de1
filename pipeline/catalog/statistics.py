"""Statistics of the bands of a dataset: every image is decoded once, shard by shard.

Values of integers are counted one by one, so that their mean, deviation and percentiles are exact and no order of the
shards matters; of floats, moments are joined in the order of the shards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.formats.members import decode_array, decode_picture
from schemas.bands import band, canonical, channels
from schemas.catalog import STATISTICS
from schemas.errors import DatasetError
from schemas.sample import JSON, RsInfo, image_infos, valid_member
from storage.dataset import read_samples
from storage.store import Store

#: A band, by its canonical name, and the type of its values.
_VERIFY = "look for more with geoshards verify"
Key = tuple[str, str]
PERCENTILES = {"p2": 2, "p50": 50, "p98": 98}


@dataclass
class Tally:
    """What has been seen of one band of one type."""

    names: set[str] = field(default_factory=set)
    images: int = 0
    left_out: int = 0
    histogram: NDArray[np.int64] | None = None  # of integers: from the least value of their type on
    #: Of floats: (shard, count, mean, sum of squared deviations, least, greatest).
    moments: list[tuple[int, int, float, float, float, float]] = field(default_factory=list)

    def join(self, other: Tally) -> None:
        """Add what another one has seen."""
        self.names |= other.names
        self.images += other.images
        self.left_out += other.left_out
        if other.histogram is not None:
            self.histogram = other.histogram if self.histogram is None else self.histogram + other.histogram
        self.moments += other.moments


@dataclass(frozen=True)
class ShardImages:
    """Reads the images of some samples of one shard. Picklable: the workers' function."""

    store: Store

    def __call__(self, rows: tuple[int, Sequence[dict[str, Any]]]) -> dict[Key, Tally]:
        """What the samples ``rows`` of a shard, and its number, hold of each band.

        Raises:
            DatasetError: an image cannot be decoded, or has two channels of one band.
        """
        number, samples = rows
        found: dict[Key, Tally] = {}
        for row, members in read_samples(self.store, samples):
            for info in image_infos(members[JSON]).values():
                where = f"{self.store.root}/shards/{row['shard']}: {row['key']}.{info.member}"
                pixels = _decoded(members.get(info.member), info, where)
                for name in info.names:
                    found.setdefault((canonical(name), str(pixels.dtype)), Tally()).names.add(name)
                valid = valid_pixels(members, info, pixels, where)
                _count(found, channels(info.names, where), pixels, valid, number)
        return found


def _decoded(data: bytes | None, info: RsInfo, where: str) -> NDArray[Any]:
    """An image [bands,height,width]."""
    if data is None:
        raise DatasetError(f"{where} is not there; {_VERIFY}")
    picture = not info.member.endswith(".npy")
    pixels = np.asarray(decode_picture(data, where, "RGB")).transpose(2, 0, 1) if picture else decode_array(data, where)
    if len(pixels) != len(info.names):
        raise DatasetError(f"{where} is {list(pixels.shape)} for the bands {', '.join(info.names)}; {_VERIFY}")
    return pixels


def valid_pixels(
    members: Mapping[str, bytes], info: RsInfo, pixels: NDArray[Any], where: str
) -> NDArray[np.bool_] | None:
    """Which pixels [height,width] of an image are data; None where the plane that says so is not there."""
    if not info.nodata_share:
        return np.ones(pixels.shape[1:], bool)
    data = members.get(valid_member(info.member))
    if data is None:
        return None
    plane = np.asarray(decode_picture(data, f"the plane of {where}", "L")) > 0
    if plane.shape != pixels.shape[1:]:
        raise DatasetError(
            f"the plane of {where} is {list(plane.shape)} for an image of {list(pixels.shape[1:])}; {_VERIFY}"
        )
    return plane


def _count(
    found: Mapping[Key, Tally],
    order: Mapping[str, int],
    pixels: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    shard: int,
) -> None:
    for name, channel in order.items():
        tally = found[name, str(pixels.dtype)]
        if valid is None:
            tally.left_out += 1
            continue
        tally.images += 1
        values = pixels[channel][valid]
        if pixels.dtype.kind in "iu":
            info = np.iinfo(pixels.dtype)
            counts = np.bincount(values.astype(np.int64) - info.min, minlength=info.max - info.min + 1)
            tally.histogram = counts if tally.histogram is None else tally.histogram + counts
        elif (values := values[np.isfinite(values)].astype(np.float64)).size:
            mean = float(values.mean())
            squares = float(np.square(values - mean).sum())
            tally.moments.append((shard, values.size, mean, squares, float(values.min()), float(values.max())))


def statistics(tallies: Mapping[Key, Tally], split: str, content_hash: str) -> pa.Table:
    """Rows of STATISTICS by band and type."""
    rows = []
    for (name, dtype), tally in sorted(tallies.items()):
        facts = _of_integers(tally.histogram, dtype) if tally.histogram is not None else _of_floats(tally.moments)
        known = band(name)
        rows.append({
            "band": name, "dtype": dtype, "names": sorted(tally.names), "split": split, "images": tally.images,
            "wavelength": known.wavelength if known else None, "left_out": tally.left_out,
            "content_hash": content_hash, **facts,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, STATISTICS)


def _of_integers(histogram: NDArray[np.int64], dtype: str) -> dict[str, float]:
    held = np.flatnonzero(histogram)
    if not len(held):
        return {"count": 0}
    counts, values = histogram[held].tolist(), (held + np.iinfo(dtype).min).tolist()
    # Python's integers: squares of 16 bits, summed over a continent, do not fit 64.
    n, total = sum(counts), sum(c * v for c, v in zip(counts, values, strict=True))
    squares = sum(c * v * v for c, v in zip(counts, values, strict=True))
    rank = np.cumsum(counts)
    return {
        "count": n, "mean": total / n, "std": math.sqrt((n * squares - total * total) / (n * n)),
        "min": values[0], "max": values[-1],
        **{name: values[int(np.searchsorted(rank, -(-n * p // 100)))] for name, p in PERCENTILES.items()},
    }  # fmt: skip


def _of_floats(moments: Sequence[tuple[int, int, float, float, float, float]]) -> dict[str, float]:
    """Moments of all from those of each image (Chan et al. 1979), in the order of the shards."""
    n, mean, squares = 0, 0.0, 0.0
    for _, count, own, own_squares, *_ in sorted(moments, key=lambda m: m[0]):
        apart, n = own - mean, n + count
        mean += apart * count / n
        squares += own_squares + apart * apart * count * (n - count) / n
    if not n:
        return {"count": 0}
    return {
        "count": n, "mean": mean, "std": math.sqrt(squares / n), "min": min(m[4] for m in moments),
        "max": max(m[5] for m in moments),
    }  # fmt: skip


def by_shard(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Those of the ``rows`` of samples that lie in each shard, by its name."""
    shards: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        shards.setdefault(row["shard"], []).append(row)
    return shards
