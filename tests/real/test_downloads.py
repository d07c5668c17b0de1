"""Three real countries on a mirror: found by name and place, downloaded whole, and never twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.net.config import NetConfig
from pipeline.regions.config import SourcesConfig
from pipeline.regions.resolve import check_pbf, select
from schemas.errors import InputError
from tests.mirror import faults
from tests.mirror.server import Mirror

ROOT = Path(__file__).resolve().parents[2]
COUNTRIES = {
    "andorra": "osm/andorra/andorra_2019.osm.pbf",
    "liechtenstein": "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf",
    "monaco": "osm/monaco/monaco_2023-12-25.osm.pbf",
}
#: Places and the country that they are in.
PLACES = {
    "andorra": (1.50, 42.50, 1.53, 42.52), "liechtenstein": (9.51, 47.13, 9.53, 47.15),
    "monaco": (7.41, 43.72, 7.43, 43.74),
}  # fmt: skip


@pytest.fixture
def mirror(real_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    europe = tmp_path / "mirror" / "geofabrik" / "europe"
    europe.mkdir(parents=True)
    for name, path in COUNTRIES.items():
        (europe / f"{name}-latest.osm.pbf").symlink_to(real_file(path))
    with Mirror(tmp_path / "mirror") as server:
        monkeypatch.setenv("GEOSHARDS_MIRROR", server.url)
        yield server


def test_countries_are_found_by_name_and_by_place(mirror: Mirror, tmp_path: Path) -> None:
    def chosen(text: str) -> list[str]:
        return [e.id for e in select(text, SourcesConfig(), NetConfig(), tmp_path, quiet=True).extracts]

    assert chosen("europe") == sorted(COUNTRIES)
    for name, box in PLACES.items():
        assert chosen(",".join(map(str, box))) == [name]
    assert chosen("1,42,10,48") == sorted(COUNTRIES)


SCRIPT = """
import sys
from pathlib import Path
from pipeline.samples.config import ShardsConfig
from pipeline.driver.sources import resolve
print(*resolve(ShardsConfig(region="europe"), Path(sys.argv[1]), quiet=True).extracts)
"""


def test_europe_survives_kills_without_a_second_download(
    mirror: Mirror, real_file: Callable[[str], Path], tmp_path: Path
) -> None:
    mirror.faults.append(faults.only("*.pbf", faults.slow(1_200_000)))
    rng = random.Random(1)
    for kill in (True, True, True, False):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "cache")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        if kill:
            time.sleep(1.0 + rng.uniform(0, 0.6))  # it takes about a second to begin
            os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    for path, original in zip(map(Path, out.split()), COUNTRIES.values(), strict=True):
        assert path.read_bytes() == real_file(original).read_bytes()
    total = sum(real_file(p).stat().st_size for p in COUNTRIES.values())
    assert total <= mirror.served(".osm.pbf") <= total + 3 * 3 * (1 << 17)  # what was under way at each kill


def test_every_real_extract_is_whole_and_no_cut_one_is(real_data: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    cut = tmp_path / "cut.osm.pbf"
    for path in sorted((real_data / "osm").rglob("*.osm.pbf")):
        check_pbf(path)
        data = path.read_bytes()
        for at in [rng.randrange(1, len(data)) for _ in range(5)]:
            cut.write_bytes(data[:at])
            with pytest.raises(InputError):
                check_pbf(cut)
