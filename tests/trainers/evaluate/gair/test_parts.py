"""Parts of the evaluation of GAIR against other libraries and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
import torch

from trainers.engine.evaluation import Curve, EvaluationReport, Table
from trainers.evaluate.gair.intervals import BLOCK, PerPhoto, blocks
from trainers.evaluate.gair.places import Places, metres, walked
from trainers.evaluate.gair.retrieval import ranks
from trainers.evaluate.protocols import DECAYS, ridge
from trainers.models.losses import EARTH_RADIUS

SPHERE = pyproj.Geod(a=EARTH_RADIUS, b=EARTH_RADIUS)


def test_ranks_equal_those_of_a_sorted_list_across_and_within_tiles() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(30, 4, generator=generator) for _ in range(2))
    tile, own = torch.arange(30) // 4, torch.randperm(30, generator=generator)
    across, within = ranks(queries, gallery, own, tile)
    for i in range(30):
        near = torch.cosine_similarity(queries[i][None], gallery)
        order = near.argsort(descending=True).tolist()
        mine = [j for j in order if tile[j] == tile[own[i]]]
        assert int(across.above[i]) == order.index(int(own[i]))
        assert int(within.above[i]) == mine.index(int(own[i]))
        for k in (1, 5):
            assert float(across.hits(k)[i]) == float(order.index(int(own[i])) < k)


def test_a_tie_counts_as_often_as_lots_would_decide_for_it() -> None:
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    across, within = ranks(gallery, gallery, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    assert across.hits(1).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert across.hits(2).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1])
    assert within.hits(1).tolist() == pytest.approx([1 / 2, 1 / 2, 1, 1])


def test_an_interval_of_a_mean_is_that_of_the_blocks_however_many_photos_each_has() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator).double()
    low, high = PerPhoto(values, torch.arange(400)).interval(torch.arange(400)) or (0.0, 0.0)
    width = 2 * 1.96 * float(values.std()) / math.sqrt(400)
    assert high - low == pytest.approx(width, rel=0.2)
    assert low < float(values.mean()) < high
    same = PerPhoto(values.repeat_interleave(5), torch.arange(2000))
    assert same.interval(torch.arange(400).repeat_interleave(5)) == pytest.approx((low, high))
    assert PerPhoto(values, torch.arange(400)).interval(torch.arange(400) % 7) is None


def test_an_interval_of_a_median_is_that_of_medians_of_drawn_blocks() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(90, generator=generator).double() ** 3
    block = torch.arange(90) // 3
    found = PerPhoto(values, torch.arange(90), median=True).interval(block)
    rng = np.random.default_rng(0)
    held = values.numpy().reshape(30, 3)
    drawn = [np.median(held[rng.integers(30, size=30)]) for _ in range(2000)]
    assert found == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.05)


def test_a_block_is_a_square_on_the_ground() -> None:
    rng = np.random.default_rng(0)
    lonlat = torch.from_numpy(np.stack((rng.uniform(10, 10.2, 4000), rng.uniform(60, 60.1, 4000)), 1))
    own = blocks(lonlat)
    rows = [lonlat[own == b] for b in own.unique()]
    full = [r for r in rows if len(r) > 15]
    sides = torch.stack([r.amax(0) - r.amin(0) for r in full])
    assert float(sides[:, 1].max()) <= BLOCK
    assert float(sides[:, 0].max() * math.cos(math.radians(60.05))) == pytest.approx(BLOCK, rel=0.1)


def test_places_of_a_tile_that_is_not_north_up_lie_where_its_projection_says() -> None:
    """A tile of UTM zone 32 near its eastern edge at 60° N, where north is 2.6° from the tile's up."""
    to_degrees = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform
    east, north, side = 660_000.0, 6_650_000.0, 2000.0

    def degrees(xy: np.ndarray) -> np.ndarray:
        return np.stack(to_degrees(east + (xy[:, 0] - 0.5) * side, north + (0.5 - xy[:, 1]) * side), 1)

    rng = np.random.default_rng(0)
    photos, others = rng.uniform(0, 1, (3, 2)), rng.uniform(0, 1, (200, 2))
    tile = torch.zeros(3, dtype=torch.long)
    centre = torch.from_numpy(degrees(np.array([[0.5, 0.5]])))
    size = torch.full((1, 2), side, dtype=torch.float64)
    places = Places(tile, torch.from_numpy(photos), torch.from_numpy(degrees(photos)), [(0, "k")], centre, size)
    found = places.degrees(torch.from_numpy(others), torch.zeros(200, dtype=torch.long)).numpy()
    true = degrees(others)
    _, _, off = pyproj.Geod(ellps="WGS84").inv(found[:, 0], found[:, 1], true[:, 0], true[:, 1])
    assert max(off) < 5  # without the turn it would be 45
    assert abs(math.degrees(float(places.turn().angle()[0]))) == pytest.approx(2.5, abs=0.3)
    alone = Places(tile[:1], torch.tensor([[0.5, 0.5]]).double(), centre, [(0, "k")], centre, size)
    assert complex(alone.turn()[0]) == 1


def test_distances_and_walks_are_those_of_a_sphere() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.stack((rng.uniform(-180, 180, 50), rng.uniform(-80, 80, 50)), 1) for _ in range(2))
    _, _, apart = SPHERE.inv(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
    np.testing.assert_allclose(metres(torch.from_numpy(a), torch.from_numpy(b)).numpy(), apart, rtol=1e-9)
    bearing = rng.uniform(0, 360, 50)
    for distance in (10.0, 1e5):
        lon, lat, _ = SPHERE.fwd(a[:, 0], a[:, 1], bearing, np.full(50, distance))
        found = walked(torch.from_numpy(a), distance, torch.from_numpy(np.radians(bearing))).numpy()
        _, _, off = SPHERE.inv(found[:, 0], found[:, 1], lon, lat)
        assert max(off) < 1e-3


def test_a_ridge_regression_solves_its_normal_equations_and_finds_a_planted_map() -> None:
    rng = np.random.default_rng(0)
    x, z, true = rng.normal(size=(80, 6)) * 3 + 1, rng.normal(size=(40, 6)), rng.normal(size=(6, 2))
    y = x @ true + 0.01 * rng.normal(size=(80, 2))
    found = ridge(*map(torch.from_numpy, (x, y, z))).numpy()
    assert np.abs(found - z @ true).max() < 0.05
    mean, deviation = x.mean(0), x.std(0, ddof=1)
    s, t = (x - mean) / deviation, (z - mean) / deviation
    every = [
        t @ np.linalg.solve(s.T @ s + decay * 80 * np.eye(6), s.T @ (y - y.mean(0))) + y.mean(0) for decay in DECAYS
    ]
    assert min(np.abs(found - one).max() for one in every) < 1e-9
    noise = ridge(torch.from_numpy(x), torch.from_numpy(rng.normal(size=(80, 1))), torch.from_numpy(z))
    assert float(noise.std()) < 0.4  # what cannot be learned is shrunk


def test_a_page_shows_what_there_is_and_no_more() -> None:
    table = Table("Found <all>", "of all", (("first", "a/r@1"), ("never", "b/r@1")))
    curve = Curve("Moved", "away", "metres", ((0.0, "s_0"), (10.0, "s_10"), (500.0, "s_500")))
    scores = {"loss": 1.0, "a/r@1": 0.5, "a/r@1.chance": 0.125, "s_0": 1.0, "s_10": 0.5, "s_10.chance": 0.1}
    report = EvaluationReport(
        scores, torch.randn(4, 3), torch.full((4,), -1), (), "", ("loss", "a/r@1"), (table, curve)
    )
    page = report.page([{"step": 1, "loss": 2.0}, {"step": 2, **scores}])
    assert "Found &lt;all&gt;" in page
    assert "<th>first</th><td>0.5</td><td>0.125</td>" in page
    assert "never" not in page
    assert "untrained" not in page
    assert "<td>1</td><td>2</td><td></td>" in page
    assert page.count("<polyline") == 2
    assert "nan" not in page
    assert ">500<" not in page
