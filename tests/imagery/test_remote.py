"""Rasters over HTTP from servers that mean harm, or are out of order."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.read import read_images
from pipeline.imagery.remote import Opener, RangeFile
from pipeline.imagery.scene import Asset, Scene
from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Client, Unavailable
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from tests.imagery.scenes import LAT, LON, UTM, around, tiles, write_cog
from tests.mirror import faults
from tests.mirror.server import Mirror

FAST = NetConfig(timeout=1.0, retries=2, backoff=0.001, max_wait=0.05)
AREA = shapely.box(LON - 1, LAT - 1, LON + 1, LAT + 1)


def respond(request: Request) -> Response | None:
    path = request.folder / request.path
    return Response.file(path) if path.is_file() else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noisy COG of 1.4 MB, of which a tile needs a part."""
    root = tmp_path_factory.mktemp("remote")
    data = np.random.default_rng(0).integers(1, 9000, (1, 900, 900), dtype=np.uint16)
    write_cog(root / "cogs" / "noise.tif", data, transform=around(LON, LAT, UTM, 900, 900, 3.1))
    return root


@pytest.fixture
def mirror(folder: Path) -> Iterator[Mirror]:
    with Mirror(folder, services={"cogs": respond}) as server:
        yield server


@pytest.fixture
def opener() -> Iterator[Opener]:
    with ThreadPoolExecutor(3) as pool:
        yield Opener(Client(FAST), pool)


def scene(mirror: Mirror, name: str = "noise.tif", when: str = "2024-01-01T00:00:00Z") -> Scene:
    url = f"{mirror.url}/cogs/{name}"
    return Scene(name, AREA, ["B4"], "uint16", when, (Asset(url, (1,)),), identity="x" * 64)


def test_what_comes_over_http_is_what_lies_on_disk(mirror: Mirror, folder: Path, opener: Opener) -> None:
    with opener.open(f"{mirror.url}/cogs/noise.tif") as far, rasterio.open(folder / "cogs/noise.tif") as near:
        for window in ((0, 0, 10, 10), (200, 300, 600, 500), (0, 0, 900, 900)):
            own = rasterio.windows.Window(*window)
            np.testing.assert_array_equal(far.read(window=own), near.read(window=own))


def test_a_window_costs_its_share_of_the_file(mirror: Mirror, folder: Path, opener: Opener) -> None:
    with opener.open(f"{mirror.url}/cogs/noise.tif") as far:
        far.read(window=rasterio.windows.Window(10, 10, 100, 100))
    assert mirror.served("noise.tif") < 0.25 * (folder / "cogs/noise.tif").stat().st_size


def test_shards_share_what_is_fetched_until_the_file_is_another(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    path, footprints = folder / "cogs/shared.tif", tiles(LON, LAT, 17, 64, 4)
    path.write_bytes((folder / "cogs/noise.tif").read_bytes())

    def read(cache: Path | None, net: NetConfig = FAST) -> tuple[dict[object, bytes], int]:
        before = mirror.served(path.name)
        found, rows = read_images([scene(mirror, path.name)], footprints, ImageryConfig(), net, cache=cache)
        assert not rows
        return {k: own[0].pixels.tobytes() for k, own in found.items()}, mirror.served(path.name) - before

    plain, whole = read(None)
    assert whole > 150_000
    assert read(tmp_path) == (plain, whole)
    assert read(tmp_path) == (plain, 1 << 16)  # its head, which says that it is the same file
    assert read(tmp_path, replace(FAST, cache_gb=0.0)) == (plain, whole)
    data = np.random.default_rng(1).integers(1, 9000, (1, 900, 900), dtype=np.uint16)
    write_cog(path, data, transform=around(LON, LAT, UTM, 900, 900, 3.1))
    other, again = read(tmp_path)
    assert other != plain
    assert again > 150_000
    assert other == read(None)[0]


@given(st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(-1, 200_000)), max_size=8))
@settings(max_examples=15)
def test_a_range_file_reads_as_a_file_does(served: tuple[str, bytes], moves: list[tuple[int, int]]) -> None:
    url, data = served
    with ThreadPoolExecutor(2) as pool:
        file = RangeFile(url, Client(FAST), pool)
        assert file.seek(0, 2) == len(data)
        for offset, count in moves:
            file.seek(offset)
            wanted = data[offset:] if count < 0 else data[offset : offset + count]
            assert file.read(count) == wanted
            assert file.tell() == offset + len(wanted)
        ranges = [(o, n) for o, n in moves if n >= 0 and o + n <= len(data)]
        if ranges:
            offsets, sizes = zip(*ranges, strict=True)
            found = file.get_byte_ranges(list(offsets), list(sizes))
            assert found == [data[o : o + n] for o, n in ranges]


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[str, bytes]]:
    with Mirror(folder, services={"cogs": respond}) as server:
        yield f"{server.url}/cogs/noise.tif", (folder / "cogs/noise.tif").read_bytes()


def late(fault: faults.Fault) -> faults.Fault:
    """Not for the first request: the head of the file is still fine."""
    calls: list[int] = []

    def choose(request: Request, answer: Response) -> Response:
        calls.append(1)
        return answer if len(calls) == 1 else fault(request, answer)

    return choose


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(faults.web_page(), "is a web page where a GeoTIFF was expected"),
     (faults.whole, "the server sends no ranges of it"),
     (faults.redirect("file:///etc/hostname"), "no http"),
     (faults.redirect("gopher://127.0.0.1/x"), "no http"),
     (faults.status(403), "answered 403"), (faults.status(404), "answered 404"),
     (late(faults.whole), "the server sends no ranges of it"),
     (late(faults.redirect("file:///etc/hostname")), "no http"),
     (late(faults.status(410)), "answered 410")],
)  # fmt: skip
def test_what_will_never_work_is_a_counted_drop_and_the_next_scene_serves(
    mirror: Mirror, folder: Path, fault: faults.Fault, reason: str
) -> None:
    (folder / "cogs/bad.tif").write_bytes((folder / "cogs/noise.tif").read_bytes())
    mirror.faults.append(faults.only("bad.tif", fault))
    footprints = tiles(LON, LAT, 17, 64, 2)
    config = ImageryConfig()
    bad = scene(mirror, "bad.tif", "2024-02-02T00:00:00Z")
    found, rows = read_images([bad, scene(mirror)], footprints, config, FAST)
    assert set(found) == set(footprints)
    assert {own[0].scene.name for own in found.values()} == {"noise.tif"}
    assert [r["reason"] for r in rows] == ["unreadable_imagery"] * 4
    assert all(reason in r["detail"] for r in rows), rows
    found, rows = read_images([bad], footprints, config, FAST)
    assert found == {}
    assert {r["reason"] for r in rows} == {"unreadable_imagery", "no_imagery"}


@pytest.mark.parametrize(
    "fault",
    [faults.status(503), faults.status(429, "0"), faults.slow(20), faults.cut(100), faults.cut(100, reset=True),
     faults.lengthened(-5), late(faults.cut(100)), late(faults.slow(20)), late(faults.status(500))],
)  # fmt: skip
def test_what_may_work_tomorrow_stops_the_run_and_decides_nothing(mirror: Mirror, fault: faults.Fault) -> None:
    """Else a build would differ with the weather on the network."""
    mirror.faults.append(fault)
    net = replace(FAST, min_rate=2000, retries=1)
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"noise\.tif cannot be fetched"):
        read_images([scene(mirror), scene(mirror, "other.tif", "2020-01-01T00:00:00Z")], tiles(LON, LAT, 17, 64, 2),
                    ImageryConfig(), net)  # fmt: skip
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "fault", [faults.status(503), faults.status(429, "0"), faults.cut(1000), faults.cut(1000, reset=True)]
)
def test_a_passing_failure_is_tried_again(mirror: Mirror, fault: faults.Fault) -> None:
    footprints = tiles(LON, LAT, 17, 64, 2)
    whole, _ = read_images([scene(mirror)], footprints, ImageryConfig(), FAST)
    mirror.faults.append(faults.only("noise.tif", fault, times=2))
    found, rows = read_images([scene(mirror)], footprints, ImageryConfig(), FAST)
    assert rows == []
    for key in footprints:
        np.testing.assert_array_equal(found[key][0].pixels, whole[key][0].pixels)


def test_a_truncated_cog_costs_the_tiles_in_its_missing_part(mirror: Mirror, folder: Path) -> None:
    data = (folder / "cogs/noise.tif").read_bytes()
    (folder / "cogs/short.tif").write_bytes(data[: int(len(data) * 0.75)])
    footprints = tiles(LON, LAT, 17, 64, 11)
    found, rows = read_images([scene(mirror, "short.tif")], footprints, ImageryConfig(), FAST)
    broken = {r["key"] for r in rows if r["reason"] == "unreadable_imagery"}
    assert broken
    assert found
    assert "damaged TIFF" in next(r["detail"] for r in rows if r["reason"] == "unreadable_imagery")
    whole, _ = read_images([scene(mirror)], footprints, ImageryConfig(), FAST)
    assert {footprints[k].key for k in whole} == {footprints[k].key for k in found} | broken
    for key, own in found.items():
        np.testing.assert_array_equal(own[0].pixels, whole[key][0].pixels)
    for key in list(footprints)[::17]:  # and does not depend on who else is read
        alone, _ = read_images([scene(mirror, "short.tif")], {key: footprints[key]}, ImageryConfig(), FAST)
        assert set(alone) == {key} & set(found)


def test_a_file_that_changes_while_it_is_read_is_noticed(mirror: Mirror, folder: Path, opener: Opener) -> None:
    path = folder / "cogs/moving.tif"
    data = (folder / "cogs/noise.tif").read_bytes()
    path.write_bytes(data)
    with (  # noqa: PT012
        pytest.raises(InputError, match="changed while it was read"),
        opener.open(f"{mirror.url}/cogs/moving.tif") as far,
    ):
        path.write_bytes(data + b"\0")
        far.read()


@pytest.mark.parametrize("href", ["/vsicurl/http://127.0.0.1/x.tif", "s3://bucket/x.tif", "file:///etc/hostname",
                                  "/nowhere/x.tif", "/vsizip/x.zip"])  # fmt: skip
def test_other_ways_to_name_a_file_are_refused(opener: Opener, href: str) -> None:
    with pytest.raises(InputError), opener.open(href):  # pragma: no branch
        raise AssertionError


def test_a_vrt_from_the_web_is_no_tiff(mirror: Mirror, folder: Path, opener: Opener) -> None:
    """It could name files of this machine."""
    (folder / "cogs/all.tif").write_text(
        '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand><SimpleSource><SourceFilename>/etc/hostname'
        "</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(InputError, match=r"is no TIFF file"), opener.open(f"{mirror.url}/cogs/all.tif"):
        raise AssertionError


def test_secrets_of_an_address_are_in_no_message(mirror: Mirror) -> None:
    mirror.faults.append(faults.only("*", faults.status(404)))
    secret = replace(scene(mirror), assets=(Asset(f"{mirror.url}/cogs/noise.tif?sig=s3cr3t", (1,)),))
    _, rows = read_images([secret], tiles(LON, LAT, 17, 64, 1), ImageryConfig(), FAST)
    assert "s3cr3t" not in repr(rows)


def test_a_server_that_ignores_ranges_is_not_listened_to(mirror: Mirror, folder: Path) -> None:
    """Half a gigabyte that nobody asked for: neither fetched nor held."""
    with (folder / "cogs/huge.tif").open("wb") as file:
        file.write((folder / "cogs/noise.tif").read_bytes()[:100])
        file.truncate(512 << 20)
    mirror.faults.append(faults.only("huge.tif", faults.whole))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, rows = read_images([scene(mirror, "huge.tif")], tiles(LON, LAT, 17, 64, 2), ImageryConfig(), FAST)
    assert {r["reason"] for r in rows} == {"unreadable_imagery", "no_imagery"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KB
    (folder / "cogs/huge.tif").unlink()


def test_sizes_that_a_tiff_claims_are_not_believed(mirror: Mirror, folder: Path) -> None:
    """A byte count of a tile set to 2 GB: refused before anything of that size is asked for."""
    data = bytearray((folder / "cogs/noise.tif").read_bytes())
    with rasterio.open(folder / "cogs/noise.tif") as source:
        size = int(source.get_tag_item("BLOCK_SIZE_1_1", "TIFF", bidx=1))
    at = data.find(size.to_bytes(4, "little"))
    assert at > 0
    data[at : at + 4] = (2 << 30).to_bytes(4, "little")
    (folder / "cogs/liar.tif").write_bytes(bytes(data))
    before = mirror.served("liar.tif")
    found, rows = read_images([scene(mirror, "liar.tif")], tiles(LON, LAT, 17, 64, 3), ImageryConfig(), FAST)
    assert len(found) + sum(r["reason"] == "no_imagery" for r in rows) == 9
    assert mirror.served("liar.tif") - before < 20 * len(data)


def test_python_and_processes_end_cleanly_after_a_broken_read(folder: Path) -> None:
    """GDAL calls into Python: an exception there would come out somewhere else, or nowhere."""
    script = (
        "from tests.imagery import test_remote as t\n"
        "from pathlib import Path\n"
        f"folder = Path({str(folder)!r})\n"
        "with t.Mirror(folder, services={'cogs': t.respond}) as m:\n"
        "    m.faults.append(t.late(t.faults.status(404)))\n"
        "    print(t.read_images([t.scene(m)], t.tiles(t.LON, t.LAT, 17, 64, 1), t.ImageryConfig(), t.FAST)[1])\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "answered 404" in done.stdout
    assert "Traceback" not in done.stderr
    assert "SystemError" not in done.stderr
