"""``geoshards demo DIR``: the generated town as plain files, to look at or to try other tools on."""

from __future__ import annotations

import argparse
import json

from pipeline.demo import build_demo, built_in
from schemas.command import Command
from schemas.errors import InputError
from storage.progress import Progress
from storage.urls import cache_folder, local_path


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=local_path, help="folder for town.osm.pbf, aerial.tif and photos/")
    parser.add_argument("--seed", type=int, default=7, help="another town (default 7)")
    parser.add_argument("--scale", type=int, default=1, help="times the area of about 300 tiles at zoom 17, 1 to 100")


def _run(args: argparse.Namespace) -> int:
    if not 1 <= args.scale <= 100:
        raise InputError(f"--scale {args.scale} is not 1 to 100")
    with Progress("demo town", 0, "parts", args.quiet or args.json) as progress:
        built = built_in(cache_folder(), args.seed, args.scale)
        files = build_demo(args.out, seed=args.seed, scale=args.scale, progress=progress.update, built=built)
    found = {"osm": str(files.osm), "imagery": str(files.imagery), "streetview": str(files.streetview)}
    if args.json:
        print(json.dumps(found))
    elif not args.quiet:
        print("\n".join(f"{name}: {path}" for name, path in found.items()))
    return 0


COMMAND = Command("Generate the demo town: an OSM extract, an aerial image and street-view photos", _configure, _run)
