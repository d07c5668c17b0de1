"""Shards of a few small samples, written for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.alignment import place
from pipeline.osm.stage import features_stage, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.run.ray_map import Runner
from pipeline.samples.job import Snapshot
from pipeline.samples.write import ShardResult, ShardWriter, sample_meta
from schemas.features import drop_row
from schemas.footprint import Footprint
from schemas.sample import Provenance, StreetviewInfo
from schemas.splits import SplitConfig
from schemas.tokens import empty_tokens
from tests.osm.opl import RULES, write_opl

SPLIT = SplitConfig(1.0, 0.3, 0.3)


def square(key: str, lon: float, lat: float) -> Footprint:
    """Of 0.02 by 0.01 degrees around a place, 10 by 20 pixels."""
    return Footprint(key, "EPSG:4326", (2e-3, 0, lon - 0.01, 0, -5e-4, lat + 0.005), 10, 20)


def write(
    folder: Path,
    index: int,
    places: list[tuple[float, float]],
    drops: int = 0,
    inputs: str = "",
    make: Callable[[str, float, float], Footprint] = square,
) -> ShardResult:
    """A shard; its sample ``i`` has ``i`` points, ``2 i`` lines, ``3 i`` areas, ``4 i`` relations and ``i`` photos."""
    footprints = [make(f"f{index}-{i}", *at) for i, at in enumerate(places)]
    writer, placement = ShardWriter(str(folder), index, SPLIT, inputs or f"inputs {index}"), place(footprints)
    for i, footprint in enumerate(footprints):
        kinds = np.repeat(np.arange(3, dtype=np.uint8), (i, 2 * i, 3 * i))
        tokens = replace(empty_tokens(), kind=kinds, relation=np.zeros(4 * i, np.uint8))
        photos = [
            StreetviewInfo(f"sv.{n}.jpg", f"{index}-{i}-{n}", *places[i], 0.5, 0.5,
                           licence=("CC-BY-4.0", None)[n % 2], source="t")
            for n in range(i)
        ]  # fmt: skip
        meta = sample_meta(footprint, placement, i, osm_edited=None, rs=[], streetview=photos, provenance=Provenance())
        members = {"json": meta.to_bytes(), "osm.safetensors": bytes(i)} | {p.member: b"photo" for p in photos}
        writer.add(members, meta, tokens, placement.corners[i], ["ODbL-1.0", "CC0-1.0"])
    writer.drops += [drop_row("samples", "", "nodata", key=f"d{index}-{n}") for n in range(drops)]
    return writer.finish(len(places) + drops)


def extract(folder: Path, nodes: list[tuple[int, float, float, str]]) -> Snapshot:
    """Cells of an extract of some nodes."""
    folder.mkdir()
    osm, runner = write_opl(folder / "a.opl", nodes, []), Runner(1)
    features, _ = features_stage([osm], RULES, folder, runner, True)
    cells, _ = vocabulary_stage(features, RULES, CleaningConfig(1, 1), 10, folder, runner, True)
    return Snapshot("2024-06-01T00:00:00Z", cells.path)
