"""The job on real input: extracts with and without imagery and photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.driver.shards import make_shards
from pipeline.imagery.config import ImageryConfig
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from pipeline.streetview.config import StreetviewConfig
from schemas.sample import OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store


def test_both_oakland_extracts_meet_the_landsat_scene_that_contains_them(real_data: Path, tmp_path: Path) -> None:
    extracts = [
        real_data / "osm/sfbay/oakland_west_2016.osm.pbf",
        real_data / "osm/sfbay/oakland_montclair_2019.osm.pbf",
    ]
    photos = tmp_path / "photos.csv"
    frame = real_data / "street/sfbay/sf_dashcam_comma2k19.png"
    (tmp_path / frame.name).write_bytes(frame.read_bytes())
    # The one photo of this scene lies 15 km from both extracts: it must be named in drops, never paired.
    photos.write_text(f"file,lon,lat,heading_deg,licence\n{frame.name},-122.4722991,37.721,2.34,MIT\n")
    config = ShardsConfig(
        region=",".join(map(str, extracts)), imagery=str(real_data / "rs/sfbay/landsat7_sfbay_south.tif"),
        streetview=str(photos), rs=ImageryConfig(licence="public domain (USGS)"),
        zoom=15, out=str(tmp_path / "out"), workers=1, osm=CleaningConfig(min_tag_count=1),
    )  # fmt: skip
    document = make_shards(config, quiet=True).document
    store = Store(tmp_path / "out")
    rows = sample_rows(store)
    assert find_problems(store.root) == []
    assert document["samples"] == len(rows) > 1
    assert all(r["n_rs"] == 1 for r in rows)
    west = [r for r in rows if r["lon"] < -122.27]
    assert west, "no sample of the western extract"
    assert len(west) < len(rows), "no sample of the eastern extract"
    assert sum(r["n_polygon"] for r in west) > 20
    for _, members in read_samples(store, rows):
        image = np.asarray(Image.open(io.BytesIO(members["rs.jpg"])))
        assert image.shape == (256, 256, 3)
        assert image.std() > 5
        assert SampleMeta.from_bytes(members["json"]).gsd[0] == pytest.approx(3.78, abs=0.05)
    drops = read_catalog(store, "drops").to_pylist()
    assert [d["reason"] for d in drops if d["stage"] == "streetview"] == ["outside_tiles"]


@pytest.mark.parametrize(
    ("extract", "zoom"),
    [
        ("liechtenstein/liechtenstein_2022-07-24.osm.pbf", 14),
        ("monaco/monaco_2023-12-25.osm.pbf", 16),
        ("rome/rome_esquilino_2026.osm.pbf", 17),
    ],
)
def test_region_without_imagery_gives_legal_samples_that_are_counted(
    real_data: Path, tmp_path: Path, extract: str, zoom: int
) -> None:
    config = ShardsConfig(
        region=str(real_data / "osm" / extract), zoom=zoom, size=224, out=str(tmp_path / "out"), workers=1
    )
    document = make_shards(config, quiet=True).document
    store = Store(tmp_path / "out")
    rows = sample_rows(store)
    assert document["counts"]["n_rs"] == 0
    assert document["samples"] == len(rows) > 10
    assert all(r["n_rs"] == 0 and r["n_point"] + r["n_line"] + r["n_polygon"] > 0 for r in rows)
    row, members = next(read_samples(store, rows))
    assert not any(name.startswith("rs.") for name in members)
    assert OsmTokens.from_bytes(members[OSM_TOKENS]).counts() == (row["n_point"], row["n_line"], row["n_polygon"])
    shards = read_catalog(store, "shards").to_pylist()
    assert sum(s["samples"] for s in shards) == len(rows)
    assert all(r["osm_time"].startswith("20") for r in rows)
    assert all("ODbL-1.0" in r["licences"] for r in rows)


def test_rome_photo_is_paired_with_the_square_it_shows(real_data: Path, tmp_path: Path) -> None:
    config = ShardsConfig(
        region=str(real_data / "osm/rome/rome_piazza_venezia_2015.osm.pbf"),
        streetview=str(real_data / "street/rome"), zoom=16, sv=StreetviewConfig(licence="CC-BY-SA-4.0"),
        out=str(tmp_path / "out"), workers=1, plan=PlanConfig(min_objects=0), osm=CleaningConfig(min_tag_count=1),
    )  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    (row,) = [r for r in sample_rows(store) if r["n_streetview"]]
    _, members = next(read_samples(store, [row]))
    tokens, meta = OsmTokens.from_bytes(members[OSM_TOKENS]), SampleMeta.from_bytes(members["json"])
    (photo,) = meta.streetview
    square = np.flatnonzero(tokens.osm_id == 122109226)
    assert len(square) == 1, "way 122109226, Piazza Venezia, is in the photo's footprint"
    ring = slice(*tokens.ring_offsets[tokens.object_ring_offsets[square[0]] :][:2])
    metres = np.hypot(*((tokens.vertices[ring] / 65535 - (photo.x, photo.y)) * 256 * np.array(meta.gsd)).T)
    assert metres.min() < 40  # 19 m from its nearest edge
    assert len(members["sv.0.jpg"]) < 200_000


@pytest.mark.parametrize(
    ("extract", "photos"),
    [("berlin/berlin_wittenau_2026.osm.pbf", "berlin"), ("lund/lund-station-sweden.osm.pbf", "lund")],
)
def test_photos_near_but_outside_an_extract_get_no_osm(
    real_data: Path, tmp_path: Path, extract: str, photos: str
) -> None:
    config = ShardsConfig(
        region=str(real_data / "osm" / extract),
        streetview=str(real_data / "street" / photos),
        zoom=17,
        out=str(tmp_path / "out"),
        workers=1,
    )
    document = make_shards(config, quiet=True).document
    assert document["counts"]["n_streetview"] == 0
    drops = [d for d in read_catalog(Store(tmp_path / "out"), "drops").to_pylist() if d["stage"] == "streetview"]
    assert len(drops) == len(list((real_data / "street" / photos).iterdir()))
    assert {d["reason"] for d in drops} == {"outside_tiles"}
