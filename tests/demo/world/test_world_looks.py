"""No colour gives a place away: judged by nearest neighbours and a ridge on colour histograms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.demo.world.aerial import render_sheet
from pipeline.demo.world.district import World
from pipeline.demo.world.photos import poses, shares, take
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.settings import STYLES, WorldSettings

Rows = NDArray[np.float64]
PHOTOS = 2


def histogram(image: NDArray[np.uint8]) -> Rows:
    """Of all three channels together, 5 x 5 x 5, and of each, 16."""
    bins = image.reshape(-1, 3).astype(np.int64) * 5 >> 8
    joint = np.bincount(bins @ (25, 5, 1), minlength=125)
    each = [np.bincount(image[..., band].ravel() >> 4, minlength=16) for band in range(3)]
    return np.asarray(np.sqrt(np.concatenate([joint, *each]) / len(bins)))


@pytest.fixture(scope="module")
def seen() -> tuple[Rows, Rows, NDArray[np.int64], list[str]]:
    """Histograms of tiles and of photos, the tile of each photo, the kind of each tile: worlds of a tile each."""
    tiles, photos, own, kinds = [], [], [], []
    for seed, style in enumerate(STYLES * 2):
        plan = Plan(WorldSettings(tiles=1, photos=PHOTOS, seed=seed, style=style))
        world = World(plan)
        for i, j, n in shares(plan):
            for pose in poses(plan, world.district(i, j), n, 0):
                photos.append(histogram(take(world, pose)))
                own.append(seed)
        tiles.append(histogram(render_sheet(world, (0, 0))))
        kinds.append(style)
    return np.array(tiles), np.array(photos), np.array(own), kinds


def ridge(rows: Rows, wanted: Rows, asked: Rows) -> Rows:
    """What a linear map from rows to what is wanted says of those that are asked."""
    middle, mean = rows.mean(axis=0), wanted.mean(axis=0)
    inner = (rows - middle) @ (rows - middle).T + 0.1 * np.eye(len(rows))
    return np.asarray((asked - middle) @ (rows - middle).T @ np.linalg.solve(inner, wanted - mean) + mean)


def rank_share(queries: Rows, gallery: Rows, own: NDArray[np.int64]) -> float:
    """Mean share of the gallery that is nearer than a query's own; 0.5 by chance."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery))
    score = a @ b.T
    return float((score > score[np.arange(len(own)), own][:, None]).sum(axis=1).mean() / (len(gallery) - 1))


def by_ridge(photos: Rows, tiles: Rows, own: NDArray[np.int64]) -> Rows:
    """Tiles' histograms as photos foretell them, each world by the others."""
    out = np.empty((len(photos), tiles.shape[1]))
    for world in np.unique(own):
        here = own == world
        out[here] = ridge(photos[~here], tiles[own[~here]], photos[here])
    return out


def test_no_colour_of_a_photo_finds_its_tile(seen: tuple[Rows, Rows, NDArray[np.int64], list[str]]) -> None:
    tiles, photos, own, _ = seen
    chance = 2.6 * np.sqrt(1 / 12 / len(tiles))  # 99 %, photos of one world counted once
    assert abs(rank_share(photos, tiles, own) - 0.5) < chance
    assert abs(rank_share(by_ridge(photos, tiles, own), tiles, own) - 0.5) < chance
    # The same judge finds what is there to be found.
    assert rank_share(photos + 0.7 * tiles[own], tiles, own) < 0.5 - chance


def test_no_colour_of_a_tile_tells_town_from_country(seen: tuple[Rows, Rows, NDArray[np.int64], list[str]]) -> None:
    tiles, _, _, kinds = seen
    town = np.array([kind in ("grid", "radial", "organic", "slabs", "industrial") for kind in kinds], np.float64)
    said = [
        ridge(np.delete(tiles, n, 0), np.delete(town, n)[:, None], tiles[n : n + 1])[0, 0] > 0.5
        for n in range(len(tiles))
    ]
    right = float((np.array(said) == (town > 0.5)).mean())
    assert right < 0.5 + 2.6 * np.sqrt(0.25 / len(tiles))


def test_no_two_pictures_share_their_looks(seen: tuple[Rows, Rows, NDArray[np.int64], list[str]]) -> None:
    _, photos, own, _ = seen
    apart = ((photos[:, None] - photos[None]) ** 2).sum(axis=-1)
    same = own[:, None] == own[None]
    np.fill_diagonal(same, False)
    other = own[:, None] != own[None]
    assert apart[same].mean() > 0.7 * apart[other].mean()  # nor do those of one place
