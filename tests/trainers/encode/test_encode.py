"""Promises of ``geoshards encode``, against the models' own forward passes and the catalog."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli.main import main as geoshards
from schemas.errors import ConfigError, DatasetError, InputError, LockError
from storage.locks import one_writer
from tests.trainers.batches import PLAIN, gair_batch
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.encode import KINDS
from trainers.encode.encoders import ENCODERS, GairEncoder
from trainers.encode.files import Where, located, rows_of
from trainers.encode.plan import batch_size, cut
from trainers.encode.run import EncodeSettings, encode
from trainers.encode.work import Forward, HostRows
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main
from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.models.weights import restored
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

ROOT = Path(__file__).resolve().parents[3]
#: Eight files, of which the last is short.
SMALL = EncodeSettings(batch=4, per_file=4, device="cpu", workers=0)
_RUN = """
import sys
sys.path[0] = sys.argv[1]
from trainers.encode.run import EncodeSettings, encode
if __name__ == "__main__":
    encode(*sys.argv[2:5], EncodeSettings(batch=4, per_file=4, device="cpu", workers=0))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 samples to be encoded and 7 of the buffer; one in eight has no photo, one in 16 no object."""
    settings = SyntheticSettings(samples=36, size=48, photos=3, splits=("train", "val", "test", "train", "buffer"))
    return write_dataset(tmp_path_factory.mktemp("encode") / "data", settings)


@pytest.fixture(scope="module")
def checkpoints(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One of each task, one step old."""
    found = {}
    for task in (GAIR, GEOLINK, JOINT):
        out = tmp_path_factory.mktemp("runs") / task.name
        words = [f"data={data}", f"out={out}", "model=tiny", "steps=1", "batch_size=4", "eval.every=0", "--quiet"]
        assert main(task, [*words, "log.tensorboard=false"]) == 0
        found[task.name] = f"{out}/checkpoint.pt"
    return found


@pytest.fixture(scope="module")
def encoded(data: Path, checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each model makes of the dataset."""
    found = {}
    for task, checkpoint in checkpoints.items():
        found[task] = tmp_path_factory.mktemp("out") / task
        encode(checkpoint, str(data), str(found[task]), SMALL)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return pq.ParquetDataset(sorted((folder / kind).glob("*.parquet"))).read().to_pylist()


def catalog(data: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(next((data / "catalog" / table).iterdir())).to_pylist()


def batches(data: Path, view: Any) -> Iterator[TileBatch]:
    """Of every split but the buffer, in another order and other batches than those of the plan."""
    yield from GeoStream([data], view, batch_size=5, settings=PLAIN, select="split <> 'buffer'")


def close(row: dict[str, Any], expected: torch.Tensor) -> None:
    np.testing.assert_allclose(np.array(row["embedding"], np.float32), expected.numpy(), rtol=2e-3, atol=2e-3)


def test_gair_embeddings_are_those_of_its_own_forward_pass(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path]
) -> None:
    """Photos are told apart by their places in the catalog, not by the order that is tested."""
    state = load_checkpoint(checkpoints["gair"])
    model = Gair.of(state["config"])
    model.load_state_dict(state["model"])
    model.eval()
    found = {
        kind: {(r["key"], r.get("member")): r for r in rows(encoded["gair"], kind)} for kind in model_kinds("gair")
    }
    member = {(r["key"], r["lon"], r["lat"]): r["member"] for r in catalog(data, "streetview")}
    seen = dict.fromkeys(found, 0)
    with torch.no_grad():
        for batch in batches(data, replace(model.view(model.settings), photos=3)):
            tokens = model.encode_tiles(batch)
            at_tile, at_photo = model.location(batch.lonlat), model.location(batch.photo_lonlat)
            photos, places = model.encode_photos(batch), model.localise(tokens, batch)
            for i, key in enumerate(batch.key):
                if key:
                    close(found["tiles"][key, None], tokens[i].mean(0))
                    close(found["locations"][key, None], at_tile[i])
                    seen["tiles"], seen["locations"] = seen["tiles"] + 1, seen["locations"] + 1
            for q in batch.photo_valid.nonzero().squeeze(1).tolist():
                key = batch.key[int(batch.photo_sample[q])]
                name = key, member[key, *batch.photo_lonlat[q].tolist()]
                for kind, values in (("photos", photos), ("places", places), ("locations", at_photo)):
                    close(found[kind][name], values[q])
                    seen[kind] += 1
    assert seen == {kind: len(part) for kind, part in found.items()}
    assert seen["tiles"] == 29


def model_kinds(task: str) -> list[str]:
    gair, geolink = ["tiles", "places", "photos", "locations"], ["tiles", "objects"]
    return {"gair": gair, "geolink": geolink, "joint": [*gair, "objects"]}[task]


def test_geolink_embeddings_are_those_of_its_own_forward_pass(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path]
) -> None:
    model = GeoLink.trained(load_checkpoint(checkpoints["geolink"]), "it")
    tiles, objects = ({r["key"]: r for r in rows(encoded["geolink"], kind)} for kind in ("tiles", "objects"))
    with_objects = set()
    with torch.no_grad():
        for batch in batches(data, model.view(model.settings)):
            tokens = model.vit(model.norm(batch.rs))[:, 1:].mean(1)
            nodes = model.encode_nodes(batch, torch.zeros_like(batch.node_valid))
            region, kinds = model.aggregate(nodes, batch)
            for i, key in enumerate(batch.key):
                if key:
                    close(tiles[key], tokens[i])
                    if bool((kinds[i] > 0).any()):
                        close(objects[key], region[i])
                        with_objects.add(key)
    assert objects.keys() == with_objects
    assert 0 < len(with_objects) < len(tiles) == 29


def test_joint_embeddings_are_those_of_the_tasks_in_it(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path]
) -> None:
    """Each kind by itself, too."""
    model = restored(Joint, "joint", load_checkpoint(checkpoints["joint"]), "it")
    encoder = ENCODERS["joint"](load_checkpoint(checkpoints["joint"]), "it")
    found = {kind: {(r["key"], r.get("member")): r for r in rows(encoded["joint"], kind)} for kind in encoder.widths}
    for kind in encoder.widths:
        with torch.no_grad():
            for batch in batches(data, encoder.view([kind], 3)):
                (one, *_) = encoder(batch, [kind])[kind]
                if kind in ("tiles", "objects"):
                    part = model.geolink
                    own = part.embed_tiles(batch) if kind == "tiles" else part.embed_objects(batch)[0]
                    torch.testing.assert_close(one.values, own)
                    for i in one.held.nonzero().squeeze(1).tolist():
                        close(found[kind][batch.key[i], None], own[i])
                elif kind == "photos":
                    torch.testing.assert_close(one.values, model.gair.encode_photos(batch))
                elif kind == "places":
                    own = model.gair.localise(model.gair.encode_tiles(batch), batch)
                    torch.testing.assert_close(one.values, own)
                else:
                    torch.testing.assert_close(one.values, model.gair.location(batch.lonlat))


@pytest.mark.parametrize("task", ["gair", "geolink", "joint"])
def test_each_row_of_the_catalog_has_its_row_once_and_in_the_order_of_keys(
    data: Path, encoded: dict[str, Path], task: str
) -> None:
    samples = {r["key"]: r for r in catalog(data, "samples") if r["split"] != "buffer"}
    photos = {(r["key"], r["member"]): r for r in catalog(data, "streetview") if r["key"] in samples}
    tiles = {(key, None): r for key, r in samples.items()}
    objects = {(key, None): r for key, r in samples.items() if r["n_point"] + r["n_line"] + r["n_polygon"]}
    expected = {"tiles": tiles, "objects": objects, "places": photos, "photos": photos, "locations": tiles | photos}
    assert {p.name for p in encoded[task].iterdir() if p.is_dir()} == {*model_kinds(task), "drops"}
    for kind in model_kinds(task):
        found = rows(encoded[task], kind)
        named = [(r["key"], r.get("member")) for r in found]
        assert named == sorted(expected[kind], key=lambda name: (name[0], name[1] or "")), kind
        for row, name in zip(found, named, strict=True):
            known = expected[kind][name]
            assert (row["lon"], row["lat"], row["split"]) == (known["lon"], known["lat"], samples[name[0]]["split"])
    assert rows(encoded[task], "drops") == []


def test_another_sample_in_a_slot_or_one_that_is_lost_is_noticed(data: Path) -> None:
    batch = gair_batch(data, 4)
    keys = list(batch.key)
    assert located(batch, keys) == {}
    with pytest.raises(DatasetError, match=f"{keys[2]}: another sample"):
        located(batch, [keys[0], keys[2], keys[1], keys[3]])
    batch.key[2] = ""
    with pytest.raises(DatasetError, match=keys[2]):
        located(batch, keys)
    batch.corrupt.append(f"{keys[2]}: rs.jpg: is none")
    assert located(batch, keys) == {keys[2]: "rs.jpg: is none"}


def test_what_was_killed_goes_on_to_the_same_bytes(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", _RUN, str(ROOT), checkpoints["gair"], str(data), str(out)]
    process = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not (out / "drops/part-00001.parquet").exists() and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((out / "drops").glob("*.parquet")))
    assert 2 <= done < 8
    (out / "tiles" / "part-00000.parquet").unlink()  # one kind of a part alone is no part
    outcome = encode(checkpoints["gair"], str(data), str(out), SMALL)
    assert outcome.encoded == 29 - 4 * (done - 1)
    assert contents(out) == contents(encoded["gair"])
    assert encode(checkpoints["gair"], str(data), str(out), SMALL).encoded == 0


def test_one_loader_process_or_two_write_the_same_bytes(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path], tmp_path: Path
) -> None:
    for workers in (1, 2):
        encode(checkpoints["gair"], str(data), f"{tmp_path}/{workers}", replace(SMALL, workers=workers))
        assert contents(tmp_path / str(workers)) == contents(encoded["gair"])


def test_a_store_behind_a_url_gets_the_same_files(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path]
) -> None:
    import fsspec

    encode(checkpoints["geolink"], str(data), "memory://encode/out", SMALL)
    fs = fsspec.filesystem("memory")
    found = {name.removeprefix("/encode/out/"): fs.cat_file(name) for name in fs.find("/encode/out")}
    assert found == contents(encoded["geolink"])


def test_a_corrupt_sample_is_counted_and_named_and_changes_no_other(
    data: Path,
    checkpoints: dict[str, str],
    encoded: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(data, tmp_path / "data")
    bad = next(r for r in catalog(data, "samples") if r["split"] == "val")
    image = next(m for m in bad["members"] if m["name"].startswith("rs."))
    with (tmp_path / "data/shards" / bad["shard"]).open("r+b") as file:
        file.seek(image["offset"] + 10)
        file.write(bytes(20))
    out, words = tmp_path / "out", ["--batch-size=4", "--rows-per-file=4", "--device=cpu"]
    call = ["encode", checkpoints["geolink"], f"{tmp_path}/data", "--out", str(out), *words]
    for encoded_now in (29, 0):  # the second call finds all files, and still says what is left out
        assert geoshards([*call, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["drops"], list(said["named"]), said["encoded"]) == (1, [bad["key"]], encoded_now)
    assert geoshards(call) == 0
    shown = capsys.readouterr()
    assert f"left out: {bad['key']}: " in shown.err
    assert "1 samples left out" in shown.out
    assert [r["key"] for r in rows(out, "drops")] == [bad["key"]]
    before = {r["key"]: r["embedding"] for r in rows(encoded["geolink"], "tiles")}
    after = {r["key"]: r["embedding"] for r in rows(out, "tiles")}
    assert before.pop(bad["key"])
    assert after.keys() == before.keys()
    np.testing.assert_allclose([after[k] for k in before], [before[k] for k in before], atol=1e-3)


def test_other_weights_other_data_and_another_writer_are_refused_by_name(
    data: Path, checkpoints: dict[str, str], encoded: dict[str, Path], tmp_path: Path
) -> None:
    out = str(encoded["geolink"])
    before = contents(encoded["geolink"])
    state = load_checkpoint(checkpoints["geolink"])
    state["model"]["vit.norm.bias"] += 1
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(DatasetError, match=r"begun with another checkpoint; give another --out, or delete it"):
        encode(f"{tmp_path}/other.pt", str(data), out, SMALL)
    other = write_dataset(tmp_path / "data", SyntheticSettings(samples=8, size=48, seed=1))
    with pytest.raises(DatasetError, match="begun with another dataset"):
        encode(checkpoints["geolink"], str(other), out, SMALL)
    with pytest.raises(DatasetError, match="begun with another what and tags"):
        encode(checkpoints["geolink"], str(data), out, EncodeSettings(("tiles",), batch=4, per_file=4, device="cpu"))
    with one_writer(out), pytest.raises(LockError, match="is being written by"):
        encode(checkpoints["geolink"], str(data), out, SMALL)
    with pytest.raises(ConfigError, match="is in a dataset, which is never written to"):
        encode(checkpoints["geolink"], str(data), f"{other}/embeddings", SMALL)
    assert contents(encoded["geolink"]) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"what": ("photos",)}, r"--what=photos: the model of .* gives none; choose of --what=tiles,objects"),
        ({"what": ("tilse",)}, "--what=tilse: choose of tiles, objects"),
        ({"split": "validation"}, "--split=validation: choose of train, val, test, or all"),
        ({"batch": 0}, "--batch-size=0 must be at least 1"),
        ({"precision": "fp8"}, "--precision=fp8"),
    ],
)
def test_a_wrong_call_is_named(
    data: Path, checkpoints: dict[str, str], tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        encode(checkpoints["geolink"], str(data), f"{tmp_path}/out", EncodeSettings(**settings))
    assert not (tmp_path / "out").exists()


def test_tags_of_another_encoder_than_in_training_are_refused(
    data: Path, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    state = load_checkpoint(checkpoints["geolink"])
    state["stream"]["tags"] = "minilm-of-another-day"
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(DatasetError, match="was trained with minilm-of-another-day"):
        encode(f"{tmp_path}/c.pt", str(data), f"{tmp_path}/out", SMALL)
    assert encode(f"{tmp_path}/c.pt", str(data), f"{tmp_path}/out", EncodeSettings(("tiles",))).encoded == 29


def test_splits_and_conditions_select_and_files_say_what_they_are(
    data: Path, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    some = EncodeSettings(("photos",), "val,test", "n_streetview > 1", normalised=True)
    encode(checkpoints["gair"], str(data), f"{tmp_path}/out", some)
    file = tmp_path / "out/photos/part-00000.parquet"
    expected = [r["key"] for r in catalog(data, "samples") if r["split"] in ("val", "test") and r["n_streetview"] > 1]
    assert sorted({r["key"] for r in rows(tmp_path / "out", "photos")}) == sorted(expected)
    about = json.loads(pq.read_metadata(file).metadata[b"geoshards"])
    assert (about["kind"], about["model"], about["normalised"], about["what"]) == ("photos", "gair", True, ["photos"])
    field = pq.read_schema(file).field("embedding")
    assert str(field.type.value_type) == "halffloat"
    vectors = np.array([r["embedding"] for r in rows(tmp_path / "out", "photos")], np.float32)
    assert vectors.shape[1] == field.type.list_size
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def test_duckdb_joins_photos_to_the_catalog_and_ranks_places(data: Path, encoded: dict[str, Path]) -> None:
    out = encoded["gair"]
    joined = duckdb.sql(
        f"SELECT count(*), count(DISTINCT s.id), max(abs(s.lon - p.lon)) FROM '{out}/photos/*.parquet' p "
        f"JOIN '{data}/catalog/streetview/*.parquet' s USING (key, member)"
    ).fetchall()[0]
    assert joined == (len(rows(out, "photos")), len(rows(out, "photos")), 0)
    best = duckdb.sql(
        f"SELECT p.key, p.member, list_cosine_similarity(p.embedding, q.embedding) AS near FROM "
        f"'{out}/photos/*.parquet' p, (FROM '{out}/photos/*.parquet' LIMIT 1) q ORDER BY near DESC LIMIT 1"
    ).fetchall()
    assert best[0][2] == pytest.approx(1, abs=1e-6)


def test_a_value_beyond_float16_is_refused_by_key(data: Path) -> None:
    batch = gair_batch(data, 4)
    where = Where(batch.key, ["train"] * 4, [()] * 4)
    values = np.zeros((4, 2), np.float16)
    values[2, 1] = np.inf
    with pytest.raises(InputError, match=f"{batch.key[2]}: its tiles embedding is beyond float16"):
        rows_of("tiles", [HostRows("tile", values, np.ones(4, bool))], batch, where)


def test_a_batch_holds_no_more_photos_than_memory_bears() -> None:
    plan = cut(100, batch_size(64, 100), 50)
    assert (plan.batch, plan.per_file, plan.files) == (20, 60, 2)
    starts = list(plan.starts(range(2)))
    assert starts == [0, 20, 40, 60, 80]
    assert [s for s in starts if plan.ends(s)] == [40, 80]
    assert sum(map(plan.size, range(2))) == 100


def test_photos_in_several_passes_are_those_of_one(
    data: Path, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ENCODERS["gair"](load_checkpoint(checkpoints["gair"]), "it")
    assert isinstance(encoder, GairEncoder)
    assert set(encoder.widths) < set(KINDS)
    batch = next(batches(data, encoder.view(("photos",), 3)))
    forward = Forward(encoder, ("photos",), torch.device("cpu"))
    whole = forward(batch)["photos"][0][1]
    monkeypatch.setattr("trainers.encode.encoders.PHOTOS", 3)
    torch.testing.assert_close(forward(batch)["photos"][0][1], whole, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("task", ["gair", "geolink"])
def test_bfloat16_is_near_float32(data: Path, checkpoints: dict[str, str], task: str) -> None:
    encoder = ENCODERS[task](load_checkpoint(checkpoints[task]), "it")
    kinds, device = tuple(encoder.widths), torch.device("cpu")
    batch = next(batches(data, encoder.view(kinds, 3)))
    plain, fast = (Forward(encoder, kinds, device, bf16, normalised=True)(batch) for bf16 in (False, True))
    for kind in kinds:
        for (_, one, held), (_, other, _) in zip(plain[kind], fast[kind], strict=True):
            assert bool(((one * other).float().sum(1)[held] > 0.99).all()), kind
