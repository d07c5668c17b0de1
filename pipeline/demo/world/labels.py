"""What the world knows and its map does not say: labels of tiles and of photos, as GeoParquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import TILE_ZOOM, FloatArray
from pipeline.demo.world.district import MATERIALS, District, World
from pipeline.demo.world.photos import Pose, camera
from pipeline.demo.world.plan import Plan

AROUND_M = 40.0  # what counts as around a photo
_SUMS = 3 + len(MATERIALS)  # m2 of buildings, m2 x height, trees, m2 of each roof material
_HEIGHT = ((0.0, "none"), (7.0, "low"), (13.0, "middle"), (np.inf, "high"))  # up to metres
_TREES = ((5.0, "few"), (40.0, "some"), (np.inf, "many"))  # up to trees a hectare
_TRAFFIC = ((100.0, "none"), (1500.0, "little"), (7000.0, "middle"), (np.inf, "much"))  # up to vehicles a day

Sums = tuple[NDArray[np.int64], FloatArray, FloatArray]  # tile numbers (n,), sums (n, _SUMS), most traffic (n,)


def tile_sums(plan: Plan, district: District) -> Sums:
    """A district's part in the labels of the tiles that it touches."""
    f = district.facts
    area, height, material = f.buildings[:, 2], f.buildings[:, 3], f.buildings[:, 4].astype(int)
    rows = np.zeros((len(area) + len(f.trees), _SUMS))
    rows[: len(area), 0], rows[: len(area), 1] = area, area * height
    rows[np.arange(len(area)), 3 + material] = area
    rows[len(area) :, 2] = 1
    tile, inside = _numbers(plan, np.concatenate([f.buildings[:, :2], f.trees]))
    tile_t, inside_t = _numbers(plan, f.traffic[:, :2])
    tile, rows, tile_t, traffic = tile[inside], rows[inside], tile_t[inside_t], f.traffic[inside_t, 2]
    found = np.unique(np.concatenate([tile, tile_t]))
    sums, most = np.zeros((len(found), _SUMS)), np.zeros(len(found))
    np.add.at(sums, np.searchsorted(found, tile), rows)
    np.maximum.at(most, np.searchsorted(found, tile_t), traffic)
    return found, sums, most


def _numbers(plan: Plan, xy: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    at = plan.tile_of(xy)
    return at[:, 1] * plan.columns + at[:, 0], plan.inside(xy)


class TileLabels:
    """Sums of all tiles, district by district."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        n = plan.columns * plan.rows
        self._sums, self._most = np.zeros((n, _SUMS)), np.zeros(n)

    def add(self, part: Sums) -> None:
        """Take in a district."""
        tiles, sums, most = part
        self._sums[tiles] += sums
        self._most[tiles] = np.maximum(self._most[tiles], most)

    def write(self, path: Path) -> None:
        """Write one row a tile."""
        plan = self.plan
        row, column = np.divmod(np.arange(len(self._most)), plan.columns)
        middle = np.column_stack([column + 0.5, plan.rows - row - 0.5]) * plan.tile_m
        kinds = [plan.kind(*plan.district_at(xy)) for xy in middle]
        head = {
            "z": np.full(len(row), TILE_ZOOM, np.int32), "x": (column + plan.corner[0]).astype(np.int32),
            "y": (row + plan.corner[1]).astype(np.int32), "kind": kinds,
        }  # fmt: skip
        labels = _labels(self._sums, self._most, plan.tile_m**2)
        _write(head | labels, plan.to_lonlat(middle), path)


def photo_labels(world: World, poses: Sequence[Pose]) -> FloatArray:
    """What stands around photos: rows (n, _SUMS) as of tiles, in circles of AROUND_M."""
    rows = np.zeros((len(poses), _SUMS))
    for row, pose in zip(rows, poses, strict=True):
        x, y, _ = camera(world.plan, pose)
        box = (x - AROUND_M, y - AROUND_M, x + AROUND_M, y + AROUND_M)
        for f in (world.district(i, j).facts for i, j in world.plan.near(box)):
            near = f.buildings[np.hypot(f.buildings[:, 0] - x, f.buildings[:, 1] - y) < AROUND_M]
            row[:2] += near[:, 2].sum(), near[:, 2] @ near[:, 3]
            row[2] += (np.hypot(f.trees[:, 0] - x, f.trees[:, 1] - y) < AROUND_M).sum()
            row[3:] += np.bincount(near[:, 4].astype(int), near[:, 2], len(MATERIALS))
    return rows


def write_photo_labels(poses: Sequence[Pose], rows: FloatArray, path: Path) -> None:
    """Write one row a photo."""
    labels = _labels(rows, np.array([p.traffic for p in poses]), np.pi * AROUND_M**2)
    lonlat = np.array([(p.lon, p.lat) for p in poses]).reshape(-1, 2)
    _write({"id": [photo_id(p.number) for p in poses], **labels}, lonlat, path)


def photo_id(number: int) -> str:
    """The id of a photo."""
    return f"{number:07d}"


def _labels(sums: FloatArray, traffic: FloatArray, m2: float) -> dict[str, Any]:
    built, trees = sums[:, 0], sums[:, 2] / (m2 / 10_000)
    height = np.divide(sums[:, 1], built, out=np.zeros_like(built), where=built > 0)
    roof = np.where(built > 0, np.array(MATERIALS)[sums[:, 3:].argmax(axis=1)], "none")
    return {
        "height_m": height, "height_class": _class(height, _HEIGHT), "roof_material": roof.tolist(),
        "trees_ha": trees, "tree_class": _class(trees, _TREES), "traffic": traffic,
        "traffic_class": _class(traffic, _TRAFFIC), "built_share": built / m2,
    }  # fmt: skip


def _class(values: FloatArray, steps: Sequence[tuple[float, str]]) -> list[str]:
    names = np.array([name for _, name in steps])
    return list(names[np.searchsorted([limit for limit, _ in steps], values)].tolist())


def _write(columns: dict[str, Any], lonlat: FloatArray, path: Path) -> None:
    """GeoParquet of points, with the usual lon and lat beside them."""
    points = shapely.to_wkb(shapely.points(lonlat)).tolist()
    table = pa.table({**columns, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "geometry": pa.array(points, pa.binary())})
    geo = {
        "version": "1.1.0", "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
