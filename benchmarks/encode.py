"""``geoshards encode`` against the model's bare forward passes over the same batches; prints one JSON line.

``python benchmarks/encode.py [--task gair|geolink] [--model base] [--samples N] [--batch N] [--workers N]``

Samples are synthesised from ``schemas`` alone and the model is one step old. In each round the batches that encoding
makes, all of them in the device's memory (``--held`` at most), go through the encoder again and again: the bare rate.
Then the dataset is encoded into eight files. ``ratio`` is the rate from the end of the first file to that of the last,
over the bare rate; ``ratio_whole`` counts the call from its start (weights, index, loader processes). ``cpu_ratio``,
where there is no GPU and no loader process, is that of processor seconds of the encoding's whole work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.encode.encoders import encoder_of  # noqa: E402
from trainers.encode.run import EncodeSettings, encode  # noqa: E402
from trainers.encode.work import Forward  # noqa: E402
from trainers.engine.checkpoint import load_checkpoint  # noqa: E402
from trainers.engine.cli import main as train  # noqa: E402
from trainers.stream.augment import AugmentSettings  # noqa: E402
from trainers.stream.stream import GeoStream  # noqa: E402
from trainers.tasks.gair import GAIR  # noqa: E402
from trainers.tasks.geolink import GEOLINK  # noqa: E402

TASKS = {"gair": GAIR, "geolink": GEOLINK}
#: Files that a call writes.
FILES = 8


def make_checkpoint(options: argparse.Namespace, data: Path, out: Path) -> str:
    """A model of the size that was asked for."""
    words = [f"data={data}", f"out={out}", f"model={options.model}", "steps=1", "batch_size=4", "eval.every=0"]
    status = train(TASKS[options.task], [*words, *options.set, "log.tensorboard=false", "--quiet"])
    assert status == 0
    return f"{out}/checkpoint.pt"


def bare(options: argparse.Namespace, checkpoint: str, data: Path) -> tuple[float, float]:
    """Samples a second, and a processor second, of the encoder over batches that are there."""
    device = torch.device(options.device)
    encoder = encoder_of(load_checkpoint(checkpoint), checkpoint)
    encoder.model.to(device)
    kinds = tuple(encoder.widths)
    forward = Forward(encoder, kinds, device, options.precision == "bf16")
    view, plain = encoder.view(kinds, options.photos), AugmentSettings(enabled=False)
    stream = GeoStream([data], view, batch_size=options.batch, shuffle="none", augment=plain, workers=0)
    batches = [batch.to(device) for batch in islice(stream, options.held) if batch.samples == options.batch]
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for batch in batches[:2]:
        forward(batch)
    wait()
    begin, used = time.perf_counter(), time.process_time()
    passes = max(1, options.samples // options.batch)
    for number in range(passes):
        forward(batches[number % len(batches)])
    wait()
    count = passes * options.batch
    return count / (time.perf_counter() - begin), count / (time.process_time() - used)


def encoded(options: argparse.Namespace, checkpoint: str, data: Path, out: Path) -> tuple[float, float, float]:
    """Samples a second of a call, without its first file and in all, and a processor second of all of it."""
    per_file = max(options.batch, options.samples // FILES)
    settings = EncodeSettings(
        batch=options.batch, per_file=per_file, device=options.device, precision=options.precision,
        workers=options.workers,
    )  # fmt: skip
    begin, used = time.perf_counter(), time.process_time()
    outcome = encode(checkpoint, str(data), str(out), settings)
    whole, cpu = time.perf_counter() - begin, time.process_time() - used
    ends = sorted(os.stat(path).st_mtime_ns / 1e9 for path in (out / "drops").glob("*.parquet"))
    running = (outcome.encoded - per_file) / (ends[-1] - ends[0]) if len(ends) > 1 else outcome.encoded / whole
    return running, outcome.encoded / whole, outcome.encoded / cpu


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    with tempfile.TemporaryDirectory() as folder:
        settings = SyntheticSettings(samples=options.samples, size=options.size, photos=options.photos)
        data = write_dataset(Path(folder) / "data", settings)
        checkpoint = make_checkpoint(options, data, Path(folder) / "run")
        rounds = [
            (*bare(options, checkpoint, data), *encoded(options, checkpoint, data, Path(folder) / f"out-{number}"))
            for number in range(options.rounds)
        ]
    alone = options.device == "cpu" and not options.workers
    return {
        "race": "encode", "task": options.task, "model": options.model, "samples": options.samples,
        "batch": options.batch, "workers": options.workers, "precision": options.precision,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu", "torch": torch.__version__,
        "bare_samples_per_second": round(statistics.median(r[0] for r in rounds), 1),
        "encode_samples_per_second": round(statistics.median(r[2] for r in rounds), 1),
        "ratio": round(statistics.median(r[2] / r[0] for r in rounds), 3),
        "ratio_whole": round(statistics.median(r[3] / r[0] for r in rounds), 3),
        "cpu_ratio": round(statistics.median(r[4] / r[1] for r in rounds), 3) if alone else None,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--task", default="gair", choices=tuple(TASKS))
    parser.add_argument("--model", default="base" if cuda else "small", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--samples", type=int, default=4096 if cuda else 256)
    parser.add_argument("--size", type=int, default=128, help="pixels a side of an image")
    parser.add_argument("--photos", type=int, default=2, help="most photos a tile")
    parser.add_argument("--batch", type=int, default=64 if cuda else 16)
    parser.add_argument("--held", type=int, default=16, help="batches of the bare passes")
    parser.add_argument("--workers", type=int, default=12 if cuda else 0)
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the trainer")
    print(json.dumps(run(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
