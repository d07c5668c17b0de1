"""Images come right by the names of their bands: in any order, of any number, by any alias, in both trainers."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.cli.stats import write_statistics
from schemas.bands import SENTINEL2, canonical
from schemas.config import build
from schemas.errors import ConfigError, DatasetError, InputError
from schemas.sample import RsInfo
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.loop import Trainer, train
from trainers.engine.settings import Task, fit_bands, resolve
from trainers.models.vit import image_norm
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.index import load_index
from trainers.stream.datasets import parse_datasets
from trainers.stream.load import image_bands
from trainers.stream.members.decode import resize
from trainers.stream.members.levels import BandStatistics, to_levels
from trainers.stream.members.read import ShardReader
from trainers.stream.sample import choose_channels
from trainers.stream.stream import GeoStream
from trainers.stream.wds import wds_pipeline
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

TWELVE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
SMALL = SyntheticSettings(samples=24, size=48, photo_size=32, splits=("train", "train", "val"))
SENTINEL = replace(SMALL, bands=TWELVE, dtype="uint16", form="npy")
BOTH = pytest.mark.parametrize("task", [GEOLINK, GAIR], ids=lambda t: t.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One ground with its bands in several orders, under several names."""
    made = {
        "png": replace(SMALL, form="png"),
        "swapped": replace(SMALL, form="png", bands=("B", "red", "Green")),
        "npy": replace(SMALL, form="npy"),
        "rotated": replace(SMALL, form="npy", bands=("B03", "B02", "B04")),
        "unknown": replace(SMALL, form="png", bands=("band1", "band2", "band3")),
        "twelve": SENTINEL,
        "twelve rotated": replace(SENTINEL, bands=(*TWELVE[5:], *TWELVE[:5])),
        "twelve shuffled": replace(SENTINEL, bands=tuple(np.random.default_rng(0).permutation(TWELVE).tolist())),
        "own": replace(SMALL, form="npy", dtype="uint16", bands=("Lidar", "red", "green", "blue")),
        "twice": replace(SENTINEL, bands=("B4", "red", "B3", "B2")),
    }
    folder = tmp_path_factory.mktemp("bands")
    return {name: write_dataset(folder / name.replace(" ", "-"), s) for name, s in made.items()}


def settings(task: Task, *overrides: str) -> Any:
    return resolve(task, {}, ["model=tiny", "batch_size=8", "steps=1", "eval.every=0", *overrides], "tiny")


def first(task: Task, root: Path, *overrides: str) -> TileBatch:
    """The first batch that the trainer sees, its draws included."""
    trainer = Trainer(task, settings(task, *overrides), parse_datasets(str(root)), torch.device("cpu"), True)
    return next(trainer.stream.batches(steps=1))


def assert_same(a: TileBatch, b: TileBatch) -> None:
    """All that a model reads; the order of an epoch follows the content, so samples are matched by their keys."""
    for f in fields(TileBatch):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) if isinstance(x, torch.Tensor) else x == y, f.name


def images(root: Path, *bands: str) -> dict[str, np.ndarray]:
    view = View(48, bands or ("R", "G", "B"))
    stream = GeoStream(str(root), view, batch_size=4, augment=AugmentSettings(enabled=False))
    return {key: b.rs[i].numpy() for b in stream for i, key in enumerate(b.key) if key}


def by_key(task: Task, root: Path, *overrides: str) -> dict[str, np.ndarray]:
    """Images of all training samples as the trainer's own stream gives them, without augmentation."""
    given = settings(task, "stream.augment.enabled=false", *overrides)
    trainer = Trainer(task, given, parse_datasets(str(root)), torch.device("cpu"), True)
    return {k: b.rs[i].numpy() for b in trainer.stream for i, k in enumerate(b.key) if k}


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys() != set()
    for key in wanted:
        np.testing.assert_array_equal(found[key], wanted[key])


@BOTH
@pytest.mark.parametrize(("one", "other"), [("png", "swapped"), ("png", "npy"), ("npy", "rotated"), ("png", "unknown")])
def test_red_green_and_blue_are_themselves_in_any_order_on_disk(
    data: dict[str, Path], task: Task, one: str, other: str
) -> None:
    wanted = by_key(task, data[one])
    assert_equal(by_key(task, data[other]), wanted)
    assert any((image[0] != image[2]).any() for image in wanted.values())


@BOTH
def test_a_batch_of_swapped_channels_is_the_same_to_the_bit(
    data: dict[str, Path], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws included: the order of both is made that of one content."""
    monkeypatch.setattr(
        "trainers.stream.catalog.index.load_dataset", lambda _: {"content_hash": "c", "layout_hash": "l"}
    )
    assert_same(first(task, data["swapped"]), first(task, data["png"]))
    assert_same(first(task, data["twelve rotated"]), first(task, data["twelve"]))


@BOTH
@pytest.mark.parametrize("other", ["twelve rotated", "twelve shuffled"])
def test_twelve_bands_come_right_by_name(data: dict[str, Path], task: Task, other: str) -> None:
    assert_equal(by_key(task, data[other]), by_key(task, data["twelve"]))
    names = "arch.bands=[swir22, B04, Coastal_Aerosol, b8a]"
    assert_equal(by_key(task, data[other], names), by_key(task, data["twelve"], names))


def test_what_is_painted_red_is_read_as_red(data: dict[str, Path]) -> None:
    """The levels of twelve 16-bit bands against the 8-bit picture that they were made of."""
    shown, painted = images(data["twelve shuffled"]), images(data["png"])
    assert shown.keys() == painted.keys()
    for key in shown:
        # no reflectance is below 0, which is level 22 of blue
        assert np.abs(shown[key].astype(int) - np.maximum(painted[key].astype(int), 22)).max() <= 22
        assert np.abs(shown[key].astype(int) - painted[key])[painted[key] > 22].max() <= 1


@BOTH
def test_sentinel_trains_by_default_and_on_all_its_bands(data: dict[str, Path], task: Task, tmp_path: Path) -> None:
    for name, overrides, channels in (("rgb", [], 3), ("all", ["arch.bands=all"], 12)):
        given = settings(task, "steps=2", "eval.every=2", *overrides)
        summary = train(task, given, str(data["twelve"]), tmp_path / f"{task.name}-{name}", True)
        assert summary["finished"]
        assert np.isfinite(list(summary["losses"].values())).all()
        state = torch.load(tmp_path / f"{task.name}-{name}" / "checkpoint.pt", weights_only=True)
        assert len(state["config"]["arch"]["bands"]) == channels
        first = "vit.patch_embed.proj.weight" if task is GEOLINK else "rs.linear_input.weight"
        assert state["model"][first][0].numel() == channels * 16**2


@BOTH
def test_all_bands_are_those_of_the_dataset(data: dict[str, Path], task: Task) -> None:
    given = fit_bands(settings(task, "arch.bands=all"), [str(data["twelve rotated"])])
    assert given.arch.bands == tuple(map(canonical, (*TWELVE[5:], *TWELVE[:5])))
    with pytest.raises(ConfigError, match=r"arch\.bands=all: .*png has red, green, blue, but"):
        fit_bands(settings(task, "arch.bands=all"), [str(data["png"]), str(data["twelve"])])


def test_a_run_goes_on_under_another_alias(data: dict[str, Path], tmp_path: Path) -> None:
    given = settings(GEOLINK, "steps=2", "stop_after=1", "arch.bands=[R,G,B]")
    train(GEOLINK, given, str(data["png"]), tmp_path / "run", True)
    given = settings(GEOLINK, "steps=2", "resume=auto", "arch.bands=[B4,B3,B2]")
    assert train(GEOLINK, given, str(data["png"]), tmp_path / "run", True)["finished"]


def test_a_band_without_statistics_is_an_error_that_names_the_command(data: dict[str, Path], tmp_path: Path) -> None:
    own = write_dataset(tmp_path / "own", replace(SMALL, form="npy", dtype="uint16", bands=("Lidar", "B4", "B3", "B2")))
    with pytest.raises(DatasetError, match=rf"band Lidar \(uint16\) .*geoshards stats {own}"):
        images(own, "lidar")
    with pytest.raises(DatasetError, match="band red"):  # 16 bits that are called red may be anyone's
        images(data["own"])
    assert images(own)  # the others have published ones
    before = GeoStream(str(own), View(48, ("lidar",)), batch_size=4).state_dict()
    assert main(["stats", str(own), "--quiet", "--workers", "1"]) == 0
    found = images(own, "LIDAR")
    levels = np.stack(list(found.values())).astype(float)
    assert abs(levels.mean() - 127.5) < 4
    assert 45 < levels.std() < 70
    with pytest.raises(DatasetError, match="statistics was published, is "):
        GeoStream(str(own), View(48, ("lidar",)), batch_size=4).load_state_dict(before)


def test_the_dataset_s_own_statistics_come_before_published_ones(data: dict[str, Path], tmp_path: Path) -> None:
    own = write_dataset(tmp_path / "twelve", SENTINEL)
    before = images(own, "B8")
    write_statistics(str(own), workers=1)
    table = {(r["band"], r["dtype"]): r for r in __import__("pyarrow.parquet").parquet.read_table(
        own / "catalog/statistics").to_pylist()}  # fmt: skip
    row = table["nir", "uint16"]
    index = load_index(str(own))
    for key, image in images(own, "B8").items():
        sample = index.keys().index(key)
        raw = np.load(io.BytesIO(ShardReader(index).one(sample, ["rs.npy"])["rs.npy"]))[TWELVE.index("B8")]
        expected = np.clip((raw - row["mean"]) / row["std"] * 63.75 + 127.5, 0, 255)
        assert np.abs(image[0] - expected).max() <= 1
    assert any((before[k] != v).any() for k, v in images(own, "B8").items())
    # pictures of red, green and blue stay as they are, whatever a table says
    picture = write_dataset(tmp_path / "png", replace(SMALL, form="png"))
    plain = images(picture)
    write_statistics(str(picture), workers=1)
    assert_equal(images(picture), plain)


def test_a_released_run_maps_ten_bands_by_the_published_statistics_to_the_unit_range(tmp_path: Path) -> None:
    """Whatever a table of the dataset says; by docs/papers/gair.md#images."""
    own = write_dataset(tmp_path / "d", SENTINEL)
    write_statistics(str(own), workers=1)
    words = ["fidelity=released", "stream.augment.enabled=false", "arch.rs.image_size=48"]
    model = GAIR.build(settings(GAIR, *words))
    index, ten = load_index(str(own), split="train"), [b for b in TWELVE if b not in ("B1", "B9")]
    known = np.array([SENTINEL2.moments[canonical(b)] for b in ten])[:, :, None, None]
    for key, image in by_key(GAIR, own, *words).items():
        raw = np.load(io.BytesIO(ShardReader(index).one(index.keys().index(key), ["rs.npy"])["rs.npy"]))
        kept = raw[[TWELVE.index(b) for b in ten]].astype(np.float64)
        expected = np.clip((kept - known[:, 0] + 2 * known[:, 1]) / (4 * known[:, 1]) * 255, 0, 255).astype(np.uint8)
        assert np.abs(image.astype(int) - expected).max() <= 1
        unit = model.rs_norm(torch.from_numpy(image)[None])[0]
        torch.testing.assert_close(unit, torch.from_numpy(image) / 255)
    assert any((image != by_key(GAIR, own, *words, "arch.levels=dataset")[key]).any()
               for key, image in by_key(GAIR, own, *words).items())  # fmt: skip


def test_statistics_of_other_samples_are_refused(tmp_path: Path) -> None:
    own = write_dataset(tmp_path / "d", SENTINEL)
    write_statistics(str(own), workers=1)
    document = json.loads((own / "dataset.json").read_text())
    (own / "dataset.json").write_text(json.dumps(document | {"content_hash": "0" * 64}))
    with pytest.raises(DatasetError, match=f"of other samples than the dataset has now; .*geoshards stats {own}"):
        images(own)


def test_the_mean_of_a_band_is_the_middle_of_the_range() -> None:
    raw = np.stack([np.full((4, 4), v, np.uint16) for v in (1173, 1378)])
    shown = to_levels(raw, ["B2", "B03"], BandStatistics())
    assert shown.dtype == np.uint8
    assert abs(shown.astype(int) - 127).max() <= 1
    assert resize(shown, 8).shape == (2, 8, 8)


def test_one_bright_pixel_moves_no_other() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = SENTINEL2.moments["coastal"]
    raw = rng.normal(mean, deviation, (1, 64, 64)).clip(1, 65535).astype(np.uint16)
    bright = raw.copy()
    bright[0, 5, 5] = 65535
    plain, other = (to_levels(x, ["B1"], BandStatistics("d")) for x in (raw, bright))
    assert abs(plain.mean() - 127.5) < 3
    other[0, 5, 5] = plain[0, 5, 5]
    np.testing.assert_array_equal(plain, other)


def test_two_channels_of_one_band_are_an_error_that_names_both(data: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"twice: xyz-\S+\.rs\.npy has the bands B4 and red, which are both red"):
        images(data["twice"], "B3")


def test_a_missing_band_is_named_with_what_there_is(data: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"png: xyz-\S+\.rs\.png has the bands R, G, B, the model takes nir, too; .*"
                       r"arch\.bands=all") as error:  # fmt: skip
        images(data["png"], "red", "nir")
    assert "\n" not in str(error.value)
    assert "B1, B2, B3" not in str(error.value)


def test_eight_bits_that_are_no_picture_need_statistics_too(tmp_path: Path) -> None:
    own = write_dataset(tmp_path / "rgbn", replace(SMALL, form="npy", bands=("R", "G", "B", "N")))
    with pytest.raises(DatasetError, match=r"band N \(uint8\)"):
        images(own, "R", "G", "B", "NIR")
    write_statistics(str(own), workers=1)
    assert len(images(own, "R", "G", "B", "NIR"))
    assert_equal(images(own), images(write_dataset(tmp_path / "rgb", replace(SMALL, form="npy"))))


def test_webdataset_reads_bands_by_name_too(data: dict[str, Path]) -> None:
    for one, other in (("png", "swapped"), ("twelve", "twelve shuffled")):
        shown = [
            {k: b.rs[i].numpy() for b in wds_pipeline(data[name], View(48), batch_size=8) for i, k in enumerate(b.key)}
            for name in (one, other)
        ]
        assert_equal(*shown)


def test_pixels_made_on_the_device_are_the_same_bands(data: dict[str, Path]) -> None:
    for one, other in (("png", "swapped"), ("twelve", "twelve shuffled")):
        shown = []
        for name in (one, other):
            plain = AugmentSettings(enabled=False)
            stream = GeoStream(str(data[name]), View(32), batch_size=4, pixels="device", augment=plain)
            batches = (b.to("cpu") for b in stream)
            shown.append({k: b.rs[i].numpy() for b in batches for i, k in enumerate(b.key) if k})
        assert_equal(*shown)


def test_norms_follow_the_band_not_its_place() -> None:
    forth, back = image_norm(("R", "G", "B")), image_norm(("B2", "green", "Red"))
    assert torch.equal(forth.mean, back.mean.flip(1))
    assert torch.equal(forth.deviation, back.deviation.flip(1))
    assert forth.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert image_norm(("nir", "red", "green")).mean.flatten().tolist() == [127.5] * 3


@pytest.mark.parametrize(("bands", "message"), [([], "names no band"), (["red", "B4"], "names red twice")])
def test_bands_of_a_model_are_each_named_once(bands: list[str], message: str, data: dict[str, Path]) -> None:
    given = build(GEOLINK.settings, {"arch": {"bands": bands}})
    with pytest.raises(ConfigError, match=message):
        fit_bands(given, [str(data["png"])])


def test_members_that_are_read_hold_what_is_needed_alone(data: dict[str, Path]) -> None:
    index = load_index(str(data["png"]))
    assert image_bands(index) == ("red", "green", "blue")
    assert choose_channels(("N", "R", "G"), ("G", "NIR"), "here") == [2, 0]
    assert RsInfo("rs.jpg", ["band1", "band2", "band3"], "uint8", "x").names == ("red", "green", "blue")
    assert RsInfo("rs.npy", ["band1", "band2", "band3"], "uint8", "x").names == ("band1", "band2", "band3")
    assert tarfile.is_tarfile(data["png"] / "shards/part-0000000.tar")
