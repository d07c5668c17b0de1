"""Promises of runs whose files go to an object store, here moto's S3 server."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli.main import main as geoshards
from schemas.errors import InputError
from storage.files import atomic_file, put
from storage.owner import Owner
from storage.store import Store
from tests.buckets import s3_server
from trainers.engine import folder as folder_module
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main
from trainers.engine.folder import RunFolder
from trainers.tasks.geolink import GEOLINK

ROOT = Path(__file__).resolve().parents[3]


def wait_for(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails is given up soon, and asked again soon."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.001)
    monkeypatch.setattr(folder_module, "EVERY", 0.05)


def test_a_run_into_a_bucket_that_fails_is_killed_and_goes_on_bit_for_bit_as_one_on_a_disk(
    dataset: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data={dataset}", "model=tiny", "batch_size=8", "steps=10000", "checkpoint_every=4", "log_every=1"]
    words += ["arch.fusion_dropout=0.1", "eval.every=0", "--quiet"]
    out, asked = "s3://runs/a/b", count()
    with s3_server("runs", lambda *_: "" if next(asked) % 6 else "500") as fs:
        command = [sys.executable, str(ROOT / "trainers" / "geolink.py"), *words, f"out={out}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        wait_for(lambda: process.poll() is not None or Store(out).exists("checkpoint.pt"))
        process.send_signal(signal.SIGKILL)
        assert process.communicate(timeout=60)[1] == ""
        step = load_checkpoint(f"{out}/checkpoint.pt")["step"]
        assert len(list((cache / "runs").iterdir())) == 1
        assert main(GEOLINK, [*words, f"out={out}", "resume=auto", "stop_after=2"]) == 0
        assert main(GEOLINK, [*words, f"out={tmp_path}/straight", f"stop_after={step + 2}"]) == 0
        a, b = (load_checkpoint(f"{folder}/checkpoint.pt") for folder in (out, tmp_path / "straight"))
        assert a["step"] == b["step"] == step + 2
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
        for name, moments in a["optimizer"]["state"].items():
            assert all(torch.equal(moments[k], b["optimizer"]["state"][name][k]) for k in moments)
        lines = fs.cat_file("runs/a/b/metrics.jsonl").decode().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 3))
        stores = [Store(out), Store(str(tmp_path / "straight"))]
        there, here = ({n.partition("/")[0] for n in store.walk()} for store in stores)
        assert there == here
        assert all(store.exists(".status.json") for store in stores)  # hidden: a walk leaves it out
        assert json.loads(fs.cat_file("runs/a/b/summary.json"))["out"] == out
        assert list((cache / "runs").iterdir()) == []  # that of the killed one is swept
        assert main(GEOLINK, [*words, f"out={out}"]) == 1
        assert f"{out}/checkpoint.pt exists; go on with resume=auto" in capsys.readouterr().err
        assert geoshards(["export", f"{out}/checkpoint.pt", "--format", "timm", "--json"]) == 0
        written = json.loads(capsys.readouterr().out)
        assert written["file"] == f"{out}/checkpoint-timm.safetensors"
        assert len(fs.cat_file("runs/a/b/checkpoint-timm.safetensors")) == written["bytes"]
    assert not list(tmp_path.glob("s3:*"))
    assert not list(Path.cwd().glob("s3:*"))


def test_a_store_that_is_out_of_reach_is_one_line_before_training(
    dataset: Path, cache: Path, brief: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(out: str) -> str:
        assert main(GEOLINK, [f"data={dataset}", "model=tiny", "steps=1", f"out={out}", "--quiet"]) == 1
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    down = threading.Event()
    with s3_server("reach", lambda *_: "500" if down.is_set() else "") as fs:
        assert said("s3://ruins/a") == (
            "error: s3://ruins/a: there is no such bucket; create it, or mend the address (nothing here creates one)\n"
        )
        down.set()
        assert said("s3://reach/a").startswith("error: s3://reach/a/checkpoint.pt: no answer after 8 attempts")
        down.clear()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        type(fs).clear_instance_cache()
        assert "set or renew the store's credentials" in said("s3://reach/a")
        assert said("https://127.0.0.1:1/a").startswith("error: https://127.0.0.1:1/a")
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        assert "pip install 'geoshards[cloud]'" in said("gs://reach/a")
    assert list((cache / "runs").glob("*")) == []


def test_a_store_that_fails_for_a_while_gets_all_files_afterwards(
    cache: Path, brief: None, capsys: pytest.CaptureFixture[str]
) -> None:
    down = threading.Event()
    folder = RunFolder("s3://outage/a")
    with s3_server("outage", lambda *_: "500" if down.is_set() else "") as fs:
        with folder.opened("config.yaml", "a: 1\n"):
            work = folder.local.parent
            put(folder.local / "metrics.jsonl", '{"step": 1}\n')
            wait_for(lambda: Store("s3://outage/a").exists("metrics.jsonl"))
            down.set()
            put(folder.local / "metrics.jsonl", '{"step": 1}\n{"step": 2}\n')
            put(folder.local / "checkpoint.pt", b"two")
            folder.send_soon()
            wait_for(lambda: not (work / ".owner").exists())  # a kill now would leave the files
            down.clear()
            wait_for(lambda: (work / ".owner").exists())
            assert fs.cat_file("outage/a/checkpoint.pt") == b"two"
            (folder.local / "deep").mkdir()
            put(folder.local / "deep" / "last", "x")
            put(folder.local / ".hidden", "x")
        names = ["checkpoint.pt", "config.yaml", "deep/last", "metrics.jsonl"]
        assert Store("s3://outage/a").walk() == names
        assert fs.cat_file("outage/a/metrics.jsonl").count(b"\n") == 2
    assert list((cache / "runs").iterdir()) == []
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("s3://outage/a takes no files (s3://outage/a/metrics.jsonl: no answer")
    assert first.endswith(f"training goes on, and they wait in {work}/a")
    assert second == "s3://outage/a takes files again"


def test_what_a_store_does_not_take_stays_and_is_named(cache: Path, brief: None) -> None:
    down = threading.Event()
    folder = RunFolder("s3://lasting/a")
    with s3_server("lasting", lambda *_: "500" if down.is_set() else ""):

        def stops() -> None:
            with folder.opened("config.yaml", "a: 1\n"):
                down.set()
                put(folder.local / "checkpoint.pt", b"two")
                raise InputError("stopped")

        with pytest.raises(InputError, match=r"^stopped\. s3://lasting/a did not take all files of the run") as found:
            stops()
        assert f"go on with resume={folder.local}/checkpoint.pt" in str(found.value)
        assert (folder.local / "checkpoint.pt").read_bytes() == b"two"
        down.clear()
        again = RunFolder("s3://lasting/a")
        with again.opened("config.yaml", "a: 1\n"):
            assert (folder.local / "checkpoint.pt").exists()  # it is not swept
        assert not Store("s3://lasting/a").exists("checkpoint.pt")
    assert list((cache / "runs").iterdir()) == [folder.local.parent]


def test_a_work_folder_goes_with_its_process_alone(cache: Path) -> None:
    import fsspec

    here = Owner.here()
    for name, owner in (
        ("dead", replace(here, pid=2**22 + 1)),
        ("elsewhere", replace(here, boot="?")),
        ("alive", here),
    ):
        put(cache / "runs" / name / ".owner", owner.text())
    with RunFolder("memory://runs/a").opened("config.yaml", ""):
        assert {"elsewhere", "alive"} < {p.name for p in (cache / "runs").iterdir()}
        assert not (cache / "runs" / "dead").exists()
    assert {p.name for p in (cache / "runs").iterdir()} == {"elsewhere", "alive"}
    shutil.rmtree(cache)
    put(cache, "a file, no folder")
    with pytest.raises(InputError, match=r"so set GEOSHARDS_CACHE"):
        RunFolder("memory://runs/a").opened("config.yaml", "").__enter__()
    fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_checkpoint_never_comes_before_its_history(cache: Path, brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    sent: list[str] = []
    folder = RunFolder("memory://runs/b")
    send = folder._store.send

    def noted(name: str, source: Path) -> None:
        if name == "metrics.jsonl" and "late" not in sent:
            sent.append("late")  # a step ends while its files are on their way
            put(folder.local / "checkpoint.pt", b"three!")
        sent.append(f"{name} {source.stat().st_size}")
        send(name, source)

    monkeypatch.setattr(folder_module, "EVERY", 60.0)
    monkeypatch.setattr(folder._store, "send", noted)
    with folder.opened("config.yaml", ""):
        put(folder.local / "checkpoint.pt", b"two")
        put(folder.local / "metrics.jsonl", "12")
        folder._send()
        assert sent == ["late", "metrics.jsonl 2"]
        put(folder.local / "metrics.jsonl", "123")
    assert sent[2:] == ["metrics.jsonl 3", "checkpoint.pt 6"]
    fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_file_is_sent_once_as_long_as_it_does_not_change(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    sent: list[str] = []
    folder = RunFolder("memory://runs/d")
    send = folder._store.send
    monkeypatch.setattr(folder_module, "EVERY", 60.0)
    monkeypatch.setattr(folder._store, "send", lambda name, source: sent.append(name) or send(name, source))
    with folder.opened("config.yaml", ""):
        put(folder.local / "checkpoint.pt", b"two")
        put(folder.local / "metrics.jsonl", "1")
        for _ in range(3):
            folder._send()
        assert sent == ["metrics.jsonl", "checkpoint.pt"]
        with atomic_file(folder.local / "half") as half:
            half.write_text("x")
            folder._send()
            assert len(sent) == 2
        put(folder.local / "metrics.jsonl", "2")
    assert sent == ["metrics.jsonl", "checkpoint.pt", "half", "metrics.jsonl"]
    fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_run_that_goes_on_adds_to_the_history_in_its_store(cache: Path) -> None:
    import fsspec

    fs: Any = fsspec.filesystem("memory")
    fs.pipe({"/runs/c/metrics.jsonl": b"1\n", "/runs/c/evaluation.json": b"[]", "/runs/c/checkpoint.pt": b"big"})
    folder = RunFolder("memory://runs/c")
    with folder.opened("config.yaml", ""):
        assert sorted(p.name for p in folder.local.iterdir()) == ["config.yaml", "evaluation.json", "metrics.jsonl"]
        with (folder.local / "metrics.jsonl").open("a") as file:
            file.write("2\n")
    assert fs.cat_file("/runs/c/metrics.jsonl") == b"1\n2\n"
    fs.rm("/runs", recursive=True)
