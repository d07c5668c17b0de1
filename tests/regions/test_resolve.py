"""Regions against a mirror: names, codes, areas, addresses and files, and what happens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import shapely

from pipeline.cli.main import main
from pipeline.driver.sources import Region, resolve
from pipeline.mirror.messages import Response
from pipeline.net.config import NetConfig
from pipeline.regions.area import parse_bbox, read_polygons
from pipeline.regions.config import SourcesConfig
from pipeline.regions.resolve import Selection, check_pbf, select
from pipeline.samples.config import ShardsConfig
from schemas.config import content
from schemas.errors import ConfigError, InputError
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.net.sources import FAST
from tests.regions.indexes import write_extract

BOXES = {
    "andorra": (1.4, 42.4, 1.8, 42.7), "liechtenstein": (9.4, 47.0, 9.7, 47.3), "monaco": (7.4, 43.7, 7.5, 43.8),
}  # fmt: skip
CODES = {"andorra": "AD", "liechtenstein": "LI", "monaco": "MC"}
NO_NETWORK = NetConfig(timeout=1.0, retries=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the mirror serves."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, box in BOXES.items():
        write_extract(folder / "geofabrik" / "europe" / f"{name}-latest.osm.pbf", box)
    write_extract(folder / "geofabrik" / "asia" / "nepal-latest.osm.pbf", (80, 26, 88, 30))
    facts = {name: {"iso": [code]} for name, code in CODES.items()}
    (folder / "geofabrik" / "regions.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def mirror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror(folder) as server:
        monkeypatch.setenv("GEOSHARDS_MIRROR", server.url)
        yield server


def chosen(text: str, cache: Path) -> Selection:
    return select(text, SourcesConfig(), FAST, cache, quiet=True)


def resolved(text: str, cache: Path, **changes: object) -> Region:
    return resolve(replace(ShardsConfig(region=text, net=FAST), **changes), cache, quiet=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name", "ids"),
    [
        ("europe", "europe", ["andorra", "liechtenstein", "monaco"]),
        ("monaco", "monaco", ["monaco"]),
        ("LI", "liechtenstein", ["liechtenstein"]),
        ("monaco, Andorra", "monaco-andorra", ["andorra", "monaco"]),
        ("MC,monaco,europe", "monaco-monaco-europe", ["andorra", "liechtenstein", "monaco"]),
        ("7.41,43.71,7.44,43.74", "bbox-7_41-43_71-7_44-43_74", ["monaco"]),
        ("-10, 42.5, 7.44, 43.75", "bbox-m10-42_5-7_44-43_75", ["andorra", "monaco"]),
    ],
)  # fmt: skip
def test_a_region_is_its_extracts(mirror: Mirror, tmp_path: Path, text: str, name: str, ids: list[str]) -> None:
    selection = chosen(text, tmp_path)
    assert selection.name == name
    assert [e.id for e in selection.extracts] == ids
    assert not any(e.present for e in selection.extracts)
    assert not mirror.served(".pbf")  # nothing but the index


def test_extracts_come_once_and_keep_their_names(mirror: Mirror, tmp_path: Path) -> None:
    region = resolved("europe", tmp_path)
    assert [p.name for p in region.extracts] == [f"{n}-latest.osm.pbf" for n in sorted(BOXES)]
    for path in region.extracts:
        assert path.read_bytes() == (mirror.folder / "geofabrik" / "europe" / path.name).read_bytes()
    assert region.licences == {"osm": "ODbL-1.0"}
    before = mirror.served()
    assert resolved("europe", tmp_path).extracts == region.extracts
    assert mirror.served() == before
    assert resolved("monaco", tmp_path).extracts == region.extracts[2:]


def test_the_area_of_a_name_is_that_of_its_extracts(mirror: Mirror, tmp_path: Path) -> None:
    expected = shapely.union_all([shapely.box(*b) for b in BOXES.values()])
    assert chosen("europe", tmp_path).clip.symmetric_difference(expected).area < 1e-12


def test_the_area_of_a_bbox_is_the_bbox(mirror: Mirror, tmp_path: Path) -> None:
    assert chosen("7.41,43.71,7.44,43.74", tmp_path).clip.equals(shapely.box(7.41, 43.71, 7.44, 43.74))


def test_a_bbox_whose_west_is_over_its_east_lies_across_the_180th_meridian() -> None:
    both = shapely.union(shapely.box(177, -20, 180, -15), shapely.box(-180, -20, -178, -15))
    assert parse_bbox("177,-20,-178,-15").equals(both)
    assert parse_bbox("180,-20,-178,-15").equals(shapely.box(-180, -20, -178, -15))
    assert parse_bbox("177,-20,-180,-15").equals(shapely.box(177, -20, 180, -15))


def geojson(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def polygon(*box: float) -> dict[str, object]:
    return shapely.geometry.mapping(shapely.box(*box))


@pytest.mark.parametrize("wrapped", ["geometry", "feature", "collection"])
def test_polygons_of_a_file_are_an_area(mirror: Mirror, tmp_path: Path, wrapped: str) -> None:
    shape: object = polygon(7.41, 43.71, 7.44, 43.74)
    if wrapped != "geometry":
        shape = {"type": "Feature", "properties": {}, "geometry": shape}
    if wrapped == "collection":
        other = {"type": "Feature", "properties": {}, "geometry": polygon(9.5, 47.1, 9.6, 47.2)}
        shape = {"type": "FeatureCollection", "features": [shape, other]}
    selection = chosen(str(geojson(tmp_path / "My Area.geojson", shape)), tmp_path / "c")
    assert selection.name == "my-area"
    assert [e.id for e in selection.extracts] == (
        ["liechtenstein", "monaco"] if wrapped == "collection" else ["monaco"]
    )
    assert selection.clip.area == pytest.approx(0.0009 + (0.01 if wrapped == "collection" else 0))


@pytest.mark.parametrize(
    "ring",
    [
        [(177, -19), (-178, -19), (-178, -16), (177, -16), (177, -19)],
        [(177, -19), (182, -19), (182, -16), (177, -16), (177, -19)],
        [(-183, -19), (-178, -19), (-178, -16), (-183, -16), (-183, -19)],
    ],
)
def test_an_outline_across_180_is_its_two_sides_however_it_is_drawn(
    tmp_path: Path, ring: list[tuple[float, float]]
) -> None:
    area = read_polygons(geojson(tmp_path / "fiji.geojson", {"type": "Polygon", "coordinates": [ring]}))
    assert area.equals(parse_bbox("177,-19,-178,-16"))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "other things than polygons"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": "x"}, "no GeoJSON"),
        ([1, 2], "no GeoJSON"),
        (polygon(800_000, 5_000_000, 800_100, 5_000_100), "that is no lon/lat"),
        (polygon(1, 2, 3, 4) | {"crs": {"type": "name", "properties": {"name": "EPSG:3857"}}}, "is in epsg:3857"),
    ],
)
def test_a_file_that_is_no_area_is_refused(tmp_path: Path, document: object, reason: str) -> None:
    path = geojson(tmp_path / "a.geojson", document)
    with pytest.raises(InputError, match=rf"a\.geojson.*{reason}"):
        chosen(str(path), tmp_path)


@pytest.mark.parametrize("text", ["7,43,6,44", "7,44,8,43", "180,-20,-180,-10", "0,0,0,0", "nan,0,1,1", "0,-91,1,1"])
def test_numbers_that_are_no_box_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no west,south,east,north"):
        chosen(text, tmp_path)


def test_an_area_without_extracts_is_named(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no extract of http://\S+index-v1.json meets 43\.71,7\.41,43\.74,7\.44; is it"
    ):
        chosen("43.71,7.41,43.74,7.44", tmp_path)


def test_an_address_of_an_extract_is_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    region = resolved(f"{mirror.url}/geofabrik/europe/monaco-latest.osm.pbf", tmp_path)
    assert region.name == "monaco-latest"
    assert region.clip is None
    assert region.extracts[0].name == "monaco-latest.osm.pbf"
    assert [s.path for s in mirror.log if s.path.endswith("json")] == []


def test_files_names_and_addresses_go_together(mirror: Mirror, tmp_path: Path) -> None:
    own = write_extract(tmp_path / "own.osm.pbf", (0, 0, 1, 1))
    region = resolved(f"{own},monaco,{mirror.url}/geofabrik/asia/nepal-latest.osm.pbf", tmp_path)
    assert [p.name for p in region.extracts] == ["own.osm.pbf", "nepal-latest.osm.pbf", "monaco-latest.osm.pbf"]
    assert region.extracts[0] == own
    assert region.clip is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("atlantis", "neither 'demo' nor a file, and not in http://.*; nearest: none"),
        ("moncao", r"nearest: monaco \(Monaco\) \[MC\]"),
        ("missing.osm.pbf", "missing.osm.pbf does not exist"),
        ("monaco,missing.osm.pbf", "missing.osm.pbf does not exist"),
        ("", "region is empty"),
        (",", "region is empty"),
        ("ftp://user:secret@h.org/x.osm.pbf", "'ftp://h.org/x.osm.pbf' is no http"),
        ("https://h.org/x.zip?token=secret", r"'https://h.org/x.zip' does not end as an OSM file"),
        ("a.geojson,monaco", "a file of polygons stands alone"),
        ("missing.geojson", "missing.geojson cannot be read"),
    ],
)
def test_what_means_nothing_is_refused_with_the_way_out(mirror: Mirror, tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        chosen(text, tmp_path)


def forget(path: Path) -> None:
    """Make it long ago that upstream was asked about a file."""
    note = path.with_name(f".{path.name}.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"checked": 1.0}))


def test_the_index_serves_without_a_network(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen("europe", tmp_path)
    resolved("monaco", tmp_path)
    mirror.__exit__()
    sources = SourcesConfig(geofabrik=f"{mirror.url}/geofabrik")
    assert [e.id for e in select("LI", sources, NO_NETWORK, tmp_path, quiet=True).extracts] == ["liechtenstein"]
    index = next(tmp_path.glob("index/*/index-v1.json"))
    forget(index)
    assert select("LI", sources, NO_NETWORK, tmp_path, quiet=True).extracts  # stale, and the best there is
    assert resolved("monaco", tmp_path, sources=sources, net=NO_NETWORK).extracts[0].exists()
    with pytest.raises(InputError, match=r"andorra-latest\.osm\.pbf\S* cannot be fetched: Connection refused"):
        resolved("andorra", tmp_path, sources=sources, net=NO_NETWORK)


def test_a_login_page_in_place_of_a_newer_index_does_no_harm(mirror: Mirror, tmp_path: Path) -> None:
    chosen("europe", tmp_path)
    forget(next(tmp_path.glob("index/*/index-v1.json")))
    mirror.faults.append(faults.web_page())
    assert len(chosen("europe", tmp_path).extracts) == 3
    with pytest.raises(InputError, match="is a web page"):
        select("europe", SourcesConfig(refresh="newer"), FAST, tmp_path, quiet=True)


def test_a_stale_index_is_fetched_anew(mirror: Mirror, tmp_path: Path) -> None:
    chosen("europe", tmp_path)
    new = write_extract(mirror.folder / "geofabrik" / "europe" / "san-marino.osm.pbf", (12.4, 43.8, 12.5, 44))
    try:
        assert len(chosen("europe", tmp_path).extracts) == 3
        forget(next(tmp_path.glob("index/*/index-v1.json")))
        assert len(chosen("europe", tmp_path).extracts) == 4
    finally:
        new.unlink()


def test_without_an_index_a_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    sources = SourcesConfig(geofabrik="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"neither 'demo' nor a file, and there is no index to look it up: .*refused"):
        select("monaco", sources, NO_NETWORK, tmp_path, quiet=True)


def test_an_index_that_is_a_login_page_is_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults.append(faults.only("index*", faults.web_page("application/json")))
    with pytest.raises(InputError, match=r"index-v1\.json is a web page"):
        chosen("europe", tmp_path)
    mirror.faults[:] = [faults.only("index*", lambda *_: Response(200, b"[1, 2"))]
    with pytest.raises(InputError, match=r"index-v1\.json was fetched and is no good: it is no JSON"):
        chosen("europe", tmp_path)
    mirror.faults.clear()
    assert len(chosen("europe", tmp_path).extracts) == 3


def test_an_extract_that_is_no_pbf_is_refused_by_its_address(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults.append(faults.only("*.pbf", lambda *_: Response(200, b"PK\x03\x04 a zip file")))
    mirror.faults.append(faults.only("*.md5", faults.status(404)))
    with pytest.raises(
        InputError, match=r"http://\S+/monaco-latest\.osm\.pbf was fetched and is no good: it is no OSM PBF"
    ):
        resolved("monaco", tmp_path)
    assert not list(tmp_path.rglob("monaco*"))


def test_a_pbf_is_whole_or_not_at_any_cut(tmp_path: Path) -> None:
    data = write_extract(tmp_path / "a.osm.pbf", (0, 0, 1, 1)).read_bytes()
    check_pbf(tmp_path / "a.osm.pbf")
    boundary = 4 + int.from_bytes(data[:4], "big")
    first_blob = data.index(b"OSMData") - 6
    cuts = [n for n in range(len(data)) if n != first_blob]
    assert boundary in cuts
    for n in cuts:
        (tmp_path / "cut.osm.pbf").write_bytes(data[:n])
        with pytest.raises(InputError, match=r"no OSM PBF|truncated|empty"):
            check_pbf(tmp_path / "cut.osm.pbf")


def test_a_wrong_base_address_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no base URL of geofabrik"):
        select("monaco", SourcesConfig(geofabrik="/srv/osm"), FAST, tmp_path)


def test_long_lists_get_short_names(mirror: Mirror, tmp_path: Path) -> None:
    names = {chosen(",".join(["monaco"] * n), tmp_path).name for n in (20, 21)}
    assert len(names) == 2
    assert all(len(n) <= 60 for n in names)


def test_where_data_comes_from_does_not_decide_what_it_is() -> None:
    here, there = ShardsConfig(), ShardsConfig(sources=SourcesConfig("http://h.org", "never"), net=NO_NETWORK)
    assert content(here) == content(there)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_the_command_shows_the_tree(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path))
    lines = run(["regions"], capsys).splitlines()
    assert [line.split()[0] for line in lines] == ["asia", "nepal", "europe", *sorted(BOXES)]
    assert lines[3].split() == ["andorra", "Andorra", "AD"]
    assert lines[3].startswith("  andorra")
    shown = run(["regions", "europe", "--sizes"], capsys)
    size = (mirror.folder / "geofabrik/europe/monaco-latest.osm.pbf").stat().st_size
    assert f"{size / 1e6:,.1f} MB" in shown
    assert "europe: 3 extracts" in shown
    assert f"{mirror.url}/geofabrik/europe/monaco-latest.osm.pbf" in shown
    resolved("monaco", tmp_path)
    document = json.loads(run(["regions", "7.41,43.71,7.44,43.74", "--json"], capsys))
    assert [r["id"] for r in document["regions"]] == ["monaco"]
    assert document["regions"][0]["cached"] is True
    assert document["regions"][0]["bytes"] == size
    assert document["extracts"] == [f"{mirror.url}/geofabrik/europe/monaco-latest.osm.pbf"]


@pytest.mark.parametrize(
    "words",
    [
        ["regions", "-83,42,-82,43"], ["regions", "--", "-83,42,-82,43"],
        *(["plan", *own, "--exact", "imagery=none"] for own in (
            ["--region", "-83,42,-82,43"], ["--region=-83,42,-82,43"], ["region=-83,42,-82,43"],
        )),
        ["shards", "rs.dates=1", "--region", "-83,42,-82,43", "--zoom", "12"],
    ],
)  # fmt: skip
def test_a_box_in_the_west_is_no_option(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:  # fmt: skip
    """The mirror has no extract there, and says so: the box was understood."""
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path))
    assert main(words) == 1
    assert "meets -83,42,-82,43; is it" in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_mean(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regions", "moncao"]) == 1
    assert "nearest: monaco" in capsys.readouterr().err
    assert main(["regions", "monaco", "andorra"]) == 1
    assert "join them with commas" in capsys.readouterr().err
    assert main(["regions", "sources.refesh=newer"]) == 2
    assert "did you mean sources.refresh?" in capsys.readouterr().err
