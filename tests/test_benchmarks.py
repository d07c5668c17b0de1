"""Every benchmark runs at its smallest size, without its peers, and prints one line of JSON with a figure of ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import osmium
import pytest
from PIL import Image

from pipeline.demo.world.build import build_world
from pipeline.demo.world.settings import WorldSettings
from tests.forks import in_forks
from tests.trainers.synthetic import SyntheticSettings, write_dataset

pytestmark = pytest.mark.timeout(600)  # the first waits for all
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_TINY = "batch_size=8 threads=1 arch.vit.image_size=32 arch.vit.depth=1 arch.decoder_depth=1 eval.samples=24"
#: File and what is raced; its words, and a figure that must be above zero: its names from the outside in, with dots.
SMALLEST = {
    "cogs.py": ("--side 600 --runs 1 --blocks 256", "tiles_per_second.ours"),
    "chips.py": ("chips --runs 1 --copies 1", "geoshards_ms"),
    "continent.py": ("streets.opl --sizes 0.00001 --share 1", "sizes.0.tiles.samples"),
    "driver_memory.py": ("--tiles 40", "tiles.40.jobs_per_cpu_second"),
    "encode.py": ("--model tiny --samples 16 --size 32 --batch 4 --rounds 1", "ratio"),
    "features.py": ("streets.opl --runs 1 --workers 1 --sides geoshards_1", "geoshards_1_s"),
    "features.py merged": ("streets.opl suburb.opl --runs 1 --workers 1", "geoshards_1_apart_over_geoshards_1"),
    "forecast.py": ("town.json --pbf-gb 0.05 --tiles 50000 --workers 1,20", "forecast.1.hours"),
    "gair.py": ("--model tiny --samples 4 --photos 4,1 --rounds 1 --threads 1", "photos.4.ratio"),
    "gair_learns.py": (
        "small --tiles 1 --photos 8 --workers 1 --runs edges,ours --seeds 0 --steps 1 --split train --set batch_size=2",
        "runs.ours.cpu_s",
    ),
    "geolink_learns.py": (f"synthetic --seeds 0 --steps 1 --set {_TINY}", "samples_per_second"),
    "geolink_step.py": ("--sizes tiny --batch 8 --rounds 1 --threads 1", "tiny.nodes"),
    "gpu_gair.py": ("--device cpu --model tiny --batch 4 --steps 1", "fp32.samples_per_second"),
    "gpu_geolink.py": ("--device cpu --model tiny --batch 4 --steps 1", "samples_per_second"),
    "imagery.py": ("--side 640 --runs 1", "tiles_per_second.ours"),
    "panoramas.py": ("--width 512 --count 1 --runs 1", "views_per_second.ours"),
    "plan.py": ("--tiles 40", "tiles.40.cpu_s"),
    "ray_scaling.py": ("streets.osm.pbf --copies 2 --sides ray,bare", "cpu_ratio.ray"),
    "scaling.py": ("streets.opl suburb.opl --workers 1", "ratio.1"),
    "stream_decode.py": ("--size 32 --images 2 --rounds 1", "results.simplejpeg.full_ms"),
    "stream_memory.py": ("--samples 8 --epochs 1 --workers 1", "one_process_mb.0"),
    "stream_race.py": ("--samples 16 --rounds 1 --passes 1 --peers ''", "results.geoshards.samples_per_second"),
    "stream_read.py": ("--samples 16 --rounds 1", "offset_samples_per_second"),
    "stream_scale.py": ("--samples 4000 --per-shard 200 --rounds 1", "resume_s"),
    "tokens.py": ("--places streets.opl --runs 1 --tiles 1", "tokens.streets.opl.geoshards_tiles_per_s"),
    "world_looks.py": ("world", "shapes.photo_to_tile.gallery"),
    "verify.py": ("--samples 16 --rows 2000 --runs 1", "table_rows_per_cpu_second"),
    "tokens_to_shards.py": ("streets.opl --runs 1 --sample 1", "geoshards_tiles_per_s"),
}


def write_streets(path: Path, west: float = 9.5) -> None:
    """Houses along streets, as OPL, on about 700 m."""
    lines, ways, number = [], [], 0
    for row in range(8):
        for column in range(10):
            lon, lat = west + 1e-3 * column, 47.1 + 6e-4 * row
            for x, y in ((0, 0), (4, 0), (4, 4), (0, 4)):
                number += 1
                lines.append(f"n{number} v1 x{lon + x * 1e-4:.7f} y{lat + y * 1e-4:.7f}")
            own = [f"n{number - k}" for k in (3, 2, 1, 0, 3)]
            ways.append(f"w{len(ways) + 1} v1 Tbuilding=house N{','.join(own)}")
        ways.append(f"w{len(ways) + 1} v1 Thighway=residential Nn{number - 39},n{number - 3}")
    path.write_text("\n".join([*lines, *ways]) + "\n")


def write_measured(path: Path) -> None:
    """What `scaling.py --out` says of a small build."""
    stages = [
        {"name": "ways", "grows_with": "pbf", "before": 0.1, "seconds": [0.2, 0.3], "read": 1e6, "write": 2e6},
        {"name": "samples", "grows_with": "tiles", "before": 0.2, "seconds": [1.0, 2.0, 1.5], "write": 9e6},
        {"name": "catalog", "grows_with": "tiles", "before": 0.1, "once": 0.1},
    ]
    sizes = {"pbf_bytes": 1_000_000, "tiles": 500, "shards": 3, "zoom": 16}
    path.write_text(json.dumps({"clock": "cpu", **sizes, "stages": stages}))


def write_chip(folder: Path) -> None:
    """A square of noise with a road, as GeoLink's release has them."""
    folder.mkdir()
    Image.effect_noise((150, 150), 60).convert("RGB").save(folder / "plot.jpg")
    place = {"bbox": [9.5, 47.1, 9.501, 47.1007], "crs": "EPSG:32632", "time": 2021}
    (folder / "plot_meta.json").write_text(json.dumps(place))
    road = {"type": "LineString", "coordinates": [[9.5, 47.1003], [9.501, 47.1004]]}
    feature = {"type": "Feature", "properties": {"label": "highway:track"}, "geometry": road}
    (folder / "plot_line.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each gave, by its name."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_streets(folder / "streets.opl")
    write_streets(folder / "suburb.opl", west=9.505)
    with osmium.SimpleWriter(folder / "streets.osm.pbf") as writer:
        for item in osmium.FileProcessor(folder / "streets.opl"):
            writer.add(item)
    write_measured(folder / "town.json")
    write_chip(folder / "chips")
    build_world(folder / "world", WorldSettings(tiles=36, photos=24), workers=1)
    splits = ("train", "train", "train", "val")
    write_dataset(folder / "synthetic", SyntheticSettings(samples=96, size=32, photos=0, splits=splits))
    lists = {name: [["python", str(BENCHMARKS / name.split()[0]), *words_of(name)]] for name in SMALLEST}
    return {result["list"]: result for result in in_forks(lists, folder, os.environ)}


def words_of(name: str) -> list[str]:
    """Its smallest size."""
    return ["" if word == "''" else word for word in SMALLEST[name][0].split()]


def test_every_benchmark_has_a_smallest_size() -> None:
    assert {name.split()[0] for name in SMALLEST} == {p.name for p in BENCHMARKS.glob("*.py")}


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_a_benchmark_runs_at_its_smallest_size(name: str, lines: dict[str, dict[str, Any]]) -> None:
    ran = lines[name]
    assert ran["status"] == 0, ran["err"]
    figure: Any = json.loads(ran["out"])  # one line, and nothing else
    names = SMALLEST[name][1].replace(".opl", "§opl").split(".")
    for word in names:
        figure = figure[int(word) if isinstance(figure, list) else word.replace("§", ".")]
    assert figure > 0
