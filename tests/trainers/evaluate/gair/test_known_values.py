"""What is measured of a planted model, whose answers are known by construction, and of one that knows nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainers.evaluate.gair.planted import LENGTH, ZOOM, Planted, held_out, lonlat_of, scores
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.models.losses import great_circle
from trainers.stream.batch import TileBatch

SIDE = 8  # of the grid


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SyntheticSettings(samples=120, size=48, splits=("train", "val"), photos=6, photo_size=32, objects=4)
    return write_dataset(tmp_path_factory.mktemp("planted") / "d", settings)


@pytest.fixture(scope="module")
def photos(data: Path) -> dict[str, np.ndarray]:
    return held_out(data)


@pytest.fixture(scope="module")
def found(data: Path) -> dict[str, float]:
    return scores(Planted(), data, "eval.full=never")


def tiles_of(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.unique(photos["tile"] @ (1 << ZOOM, 1), return_inverse=True)[1]


@pytest.mark.parametrize("way", ["photo_to_place", "place_to_photo", "photo_to_location"])
def test_a_model_that_knows_where_things_are_finds_every_photo(way: str, found: dict[str, float]) -> None:
    for name in (way, f"{way}_in_tile"):
        assert [found[f"{name}/r@{k}"] for k in (1, 5, 10)] == [1, 1, 1]
        assert found[f"{name}/r@1.chance"] < found[f"{name}/r@1"]
    assert found[f"{way}/r@1.untrained"] < 0.1


def test_chance_is_the_share_of_the_gallery_and_the_mean_of_those_of_the_tiles(
    photos: dict[str, np.ndarray], found: dict[str, float]
) -> None:
    mates = np.bincount(tiles_of(photos))[tiles_of(photos)]
    several = mates[mates > 1]
    for k in (1, 5, 10):
        assert found[f"photo_to_place/r@{k}.chance"] == pytest.approx(k / len(mates))
        assert found[f"photo_to_place_in_tile/r@{k}.chance"] == pytest.approx(np.minimum(1, k / several).mean())


def test_a_photo_is_localised_at_the_place_of_the_grid_that_is_nearest_on_the_ground(
    photos: dict[str, np.ndarray], found: dict[str, float]
) -> None:
    middle = (np.arange(SIDE) + 0.5) / SIDE
    cells = torch.from_numpy(np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2))
    apart = []
    for tile, lonlat in zip(photos["tile"], photos["lonlat"], strict=True):
        grid = lonlat_of(torch.from_numpy(tile).expand(len(cells), 2), cells)
        apart.append(great_circle(torch.from_numpy(lonlat)[None], grid)[0].numpy())
    nearest = float(np.median(np.min(apart, 1)))
    for name in ("grid", "grid_in_tile", "location_grid", "location_grid_in_tile"):
        assert found[f"{name}/error_m"] == pytest.approx(nearest, abs=1.0)
        assert found[f"{name}/error_m.floor"] == pytest.approx(nearest, abs=1.0)
    assert found["grid/right_tile"] == found["location_grid/right_tile"] == 1
    assert found["grid_in_tile/error_m.chance"] == pytest.approx(float(np.median(apart)), rel=0.01)
    assert found["grid/error_m.chance"] > 10_000  # tiles lie all over Europe


def test_a_moved_query_finds_the_photo_as_long_as_none_is_nearer(
    photos: dict[str, np.ndarray], found: dict[str, float]
) -> None:
    tile, own = photos["tile"], tiles_of(photos)
    several = np.bincount(own)[own] > 1
    number = np.arange(len(own))
    angle = math.pi * (3 - math.sqrt(5)) * number
    side = 40_075_016.686 / 2**ZOOM * np.cos(np.radians(tile_centre(tile)[:, 1]))
    curve = []
    for distance in (0, 10, 25, 50, 100, 200):
        right, inner, left_out = [], [], []
        for sign in (1, -1):
            step = sign * distance * np.stack((np.cos(angle), np.sin(angle)), 1) / side[:, None]
            at = photos["xy"] + step
            inside = ((at >= 0) & (at < 1)).all(1)
            where = lonlat_of(torch.from_numpy(tile[inside]), torch.from_numpy(at[inside]))
            apart = great_circle(where, torch.from_numpy(photos["lonlat"])).numpy()
            apart[own[inside][:, None] != own[None]] += 1e6
            hit = apart.argmin(1) == number[inside]
            right.append(hit)
            inner.append(hit[several[inside]])
            left_out.append(~inside)
        assert found[f"shift/left_out_at_{distance}m"] == pytest.approx(np.mean(left_out), abs=0.01)
        curve.append(np.concatenate(right).mean())
        if distance < 2 * LENGTH:  # farther away, a photo is as little like the query as one of any other tile
            assert found[f"shift/r@1_at_{distance}m"] == pytest.approx(curve[-1], abs=0.03)
            assert found[f"shift_in_tile/r@1_at_{distance}m"] == pytest.approx(np.concatenate(inner).mean(), abs=0.03)
    assert curve[0] == 1
    assert found["shift/r@1_at_200m"] < curve[-1] + 0.1 < 0.6
    assert found["shift/left_out_at_500m"] > 0.95


def tile_centre(tile: np.ndarray) -> np.ndarray:
    return lonlat_of(torch.from_numpy(tile), torch.full((len(tile), 2), 0.5).double()).numpy()


def test_places_are_as_alike_as_the_kernel_says_at_every_distance(found: dict[str, float]) -> None:
    for distance in (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000):
        expected = math.exp(-(distance**2) / 2 / LENGTH**2)
        assert found[f"separation/cosine_at_{distance}m"] == pytest.approx(expected, abs=0.04)
        assert found[f"separation/cosine_at_{distance}m.chance"] == pytest.approx(0, abs=0.04)


class Blind(Planted):
    """Embeds every photo anywhere."""

    def encode_photos(self, batch: TileBatch) -> torch.Tensor:
        seed = int(batch.photo_lonlat.abs().sum() * 1e6)
        return torch.randn(len(batch.photos), 2, generator=torch.Generator().manual_seed(seed)) @ torch.randn(
            2, self.waves.shape[1] * 2, generator=torch.Generator().manual_seed(0)
        ) + torch.randn(len(batch.photos), self.waves.shape[1] * 2, generator=torch.Generator().manual_seed(seed + 1))


def test_a_model_that_sees_nothing_is_at_chance_everywhere(data: Path, photos: dict[str, np.ndarray]) -> None:
    found = scores(Blind(), data, "eval.full=never")
    count = len(photos["xy"])
    for way in ("photo_to_place", "place_to_photo", "photo_to_location"):
        for name, queries in ((way, count), (f"{way}_in_tile", count / 2)):
            for k in (1, 5, 10):
                share = found[f"{name}/r@{k}.chance"]
                assert found[f"{name}/r@{k}"] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / queries))
    for name in ("grid_in_tile", "location_grid_in_tile", "grid", "location_grid"):
        assert found[f"{name}/error_m"] == pytest.approx(found[f"{name}/error_m.chance"], rel=0.2)
    assert found["grid/right_tile"] < 0.1


class Same(Planted):
    """Says the same of everything."""

    def location(self, lonlat: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(lonlat), 8)


def test_a_model_that_says_the_same_of_everything_is_exactly_at_chance(data: Path) -> None:
    found = scores(Same(), data, "eval.full=never")
    held = [name for name in found if "/r@" in name and f"{name}.chance" in found]
    assert len(held) > 20
    for name in held:
        assert found[name] == pytest.approx(found[f"{name}.chance"]), name
