"""``geoshards demo DIR``: the generated town, or a large generated world, as plain files."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

from pipeline.demo import build_demo, built_in
from pipeline.demo.world.build import build_world, world_in
from pipeline.demo.world.settings import WorldSettings
from schemas.command import Command
from schemas.config import build, merge, settings_help
from schemas.errors import InputError
from storage.cache import using
from storage.progress import Progress
from storage.urls import cache_folder, local_path


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=local_path, help="folder for an OSM extract, aerial imagery and photos")
    parser.add_argument("--seed", type=int, help="another town (default 7)")
    parser.add_argument("--scale", type=int, help="times the area of about 300 tiles at zoom 17, 1 to 100 (default 1)")
    parser.add_argument(
        "--world", nargs="*", metavar="key=value", help="a world of many towns instead, with any setting below"
    )
    parser.epilog = "settings of --world:\n" + settings_help(WorldSettings(), inspect.getsource)


def _run(args: argparse.Namespace) -> int:
    quiet = args.quiet or args.json
    found = _town(args, quiet) if args.world is None else _world(args, quiet)
    if args.json:
        print(json.dumps(found))
    elif not args.quiet:
        print("\n".join(f"{name}: {path}" for name, path in found.items()))
    return 0


def _town(args: argparse.Namespace, quiet: bool) -> dict[str, str]:
    seed, scale = (default if v is None else v for v, default in ((args.seed, 7), (args.scale, 1)))
    if not 1 <= scale <= 100:
        raise InputError(f"--scale {scale} is not 1 to 100")
    with Progress("demo town", 0, "parts", quiet) as progress:
        built = built_in(cache_folder(), seed, scale)
        files = build_demo(args.out, seed=seed, scale=scale, progress=progress.update, built=built)
    return {"osm": str(files.osm), "imagery": str(files.imagery), "streetview": str(files.streetview)}


def _world(args: argparse.Namespace, quiet: bool) -> dict[str, str]:
    """The world is made in the cache and copied: another folder of it costs no more than a copy."""
    if args.seed is not None or args.scale is not None:
        raise InputError("--seed and --scale are the town's; a world has seed=…, tiles=… and photos=…")
    settings: Any = build(WorldSettings, merge({}, args.world))
    cache = cache_folder()
    kept: Path = world_in(cache, settings)
    with using(cache), Progress("demo world", 0, "parts", quiet) as progress:
        build_world(kept, settings, progress=progress.update)
        files = build_world(args.out, settings, built=kept)
    return {
        "osm": str(files.osm), "imagery": str(files.imagery / "*.tif"), "streetview": str(files.streetview),
        "labels": f"{files.tile_labels}, {files.photo_labels}",
    }  # fmt: skip


COMMAND = Command("Generate a town or a world: an OSM extract, aerial imagery and street-view photos", _configure, _run)
