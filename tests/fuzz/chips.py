"""Image chips: what stands beside an image says where it lies."""

from __future__ import annotations

import json
import pickle
from io import BytesIO
from pathlib import Path

from PIL import Image

from pipeline.footprints.chips.plan import DescribeJob, describe_chips
from pipeline.footprints.chips.scan import find_chips
from tests.fuzz.damage import Files, Rng, Target, by_bytes, by_text, by_value, ended, of_files
from tests.imagery.scenes import LAT, LON


def chips() -> list[Files]:
    """An image with metadata as JSON and as a pickle, with a world file, and with GDAL's sidecar."""
    made = {}
    for ending, form in (("jpg", "JPEG"), ("png", "PNG")):
        buffer = BytesIO()
        Image.new("RGB", (32, 32), (9, 99, 9)).save(buffer, form)
        made[ending] = buffer.getvalue()
    box = [LON, LAT, LON + 0.001, LAT + 0.001]
    crs = {"crs": "EPSG:32632", "gsd": 0.6, "bbox": box, "time": "2024-06-01T10:00:00Z", "source": "naip"}
    placed = {"crs": 32632, "transform": [1.0, 0, 500000, 0, -1.0, 5200000], "time": [2024, 6, 1, 10, 0]}
    bounds = {"crs": "EPSG:3857", "bounds": [1e6, 6e6, 1e6 + 32, 6e6 + 32], "datetime": "2024"}
    world = b"0.00003\n0\n0\n-0.00003\n9.5\n47.2\n"
    aux = (
        "<PAMDataset><SRS>EPSG:32632</SRS><GeoTransform>500000,1,0,5200000,0,-1</GeoTransform>"
        '<Metadata><MDI key="TIFFTAG_DATETIME">2024:06:01 10:00:00</MDI></Metadata></PAMDataset>'
    )
    documents = [{"a.json": json.dumps(d).encode(), "a.jpg": made["jpg"]} for d in (crs, placed, bounds)]
    return [
        *documents, {"a.pickle": pickle.dumps(crs, 2), "a.jpg": made["jpg"]},
        {"a.pkl": pickle.dumps({"box": tuple(box), "time": (2024, 6, 1, 10, 0)}, 4), "a.jpg": made["jpg"]},
        {"a.pgw": world, "a.png": made["png"], "a.json": b'{"crs": "EPSG:4326"}'},
        {"a.jpg.aux.xml": aux.encode(), "a.jpg": made["jpg"]},
    ]  # fmt: skip


def by_chip(data: bytes, name: str, rng: Rng) -> bytes:
    """By the ending of a file."""
    if name.endswith("json"):
        return by_value(data, name, rng)
    return (by_text if name.endswith(("w", "xml")) else by_bytes)(data, name, rng)


def read_chips(path: Path) -> str:
    """Found and described: each is a row or a drop."""

    def found() -> str:
        files, drops = find_chips(path.parent)
        table, lost = describe_chips(DescribeJob(path.parent, files))
        assert len(table) + len(lost) == len(files)
        assert all(row["detail"].isprintable() for row in [*drops, *lost]), lost
        return "read" if len(table) else "dropped"

    return ended(found, of_files(path))


TARGETS = {"chips": Target(chips, read_chips, by_chip)}
