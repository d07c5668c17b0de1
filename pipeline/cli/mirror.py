"""``geoshards mirror DIR``: serve a folder in the shape of the services that datasets are made from."""

from __future__ import annotations

import argparse
import contextlib
import json

from pipeline.mirror.geofabrik import build_index
from pipeline.mirror.server import Mirror
from schemas.command import Command
from schemas.errors import InputError
from storage.urls import local_path


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=local_path, help="holds a folder a service: geofabrik/europe/monaco-latest.osm.pbf …"
    )
    parser.add_argument("--port", type=int, default=8470, help="0 takes any free one (default 8470)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the index of extracts and end; with --json, as served"
    )


def _run(args: argparse.Namespace) -> int:
    if not 0 <= args.port <= 65_535:
        raise InputError(f"--port {args.port} is not 0 to 65535")
    if args.list:
        index = build_index(args.folder / "geofabrik", "")
        if args.json:
            print(json.dumps(index))
        else:
            for own in (f["properties"] for f in index["features"]):
                print(f"{own['id']:<24} in {own.get('parent', '-'):<24} {own['urls'].get('pbf', '-')}")
        return 0
    with Mirror(args.folder, args.port, args.host) as mirror, contextlib.suppress(KeyboardInterrupt):
        if args.json:
            print(json.dumps({"url": mirror.url}), flush=True)
        elif not args.quiet:
            print(f"serving {args.folder}; in another shell: export GEOSHARDS_MIRROR={mirror.url}", flush=True)
        mirror.wait()
    return 0


COMMAND = Command("Serve a folder of extracts as the download servers do (a local mirror)", _configure, _run)
