"""Memory of the stream over epochs: of the process, and of it and its loader processes together.

``python benchmarks/stream_memory.py [--samples N] [--epochs N] [--workers N]`` prints one JSON line of megabytes after
each epoch: memory of its own (private pages of all processes) and growth from the end of the first epoch, which fills
caches, to that of the last. Synthetic samples of 256 px with tokens, augmented, in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402

_RUN = """
import gc, json, os, sys
from pathlib import Path
sys.path[0] = sys.argv[1]
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream

def private():
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[3]) == os.getsid(0):
                rows = (stat.parent / "smaps_rollup").read_text().splitlines()
                total += sum(int(r.split()[1]) for r in rows if r.startswith("Private_"))
        except OSError:
            pass
    return total / 1e3

if __name__ == "__main__":
    root, epochs, workers = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    augment = AugmentSettings(crop=0.8, rotate=0.5, drop_objects=0.1)
    view = View(256, osm=("objects", "relations"))
    stream = GeoStream(root, view, batch_size=64, augment=augment, num_workers=workers)
    held, epoch = [], 0
    batches = stream.batches(until_epoch=epochs)
    for batch in batches:
        if stream.epoch != epoch:
            epoch = stream.epoch
            del batch
            gc.collect()
            held.append(round(private(), 1))
    print(json.dumps(held))
"""


def megabytes(root: Path, epochs: int, workers: int) -> list[float]:
    """Private memory after each epoch, of one fresh process and its loader processes."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(_RUN)
        script.flush()
        words = [sys.executable, script.name, str(ROOT), str(root), str(epochs), str(workers)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")
    return list(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = SyntheticSettings(samples=options.samples, size=256, photos=0, objects=30, samples_per_shard=128)
        root = write_dataset(Path(folder) / "data", small)
        alone = megabytes(root, options.epochs, 0)
        together = megabytes(root, options.epochs, options.workers)
    print(json.dumps({
        "race": "stream_memory", "samples": options.samples, "epochs": options.epochs, "workers": options.workers,
        "one_process_mb": alone, "with_workers_mb": together,
        "growth_mb": round(alone[-1] - alone[0], 1), "growth_with_workers_mb": round(together[-1] - together[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
