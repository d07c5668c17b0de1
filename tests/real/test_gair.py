"""GAIR's own Sentinel-2 tiles, with a photo at the place that its release gives, through the whole job."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.driver.shards import make_shards
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.imagery.config import ImageryConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.sample import SampleMeta
from schemas.splits import SplitConfig
from storage.dataset import read_samples, sample_rows
from storage.store import Store
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main
from trainers.models.gair.model import Gair
from trainers.stream.stream import GeoStream
from trainers.tasks.gair import GAIR

#: Tile, photo (lon, lat), normalised position (docs/papers/gair.md#data).
CASES = {
    "sacramento": ((-121.474012, 38.570138), (0.583, 0.720)),
    "tokyo": ((139.75009, 35.657349), (0.183, 0.996)),
}


def photo_table(folder: Path, pictures: Sequence[Path] = ()) -> Path:
    """A photo at each place: grey ones, or real ones of other places, as the release has none of its own."""
    folder.mkdir()
    lines = ["file,id,lon,lat,captured_at,licence"]
    for number, (name, ((lon, lat), _)) in enumerate(CASES.items()):
        if pictures:
            (folder / f"{name}.jpg").symlink_to(pictures[number])
        else:
            Image.new("RGB", (32, 24), (90, 120, 60)).save(folder / f"{name}.jpg")
        lines.append(f"{name}.jpg,{name},{lon},{lat},2020-05-01,CC0-1.0")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return folder / "photos.csv"


def chips_to_shards(real_data: Path, folder: Path, pictures: Sequence[Path] = ()) -> None:
    """Both tiles with a photo each, all for training, as a dataset in ``folder``/out."""
    (folder / "chips").mkdir()
    for name in CASES:
        (folder / "chips" / f"{name}_rs.tif").symlink_to(real_data / f"gair/sentinel2/{name}_rs.tif")
    config = ShardsConfig(
        footprints=("chips",), imagery="none", chips=ChipsConfig(str(folder / "chips")),
        region=str(real_data / "osm/monaco/monaco_2023-12-25.osm.pbf"),
        streetview=str(photo_table(folder / "photos", pictures)), out=str(folder / "out"), workers=1,
        rs=ImageryConfig(licence="Copernicus Sentinel data"), cache=str(folder / "cache"),
        split=SplitConfig(val=0.0, test=0.0),
    )  # fmt: skip
    assert make_shards(config, quiet=True).document["samples"] == 2


def test_gair_tiles_keep_bands_and_dtype_and_photos_their_place(real_data: Path, tmp_path: Path) -> None:
    chips_to_shards(real_data, tmp_path)
    store = Store(tmp_path / "out")
    assert find_problems(store.root) == []
    for row, members in read_samples(store, sample_rows(store)):
        meta = SampleMeta.from_bytes(members["json"])
        (photo,) = meta.streetview
        pixels = np.load(io.BytesIO(members["rs.npy"]), allow_pickle=False)
        with rasterio.open(real_data / f"gair/sentinel2/{photo.id}_rs.tif") as source:
            np.testing.assert_array_equal(pixels, source.read())
        assert (pixels.dtype, len(pixels), len(meta.rs[0].bands)) == (np.uint16, 12, 12)
        _, height, width = pixels.shape
        x, y = CASES[photo.id][1]
        assert abs(photo.x - x) < 1 / width
        assert abs(photo.y - y) < 1 / height
        assert row["n_streetview"] == 1
        assert "CC0-1.0" in row["licences"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_web_mercator_tile_of_gair_s_image_has_the_photo_at_the_same_place(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    (lon, lat), expected = CASES[name]
    osm = tmp_path / "place.opl"
    osm.write_text(
        "".join(
            f"n{i} v1 dV c1 t2024-01-01T00:00:00Z i1 utest Tnatural=tree x{lon + d:.7f} y{lat + d:.7f}\n"
            for i, d in ((1, 0.0), (2, 1e-4))
        )
    )
    config = ShardsConfig(
        region=str(osm), imagery=str(real_data / f"gair/sentinel2/{name}_rs.tif"), cache=str(tmp_path / "cache"),
        streetview=str(photo_table(tmp_path / "photos")), zoom=14, out=str(tmp_path / "out"), workers=1,
        rs=ImageryConfig(licence="Copernicus Sentinel data", max_nodata=0.05), plan=PlanConfig(min_objects=0),
    )  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    (row,) = [r for r in sample_rows(store) if r["n_streetview"]]
    _, members = next(read_samples(store, [row]))
    (photo,) = SampleMeta.from_bytes(members["json"]).streetview
    assert (photo.id, np.load(io.BytesIO(members["rs.npy"])).dtype) == (name, np.uint16)
    assert abs(photo.x - expected[0]) < 1 / 256
    assert abs(photo.y - expected[1]) < 1 / 256


def embeddings(checkpoint: Path, data: Path) -> list[bytes]:
    """Of the checkpoint's model, read anew, for all photos, images at their places, and places."""
    state = load_checkpoint(checkpoint)
    model = Gair.of(state["config"])
    model.load_state_dict(state["model"])
    model.eval()
    view = Gair.view(model.settings, model.fidelity)
    (batch,) = GeoStream([str(data)], view, batch_size=2).batches(until_epoch=1)
    with torch.no_grad():
        found = (model.encode_photos(batch), model.localise(model.encode_tiles(batch), batch))
        places = model.location(batch.photo_lonlat)
    assert int(model.photo_mask(batch).sum()) == 2
    return [t.numpy().tobytes() for t in (*found, places) if t.isfinite().all()]


def test_gair_trains_on_its_own_tiles_and_inference_repeats_to_the_byte(
    real_data: Path, real_file: Callable[[str], Path], tmp_path: Path
) -> None:
    chips_to_shards(real_data, tmp_path, [real_file(f"street/lund/lund_{n:02d}.jpg") for n in (1, 2)])
    words = ["model=tiny", "fidelity=released", "steps=3", "batch_size=2", "eval.every=0", "log.tensorboard=false"]
    for out in ("one", "two"):
        assert main(GAIR, [f"data={tmp_path / 'out'}", f"out={tmp_path / out}", *words, "--quiet"]) == 0
    first = embeddings(tmp_path / "one/checkpoint.pt", tmp_path / "out")
    assert len(first) == 3  # all are numbers
    assert embeddings(tmp_path / "one/checkpoint.pt", tmp_path / "out") == first
    assert embeddings(tmp_path / "two/checkpoint.pt", tmp_path / "out") == first  # so does training
