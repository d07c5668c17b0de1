"""Which catalog rows a selection takes, and in which order: by a hash of the key, which no layout changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix
from schemas.errors import DatasetError, is_short, shortage
from schemas.index import SPLIT_CODES
from schemas.splits import BUFFER
from storage.store import Store
from trainers.stream.catalog.parts import Ints, Parts
from trainers.stream.catalog.select import evaluate, mentions_split, words

Mask = NDArray[np.bool_]


class NothingSelectedError(DatasetError):
    """A dataset has no sample that a selection takes."""


def choose_rows(
    dataset: Store, parts: Parts, select: str = "", split: str = "train", limit: int | None = None,
    within: bool = False,
) -> tuple[Ints, str]:  # fmt: skip
    """Selected rows i64[n] of ``parts`` by rising hash of their keys, and the digest of the keys.

    Args:
        dataset: its directory.
        parts: its index files.
        select: SQL condition over the samples table, or empty.
        split: that is read unless the condition names another.
        limit: keep the first so many.
        within: whether ``split`` counts even if the condition names another.

    Raises:
        NothingSelectedError: nothing is selected.
        DatasetError: a key is held twice, or the samples table does not fit the index.
        ConfigError: the condition cannot be read, or would not select the same samples every time.
    """
    met = _met(dataset, parts, select) if select.strip() else np.ones(len(parts), bool)
    splits = parts.column("split") if len(parts) else np.zeros(0, np.uint8)
    buffer = SPLIT_CODES.index(BUFFER)
    chosen = met & (splits != buffer)
    if within or not mentions_split(select):
        chosen &= splits == (SPLIT_CODES.index(split) if split in SPLIT_CODES else len(SPLIT_CODES))
    if not chosen.any():
        counts = Counter({name: int((met & (splits == i)).sum()) for i, name in enumerate(SPLIT_CODES)})
        raise NothingSelectedError(_nothing(dataset.root, select, split, len(parts), counts))
    rows = np.flatnonzero(chosen)
    hashes = parts.column("key_hash")[chosen]
    order, tied = _by_hash(hashes)
    _settle_ties(dataset.root, parts, rows, hashes, order, tied)
    if limit is not None and limit < len(order):
        order = order[:limit]
        hashes = hashes[order]
    return rows[order], _digest([hashes])


def split_digest(parts: Parts) -> str:
    """Digest of the split of each sample, whatever the layout: 32 hexadecimal digits. 10 million take 0.2 s."""
    return _digest(
        keys + split * GOLDEN for keys, split in zip(parts.each("key_hash"), parts.each("split"), strict=True)
    )


def _met(dataset: Store, parts: Parts, select: str) -> Mask:
    """Which rows of the samples table meet the condition, bool[rows]."""
    where = dataset.path("catalog/samples")
    masks: list[Mask] = []
    centres: list[NDArray[np.float64]] = []
    used = {"lon", "lat"} | {w.lower() for w in words(select)}
    for name in dataset.names("catalog/samples"):
        try:
            held = dataset.parquet(f"catalog/samples/{name}")
            schema = held.schema_arrow
            known = [name for name in schema.names if name not in ("geometry", "members")]
            if not masks:  # an unknown column is named with all that there are
                evaluate(pa.schema([schema.field(c) for c in known]).empty_table(), select)
            table = held.read([c for c in known if c.lower() in used])
            masks.append(evaluate(table, select))
            centres.append(np.stack([table["lon"].to_numpy(), table["lat"].to_numpy()], 1))
        except (pa.ArrowException, OSError) as error:
            if is_short(error):
                raise shortage(error, where) from None
            first = str(error).splitlines()[0]
            raise DatasetError(f"{where} cannot be read ({first}); build the dataset again") from None
    if not masks or not np.array_equal(np.concatenate(centres), parts.column("lonlat")):
        raise DatasetError(f"{where} has other rows than {dataset.path('catalog/index')}; build the dataset again")
    return np.concatenate(masks)


def _by_hash(hashes: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Order i64[n] of rising ``hashes``, and the places in it i64[T] of those that are not the only one of theirs.

    Sorting words that hold the upper bits of a hash and its number takes a third of the time of an argsort; the few
    whose upper bits agree are then sorted alone.
    """
    count = len(hashes)
    low = np.uint64((1 << max(1, (count - 1).bit_length())) - 1)
    packed = (hashes & ~low) | np.arange(count, dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    alike = _neighbours((packed[1:] ^ packed[:-1]) <= low)
    order[alike] = order[alike][np.argsort(hashes[order[alike]])]
    held = hashes[order[alike]]
    return order, alike[_neighbours(held[1:] == held[:-1])]


def _neighbours(same: Mask) -> Ints:
    """Places that equal the one before or after: ``same`` bool[n-1] tells of each place whether the next is like it."""
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _settle_ties(root: str, parts: Parts, rows: Ints, hashes: NDArray[np.uint64], order: Ints, tied: Ints) -> None:
    """Put samples of one hash in the order of their keys, in place: two keys in 2⁶⁴ share one.

    Raises:
        DatasetError: two have the same key.
    """
    own = order[tied]
    held = sorted(zip(hashes[own].tolist(), parts.keys(rows[own]), own.tolist(), strict=True))
    for (_, a, first), (_, b, second) in pairwise(held):
        if a == b:
            shards = (parts.shard_names[n] for n in parts.column("shard", rows[[first, second]]))
            raise DatasetError(
                f"{root} holds the sample {a.decode()} twice, in {' and '.join(shards)}; build the dataset again"
            )
    order[tied] = [number for _, _, number in held]


def _digest(stretches: Iterable[NDArray[np.uint64]]) -> str:
    """Digest of a set of words, such as hashes of keys, in stretches of any length: 32 hexadecimal digits."""
    total = both = 0
    for part in stretches:
        mixed = mix(part)
        total += int(mixed.sum(dtype=np.uint64))
        both ^= int(np.bitwise_xor.reduce(mixed))
    return f"{total % 2**64:016x}{both:016x}"


def _nothing(root: str, select: str, split: str, total: int, met: Counter[str]) -> str:
    """Why a selection is empty, and the way out."""
    if not total:
        return f"{root} holds no samples; build it from a larger region"
    if not met.total():
        return f"none of the {total} samples of {root} meets select={select!r}; loosen it with stream.select=…"
    counts = ", ".join(f"{name} {count}" for name, count in met.items() if count)
    return (
        f"no selected sample of {root} is in split {split!r} (held: {counts}); choose stream.split=…, or "
        "build the dataset with other shares, for example split.val=0 split.test=0"
    )
