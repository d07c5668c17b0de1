"""A band is found by any of its names, whatever the file or the service calls it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.footprints.chips.image import read_header
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.mirror.server import Mirror
from schemas.errors import ConfigError, InputError
from tests.imagery.scenes import LAT, LON, own_footprint, texture, tiles, write_raster
from tests.imagery.test_stac import HERE, NET, ask


@pytest.mark.parametrize("wanted", [("nir", "Blue"), ("B08", "b"), ("NIR", "B02"), ("4", "B2")])
def test_a_file_s_bands_are_found_by_any_alias(wanted: tuple[str, ...], tmp_path: Path) -> None:
    data = texture(1, (4, 20, 20))
    path = write_raster(tmp_path / "four.tif", data, names=("B2", "B3", "B4", "B8"), photometric="MINISBLACK")
    scene = open_scene(path, ImageryConfig(bands=wanted))
    assert scene.bands == ["B8", "B2"]  # as the file calls them, so that equal samples have equal bytes
    found, _ = read_images([scene], {0: own_footprint(path)}, ImageryConfig(bands=wanted), NET)
    np.testing.assert_array_equal(found[0][0].pixels, data[[3, 0]])


def test_two_channels_of_one_band_are_refused_where_both_are_taken(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "twice.tif", texture(1, (3, 20, 20)), names=("B4", "red", "B8"))
    message = r"twice\.tif has the bands B4 and red, which are both red"
    for bands in ((), ("R",), ("1", "2")):
        with pytest.raises(InputError, match=message):
            open_scene(path, ImageryConfig(bands=bands))
    assert open_scene(path, ImageryConfig(bands=("red", "N"))).bands == ["red", "B8"]
    with pytest.raises(InputError, match="it has the bands B4 and red"):
        read_header(path, sidecars=False)
    with pytest.raises(ConfigError, match=r"rs\.bands names a band twice"):
        ImageryConfig(bands=("red", "B04"))


def test_scenes_that_call_a_band_by_two_names_go_together(tmp_path: Path) -> None:
    paths = [
        write_raster(tmp_path / f"{k}.tif", texture(k, (1, 20, 20)), names=(n,), tags={"LICENSE": "CC0-1.0"})
        for k, n in enumerate(("B4", "Red"))
    ]
    assert len(find_imagery(",".join(map(str, paths)), [], ImageryConfig(), NET)[0]) == 2


@pytest.mark.parametrize("service", ["earth-search", "planetary-computer"])
def test_a_service_s_bands_have_one_name_whatever_asks_for_them(mirror: Mirror, service: str) -> None:
    seen = []
    for bands in (("B4", "B11", "B8A"), ("red", "swir16", "nir08"), ("R", "b11", "Narrow NIR")):
        config = ImageryConfig(stac_url=f"{mirror.url}/{service}", bands=bands, datetime="2024-07-01", max_cloud=100)
        scenes, _ = find_imagery(service, HERE, config, NET)
        assert {tuple(s.bands) for s in scenes} == {("B4", "B11", "B8A")}
        ((image,),) = read_images(scenes[:1], tiles(LON, LAT, 14, 64, 1), config, NET)[0].values()
        seen.append(image.pixels)
    np.testing.assert_array_equal(seen[1], seen[0])
    np.testing.assert_array_equal(seen[2], seen[0])


def landsat(mirror: Mirror, archive: Path, folder: Path, key: str) -> Path:
    """An item whose assets declare Landsat's numbers: B4 is red there as on Sentinel-2, but B5 is near infrared."""
    _, page = ask(mirror, "/earth-search/search", datetime="2024-07-01/2024-07-02")
    (item,) = page["features"]
    source = item["assets"]["red"]
    assets: dict[str, Any] = {}
    for name, common, file in (("B4", "red", "B4"), ("B5", "nir08", "B8A"), ("B6", "swir16", "B11")):
        bands = [{"name": name, **({"common_name": common} if key == "eo:bands" else {"eo:common_name": common})}]
        assets[f"{name}.TIF"] = {"href": f"{file}.tif", "type": source["type"], "roles": ["data"], key: bands}
        if not (folder / f"{file}.tif").exists():
            (folder / f"{file}.tif").symlink_to(archive / f"earth-search/sentinel-2-l2a/S2_A_0701/{file}.tif")
    picture = [{"name": n} for n in ("B4", "B3", "B2")]
    item["assets"] = {"visual": {**source, "href": "nowhere.tif", "roles": ["data"], key: picture}, **assets}
    (folder / "item.json").write_text(json.dumps(item))
    return folder / "item.json"


@pytest.mark.parametrize("key", ["eo:bands", "bands"])
@pytest.mark.parametrize("wanted", [("red", "nir08", "swir16"), ("B4", "B5", "B6"), ("R", "OLI_B5", "swir 1")])
def test_a_band_whose_number_means_another_has_its_common_name(
    mirror: Mirror, archive: Path, tmp_path: Path, key: str, wanted: tuple[str, ...]
) -> None:
    config = ImageryConfig(bands=wanted)
    (scene,), _ = find_imagery(str(landsat(mirror, archive, tmp_path, key)), HERE, config, NET)
    meant = {"B5": "nir08", "B6": "swir16"}
    assert scene.bands == [meant.get(n, n) for n in wanted]
    ((image,),) = read_images([scene], tiles(LON, LAT, 14, 64, 1), config, NET)[0].values()
    assert [set(np.unique(band)) for band in image.pixels] == [{4004}, {4009}, {4011}]  # B4, B8A, B11 of the granule
    with pytest.raises(InputError, match=r"has no band red edge 1; it has .*B5"):
        find_imagery(str(tmp_path / "item.json"), HERE, replace(config, bands=("red edge 1",)), NET)
    with pytest.raises(InputError, match="has the bands nir08 and OLI_B5"):
        find_imagery(str(tmp_path / "item.json"), HERE, replace(config, bands=("B5", "OLI_B5")), NET)
