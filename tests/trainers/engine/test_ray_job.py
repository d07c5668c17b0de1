"""``ray job submit trainers/geolink.py``, typed literally, from the repository root, after ``ray start``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.status import look
from schemas.errors import ConfigError
from storage.dataset import load_dataset
from storage.status import read_status
from storage.store import Store
from tests.driver.village import write_village
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import parse
from trainers.engine.ray_job import _absolute, _fit, _storage, count_workers
from trainers.tasks.geolink import GEOLINK

ROOT = Path(__file__).resolve().parents[3]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Ray head node of our own, started in the repository root, ended by its process; yields the environment.

    It is started as anybody starts one, `ray start --head`: nothing is said of tokens. When it ends it need not
    wait for its nodes to empty.
    """
    settings = {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    settings |= {"RAY_worker_niceness": "0"}  # else tests that run beside it go first
    gcs, dashboard, agent = free_ports(3)
    with tempfile.TemporaryDirectory(
        dir="/tmp", prefix="r", ignore_cleanup_errors=True
    ) as folder:  # socket paths must be short
        head = subprocess.Popen(
            ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
             f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
             "--num-cpus=2", f"--temp-dir={folder}/ray"],
            cwd=ROOT, env=environment | settings, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                assert head.poll() is None, head.communicate()[0][-2000:]
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                        break
                time.sleep(0.3)
            yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        finally:
            ended = head.poll() is not None
            head.send_signal(signal.SIGTERM)
            said = head.communicate(timeout=60)[0]
            assert not ended, said[-2000:]


def submit(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command; typed again while the head node, just started, has no agent yet."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            ["ray", "job", "submit", *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def ask(environment: dict[str, str], path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    """What the head's job server answers, as `ray job` asks it: a GET, or a POST of ``body``."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{path}", data)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


def enter(environment: dict[str, str], name: str, command: str) -> None:
    """Submit a job, as :func:`submit` does."""

    def entered() -> bool:
        try:
            ask(environment, "", {"submission_id": name, "entrypoint": command})
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        else:
            return True
        if "No available agent" not in text:
            pytest.fail(text[-2000:])
        return False

    wait_for(entered)


def wait_for(what: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def outcome(environment: dict[str, str], name: str) -> tuple[str, str]:
    """(status, log) of a job when it has ended."""
    wait_for(lambda: ask(environment, name)["status"] not in ("PENDING", "RUNNING"))
    return str(ask(environment, name)["status"]), str(ask(environment, f"{name}/logs")["logs"])


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a user of a cluster of two CPUs, with a small dataset, who has built one before, on a Ray of its
    own, and has nothing of it in the home."""
    pytest.importorskip("ray.train", reason="needs Ray Train; pip install 'ray[train]'")
    folder = tmp_path_factory.mktemp("ray")
    data = write_dataset(folder / "demo", SyntheticSettings(samples=32, size=48, photos=1, objects=4))
    home = folder / "home"
    home.mkdir()
    (folder / "village").mkdir()
    village = write_village(folder / "village")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "GEOSHARDS_"))}
    environment |= {
        "HOME": str(home), "GEOSHARDS_DATA": str(data), "OMP_NUM_THREADS": "1", "VILLAGE": str(village.osm),
        "GEOSHARDS_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    build = ["geoshards", "shards", *words_of_village(environment), f"out={folder}/before", "workers=2"]
    subprocess.run(build, env=environment, cwd=folder, check=True, capture_output=True, timeout=200)
    assert not list(home.iterdir()), "a token there would be asked for by the cluster that starts next"
    with cluster(environment) as inside:
        yield inside


def words_of_village(environment: dict[str, str]) -> list[str]:
    return [f"region={environment['VILLAGE']}", "zoom=18", "plan.per_shard=2"]


@pytest.fixture(scope="module")
def literal(ray_cluster: dict[str, str]) -> dict[str, subprocess.CompletedProcess[str]]:
    """What came of ``ray job submit trainers/NAME.py``, typed at once in three terminals."""
    with ThreadPoolExecutor(3) as pool:
        names = ("geolink", "gair", "joint")
        return dict(zip(names, pool.map(lambda n: submit(ray_cluster, f"trainers/{n}.py"), names), strict=True))


@pytest.mark.timeout(600)  # it starts many processes that import torch or Ray
@pytest.mark.parametrize("name", ["geolink", "gair", "joint"])
def test_the_literal_command_trains_on_the_cluster(
    literal: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    done = literal[name]
    said = done.stdout + done.stderr
    found = re.search(rf"checkpoint: (\S*runs/{name}-\S+)/checkpoint.pt", said)
    try:
        assert done.returncode == 0, said[-3000:]
        assert "succeeded" in said
        assert found, said[-3000:]
        summary = json.loads(Path(found[1], "summary.json").read_text())
        assert summary["finished"]
        assert summary["trainer"] == name
        assert "Started training worker group of size 2" in done.stdout  # TorchTrainer, on the CPUs that there are
    finally:
        if found:
            shutil.rmtree(found[1])
            with suppress(OSError):
                (ROOT / "runs").rmdir()


@pytest.mark.timeout(600)
def test_a_build_is_a_job_of_the_working_directory(ray_cluster: dict[str, str], tmp_path: Path) -> None:
    words = ["geoshards", "shards", *words_of_village(ray_cluster), f"out={tmp_path}/out"]
    done = submit(ray_cluster, "--working-dir", ".", "--", *words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    before = Path(ray_cluster["VILLAGE"]).parents[1] / "before"
    hashes = [load_dataset(Store(folder))["layout_hash"] for folder in (before, tmp_path / "out")]
    assert hashes[0] == hashes[1]
    shards = len(Store(tmp_path / "out").names("shards"))
    assert len(re.findall(r"part-\d{7}: \d+ tiles, \d+ samples", done.stdout)) == shards > 1


@pytest.mark.timeout(600)
def test_a_loss_that_is_not_finite_ends_the_job_at_once_with_its_line(
    ray_cluster: dict[str, str], tmp_path: Path
) -> None:
    words = f"trainers/geolink.py out={tmp_path}/r steps=50 log_every=1 eval.every=0 log.tensorboard=false"
    enter(ray_cluster, "not-finite", f"{words} optim.lr=1e30 optim.clip=0 optim.warmup=0")
    status, log = outcome(ray_cluster, "not-finite")
    assert status == "FAILED"
    assert log.splitlines()[-1].startswith("error: not finite at step"), log[-3000:]
    assert log.count("Started training worker group") == 1
    said = read_status(Store(tmp_path / "r"))  # none of a run that ends badly before its first word is due
    if said is not None:
        assert (said.state, said.reason) == ("failed", log.splitlines()[-1].removeprefix("error: "))


@pytest.mark.timeout(600)
def test_a_stopped_job_goes_on_when_it_is_submitted_again_and_a_killed_worker_when_it_is_started_again(
    ray_cluster: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    words = f"trainers/geolink.py out={out} steps=100000 checkpoint_every=100000 log_every=1 eval.every=0"
    words += " log.tensorboard=false ray_workers=1"
    metrics, checkpoint = out / "metrics.jsonl", out / "checkpoint.pt"

    def last_step() -> int:
        rows = metrics.read_text().splitlines() if metrics.exists() else []
        return int(json.loads(rows[-1])["step"]) if len(rows) > 2 else 0

    enter(ray_cluster, "first", words)
    wait_for(lambda: last_step() > 0)
    assert not checkpoint.exists()
    ask(ray_cluster, "first/stop", {})
    status, log = outcome(ray_cluster, "first")
    step = load_checkpoint(checkpoint)["step"]
    assert status == "STOPPED"
    assert log.splitlines()[-1] == f"error: stopped by SIGTERM after step {step}; go on with out={out} resume=auto"
    assert last_step() == step
    enter(ray_cluster, "second", f"{words} resume=auto")
    wait_for(lambda: last_step() > step)
    # Its first word comes after some seconds; the stopped job may have left its last one.
    wait_for(lambda: (said := read_status(Store(out))) is not None and said.state == "running")
    view = look(str(out))
    assert view.run is not None
    assert (view.state, view.run.stage) == ("running", "train")
    os.kill(view.run.owner["pid"], signal.SIGKILL)
    wait_for(lambda: look(str(out)).state == "gone")
    wait_for(lambda: look(str(out)).state == "running" and last_step() > step)
    ask(ray_cluster, "second/stop", {})
    status, log = outcome(ray_cluster, "second")
    assert status == "STOPPED", log[-3000:]
    assert log.count("Started training worker group") == 2
    assert load_checkpoint(checkpoint)["step"] == last_step() > step


def test_workers_divide_the_batch_and_fit_the_cluster() -> None:
    settings, _, _ = parse(GEOLINK, ["model=tiny", "batch_size=12"])
    assert [count_workers(settings, 0, cpus) for cpus in (1, 2, 5, 7)] == [1, 2, 4, 6]
    assert count_workers(settings, 3, 64) == 3  # GPUs, where there are any
    asked, _, _ = parse(GEOLINK, ["model=tiny", "batch_size=12", "ray_workers=5"])
    with pytest.raises(ConfigError, match="ray_workers=5"):
        count_workers(asked, 0, 8)


def test_gpus_that_an_autoscaler_has_yet_to_bring_are_waited_for_by_their_number() -> None:
    words = ["model=tiny", "batch_size=12", "device=cuda"]
    waits, _, _ = parse(GEOLINK, [*words, "ray_workers=4"])
    assert [count_workers(waits, gpus, 64) for gpus in (0, 1, 4)] == [4, 4, 4]
    with pytest.raises(ConfigError, match="no GPU yet"):
        count_workers(parse(GEOLINK, words)[0], 0, 64)
    with pytest.raises(ConfigError, match="divisible"):
        count_workers(parse(GEOLINK, [*words, "ray_workers=5"])[0], 0, 64)


def test_what_ends_a_run_on_the_cluster_is_raised_where_it_was_asked_for() -> None:
    class Run:
        def __init__(self, error: Exception | None) -> None:
            self.error = error

        def fit(self) -> None:
            if self.error:
                raise self.error

    _fit(Run(None), print, str)
    with pytest.raises(RuntimeError, match="a worker died"):
        _fit(Run(RuntimeError("a worker died")), print, str)


def test_what_ray_notes_lies_beside_the_run_on_this_machine_or_in_a_store(tmp_path: Path) -> None:
    assert _storage(Store(str(tmp_path))) == {"storage_path": f"{tmp_path}/ray"}
    given = _storage(Store("memory://notes/run"))
    with given["storage_filesystem"].open_output_stream(f"{given['storage_path']}/note") as file:
        file.write(b"it ran")
    assert Store("memory://notes/run").read("ray/note") == b"it ran"


def test_workers_are_given_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert _absolute("a,s3://b/c") == f"{tmp_path}/a,s3://b/c"
    assert _absolute("a:0.5,s3://b:0.5") == f"{tmp_path}/a:0.5,s3://b:0.5"
