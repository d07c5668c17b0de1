"""Labels of samples from the objects in them: land use, building density, road class.

They cost nothing and every dataset has them, so they measure a frozen image encoder while it trains. They are weak:
what nobody mapped is labelled as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.features import Kind
from schemas.tags import tag_id
from trainers.embed.vocabulary import read_vocabulary
from trainers.stream.batch import TileBatch

#: No label: the sample has no object that could give one.
UNKNOWN = -1
#: Class by the tags of polygons; the class with most area counts.
LAND_USE: Mapping[str, tuple[str, ...]] = {
    "residential": ("landuse:residential", "landuse:allotments"),
    "commercial": ("landuse:commercial", "landuse:retail"),
    "industrial": ("landuse:industrial", "landuse:quarry", "landuse:railway"),
    "farmland": ("landuse:farmland", "landuse:farmyard", "landuse:orchard", "landuse:vineyard"),
    "grass": ("landuse:grass", "landuse:meadow", "natural:grassland", "leisure:park", "leisure:golf_course"),
    "forest": ("landuse:forest", "natural:wood", "natural:scrub"),
    "water": ("natural:water", "landuse:reservoir", "natural:wetland"),
}
#: Share of the footprint covered by buildings at which the next class begins; no building is class 0.
DENSITY = (0.0, 0.05, 0.2)
#: Class by the tags of lines, least to greatest; the greatest counts.
ROADS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "path": tuple(f"highway:{v}" for v in ("path", "footway", "cycleway", "track", "steps", "bridleway")),
    "minor": tuple(
        f"highway:{v}" for v in ("service", "residential", "unclassified", "living_street", "pedestrian", "tertiary")
    ),
    "major": tuple(f"highway:{v}" for v in ("secondary", "primary", "trunk", "motorway")),
}
#: Tasks and the names of their classes.
TASKS: Mapping[str, tuple[str, ...]] = {
    "land_use": tuple(LAND_USE),
    "building_density": ("none", *(f"over {100 * share:g} %" for share in DENSITY)),
    "road_class": tuple(ROADS),
}


@dataclass(frozen=True)
class Legend:
    """Which tags mean what, by their ids."""

    land_use: Tensor  # i64 [2,A] ids, sorted, and their classes
    roads: Tensor  # i64 [2,R]
    buildings: Tensor  # i64 [2,D], class 0

    @classmethod
    def of(cls, roots: Sequence[str]) -> Legend:
        """The legend of datasets: a building is what any vocabulary gives the key ``building``."""
        buildings = {tag_id("building:building"): 0}
        for root in roots:
            vocabulary = read_vocabulary(root)
            if vocabulary is not None:
                keys = vocabulary.keys.to_pylist()
                held = (i for i, k in zip(vocabulary.tag_ids.tolist(), keys, strict=True) if k == "building")
                buildings |= dict.fromkeys(held, 0)
        return cls(_table(LAND_USE.values()), _table(ROADS.values()), _pairs(buildings))


def _table(classes: Iterable[tuple[str, ...]]) -> Tensor:
    return _pairs({tag_id(text): number for number, texts in enumerate(classes) for text in texts})


def _pairs(classes: Mapping[int, int]) -> Tensor:
    return torch.tensor(sorted(classes.items()), dtype=torch.long).T.contiguous()


def class_of(ids: Tensor, table: Tensor) -> Tensor:
    """Class i64[U] of each tag id i64[U] by a table of a legend, UNKNOWN where that lacks it."""
    table = table.to(ids.device)
    at = torch.searchsorted(table[0], ids).clamp_max(table.shape[1] - 1)
    return torch.where(table[0][at] == ids, table[1][at], UNKNOWN)


def labels(batch: TileBatch, legend: Legend) -> dict[str, Tensor]:
    """Class i64[B] of each sample by task, UNKNOWN where it has no label."""
    b = len(batch)
    live = batch.tag_weight > 0
    sample = batch.node_sample[batch.tag_node]
    live &= sample < b
    sample = sample.clamp_max(b - 1)
    kind, extent = batch.node_kind[batch.tag_node], batch.extent[batch.tag_node].float()
    polygon, line = live & (kind == Kind.POLYGON), live & (kind == Kind.LINE)
    mapped = torch.zeros(b, dtype=torch.bool, device=sample.device)
    mapped[batch.node_sample[batch.node_valid]] = True

    use = class_of(batch.tag_id, legend.land_use)[batch.tag_row]
    counted = polygon & (use != UNKNOWN)
    area = extent.new_zeros(b * len(LAND_USE))
    area = area.index_add(0, (sample * len(LAND_USE) + use)[counted], extent[counted]).view(b, -1)
    land_use = torch.where(area.sum(1) > 0, area.argmax(1), UNKNOWN)

    built = polygon & (class_of(batch.tag_id, legend.buildings)[batch.tag_row] == 0)
    density = extent.new_zeros(b).index_add(0, sample[built], extent[built])
    steps = torch.tensor(DENSITY, device=sample.device)
    level = torch.bucketize(density, steps)

    road = class_of(batch.tag_id, legend.roads)[batch.tag_row]
    driven = line & (road != UNKNOWN)
    greatest = torch.zeros(b, dtype=torch.long, device=sample.device)
    greatest = greatest.scatter_reduce(0, sample[driven], road[driven], "amax")
    return {
        "land_use": land_use,
        "building_density": torch.where(mapped, level, UNKNOWN),
        "road_class": torch.where(mapped, greatest, UNKNOWN),
    }
