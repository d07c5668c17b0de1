"""Downstream heads and protocols on labels that a small generated town's OpenStreetMap gives.

The encoder learns from the images and objects of the south, without labels. What is fitted there is measured on the
north, which it has not seen.
"""

from __future__ import annotations

import io
import tarfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

from pipeline.demo import build_demo
from pipeline.driver.shards import make_shards
from pipeline.driver.sources import Region
from pipeline.samples.config import ShardsConfig, SplitConfig
from tests.trainers.batches import PLAIN, trained
from trainers.engine.cli import main
from trainers.evaluate.finetune import CLASSES, IGNORE, Segmenter, Tiles, fine_tune, held_out_scores
from trainers.evaluate.heads import ChangeHead, RegressionHead, confusion, scores, to_map
from trainers.evaluate.labels import Legend, labels
from trainers.evaluate.protocols import Labelled, knn, linear_probe, majority
from trainers.models.geolink import GeoLink
from trainers.stream.stream import GeoStream
from trainers.tasks.geolink import GEOLINK

ROOT = Path(__file__).resolve().parents[3]
SIZE = 96
#: Class of a pixel (docs/papers/geolink.md#downstream, UFZ) by the names of the class raster's; others have none.
OF_RASTER = {
    "water": ("water", "river", "stream", "wetland", "swimming_pool"),
    "green": ("grass", "forest", "scrub", "park", "cemetery", "sport", "tree_row"),
    "farmland": ("farmland", "orchard"),
    "undeveloped": ("bare_ground", "construction"),
    "residential": ("residential_area", "building"),
    "commercial": ("commercial_area",),
    "institution": ("institutional_area",),
    "industrial": ("industrial_area",),
    "transportation": (
        "railway_area", "parking", "path", "track", "service_road", "minor_road", "major_road", "motorway", "rail",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Half:
    """The tiles of the south or of the north."""

    tokens: Tensor  # f32 [N,P,D] patches of the frozen encoder
    land_use: Tensor  # i64 [N] -1: none
    density: Tensor  # i64 [N] class of the share of buildings
    tiles: Tiles
    built: Tensor  # bool [N,S,S] pixels of buildings

    def labelled(self, classes: Tensor) -> Labelled:
        return Labelled(self.tokens.mean(1), classes).known()


@dataclass(frozen=True)
class Town:
    encoder: GeoLink
    south: Half
    north: Half


@pytest.fixture(scope="module")
def dataset_of_a_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """268 tiles of zoom 18, made as `make shards REGION=demo` makes its own, without photos."""
    folder = tmp_path_factory.mktemp("town")
    files = build_demo(folder / "town", side_tiles=8, photos=0, workers=1)
    config = ShardsConfig(
        zoom=18, size=SIZE, out=str(folder / "data"), workers=1, cache=str(folder / "cache"),
        split=SplitConfig(val=0, test=0),
    )  # fmt: skip
    licences = {"osm": "CC0-1.0", "rs": "CC0-1.0"}
    make_shards(config, quiet=True, region=Region("town", [files.osm], str(files.imagery), "", licences))
    return folder / "data"


@pytest.fixture(scope="module")
def town(dataset_of_a_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Town:
    data = str(dataset_of_a_town)
    view = GeoLink.view(GEOLINK.settings().arch)
    everything = GeoStream(data, view, batch_size=8, settings=PLAIN).indexes[0].column("lonlat")
    middle = float(np.median(everything[:, 1]))
    out = tmp_path_factory.mktemp("encoder") / "run"
    words = [f"data={data}", f"out={out}", "model=tiny", "batch_size=32", "steps=40", "eval.every=0", "--quiet"]
    assert main(GEOLINK, [*words, "log.tensorboard=false", f"stream.select=lat < {middle}"]) == 0
    encoder = trained(out / "checkpoint.pt")
    rasters = _rasters(dataset_of_a_town)
    return Town(encoder, *(_half(encoder, data, f"lat {sign} {middle}", rasters) for sign in ("<", ">=")))


def _rasters(root: Path) -> dict[str, np.ndarray]:
    """Class raster u8[S,S] of each sample, by key."""
    found = {}
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                if name == "osm.png":
                    data = tar.extractfile(member)
                    assert data is not None
                    found[key] = np.asarray(Image.open(io.BytesIO(data.read())))
    return found


@torch.no_grad()
def _half(encoder: GeoLink, data: str, select: str, rasters: dict[str, np.ndarray]) -> Half:
    names = [c["name"] for c in yaml.safe_load((ROOT / "pipeline/rules/classes.yaml").read_text())["classes"]]
    table = np.full(256, IGNORE)
    for number, name in enumerate(CLASSES):
        table[[names.index(n) + 1 for n in OF_RASTER[name]]] = number
    legend = Legend.of([data])
    view = GeoLink.view(encoder.settings)
    stream = GeoStream(data, view, batch_size=64, settings=PLAIN, select=select, shuffle="none")
    rows: dict[str, list[Tensor]] = {}
    for batch in stream:
        found = labels(batch, legend)
        raster = np.stack([rasters.get(key, np.zeros((SIZE, SIZE), np.uint8)) for key in batch.key])
        row = {
            "tokens": encoder.vit(encoder.norm(batch.rs))[:, 1:], "land_use": found["land_use"],
            "density": found["building_density"], "image": batch.rs, "label": torch.from_numpy(table[raster]),
            "built": torch.from_numpy(raster == names.index("building") + 1),
        }  # fmt: skip
        for name, value in row.items():
            rows.setdefault(name, []).append(value[batch.valid])
    held = {name: torch.cat(parts) for name, parts in rows.items()}
    tiles = Tiles(held["image"], held["label"])
    return Half(held["tokens"], held["land_use"], held["density"], tiles, held["built"])


def few_of(every: Labelled, share: float, seed: int) -> Labelled:
    """A share of the samples of each class, at least one: the few-label protocol."""
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    own = [order[every.classes[order] == number] for number in every.classes.unique()]
    rows = torch.cat([found[: max(1, round(share * len(found)))] for found in own])
    return Labelled(every.features[rows], every.classes[rows])


@pytest.mark.parametrize("task", ["land_use", "density"])
def test_frozen_features_name_the_classes_of_the_other_half(town: Town, task: str) -> None:
    """Nearest neighbours, a linear probe, and one on a fifth of the labels, beside the majority class."""
    south, north = (half.labelled(getattr(half, task)) for half in (town.south, town.north))
    least = majority(south, north)
    assert knn(south, north) > least + 0.08
    assert linear_probe(south, north, decay=0.1) > least + 0.08
    few = [linear_probe(few_of(south, 0.2, seed), north, decay=0.1) for seed in range(5)]
    assert np.mean(few) > least + 0.04
    order = torch.randperm(len(north), generator=torch.Generator().manual_seed(0))
    others = Labelled(north.features[order], north.classes)  # of other tiles: the score is none of the classes' shares
    assert max(knn(south, others), linear_probe(south, others, decay=0.1)) < least


def test_a_probe_moves_to_another_region(town: Town) -> None:
    north = town.north.labelled(town.north.land_use)
    own = torch.arange(len(north)) % 2 == 0
    local, test = (Labelled(north.features[m], north.classes[m]) for m in (own, ~own))
    least = majority(local, test)
    assert linear_probe(town.south.labelled(town.south.land_use), test) > least + 0.06
    assert linear_probe(local, test) > least + 0.1


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "fine-tuned"])
def test_upernet_segments_the_other_half(town: Town, freeze: bool) -> None:
    torch.manual_seed(0)
    encoder = deepcopy(town.encoder)
    model = Segmenter(encoder, freeze, channels=16)
    history = fine_tune(model, town.south.tiles, epochs=8, lr=3e-3, batch=16)
    assert history[-1] < 0.7 * history[0]
    found = held_out_scores(model, town.north.tiles)
    truth, seen = town.north.tiles.labels, town.south.tiles.labels
    most = seen[seen != IGNORE].bincount().argmax().expand_as(truth)
    least = scores(confusion(most, truth, len(CLASSES), IGNORE))
    assert found["miou"] > 2 * least["miou"]
    assert found["accuracy"] > least["accuracy"] + 0.01
    mirrored = held_out_scores(model, Tiles(town.north.tiles.images, truth.flip(2)))
    assert found["miou"] > 1.1 * mirrored["miou"]  # it says where, not only how much
    moved = [not torch.equal(a, b) for a, b in zip(encoder.parameters(), town.encoder.parameters(), strict=True)]
    assert any(moved) != freeze


def test_the_share_of_buildings_is_regressed(town: Town) -> None:
    torch.manual_seed(0)
    south, north = town.south, town.north
    head = RegressionHead(south.tokens.shape[2], hidden=32)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    for _ in range(50):
        loss = F.mse_loss(head(south.tokens)[:, 0], south.built.float().mean((1, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        off, true = head(north.tokens)[:, 0], north.built.float().mean((1, 2))
    assert 1 - (off - true).square().sum() / (true - true.mean()).square().sum() > 0.25  # R²: 0 is the mean


def _without_buildings(half: Half) -> tuple[Tensor, Tensor]:
    """Images u8[N,3,S,S] in which every other tile's buildings are gone, under the mean colour of its other pixels,
    and bool[N,S,S] where they stood."""
    gone = half.built.clone()
    gone[1::2] = False
    image, ground = half.tiles.images.float(), ~half.built[:, None]
    colour = (image * ground).sum((2, 3), keepdim=True) / ground.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(gone[:, None], colour, image).to(torch.uint8), gone


@torch.no_grad()
def _maps(encoder: GeoLink, image: Tensor) -> list[Tensor]:
    levels, tokens = encoder.vit.levels(encoder.norm(image), encoder.settings.vit.hybrid_blocks)
    return [to_map(t) for t in (*levels, tokens[:, 1:])]


def test_buildings_that_are_gone_are_found(town: Town) -> None:
    torch.manual_seed(0)
    images, gone = _without_buildings(town.south)
    before, after = _maps(town.encoder, town.south.tiles.images), _maps(town.encoder, images)
    head = ChangeHead([m.shape[1] for m in before], channels=16)
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(32):
            loss = F.cross_entropy(head([m[rows] for m in before], [m[rows] for m in after], SIZE), gone[rows].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images, gone = _without_buildings(town.north)
    head.eval()
    with torch.no_grad():
        named = head(_maps(town.encoder, town.north.tiles.images), _maps(town.encoder, images), SIZE).argmax(1).bool()
    everything = gone.float().mean()  # the overlap of naming each pixel
    overlap = (named & gone).sum() / (named | gone).sum()
    assert overlap > 3 * everything  # 0.26 to 0.40 over five seeds, everything 0.06
