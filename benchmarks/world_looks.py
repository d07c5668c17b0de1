"""What colours alone, and shapes alone, say of a generated world: labels, and which photo belongs to which tile.

    python benchmarks/world_looks.py [DIR]

DIR is a world of ``geoshards demo DIR --world``; without it one of 200 tiles and 400 photos is made and left nowhere.

Judges are a ridge and seven nearest neighbours, each sheet foretold by the other sheets. Colours are a histogram of
6 x 6 x 6 bins and one of 16 a channel; shapes are statistics of the gradients of brightness at four scales. Prints one
JSON line: shares that are right, and of the gallery the share of tiles that come before a photo's own.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rasterio
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from geometry.tiles import lonlat_to_tile  # noqa: E402
from pipeline.demo.world.build import build_world  # noqa: E402
from pipeline.demo.world.settings import WorldSettings  # noqa: E402

Rows = NDArray[np.float64]
SHEET = 4  # tiles a side
TILE_LABELS = ("kind", "height_class", "tree_class", "traffic_class", "roof_material")


def colours(image: NDArray[np.uint8], _: int) -> Rows:
    """Square roots of the shares of bins: all channels together and each."""
    bins = image.reshape(-1, 3).astype(np.int64) * 6 >> 8
    joint = np.bincount(bins @ (36, 6, 1), minlength=216)
    each = [np.bincount(image[..., band].ravel() >> 4, minlength=16) for band in range(3)]
    return np.asarray(np.sqrt(np.concatenate([joint, *each]) / len(bins)))


def shapes(image: NDArray[np.uint8], parts: int) -> Rows:
    """Strength and directions of edges at four scales, in parts x 2 fields of the image (parts 1: in all of it)."""
    grey = image.astype(np.float32).mean(axis=2)
    grey = (grey - grey.mean()) / grey.std()
    found: list[float] = []
    for scale in (1, 2, 4, 8):
        dy, dx = np.gradient(gaussian_filter(grey, scale))
        strong, way = np.hypot(dx, dy), (np.arctan2(dy, dx) % np.pi / np.pi * 6).astype(int) % 6
        for m, w in zip(_fields(strong, parts), _fields(way, parts), strict=True):
            share = np.bincount(w.ravel(), m.ravel(), 6) / m.sum()
            found += [m.mean(), m.std(), *np.percentile(m, (50, 90, 99)), *(np.sort(share) if parts == 1 else share)]
    return np.array(found)


def _fields(plane: NDArray[Any], parts: int) -> list[NDArray[Any]]:
    return [part for band in np.array_split(plane, parts) for part in np.array_split(band, min(parts, 2), axis=1)]


def tiles_of(world: Path, columns: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number and image (256, 256, 3) of every tile."""
    for path in sorted((world / "aerial").glob("*.tif")):
        c, r = (int(n) * SHEET for n in path.stem.split("-"))
        with rasterio.open(path) as sheet:
            image = sheet.read().transpose(1, 2, 0)
        for a in range(image.shape[1] // 256):
            for b in range(image.shape[0] // 256):
                yield (r + b) * columns + c + a, image[b * 256 : b * 256 + 256, a * 256 : a * 256 + 256]


def ridge(rows: Rows, wanted: Rows, asked: Rows, strength: float) -> Rows:
    """What a linear map from rows to what is wanted says of those that are asked."""
    middle, mean = rows.mean(axis=0), wanted.mean(axis=0)
    inner = (rows - middle) @ (rows - middle).T + strength * np.eye(len(rows))
    return np.asarray((asked - middle) @ (rows - middle).T @ np.linalg.solve(inner, wanted - mean) + mean)


def probe(rows: Rows, labels: list[str], sheets: NDArray[np.int64], strength: float) -> tuple[float, float, float]:
    """Shares that the ridge, seven neighbours and the most frequent label get right."""
    names, truth = np.unique(labels, return_inverse=True)
    wanted, said = np.eye(len(names))[truth], np.empty((2, len(rows)), int)
    for sheet in np.unique(sheets):
        here = sheets == sheet
        said[0, here] = ridge(rows[~here], wanted[~here], rows[here], strength).argmax(axis=1)
        apart = ((rows[here][:, None] - rows[~here][None]) ** 2).sum(axis=-1)
        said[1, here] = wanted[~here][apart.argsort(axis=1)[:, :7]].mean(axis=1).argmax(axis=1)
    right = (said == truth).mean(axis=1).tolist()
    return right[0], right[1], float(np.bincount(truth).max() / len(truth))


def pairing(
    tiles: Rows, photos: Rows, own: NDArray[np.int64], sheets: NDArray[np.int64], strength: float
) -> dict[str, float]:
    """How many tiles come before a photo's own, by the ridge's guess of it; 95 % over sheets."""
    guess = np.empty((len(photos), tiles.shape[1]))
    for sheet in np.unique(sheets):
        here = sheets == sheet
        guess[here] = ridge(photos[~here], tiles[own[~here]], photos[here], strength)
    gallery, at = np.unique(own, return_inverse=True)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (guess, tiles[gallery]))
    score = a @ b.T
    before = (score > score[np.arange(len(at)), at][:, None]).sum(axis=1)
    rng, each = np.random.default_rng(0), np.unique(sheets)
    draws = [np.concatenate([before[sheets == s] for s in rng.choice(each, len(each))]).mean() for _ in range(500)]
    low, high = np.quantile(draws, (0.025, 0.975)) / (len(gallery) - 1)
    share, ten = before.mean() / (len(gallery) - 1), (before < 10).mean()
    found = {"before": share, "low": low, "high": high, "chance": 0.5, "first_ten": ten}
    return {"gallery": len(gallery)} | {name: round(float(value), 3) for name, value in found.items()}


def main(world: Path) -> None:
    """Print what both judges say."""
    said: dict[str, Any] = {"race": "world_looks", "tiles": 0, "photos": 0}
    labels: dict[str, Any] = pq.read_table(world / "tiles.parquet").to_pydict()
    around: dict[str, Any] = pq.read_table(world / "photos.parquet").to_pydict()
    left, top = min(labels["x"]), min(labels["y"])
    columns = max(labels["x"]) - left + 1
    at = np.floor(lonlat_to_tile(np.column_stack([around["lon"], around["lat"]]), 17)).astype(int) - (left, top)
    own = at[:, 1] * columns + at[:, 0]
    number = np.arange(len(labels["x"]))
    sheet_of = number // columns // SHEET * 1000 + number % columns // SHEET
    with (world / "photos.csv").open() as table:
        files = [row["file"] for row in csv.DictReader(table)]
    judges: tuple[tuple[str, Callable[[NDArray[np.uint8], int], Rows], float], ...] = (
        ("colours", colours, 1.0), ("shapes", shapes, 100.0),
    )  # fmt: skip
    for name, features, strength in judges:
        found = {n: features(image, 1) for n, image in tiles_of(world, columns)}
        tiles = np.array([found[n] for n in number.tolist()])
        photos = np.array([features(np.array(Image.open(world / file).resize((256, 192))), 3) for file in files])
        if name == "shapes":
            tiles, photos = ((rows - rows.mean(axis=0)) / rows.std(axis=0) for rows in (tiles, photos))
        for what, rows, known, sheets in (("tile", tiles, labels, sheet_of), ("photo", photos, around, sheet_of[own])):
            for label in TILE_LABELS if what == "tile" else TILE_LABELS[1:]:
                by_ridge, near, most = probe(rows, known[label], sheets, strength)
                wide = 1.96 * (most * (1 - most) / len(rows)) ** 0.5
                values = {"ridge": by_ridge, "near": near, "most": most, "most_95": wide}
                held = said.setdefault(name, {}).setdefault(what, {})
                held[label] = {word: round(value, 3) for word, value in values.items()}
        said |= {"tiles": len(tiles), "photos": len(photos)}
        said[name]["photo_to_tile"] = pairing(tiles, photos, own, sheet_of[own], strength)
    print(json.dumps(said))


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        if len(sys.argv) < 2:
            build_world(Path(made) / "world", WorldSettings(tiles=200, photos=400))
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made) / "world")
