"""The runner: every item once, errors as they are, the same files from one worker and from two."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.osm.extracts import read as reader
from pipeline.run import ray_map
from pipeline.run.ray_map import Runner
from schemas.errors import InputError
from tests.osm.opl import GRID, RULES, opl


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """Leaves no Ray behind when it is closed, neither a connection nor a server."""
    import ray
    from ray._private import worker

    with Runner(2) as two:
        yield two
        two.start().result()
        node: Any = worker._global_node
        servers = [s.process for own in node.all_processes.values() for s in own]
        assert ray.is_initialized()
        assert None in [s.poll() for s in servers]
    assert not ray.is_initialized()
    assert None not in [s.poll() for s in servers]


def slow_square(n: int) -> tuple[int, int]:
    time.sleep(0.02)
    return n * n, os.getpid()


def refuse(n: int) -> int:
    if n == 3:
        raise InputError("item 3 is wrong; leave it out")
    return n


def test_what_is_imported_is_not_walked_over_by_each_collection() -> None:
    """Tasks make many small geometries, each of which sets one off."""
    ray_map._settle.cache_clear()
    gc.unfreeze()
    try:
        with Runner(1) as one:
            assert [r[1] for r in one.map(refuse, [1, 2])] == [1, 2]
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_memory_that_an_item_gave_back_serves_the_next() -> None:
    """Taken from the system anew, 32 MB are 8,192 faults, of numpy's and of Arrow's each."""
    program = """if True:
        import resource, numpy, pyarrow
        from pipeline.run.ray_map import Runner

        def faults(_):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            [numpy.ones(1 << 18) for _ in range(16)]  # held at once, 2 MB each
            [pyarrow.repeat(1.0, 1 << 18) for _ in range(16)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        with Runner(1) as one:
            print(*(count for _, count, _ in one.map(faults, range(4))))
        """
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert max(map(int, run.stdout.split()[1:])) < 3000


def test_this_process_does_not_wait_for_ray_between_its_own_items() -> None:
    """As long as Ray starts it does one after the other; few items are done before."""
    import ray

    ray.shutdown()  # another test's, which would be joined
    with Runner(2) as two:
        assert sorted(value for _, (value, _), _ in two.map(slow_square, range(5))) == [0, 1, 4, 9, 16]
        assert not two.start().done()


def test_this_process_does_brief_items_until_ray_is_up_and_none_is_lost(runner: Runner) -> None:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    ray.shutdown()  # another's would be joined, and do all of the work; it had a token of its own
    results = list(runner.map(slow_square, range(100), brief=True))
    assert sorted(i for i, _, _ in results) == list(range(100))
    assert all(value == i * i for i, (value, _), _ in results)
    assert results[0][1][1] == os.getpid()
    runner.start().result()
    assert not list(Path.home().iterdir())  # of Ray's token least of all: later clusters would ask for it
    both = list(runner.map(slow_square, range(60), brief=True))
    assert sorted(value for _, (value, _), _ in both) == [n * n for n in range(60)]
    pids = {pid for _, (_, pid), _ in both}
    assert os.getpid() in pids  # one of the two workers
    assert len(pids) == 2


@pytest.mark.parametrize("up", [False, True])
def test_an_error_of_an_item_is_raised_as_it_is(runner: Runner, up: bool) -> None:
    if up:
        runner.start().result()
        with pytest.raises(InputError, match="item 3 is wrong"):
            list(runner.map(refuse, range(9)))
    else:
        with Runner(1) as one, pytest.raises(InputError, match="item 3 is wrong"):
            list(one.map(refuse, range(9)))


def test_a_server_of_ray_that_dies_is_one_line_before_ray_ends_the_process() -> None:
    """Ray waits for it and then ends the process that asks, without raising anything."""
    code = """
import os, sys, time
sys.path[0] = sys.argv[1]
from pipeline.run import ray_map
from pipeline.run.ray_map import Runner
from schemas.errors import ClusterError
ray_map._LAST = 2.0
try:
    with Runner(2) as runner:
        runner.start().result()
        from ray._private import worker
        worker._global_node.all_processes["gcs_server"][0].process.kill()
        for _ in runner.map(time.sleep, [0.2] * 200):
            pass
except ClusterError as error:
    print(error, flush=True)
os._exit(0)
"""
    words = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    said = "Ray gave up (its gcs_server has ended); run the same again to go on; give workers=1, or free memory and "
    assert [said in line for line in (done.stdout + done.stderr).splitlines() if "gave up" in line] == [True], (
        done.stderr
    )


def test_two_workers_read_what_one_reads(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_BLOBS", (1, 1)), ("_WAY_BLOBS", (1, 1)), ("_RELATIONS", 1)):
        monkeypatch.setattr(reader, name, size)
    path = tmp_path / "x.opl"
    trees = "\n".join(f"n{i} v1 x9 y{47 + i / 1e5} Tnatural=tree" for i in range(100, 20_000))
    ways = "\n".join(
        f"w{i} v1 Thighway=path Nn{1 + i % 9},n{1 + i % 8},n{404 if i % 50 else 50_000}" for i in range(1, 9000)
    )
    areas = "w9999 v1 Nn1,n3,n9,n1\nr1 v1 Ttype=multipolygon,natural=water Mw9999@\nr2 v1 Ttype=boundary,place=x Mw404@"
    path.write_text(opl(f"{GRID}\n{trees}\n{ways}\n{areas}"))
    found = []
    runner.start().result()
    for number, own in enumerate((Runner(1), runner)):
        extract = reader.read_extract(path, RULES, tmp_path / str(number), own)
        hashes = {Path(p.path).name: sha256(Path(p.path).read_bytes()).hexdigest() for p in extract.parts}
        found.append((hashes, extract.drops.to_pylist(), extract.extents, extract.snapshots, extract.objects))
    assert found[0] == found[1]
    assert len(found[0][0]) > 5
