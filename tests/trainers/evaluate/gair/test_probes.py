"""Linear maps of photos and tokens read out what was planted in them, and nothing where nothing was."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.footprint import gair_query
from tests.trainers.batches import GAIR as ARCH
from tests.trainers.evaluate.gair.planted import CPU, Planted, asked
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.evaluate.gair.around import Around
from trainers.evaluate.gair.embed import MODES, Seen, embed
from trainers.evaluate.gair.members import sizes
from trainers.evaluate.gair.places import Places, cells
from trainers.evaluate.gair.probes import probes, probes_chance, sampling, sampling_chance
from trainers.evaluate.labels import UNKNOWN
from trainers.evaluate.split import open_split
from trainers.models.gair.model import Gair
from trainers.stream.batch import TileBatch

SIDE = 8  # tokens a side


def drawn(count: int, seed: int) -> Around:
    """Labels of which the first is unknown."""
    generator = torch.Generator().manual_seed(seed)
    road, use = torch.randint(4, (count,), generator=generator), torch.randint(7, (count,), generator=generator)
    road[road == 2] = 3
    density = torch.rand(count, generator=generator).double()
    road[0], use[0], density[0] = UNKNOWN, UNKNOWN, math.nan
    return Around(road, use, density)


def test_probes_read_what_is_in_the_features_and_chance_is_the_most_frequent_class_and_the_mean() -> None:
    seen, held = drawn(400, 0), drawn(200, 1)

    def telling(labels: Around) -> Tensor:
        classes = (
            torch.nn.functional.one_hot(labels.road_class + 1, 5),
            torch.nn.functional.one_hot(labels.land_use + 1, 8),
        )
        return torch.cat((*classes, labels.building_density.nan_to_num()[:, None]), 1).float()

    found, single = probes(telling(seen), seen, telling(held), held)
    assert {name: value.value() for name, value in found.items()} == {"probe/road_class": 1, "probe/land_use": 1}
    assert [len(value) for value in found.values()] == [199, 199]
    assert single["probe/building_density_r2"] == pytest.approx(1, abs=1e-3)
    chance = probes_chance(seen, held)
    most = int(seen.road_class[1:].bincount().argmax())
    assert chance["probe/road_class"] == pytest.approx(float((held.road_class[1:] == most).float().mean()))
    gap = seen.building_density[1:].mean() - held.building_density[1:].mean()
    expected = -float(gap**2 / held.building_density[1:].var(correction=0))
    assert chance["probe/building_density_r2"] == pytest.approx(expected, abs=1e-9)
    noise = (torch.randn(n, 20, generator=torch.Generator().manual_seed(n)) for n in (400, 200))
    blind, none = probes(next(noise), seen, next(noise), held)
    assert blind["probe/land_use"].value() < 0.25
    assert none["probe/building_density_r2"] < 0.1


def test_probes_without_labels_say_nothing() -> None:
    unknown = Around(torch.full((20,), UNKNOWN), torch.full((20,), UNKNOWN), torch.full((20,), math.nan).double())
    features = torch.randn(20, 4)
    assert probes(features, unknown, features, unknown) == ({}, {})
    assert probes_chance(unknown, unknown) == {}


def test_of_the_ways_to_read_tokens_the_one_that_holds_the_photo_is_at_the_top_and_one_of_noise_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    mapping = torch.randn(12, 6, generator=generator)

    def planted(count: int) -> Seen:
        tokens = torch.randn(count, 12, generator=generator)
        noise = {"bicubic": torch.randn(count, 12, generator=generator), "bilinear": tokens}
        photo = tokens @ mapping + 0.01 * torch.randn(count, 6, generator=generator)
        return Seen(photo, torch.randn(count, 6, generator=generator), torch.zeros(0), {}, noise)

    count = 200
    tile, two = torch.arange(count) // 4, torch.zeros(count, 2).double()
    places = Places(tile, two, two, [(0, str(t)) for t in range(count // 4)], two[: count // 4], two[: count // 4] + 1)
    found = {name: value.value() for name, value in sampling(planted(400), planted(count), places).items()}
    chance = sampling_chance(places)
    assert set(found) == set(chance)
    assert found["sampling_bilinear/r@1"] > 0.8
    assert found["sampling_bilinear_in_tile/r@1"] > 0.95
    for way in ("nili", "bicubic"):
        assert found[f"sampling_{way}/r@1"] < 0.04
        assert found[f"sampling_{way}_in_tile/r@1"] == pytest.approx(chance[f"sampling_{way}_in_tile/r@1"], abs=0.12)
    assert chance["sampling_nili_in_tile/r@1"] == 0.25


class Coordinates(Planted):
    """Tokens are the centres of their cells."""

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        return cells(SIDE).float().expand(len(batch), -1, -1)

    def query(
        self, tokens: Tensor, batch: TileBatch, sample: Tensor, xy: Tensor, frame: Tensor | None = None
    ) -> Tensor:
        return gair_query(xy)


def test_tokens_are_read_at_the_photos_places_and_queries_asked_there(tmp_path: Path) -> None:
    data = SyntheticSettings(samples=24, size=48, splits=("val",), photos=4, photo_size=32, objects=2)
    root = str(write_dataset(tmp_path / "d", data))
    stream = open_split(asked(), [root], replace(Gair.view(ARCH), photos=4), "val", 24)
    assert stream is not None
    model = Coordinates()
    found = embed([model], stream.batches(until_epoch=1), model.photo_mask, sizes(stream), CPU, 3, True)
    assert found is not None
    places, (seen,) = found
    assert len(places) > 40
    inner = ((places.xy > 0.5 / SIDE) & (places.xy < 1 - 0.5 / SIDE)).all(1)
    torch.testing.assert_close(seen.tokens["bilinear"][inner].double(), places.xy[inner], atol=1e-5, rtol=0)
    within = ((places.xy > 2 / SIDE) & (places.xy < 1 - 2 / SIDE)).all(1)
    # torch's cubic (-0.75) bends a ramp by less than a tenth of a cell.
    torch.testing.assert_close(seen.tokens["bicubic"][within].double(), places.xy[within], atol=0.1 / SIDE, rtol=0)
    assert set(seen.tokens) == set(MODES)
    torch.testing.assert_close((seen.place.double() + 1) / 2, places.xy, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        (seen.grid.double() + 1) / 2, cells(3).expand(len(places.key), -1, -1), atol=1e-6, rtol=0
    )
    for distance, (at, own) in seen.moved.items():
        metres = (((at.double() + 1) / 2 - places.xy[own]) * places.size[places.tile[own]]).norm(dim=1)
        torch.testing.assert_close(metres, torch.full_like(metres, distance), atol=1e-3, rtol=0)
