"""``geoshards shards``, ``plan`` and ``features``: the command line of the shards job."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.driver.forecast import confirm, exact_forecast, forecast
from pipeline.driver.shards import Outcome, make_shards
from pipeline.driver.staged import STAGES, run_stage
from pipeline.imagery.stac.presets import PRESETS
from pipeline.osm.stage import export_features, features_stage
from pipeline.rules import load_rules
from pipeline.run.job import goes_with_job
from pipeline.run.ray_map import Runner
from pipeline.samples.config import REGION_DEFAULTS, ShardsConfig
from schemas.command import Command
from schemas.config import build, merge, overlay, parse_settings, settings_help
from schemas.errors import ConfigError, at_the_door
from storage.cache import using
from storage.progress import StageRow, format_table, report
from storage.text import visible
from storage.urls import cache_folder, local_path

_FLAGS = {
    "region": "demo; names or ISO codes (europe, FR, monaco,andorra); west,south,east,north; a GeoJSON outline; "
    "paths or URLs of OSM extracts (default demo)",
    "imagery": f"paths or patterns of rasters, {', '.join(PRESETS)}, stac, xyz, none; auto: Sentinel-2 of "
    "earth-search for a region by name or area, the demo's own, none for files (default auto)",
    "streetview": "panoramax, mapillary, kartaview, path or URL of a folder of photos with EXIF GPS or of a CSV or "
    "Parquet table, none; "
    "auto: panoramax for a region by name or area, the demo's own, none for files (default auto)",
    "footprints": "some of tiles (XYZ), grid (metric cells in UTM), chips (images of a folder) (default tiles)",
    "chips": "folder of image chips, for footprints=chips (default with it: tiles and these chips)",
    "zoom": "zoom of the XYZ tiles (default: the imagery's own, 16 without)",
    "size": "pixels a side of an image (default 256)",
    "out": "dataset directory or fsspec URL (default data/REGION)",
    "workers": "processes (default: one a core)",
}


def add_settings(parser: argparse.ArgumentParser, flags: Mapping[str, str], epilog: str = "") -> None:
    """The ``flags`` and their help, --config and key=value; ``epilog`` stands before the help on all settings."""
    for name, text in flags.items():
        parser.add_argument(f"--{name}", help=text, type=str.strip)
    parser.add_argument("--config", type=local_path, help="YAML file of settings; flags and key=value go over it")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any setting below")
    parser.epilog = f"{epilog}settings:\n{settings_help(ShardsConfig(), inspect.getsource)}"


def read_settings(
    defaults: Mapping[str, Any], config: Path | None, flags: Mapping[str, Any], settings: Sequence[str]
) -> ShardsConfig:
    """Defaults, then the file --config, then flags that were given, then key=value."""
    file: dict[str, Any] = {}
    if config is not None:
        with at_the_door(f"settings file {config} cannot be read"):
            file = parse_settings(config.read_text(encoding="utf-8"), str(config))
    given = merge(overlay(file, _given(flags)), settings)
    region = str(given.get("region", defaults["region"]))
    return build(ShardsConfig, overlay(overlay(defaults, REGION_DEFAULTS.get(region, {})), given))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that the user gave; numbers as numbers."""
    found: dict[str, Any] = {}
    for name, value in flags.items():
        if isinstance(value, Mapping):
            found |= {name: inner} if (inner := _given(value)) else {}
        elif value is not None:
            found[name] = int(value) if name in ("zoom", "size", "workers") and value.lstrip("-").isdigit() else value
    return found


def read_config(args: argparse.Namespace) -> ShardsConfig:
    """Settings from --config, then flags, then key=value."""
    flags = {name: getattr(args, name) for name in _FLAGS}
    flags["chips"] = {"folder": flags["chips"]}
    if args.chips and not flags["footprints"]:
        flags["footprints"] = "tiles,chips"
    return read_settings({"region": "demo"}, args.config, flags, args.settings)


def _configure_shards(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, _FLAGS)
    parser.add_argument("--yes", action="store_true", help="do not ask before a build over plan.ask_gb")
    parser.add_argument("--stage", metavar="STAGE", help=f"do this part alone, in this order: {', '.join(STAGES)}")
    parser.add_argument("--only", default="", metavar="NAME", help="of --stage extracts or samples: one item of it")


def _configure_plan(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, _FLAGS)
    parser.add_argument(
        "--exact", action="store_true", help="fetch and read the extracts, and list images and photos, to be exact"
    )


def _run_shards(args: argparse.Namespace) -> int:
    config = read_config(args)
    quiet = args.quiet or args.json
    if args.only and not args.stage:
        raise ConfigError("--only goes with --stage extracts or --stage samples")
    if not quiet and (note := goes_with_job(config.out, Path.cwd())):
        print(visible(note), file=sys.stderr)
    if args.stage:
        done = run_stage(config, args.stage, args.only, quiet)
        report(args, done.rows, {"stage": args.stage} | done.facts, done.line)
        return 0
    if (found := forecast(config, quiet)) is not None:
        if not quiet:
            print("\n".join(map(visible, found.lines())), file=sys.stderr)
        confirm(found, config.plan.ask_gb, args.yes)
    report_build(args, make_shards(config, quiet))
    return 0


def report_build(args: argparse.Namespace, outcome: Outcome) -> None:
    """Say what a build did."""
    d = outcome.document
    result = {"out": outcome.out, "built": outcome.built} | {
        k: d[k] for k in ("samples", "shards", "bytes", "content_hash", "layout_hash")
    }
    done = "nothing left to do: " if not outcome.built else ""
    size = f"{d['samples']:,} samples, {d['shards']:,} shards, {d['bytes'] / 1e6:,.1f} MB"
    report(args, outcome.stages, result, f"{done}{outcome.out}: {size}, content {d['content_hash'][:12]}")


def _run_plan(args: argparse.Namespace) -> int:
    config = read_config(args)
    quiet = args.quiet or args.json
    stages: list[StageRow] = []
    found = None if args.exact else forecast(config, quiet)
    if found is None:
        found, stages = exact_forecast(config, quiet)
    if args.json:
        print(json.dumps(found.as_dict() | {"stages": [s.as_dict() for s in stages]}))
        return 0
    if stages and not args.quiet:
        print(format_table(stages), file=sys.stderr)
    print("\n".join(map(visible, found.lines())))
    if found.gigabytes > config.plan.ask_gb:
        print(f"`geoshards shards` asks before it begins, as this is over plan.ask_gb={config.plan.ask_gb:g} (--yes)")
    return 0


def _configure_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=local_path, help="OSM extracts")
    parser.add_argument(
        "--out", type=local_path, required=True, help="folder for features.parquet (GeoParquet) and drops.parquet"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


def _run_features(args: argparse.Namespace) -> int:
    rules = load_rules()
    cache = cache_folder()
    with using(cache), Runner(args.workers) as runner:
        features, row = features_stage(args.files, rules, cache, runner, args.quiet or args.json)
        rows, drops = export_features(features, args.out)
    result = {"out": str(args.out), "features": rows, "drops": int(sum(drops["count"].to_pylist()))}
    report(args, [row], result, f"{args.out}: {rows:,} features, {drops.num_rows:,} rows of drops")
    return 0


SHARDS = Command("Build a dataset from a region, imagery and street view", _configure_shards, _run_shards)
PLAN = Command("Show what `shards` would fetch, build and store, and what licences ask", _configure_plan, _run_plan)
FEATURES = Command(
    "Read OSM extracts into a GeoParquet table of features and a table of drops", _configure_features, _run_features
)
