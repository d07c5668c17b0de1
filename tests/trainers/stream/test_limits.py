"""A machine that gives too little: one line with the way out, never a traceback. Limits are real ones."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import ResourceError, is_short
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream

ROOT = Path(__file__).resolve().parents[3]
VIEW = View(image_size=224, osm=("objects",), tag_width=8)
_SMALL = """
mount -t tmpfs -o size=256k tmpfs /dev/shm || exit 77
exec "$@"
"""
_READ = """
import sys
sys.path[0] = sys.argv[1]
from schemas.errors import GeoshardsError
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream
if __name__ == "__main__":
    view = View(image_size=224, osm=("objects",), tag_width=8)
    try:
        list(GeoStream(sys.argv[2], view, batch_size=16, num_workers=1))
    except GeoshardsError as error:
        sys.exit(f"error: {error}")
"""


def loaders() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


@pytest.mark.parametrize("harm", ["killed", "limited"])
def test_a_loader_process_that_dies_or_starves_names_the_way_out(dataset: Path, harm: str) -> None:
    def read() -> None:
        for _ in GeoStream(dataset, VIEW, batch_size=4, num_workers=1, prefetch=1).batches():
            for pid in loaders():
                if harm == "killed":
                    os.kill(pid, signal.SIGKILL)
                else:
                    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))

    with pytest.raises(ResourceError, match=r"loader process.*stream.workers=0") as caught:
        read()
    assert "\n" not in str(caught.value)
    assert not loaders()


def test_too_little_shared_memory_names_its_size_and_the_way_out(dataset: Path, tmp_path: Path) -> None:
    script = tmp_path / "read.py"
    script.write_text(_READ)
    words = ["unshare", "-rm", "sh", "-c", _SMALL, "sh", sys.executable, str(script), str(ROOT), str(dataset)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.returncode == 1
    assert "/dev/shm has 0 MiB" in done.stderr.splitlines()[-1]
    assert "stream.workers=0" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def trainer(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "trainers" / "geolink.py"), "model=tiny", "steps=2", "eval.every=0", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_an_interrupt_while_torch_is_imported_is_one_line() -> None:
    with trainer() as run:
        while "libtorch" not in Path(f"/proc/{run.pid}/maps").read_text():
            assert run.poll() is None
            time.sleep(0.005)
        os.killpg(run.pid, signal.SIGINT)
        said = "error: interrupted; run the same command again with resume=auto to go on\n"
        assert run.communicate(timeout=60)[1] == said
        assert run.returncode == 1


def test_an_interrupt_while_loader_processes_start_ends_without_a_traceback(dataset: Path, tmp_path: Path) -> None:
    with trainer(f"data={dataset}", "stream.workers=1", f"out={tmp_path / 'run'}") as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while not any(b"forkserver" in Path(f"/proc/{c}/cmdline").read_bytes() for c in children.read_text().split()):
            assert run.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)  # it imports torch by now
        os.killpg(run.pid, signal.SIGINT)
        assert "Traceback" not in run.communicate(timeout=100)[1]
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_too_little_memory_for_torch_is_one_line() -> None:
    words = ["prlimit", f"--as={300 << 20}", sys.executable, str(ROOT / "trainers" / "geolink.py"), "steps=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "ulimit -v" in done.stderr


def test_a_gpu_and_a_line_of_code_are_no_shortage_of_this_machine() -> None:
    assert is_short(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_short(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_short(RuntimeError("  tensors = cannot allocate()\nValueError: shapes differ"))
