"""A dataset where others read it: Hugging Face's ``datasets``, mlcroissant, TorchGeo's sample dictionaries."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from pipeline.catalog.hub import MIXED, Contents, features, front_matter, splits_of
from pipeline.cli.main import main
from storage.dataset import sample_rows
from storage.manifest import read_manifest
from storage.store import Store
from tests.driver.village import write_village

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset whose one shard mixes splits, with photos in some samples."""
    folder = tmp_path_factory.mktemp("village")
    village = write_village(folder)
    flags = {"region": village.osm, "imagery": village.imagery, "streetview": village.photos, "zoom": 18, "size": 64,
             "out": folder / "out", "workers": 1}  # fmt: skip
    splits = ["split.block_degrees=0.003", "split.val=0.3", "split.test=0.3"]
    assert main(["shards", "--quiet", *(f"--{name}={value}" for name, value in flags.items()), *splits]) == 0
    assert len({row["split"] for row in sample_rows(Store(folder / "out"))}) > 1
    return folder / "out"


def members_of(out: Path) -> dict[str, dict[str, bytes]]:
    """What tarfile finds in the shards: content by key and member."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, _, member = entry.name.partition(".")
                found.setdefault(key, {})[member] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    return found


_READ = """
import json, sys
from datasets import Image, load_dataset, load_dataset_builder
folder, found = sys.argv[1], {}
types = load_dataset_builder(folder).info.features
for streaming in (True, False):
    given = {"mixed": load_dataset(folder, streaming=streaming),
             "train": load_dataset("webdataset", data_files=f"{folder}/shards/*.tar", features=types,
                                   streaming=streaming)}
    for split, data in given.items():
        assert list(data) == [split], list(data)
        rows = data[split]
        for name in [n for n, t in types.items() if isinstance(t, Image)]:
            rows = rows.cast_column(name, Image(decode=False))
        found[f"{split} {streaming}"] = [
            {n: v if n.startswith("__") or n == "json" or v is None
             else (v["bytes"] if isinstance(v, dict) else v).hex() for n, v in row.items()} for row in rows]
json.dump(found, open(sys.argv[2], "w"))
"""


def run(code: str, *words: object, folder: Path) -> None:
    env = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=folder, env=env, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_datasets_reads_every_sample_and_member_streaming_or_not(built: Path, tmp_path: Path) -> None:
    run(_READ, built, tmp_path / "found.json", folder=tmp_path)
    right = members_of(built)
    results = json.loads((tmp_path / "found.json").read_text())
    assert len(results) == 4
    for rows in results.values():
        assert [row["__key__"] for row in rows] == list(right)
        for row in rows:
            held = {name: value for name, value in row.items() if value is not None and not name.startswith("__")}
            assert held.pop("json") == json.loads(right[row["__key__"]]["json"])
            assert held == {name: data.hex() for name, data in right[row["__key__"]].items() if name != "json"}


def test_every_line_of_python_in_the_card_runs(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "copy")
    code = re.findall(r"^```(?:python|py)\n(.*?)^```", (built / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) == 3
    keys = sorted(row["key"] for row in sample_rows(Store(built)) if row["split"] == "train")
    code.append(f"assert sorted(s['__key__'] for s in train) == {keys}")
    code.append(f"assert len(list(same['train'])) == {len(members_of(built))}")
    run("\n".join(code), folder=tmp_path / "copy")


def test_front_matter_says_licences_size_and_splits(built: Path) -> None:
    said = yaml.safe_load((built / "README.md").read_text().split("---\n")[1])
    assert said["license"] == ["cc0-1.0", "odbl"]
    assert said["size_categories"] == ["n<1K"]
    assert said["configs"] == [{"config_name": "default", "data_files": [{"split": MIXED, "path": ["shards/*.tar"]}]}]
    assert said["dataset_info"]["splits"][0]["num_examples"] == len(sample_rows(Store(built)))


def test_shards_of_one_split_each_are_splits_of_their_own() -> None:
    pure = Contents({"json": ""}, [("a.tar", "train", 3, 30), ("b.tar", "val", 2, 20), ("c.tar", "train", 1, 10)])
    assert splits_of(pure) == {"train": ["shards/a.tar", "shards/c.tar"], "val": ["shards/b.tar"]}
    text = front_matter({"name": "x", "samples": 1000, "bytes": 60}, ["Own terms"], pure)
    said = yaml.safe_load(text.split("---\n")[1])
    assert (said["license"], said["license_link"], said["size_categories"]) == ("other", "ATTRIBUTION.md", ["1K<n<10K"])
    assert [(s["name"], s["num_examples"], s["num_bytes"]) for s in said["dataset_info"]["splits"]] == [
        ("train", 4, 40), ("val", 2, 20)
    ]  # fmt: skip


def test_an_array_keeps_its_type_as_lists() -> None:
    import datasets

    types = datasets.Features._from_yaml_list(features({"rs.npy": "uint16", "osm.safetensors": ""}))
    assert types["rs.npy"].feature.feature.feature.dtype == "uint16"
    assert types["osm.safetensors"].dtype == "binary"


def plain(value: Any) -> Any:
    """A record of mlcroissant without its prefixes and bytes."""
    if isinstance(value, dict):
        return {name.rpartition("/")[2]: plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


def test_croissant_has_no_warning_and_its_records_are_those_of_the_shards(built: Path) -> None:
    import mlcroissant

    data = mlcroissant.Dataset(jsonld=built / "croissant.json")
    assert data.metadata.ctx.issues.errors | data.metadata.ctx.issues.warnings == set()
    samples, photos, shards = ([plain(r) for r in data.records(name)] for name in ("sample", "photo", "shard"))
    right = members_of(built)
    assert [row["key"] for row in samples] == list(right)
    tars = {path.name: path.read_bytes() for path in built.glob("shards/*.tar")}
    for row in samples:
        found = {m["name"]: tars[row["shard"]][m["offset"] : m["offset"] + m["size"]] for m in row["members"]}
        assert found == right[row["key"]]
    told = {(key, p["member"]): p for key, held in right.items() for p in json.loads(held["json"])["streetview"]}
    assert {(p["key"], p["member"]) for p in photos} == told.keys()
    assert all(told[p["key"], p["member"]][n] == p[n] for p in photos for n in ("id", "lon", "heading", "licence"))
    hashes = read_manifest(Store(built))
    assert {f"shards/{s['shard']}": s["sha256"] for s in shards}.items() <= hashes.items()
    table = pq.read_table(built / "catalog/samples", columns=["sha256"])
    assert [row["sha256"] for row in samples] == table["sha256"].to_pylist()


def test_card_writes_what_is_out_of_date_and_check_only_says_so(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(built, tmp_path / "out")
    right = (out / "README.md").read_bytes()
    assert main(["card", str(out), "--check"]) == 0
    (out / "README.md").write_text("other\n")
    assert main(["card", str(out), "--check"]) == 1
    assert "README.md" in capsys.readouterr().err
    assert (out / "README.md").read_text() == "other\n"
    assert main(["card", str(out), "--quiet"]) == 0
    assert (out / "README.md").read_bytes() == right
    assert main(["verify", str(out), "--quiet"]) == 0


def test_torchgeos_dictionaries_have_its_types_and_shapes(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its documentation has them: an image float32 [C,H,W], a mask int64 [H,W]."""
    page = (ROOT / "docs/dataset.md").read_text()
    code = next(b for b in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "torchgeo" in b)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    found: dict[str, Any] = {}
    exec(code.replace("data/demo/shards/part-0000000.tar", str(built / "shards/part-0000000.tar")), found)
    batch = next(iter(found["loader"]))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (4, 64, 64)
    assert batch["mask"].dtype == torch.int64
    first = next(iter(members_of(built).values()))
    with Image.open(io.BytesIO(first["osm.png"])) as classes:
        assert batch["mask"][0].tolist() == np.asarray(classes).tolist()
    assert batch["crs"] == ["EPSG:3857"] * 4
