"""A run never succeeds on nothing, and never loses work."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import typing
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.errors import ConfigError, DatasetError
from tests.trainers.synthetic import SyntheticSettings, make_sample, write_dataset, write_samples
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main, parse
from trainers.engine.report import TensorBoard
from trainers.engine.settings import Task, resolve
from trainers.evaluate.split import open_split
from trainers.stream.stream import GeoStream
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training samples and eight of val."""
    settings = SyntheticSettings(samples=16, size=32, photo_size=32, splits=("train", "val"))
    return write_dataset(tmp_path_factory.mktemp("data") / "d", settings)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that is done, with its evaluation."""
    out = tmp_path_factory.mktemp("run") / "r"
    assert run(data, out, "steps=2") == 0
    return out


def run(data: Path | str, out: Path, *words: str, task: Task = GEOLINK) -> int:
    small = ["model=tiny", "batch_size=4", "stream.workers=0", "log.tensorboard=false", "device=cpu", "--quiet"]
    return main(task, [f"data={data}", f"out={out}", *small, *words])


def last(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def numbers(cls: type, where: str = "") -> Iterator[tuple[str, bool]]:
    """Full names of the numeric settings, and whether each is a tuple."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            yield from numbers(typing.cast(type, kind), f"{where}{f.name}.")
        else:
            options = typing.get_args(kind) if typing.get_origin(kind) is not tuple else ()
            kinds = {kind, *options}
            many = any(typing.get_origin(k) is tuple and {int, float} & set(typing.get_args(k)) for k in kinds)
            if many or kinds & {int, float}:
                yield f"{where}{f.name}", many


def refusal(task: Task, word: str) -> str:
    """Why a setting is refused; empty: it is not."""
    try:
        resolve(task, {}, [word], "tiny")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("task", [GEOLINK, GAIR, JOINT], ids=lambda task: task.name)
def test_every_number_has_a_range_that_is_checked_before_the_first_step(task: Task) -> None:
    found = list(numbers(task.settings))
    assert len(found) > 60
    taken = []
    for name, many in found:
        for value in ("-1", "nan", "inf", "-inf"):
            word = f"{name}=[{value},{value}]" if many else f"{name}={value}"
            said = refusal(task, word)
            if name.rpartition(".")[2] not in said:
                taken.append((word, said))
    assert taken == []


def test_settings_files_merge_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\nepochs: 3\noptim: {lr: 0.1, clip: 2}\nout: 0017\n")
    (tmp_path / "b.yaml").write_text("steps: 5\noptim: {lr: 0.2}\n")
    settings, _, _ = parse(GEOLINK, [f"--config={tmp_path}/a.yaml", "--config", f"{tmp_path}/b.yaml"])
    assert (settings.seed, settings.steps, settings.epochs) == (1, 5, None)
    assert (settings.optim.lr, settings.optim.clip, settings.out) == (0.2, 2.0, "0017")


def test_paths_are_those_of_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["resume=r/c.pt", "stream.tags=t.st", "stream.cache=c", "stream.key_counts=k.json", "init.run=i.pt"]
    settings: Any = parse(GAIR, [*words, "init.rs=s3://b/rs.pt"])[0]
    monkeypatch.chdir("/")
    held = (settings.resume, settings.stream.tags, settings.stream.cache, settings.stream.key_counts, settings.init.run)
    assert held == tuple(f"{tmp_path}/{name}" for name in ("r/c.pt", "t.st", "c", "k.json", "i.pt"))
    assert settings.init.rs == "s3://b/rs.pt"
    plain: Any = parse(GAIR, ["resume=auto", "stream.tags=hash"])[0]
    assert (plain.resume, plain.stream.tags, plain.stream.cache) == ("auto", "hash", "auto")


def test_a_finished_run_started_again_keeps_its_records(trained: Path, data: Path) -> None:
    before = {f.name: f.read_bytes() for f in trained.iterdir() if f.is_file()}
    assert json.loads(before["summary.json"])["losses"]
    assert run(data, trained, "steps=2", "resume=auto") == 0
    assert {f.name: f.read_bytes() for f in trained.iterdir() if f.is_file()} == before


def test_an_evaluation_that_fails_loses_no_step(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (out / "evaluation.json").write_text("no JSON")
    assert run(data, out, "steps=2") == 1
    assert "resume=auto" in last(capsys)
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    (out / "evaluation.json").unlink()
    assert run(data, out, "steps=2", "resume=auto") == 0
    assert [row["step"] for row in json.loads((out / "evaluation.json").read_text())] == [2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval.split=vall"], "did you mean val"),
        (["eval.samples=0"], "eval.samples=0"),
        (["eval.every=1", "eval.split=test"], "no selected sample is in split test"),
        (["stream.select=split = 'val'"], "eval.split=val: 8 of the 8 samples that are trained on lie in it"),
        (["eval.split=train"], "eval.split=train: 8 of the 8 samples"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(data, tmp_path / "r", "steps=1", *words) in (1, 2)
    assert said in last(capsys)
    assert not (tmp_path / "r").exists()


def test_splits_of_evaluation_are_what_they_say_whatever_is_selected(data: Path, tmp_path: Path) -> None:
    settings = resolve(GEOLINK, {}, ["model=tiny", "stream.select=split IN ('train', 'val')"], "tiny")
    view = GEOLINK.view(settings)
    train = GeoStream(data, view, batch_size=4, settings=replace(settings.stream, workers=0))
    alone = write_dataset(tmp_path / "d", SyntheticSettings(samples=4, size=32, photos=0, seed=5))
    held = open_split(settings, [str(alone), str(data)], view, "val", 99)  # one of them has no val
    assert held is not None
    keys = set(held.indexes[0].keys())
    assert (len(train.indexes[0]), len(keys)) == (16, 8)
    settings = replace(settings, stream=replace(settings.stream, select="split = 'train'"))
    assert open_split(settings, [str(data)], view, "val", 99) is None
    (alone / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="does not exist"):  # a fault is no empty split
        open_split(settings, [str(alone)], view, "val", 99)


def test_data_without_what_the_losses_need_ends_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = SyntheticSettings(samples=8, size=32, photos=0)
    made = [make_sample(number, given) for number in range(8)]
    for meta, members, _ in made:
        del members["rs.jpg"]
        meta.rs.clear()
        members["json"] = meta.to_bytes()
    blind = write_samples(tmp_path / "blind", [made], given)
    assert run(blind, tmp_path / "r", "steps=1", "stream.select=n_edges >= 0") == 1
    assert "of 8 samples 0 have images, 8 have objects, 0 have photos" in last(capsys)
    bare = write_dataset(tmp_path / "bare", given)
    words = ["epochs=1", "stream.select=n_rs > 0", "loss.secl=0"]  # nothing of GAIR but images against photos
    assert run(bare, tmp_path / "r", *words, task=GAIR) == 1
    assert "nothing is learned: of 8 samples 8 have images, 8 have objects, 0 have photos" in last(capsys)


def test_one_unreadable_sample_counts_once_and_not_once_an_epoch(data: Path, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", SyntheticSettings(samples=8, size=32, photos=0))
    table = pq.read_table(next((root / "catalog" / "samples").iterdir()))
    member = next(m for m in table["members"][3].as_py() if m["name"].startswith("rs."))
    shard = root / "shards" / table["shard"][3].as_py()
    held = bytearray(shard.read_bytes())
    held[member["offset"] : member["offset"] + member["size"]] = bytes(member["size"])
    shard.write_bytes(bytes(held))
    stream = GeoStream(root, batch_size=4, max_corrupt=1, num_workers=0)
    batches = list(stream.batches(until_epoch=3))
    assert sum(len(batch.corrupt) for batch in batches) == 3
    assert len(stream.corrupt) == 1


def test_another_batch_size_on_resume_keeps_the_schedule(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = ["steps=6", "eval.every=0", "log_every=1"]
    assert run(data, out, *words, "stop_after=2") == 0
    assert run(data, out, *words, "batch_size=2", "resume=auto") == 0
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["scheduler"] | {"warmup": 0} == {"samples": 24, "total": 24, "warmup": 0}
    assert state["step"] == 10
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    straight = {row["samples"]: row["lr"] for row in rows}
    assert run(data, tmp_path / "s", *words) == 0
    for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert straight[row["samples"]] == pytest.approx(row["lr"])


def test_tensorboard_shows_no_step_twice_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for after, loss in ((0, 1.0), (2, 2.0)):  # the first was killed at step 4, its last checkpoint is that of step 2
        board = TensorBoard(tmp_path / "tb", after)
        for step in range(after + 1, 5):
            board.write({"step": step, "loss": loss})
        board.close()
        time.sleep(1)  # readers take the files in the order of the seconds in their names
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94."])
def test_an_empty_or_pickled_file_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    for word in (f"resume={path}", f"init.run={path}"):
        assert run(data, tmp_path / "r", "steps=1", word) == 1
        assert last(capsys).startswith(f"error: {path} ")
    assert run(data, tmp_path / "r", "steps=1", f"init.rs={path}", "arch.rs_encoder=vit", task=GAIR) == 1
    assert last(capsys).startswith(f"error: weights {path} cannot be read")


@pytest.fixture
def without_ranges(tmp_path: Path) -> Iterator[str]:
    """The URL of a dataset on a server that knows no ranges, as Python's own."""

    class Whole(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    write_dataset(tmp_path / "d", SyntheticSettings(samples=8, size=32, photos=0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Whole, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/d"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("select", ["", "n_rs > 0"])  # the stream's ranges, and those of the catalog
def test_a_store_without_ranges_is_one_true_line(
    without_ranges: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DatasetError, match="whole files came where ranges of bytes were asked for"):
        next(GeoStream(without_ranges, batch_size=4, num_workers=0, select=select).batches(steps=1))
