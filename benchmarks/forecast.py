#!/usr/bin/env python3
"""Not a race: forecasts builds of Europe and the planet on clusters, from what `scaling.py --out` has measured.

Usage: python benchmarks/forecast.py [MEASURED.json] [--region europe] [--workers 1,2,10,30,100,300,1000] [--table]

Prints one JSON line, or a table: hours by the clock, the share of the workers' time that is work, core-hours that are
paid for, bytes from and to the bucket, and the stages that take longest with what each cannot be faster than: its
workers, the driver, the bucket, or its longest task. Sizes of the regions, and what is assumed of cluster and bucket,
are settings (``--help``); docs/scaling.md says where they come from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from math import cos, radians
from pathlib import Path
from typing import Any

from tools.simulate import Bucket, Cluster, Outcome, Stage, grouped, simulate
from tools.stages import Measured

_MEASURED = Path(__file__).with_name("tools") / "measured.json"
_HOUR = 3600.0
_TILE_KM = 40_075.017  # of the one tile of zoom 0, at the equator


@dataclass(frozen=True)
class Region:
    """What is built. Sources: docs/scaling.md."""

    pbf_gb: float  # of all extracts
    land_km2: float
    latitude: float  # degrees at which a tile has the mean size

    def tiles(self, zoom: int, share: float) -> float:
        """Tiles of the land that hold a feature, if a ``share`` of them do."""
        side = _TILE_KM / 2**zoom * cos(radians(self.latitude))
        return share * self.land_km2 / side**2


REGIONS = {
    "europe": Region(pbf_gb=34.7, land_km2=10.2e6, latitude=54.0),
    "planet": Region(pbf_gb=87.0, land_km2=134.9e6, latitude=48.5),
}


def forecast(found: Measured, pbf_bytes: float, tiles: float, cluster: Cluster, seed: int) -> Outcome:
    """A build of so many bytes of extracts, and tiles."""
    stages: list[Stage] = found.stages_of(pbf_bytes, tiles, cluster.workers)
    return simulate([grouped(s, cluster.workers) for s in stages], cluster, seed)


def row(outcome: Outcome) -> dict[str, Any]:
    """What there is to say of a build."""
    longest = sorted(outcome.stages, key=lambda s: -s.seconds)[:3]
    return {
        "workers": outcome.workers,
        "hours": round(outcome.seconds / _HOUR, 3),
        "utilisation": round(outcome.utilisation, 3),
        "core_hours": round(outcome.workers * outcome.seconds / _HOUR, 1),
        "core_hours_lost": round(sum(s.lost for s in outcome.stages) / _HOUR, 2),
        "bucket_tb": round(outcome.bytes / 1e12, 3),
        "longest": [
            {"stage": s.name, "share": round(s.seconds / outcome.seconds, 3), "limit": s.limit} for s in longest
        ],
        "alone_hours": round(sum(s.alone for s in outcome.stages) / _HOUR, 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| workers | hours | work | core-hours | bucket, TB | takes longest |", "|---|---|---|---|---|---|"]
    for own in rows:
        longest = ", ".join(f"{s['stage']} {s['share']:.0%} ({s['limit']})" for s in own["longest"])
        lines.append(
            f"| {own['workers']:,} | {own['hours']:,.2f} | {own['utilisation']:.0%} | {own['core_hours']:,.0f} | "
            f"{own['bucket_tb']:,.2f} | {longest} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", nargs="?", type=Path, default=_MEASURED)
    parser.add_argument("--region", choices=sorted(REGIONS), default="europe")
    parser.add_argument("--workers", default="1,2,10,30,100,300,1000", help="with commas")
    parser.add_argument("--zoom", type=int, default=14, help="of the tiles")
    parser.add_argument("--share", type=float, default=1.0, help="of the land's tiles that hold a feature")
    parser.add_argument("--pbf-gb", type=float, help="of extracts, instead of the region's")
    parser.add_argument("--tiles", type=float, help="instead of the region's")
    parser.add_argument("--faster", type=float, default=1.0, help="a core's speed, over that of the one measured")
    parser.add_argument("--image-ms", type=float, default=0.0, help="milliseconds a tile for its image")
    parser.add_argument("--image-kb", type=float, default=0.0, help="kilobytes a tile that are read for its image")
    parser.add_argument("--image-out-kb", type=float, default=0.0, help="kilobytes of its image in the shard")
    parser.add_argument("--per-node", type=int, default=16, help="workers of a node")
    parser.add_argument("--mtbf-days", type=float, default=47.0, help="until a node ends, on average; 0: never")
    parser.add_argument("--back-s", type=float, default=300.0, help="seconds until another takes its place")
    parser.add_argument("--straggle", type=float, default=0.01, help="share of tasks that take far longer")
    parser.add_argument("--latency-ms", type=float, default=150.0, help="until the bucket answers")
    parser.add_argument("--connection-mb", type=float, default=85.0, help="a second, of one connection to the bucket")
    parser.add_argument("--total-gb", type=float, default=12.5, help="a second, of all connections together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="a table in Markdown instead of the JSON line")
    args = parser.parse_args()
    if not args.measured.is_file():
        parser.error(f"{args.measured} does not exist; make it: python benchmarks/scaling.py --out {args.measured}")
    found = Measured.from_dict(json.loads(args.measured.read_text()))
    region = replace(REGIONS[args.region], **({} if args.pbf_gb is None else {"pbf_gb": args.pbf_gb}))
    tiles = args.tiles or region.tiles(args.zoom, args.share)
    density = region.pbf_gb * 1e9 / tiles * found.tiles / found.pbf_bytes
    found = found.denser(density).with_images(args.image_ms / 1e3, args.image_kb * 1e3, args.image_out_kb * 1e3)
    found = found.faster(args.faster)
    bucket = Bucket(args.latency_ms / 1e3, args.connection_mb * 1e6, args.total_gb * 1e9)
    cluster = Cluster(
        1, args.per_node, mtbf=args.mtbf_days * 24 * _HOUR or float("inf"), back=args.back_s, straggle=args.straggle,
        bucket=bucket,
    )  # fmt: skip
    rows = [
        row(forecast(found, region.pbf_gb * 1e9, tiles, replace(cluster, workers=int(n)), args.seed))
        for n in args.workers.split(",")
    ]
    what = {"region": args.region, "pbf_gb": region.pbf_gb, "tiles": round(tiles), "zoom": args.zoom}
    if not args.table:
        print(json.dumps({**what, "forecast": rows}))
        return
    print(f"{what['region']}: {region.pbf_gb:g} GB of extracts, {tiles:,.0f} tiles of zoom {what['zoom']}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
