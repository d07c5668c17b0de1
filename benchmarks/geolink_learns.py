"""Does GeoLink learn anything that reconstruction alone does not? A background script, not part of the tests.

``python benchmarks/geolink_learns.py DATA [--seeds 0,1,2] [--minutes 15] [--steps N] [--out DIR] [--set KEY=VALUE …]``
trains a tiny model (112 pixels, two decoder blocks of 128) on the training split of DATA twice a seed, with all three
losses and with reconstruction only, for the same steps, and prints one JSON line: retrieval between image and objects
against chance, and the linear probes of the frozen image encoder, on the validation split. DATA should hold 200
validation samples; ``geoshards shards --region demo --streetview none --out DATA demo.scale=9`` makes such a set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from trainers.engine.cli import parse  # noqa: E402
from trainers.engine.loop import train  # noqa: E402
from trainers.evaluate.labels import TASKS  # noqa: E402
from trainers.tasks.geolink import GEOLINK  # noqa: E402

MODEL = (
    "model=tiny", "arch.vit.image_size=112", "arch.vit.dim=192", "arch.vit.depth=6", "arch.decoder_dim=128",
    "arch.decoder_depth=2", "arch.osm_dim=64", "arch.fusion_dim=64", "arch.tag_width=128", "batch_size=64",
    "eval.samples=1000", "eval.train_samples=2000", "log.tensorboard=false", "threads=2",
)  # fmt: skip
#: The paper's weights are meant for thirty thousand steps of 2640 samples; a run this short gives the graph more.
LOSSES = {"all": ("loss.cont=0.3", "loss.cst=0.1"), "reconstruction": ("loss.cont=0", "loss.cst=0")}


def run(data: str, out: Path, seed: int, steps: int, words: Sequence[str]) -> dict[str, Any]:
    """One training run of the model with more settings; returns its last evaluation."""
    words = [*MODEL, *words, f"seed={seed}", f"steps={steps}", f"checkpoint_every={steps}"]
    settings, _, _ = parse(GEOLINK, words)
    begin = time.perf_counter()
    summary = train(GEOLINK, settings, data, out, quiet=True)
    seconds = time.perf_counter() - begin
    return {**summary["evaluation"], "seconds": round(seconds, 1), "samples_per_second": summary["samples"] / seconds}


def steps_in(data: str, folder: Path, minutes: float) -> int:
    """Steps that a run of all losses makes in so many minutes, evaluation left out: from 20 of them."""
    settings, _, _ = parse(GEOLINK, [*MODEL, *LOSSES["all"], "steps=20", "eval.every=0"])
    stages = train(GEOLINK, settings, data, folder / "probe", quiet=True)["stages"]
    rate = next(row["items_per_second"] for row in stages if row["stage"] == "steps")
    return max(20, int(rate * minutes * 60))


def main() -> None:
    """Train all runs and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=15.0, help="of a run")
    parser.add_argument("--steps", type=int, help="of a run, in place of minutes")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the model's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        steps = options.steps or steps_in(options.data, folder, options.minutes)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in LOSSES}
        for seed in map(int, options.seeds.split(",")):
            for name, losses in LOSSES.items():
                found[name].append(run(options.data, folder / f"{name}-{seed}", seed, steps, [*losses, *options.set]))
                print(f"{name} seed {seed}: {json.dumps(found[name][-1])}", file=sys.stderr)

    def median(name: str, score: str) -> float | None:
        values = [row[score] for row in found[name] if score in row]
        return round(statistics.median(values), 4) if values else None

    table = {
        task: {
            "all": median("all", f"{task}_linear"), "reconstruction": median("reconstruction", f"{task}_linear"),
            "majority": median("all", f"{task}_majority"),
            "gain": [
                round(100 * (a[f"{task}_linear"] - b[f"{task}_linear"]), 1)
                for a, b in zip(found["all"], found["reconstruction"], strict=True) if f"{task}_linear" in a
            ],
        }
        for task in TASKS
    }  # fmt: skip
    ratio = [round(row["r@1"] / row["chance_r@1"], 1) for row in found["all"]]
    print(json.dumps({
        "script": "geolink_learns", "steps": steps, "seeds": options.seeds, "r@1_over_chance": ratio,
        "r@1": median("all", "r@1"), "r@5": median("all", "r@5"), "probes": table,
        "samples_per_second": median("all", "samples_per_second"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
