"""Does GAIR learn where a photo was taken? A background script, not part of the tests.

``python benchmarks/gair_learns.py DIR [--tiles 800] [--photos 4000] [--seeds 0,1,2] [--minutes 15 | --steps N]
[--runs edges,ours,released,…] [--split test] [--set KEY=VALUE …]`` makes a generated world in DIR, a dataset of it and
one with all photos handed to other places, trains `tiny` by the settings of each run for the same steps, and prints one
JSON line: retrieval across tiles and inside one, metres, moved queries and probes, on blocks of ground that no training
tile touches, beside chance, an untrained model, colour histograms and ``edges``, which are matched by a linear map.
What DIR holds already is used again. Recipes are chosen on ``--split val`` and reported on ``test``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.edges import VIEW, Edges, Map, matched

from pipeline.demo.world.build import build_world
from pipeline.demo.world.settings import WorldSettings
from pipeline.driver.shards import make_shards
from pipeline.samples.config import ShardsConfig
from schemas.splits import SplitConfig
from trainers.engine.checkpoint import FILE_NAME, load_checkpoint
from trainers.engine.cli import parse
from trainers.engine.loop import train
from trainers.evaluate.gair.embed import Seen, embed
from trainers.evaluate.gair.intervals import blocks
from trainers.evaluate.gair.members import sizes
from trainers.evaluate.gair.places import Places
from trainers.evaluate.gair.retrieval import retrieval, retrieval_chance
from trainers.evaluate.split import open_split
from trainers.models.gair.model import Gair
from trainers.tasks.gair import GAIR

MODEL = (
    "preset=small_data", "eval.samples=1000", "eval.train_samples=1000", "eval.photos=16", "eval.every=0",
    "log.tensorboard=false", "threads=1",
)  # fmt: skip
#: Blocks of 1.3 km; of the default world the seed gives both held-out splits over 440 photos.
SPLIT = SplitConfig(block_degrees=0.012, val=0.13, test=0.15, seed=26)
#: What each run changes. The release's rate is meant for batches of 256 and more; here it has ours.
RUNS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "without_heading": ("arch.heading=false",),
    "released": ("fidelity=released", "arch.bands=[red,green,blue]", "arch.photos=8", "optim.lr=3.0e-3"),
    "bilinear": ("arch.heading=false", "arch.query=bilinear"),
    "bicubic": ("arch.heading=false", "arch.query=bicubic"),
    "without_location": ("loss.secl=0",),
    "shuffled": (),  # photos of other places
}
#: Scores that the line has, with their intervals, and those of what the model is held against.
ACROSS = tuple(f"{way}/r@{k}" for way in ("photo_to_place", "place_to_photo") for k in (1, 5, 10))
WITHIN = ("photo_to_place_in_tile/r@1", "place_to_photo_in_tile/r@1", "grid/error_m", "grid_in_tile/error_m")
PROBES = ("probe/road_class", "probe/land_use", "probe/building_density_r2")
SAMPLING = tuple(f"sampling_{way}{part}/r@1" for way in ("nili", "bilinear", "bicubic") for part in ("", "_in_tile"))


def make_data(folder: Path, tiles: int, photos: int, shuffled: bool, workers: int) -> dict[str, Path]:
    """The datasets by name: ``true``, and if it is asked for ``shuffled``, where each photo is another's."""
    world = build_world(folder / "world", WorldSettings(tiles=tiles, photos=photos), workers=workers or None)
    tables = {"true": world.streetview}
    if shuffled:
        tables["shuffled"] = world.streetview.with_name("photos-of-others.csv")
        hand_out(world.streetview, tables["shuffled"])
    found = {name: folder / f"data-{name}" for name in tables}
    for name, table in tables.items():
        config = ShardsConfig(
            region=str(world.osm), imagery=str(world.imagery / "*.tif"), streetview=str(table), zoom=17,
            out=str(found[name]), cache=str(folder / "cache"), split=SPLIT, workers=workers,
        )  # fmt: skip
        make_shards(config, quiet=True)
    return found


def hand_out(photos: Path, target: Path) -> None:
    """The table of photos with their files in an order drawn once."""
    with photos.open(newline="") as table:
        rows = list(csv.DictReader(table))
    files = [row["file"] for row in rows]
    random.Random(0).shuffle(files)
    with target.open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows({**row, "file": file} for row, file in zip(rows, files, strict=True))


def run(name: str, data: dict[str, Path], out: Path, seed: int, words: Sequence[str]) -> dict[str, float]:
    """One run: trained on its dataset, measured on the true one."""
    settings, _, _ = parse(GAIR, [*MODEL, *RUNS[name], *words, f"seed={seed}"])
    begin = time.process_time()
    root = str(data["shuffled" if name == "shuffled" else "true"])
    if not (out / FILE_NAME).exists():
        train(GAIR, settings, root, out, quiet=True)
    seconds = time.process_time() - begin
    state = load_checkpoint(out / FILE_NAME)
    model = Gair.of(state["config"])
    model.load_state_dict(state["model"])
    report = GAIR.evaluation(settings, [str(data["true"])], torch.device("cpu"))(model.eval(), True)
    if report is None:
        raise SystemExit(f"error: no two photos of the split {settings.eval.split}; raise --tiles and --photos")
    report.write(out, int(state["step"]))
    return {**report.scores, "cpu_s": seconds, "samples": float(state["step"] * settings.batch_size)}


def edges(data: Path, split: str) -> dict[str, list[dict[str, float]]]:
    """What edges alone give, matched on the training split by linear maps, each as a run of one seed: of the tile's 256
    and of 96 pixels a side, of every fourth tile's photos, of photos of other places."""
    settings, _, _ = parse(GAIR, [*MODEL])
    settings = replace(settings, stream=replace(settings.stream, select=GAIR.select))
    sides, found = (VIEW.image_size, 96), []
    for name in ("train", split):
        stream = open_split(settings, [str(data)], VIEW, name, 1_000_000)
        held = stream and embed(
            [Edges(side) for side in sides], stream.batches(until_epoch=1), lambda batch: batch.photo_valid,
            sizes(stream), torch.device("cpu"), 0, False,
        )  # fmt: skip
        if not held:
            raise SystemExit(f"error: no photos in the split {name}; raise --tiles and --photos")
        found.append(held)
    (learned, train), (places, asked) = found
    every, some = torch.ones(len(learned), dtype=torch.bool), learned.tile % 4 == 0
    other = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))
    fits = {
        "edges": (0, every, train[0].photo), "edges_96_px": (1, every, train[1].photo),
        "edges_quarter": (0, some, train[0].photo), "edges_shuffled": (0, every, train[0].photo[other]),
    }  # fmt: skip
    return {
        name: [_matched_scores(matched(photo[rows], train[side].place[rows]), asked[side], places)]
        for name, (side, rows, photo) in fits.items()
    }


def _matched_scores(maps: tuple[Map, Map], seen: Seen, places: Places) -> dict[str, float]:
    """Retrieval through two maps to one space, with its intervals and chance."""
    photo, place = maps[0](seen.photo), maps[1](seen.place)
    names = ("photo_to_place", "place_to_photo")
    scores = {f"{n}.chance": value for n, value in retrieval_chance(names, places).items()}
    found = retrieval(names[0], photo, place, places) | retrieval(names[1], place, photo, places)
    for name, value in found.items():
        scores[name] = value.value()
        if between := value.interval(blocks(places.lonlat)):
            scores[f"{name}.low"], scores[f"{name}.high"] = between
    return scores


def steps_in(data: dict[str, Path], folder: Path, minutes: float, words: Sequence[str]) -> int:
    """Steps that a run of ours makes in so many minutes of the processor: from 20 of them."""
    settings, _, _ = parse(GAIR, [*MODEL, *words, "steps=20"])
    begin = time.process_time()
    train(GAIR, settings, str(data["true"]), folder / f"probe-{time.time_ns()}", quiet=True)
    return max(20, int(20 * minutes * 60 / (time.process_time() - begin)))


def line_of(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over seeds by run, with the first seed's intervals, and what they stand beside."""
    names = {s for rows in found.values() for s in rows[0]}
    every = [*ACROSS, *WITHIN, *PROBES, *SAMPLING, *sorted(s for s in names if s.startswith("shift") and "." not in s)]

    def of_run(rows: list[dict[str, float]]) -> dict[str, Any]:
        first, known = rows[0], [s for s in [*every, "cpu_s"] if s in rows[0]]
        words = ("low", "high", "chance", "untrained", "colours", "floor")
        return {
            **{s: round(statistics.median(row[s] for row in rows), 4) for s in known},
            **{f"{s}.{w}": round(first[f"{s}.{w}"], 4) for s in known for w in words if f"{s}.{w}" in first},
            "each_seed": {s: [round(row[s], 4) for row in rows] for s in (ACROSS[0], WITHIN[0]) if s in first},
        }

    return {"runs": {name: of_run(rows) for name, rows in found.items()}}


def main() -> None:
    """Train all runs and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=800)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the processor, of a run")
    parser.add_argument("--steps", type=int, help="of a run, in place of minutes")
    parser.add_argument("--runs", default=",".join(("edges", *RUNS)))
    parser.add_argument("--workers", type=int, default=0, help="processes that make the data; 0: one a core")
    parser.add_argument("--split", default="test", help="that is reported")
    parser.add_argument("--name", default="", help="of the runs' folders, which are used again")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the model's")
    options = parser.parse_args()
    names = options.runs.split(",")
    data = make_data(options.folder, options.tiles, options.photos, "shuffled" in names, options.workers)
    words = [f"eval.split={options.split}", *options.set]
    found: dict[str, list[dict[str, float]]] = {}
    steps = options.steps
    if "edges" in names:
        names.remove("edges")
        found |= edges(data["true"], options.split)
    if names and steps is None:
        steps = steps_in(data, options.folder, options.minutes, words)
    for seed in map(int, options.seeds.split(",")):
        for name in names:
            out = options.folder / f"runs/{options.name}{name}-{seed}"
            row = run(name, data, out, seed, [*words, f"steps={steps}", f"checkpoint_every={steps}"])
            found.setdefault(name, []).append(row)
            print(f"{name} seed {seed}: R@1 {row[ACROSS[0]]:.4f}, {row['cpu_s']:.0f} s", file=sys.stderr)
    print(json.dumps({"script": "gair_learns", "steps": steps, "seeds": options.seeds, **line_of(found)}))


if __name__ == "__main__":
    main()
