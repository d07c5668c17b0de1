"""``geoshards chips``: a build whose footprints are the images of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.shards import add_settings, read_settings, report_build
from pipeline.driver.plan import name_of
from pipeline.driver.shards import make_shards
from pipeline.samples.config import ShardsConfig
from schemas.command import Command

_OSM = "OSM extracts that hold the objects of all chips (default: each chip's own vector files)"
_FLAGS = {
    "imagery": "images of the chips' places instead of their own, as `geoshards shards` takes them",
    "streetview": "photos: path or URL of a folder with EXIF GPS or of a CSV or Parquet table, or panoramax, "
    "mapillary, kartaview",
    "licence": "of the images, for ATTRIBUTION.md",
    "out": "dataset directory or fsspec URL (default data/NAME of the folder)",
    "workers": "processes (default: one a core)",
}
_HELP = """\
A chip is an image (.jpg, .png, .tif) with, by its stem:
  where it lies   in the GeoTIFF itself, a world file and CRS, or STEM_meta.json, STEM.json: {"bbox": [west, south,
                  east, north], "crs": "EPSG:3067"}; names and metadata of SkyScript are understood without a CRS
  its objects     STEM_point, STEM_line, STEM_polygon or STEM, as .geojson, .gpkg or .shp; or --osm
Subfolders are searched too. A chip that cannot be used is a row of `drops` with its reason.

"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of chips, or its URL in a store (s3://bucket/chips)")
    parser.add_argument("--osm", nargs="+", metavar="FILE", help=_OSM)
    add_settings(parser, _FLAGS, _HELP)


def chips_config(args: argparse.Namespace) -> ShardsConfig:
    """Settings from --config, then flags, then key=value."""
    words = list(args.osm or [])
    settings = [w for w in words if "=" in w and not Path(w).exists()]  # key=value just behind the files
    extracts = ",".join(w for w in words if w not in settings)
    chips: dict[str, Any] = {"folder": args.folder}
    if args.imagery is not None:
        chips["image"] = "imagery"
    given: dict[str, Any] = {
        "region": extracts or "none", "footprints": ["chips"], "chips": chips, "name": name_of(Path(args.folder)),
        "imagery": args.imagery or "none", "streetview": args.streetview or "none",
    }  # fmt: skip
    flags = {"out": args.out, "workers": args.workers, "rs": {"licence": args.licence}}
    return read_settings(given, args.config, flags, [*settings, *args.settings])


def _run(args: argparse.Namespace) -> int:
    report_build(args, make_shards(chips_config(args), args.quiet or args.json))
    return 0


COMMAND = Command("Build a dataset from image chips and their OSM objects", _configure, _run)
