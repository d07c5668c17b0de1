"""Samples a second: members read by offset from the catalog against ``webdataset.WebDataset`` over the same shards.

``python benchmarks/stream_read.py [--data DIR] [--samples N] [--rounds N]`` prints one JSON line. Both sides hand over
the bytes of every member of every sample, undecoded; ``decoded`` is this stream's whole way to a batch of tensors.
Without --data a synthetic dataset is written to a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402

from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.stream.batch import View  # noqa: E402
from trainers.stream.catalog.index import Index, load_index  # noqa: E402
from trainers.stream.members.read import ShardReader  # noqa: E402
from trainers.stream.order import Order, epoch_key, places_at  # noqa: E402
from trainers.stream.stream import GeoStream  # noqa: E402

#: Samples that are read at once.
BATCH = 256


def by_offset(index: Index) -> int:
    """Bytes of every member, samples in shuffled order."""
    reader = ShardReader(index, verify="none")
    key = epoch_key(index.content_hash, index.selection_hash, "global", 0, 0)
    total = 0
    for first in range(0, len(index), BATCH):
        positions = np.arange(first, min(first + BATCH, len(index)))
        for members in reader.read(places_at(positions, len(index), key, Order())):
            total += sum(map(len, members.values()))
    return total


def by_webdataset(root: Path) -> int:
    """Bytes of every member, samples in the order of the shards."""
    import webdataset

    shards = sorted(str(p) for p in (root / "shards").glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False)
    return sum(len(v) for sample in samples for k, v in sample.items() if not k.startswith("__"))


def decoded(root: Path) -> int:
    """Samples of one epoch as batches of image, tokens and photos at their stored size."""
    view = View(128, osm=("objects", "relations"), photos=2, photo_size=64)
    return sum(batch.samples for batch in GeoStream(str(root), view, batch_size=64))


def median_rate(work: Callable[[], int], samples: int, rounds: int) -> float:
    """Median samples a second over ``rounds``, after one round that warms the page cache."""
    work()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return samples / statistics.median(seconds)


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or write_dataset(folder, SyntheticSettings(samples=options.samples, samples_per_shard=64))
        index = load_index(str(root))
        if by_offset(index) != by_webdataset(root):
            raise SystemExit("error: the two readers do not see the same bytes; the dataset has several splits")
        ours = median_rate(lambda: by_offset(index), len(index), options.rounds)
        theirs = median_rate(lambda: by_webdataset(root), len(index), options.rounds)
        whole = median_rate(lambda: decoded(root), len(index), max(1, options.rounds // 2))
    print(json.dumps({
        "race": "stream_read", "samples": len(index), "rounds": options.rounds,
        "offset_samples_per_second": round(ours), "webdataset_samples_per_second": round(theirs),
        "ratio": round(ours / theirs, 1), "decoded_samples_per_second": round(whole),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
