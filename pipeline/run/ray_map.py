"""Running one function over many items, in this process or on Ray."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from secrets import token_hex
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.run.capacity import LOOK, Capacity, name_of, watched
from pipeline.run.meter import Meter, metered
from schemas.errors import ClusterError, GeoshardsError, reason_of
from storage.progress import Progress, peak_memory_mb
from storage.text import visible

T = TypeVar("T")
R = TypeVar("R")
#: Bytes of an array that glibc, once it was freed, takes as the size up to which it keeps memory, and twice as much of
#: it; it accepts 32 MB at most. Other C libraries ignore it.
_KEPT = 31 << 20
#: How often a task is done again whose process or node is gone: on this machine, and on a cluster, where nodes go.
_RETRIES = (2, 8)
#: Servers of Ray without which nothing goes on; seconds between two looks at those that were started here, until this
#: process ends when one has ended, and until Ray ends it, which is a minute by default.
_SERVERS, _LOOK, _LAST, _RAYS_LAST = ("raylet", "gcs_server"), 0.5, 8.0, "15"
Measured = tuple[Any, float]  # a result, and the peak memory in MB of the process that made it


@cache
def _settle() -> None:
    """Once in a process, before its first item.

    What has been imported stays: collections, which many small geometries set off, need not walk over it again. Memory
    that a block of work gives back is kept for the next one: to take it anew from the system, page by page, is a tenth
    of the time of reading an extract. Arrow then shares it, instead of a second store of its own.
    """
    gc.collect()
    gc.freeze()
    pa.set_memory_pool(pa.system_memory_pool())
    np.empty(_KEPT, np.uint8)


def _prepare(modules: list[str]) -> None:
    """Import what the process has that deals out the work, before the first item and not while others wait for it."""
    for name in modules:
        import_module(name)
    _settle()


def _measured(function: Callable[[Any], Any], item: Any) -> Measured:
    _settle()
    return function(item), peak_memory_mb()


@contextmanager
def _asking_ray() -> Iterator[None]:
    """What a task raised as it is; what Ray itself raises in one line.

    Raises:
        ClusterError: Ray, or the process that did the work, is gone.
    """
    try:
        yield
    except GeoshardsError:
        raise
    except Exception as error:  # noqa: BLE001  # its own kinds, and what sockets raise whose other end is gone
        if isinstance(cause := getattr(error, "cause", None), BaseException):
            raise cause from None
        raise _lost(f"{type(error).__name__}: {reason_of(error)}") from None


def _lost(what: str) -> ClusterError:
    where = os.environ.get("RAY_ADDRESS")
    way = "check the cluster" if where else "give workers=1, or free memory and room in /dev/shm and /tmp"
    return ClusterError(f"Ray{f' at {where}' if where else ''} gave up ({what}); run the same again to go on; {way}")


class _Cluster(threading.Thread):
    """Joins or starts a Ray cluster beside the main thread, and stays until :meth:`stop`.

    The system ends what a thread has started when the thread ends. Outside the main thread Ray leaves the signal
    handlers as they are; its own end a program without a reason.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(name="ray", daemon=True)
        self.workers = workers
        self.local = not os.environ.get("RAY_ADDRESS")
        self.up: Future[None] = Future()
        self.lost: Future[Any] = Future()  # fails when a server of a cluster that was started here has ended
        self._over, self._imported = threading.Event(), threading.Event()

    def run(self) -> None:
        """Start, then wait."""
        try:
            import ray
            from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled
        finally:
            self._imported.set()
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.local:  # the process that starts it is one of the workers
            options |= {"num_cpus": self.workers - 1, "include_dashboard": False}
            # Ray would make one itself and leave it in the home, where it changes what a later `ray start` asks for.
            if "RAY_AUTH_TOKEN" not in os.environ:
                os.environ["RAY_AUTH_TOKEN"] = token_hex(32)
                AuthenticationTokenLoader.instance().reset_cache()  # that of a cluster this process was in before
            # Ray's workers give way to all other processes (nice 15): beside anything else this one would do most work.
            os.environ.setdefault("RAY_worker_niceness", "0")
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _RAYS_LAST)
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "90")  # 20 s are too few where all cores are busy
            threading.Thread(target=self._watch, name="ray servers", daemon=True).start()
        try:
            with _asking_ray():
                ray.init(**options)
                if self.local:
                    loaded = sorted(name for name in sys.modules if name.startswith("pipeline."))
                    task = ray.remote(num_cpus=1)(_prepare)
                    ray.get([task.remote(loaded) for _ in range(self.workers - 1)])
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it
            self._fail(error)
        else:
            with suppress(InvalidStateError):
                self.up.set_result(None)
            self._over.wait()
        if not self._gone():  # Ray would wait for one that is gone, and then end this process without a word
            ray.shutdown()

    def _watch(self) -> None:
        """Notice a server that ends before Ray does."""
        while not self._over.wait(_LOOK):
            if gone := self._gone():
                error = _lost(f"its {gone[0]} has ended")
                self.lost.set_exception(error)
                self._fail(error)
                if not self._over.wait(_LAST):  # whoever asks Ray is stuck in it, and would be ended without a reason
                    print(f"error: {visible(str(error))}", file=sys.stderr, flush=True)
                    os._exit(1)
                return

    def _fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.up.set_exception(error)

    def _gone(self) -> list[str]:
        """Servers of the cluster started here that have ended."""
        from ray._private import worker

        node = worker._global_node if self.local else None
        return [] if node is None else [kind for kind, _ in node.dead_processes() if kind in _SERVERS]

    def stop(self) -> None:
        """Leave the cluster, or stop it if it was started here."""
        self._imported.wait()  # two threads that import it at once find halves of it
        from ray._private import worker

        self._over.set()
        if not self._gone():
            self.join()
        elif worker._global_node is not None:
            worker._global_node.kill_all_processes(check_alive=False)


def _watched(function: Callable[[Any], Any], item: Any) -> Measured:
    _settle()
    return watched(function, item)


def _task_on_ray(function: Callable[[T], R], up: Future[None], capacity: Capacity | None) -> Callable[[T], Any]:
    """What starts a task; ``up`` is done when the cluster is."""
    up.result()
    import ray

    # An error that the user can mend must not be retried; a worker that died (memory, a lost node) may be.
    if capacity is None:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES[0])(_measured)
    else:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES[1])(_watched)
    with _asking_ray():
        shared = ray.put(function)

    def start(item: T) -> Any:
        with _asking_ray():
            memory = 0 if capacity is None else capacity.memory(name_of(function))
            return (task.options(memory=memory) if memory else task).remote(shared, item)

    return start


def _result(done: Future[Measured], own: bool) -> Measured:
    if own:
        return done.result()
    with _asking_ray():
        return done.result()


class Runner:
    """Maps functions over items with ``workers`` processes.

    This process is one of them, in a thread beside the one that deals out the work, unless the cluster is another's:
    then it deals out all of it, as much at once as the cluster's nodes have cores. With one worker there is no Ray.
    """

    def __init__(self, workers: int = 0) -> None:
        self.asked = workers > 0
        self.workers = workers or len(os.sched_getaffinity(0))
        self.meter = Meter()  # what the other processes have used
        self.cluster = workers != 1 and bool(os.environ.get("RAY_ADDRESS"))  # another's
        self._cluster: _Cluster | None = None
        self._capacity: Capacity | None = None

    def map(
        self, function: Callable[[T], R], items: Sequence[T], *, small: bool = False, brief: bool = False
    ) -> Iterator[tuple[int, R, float]]:
        """(index, result, worker's peak memory in MB) of each item, in the order in which they finish.

        ``small`` says that all items together take no longer than starting Ray does (5 to 10 s): unless a number of
        workers was asked for, or a cluster is there already, this process then does them itself. ``brief`` says that
        an item takes less than a second: this process then does the first ones for as long as Ray takes to start.
        Of ``items`` only those in flight are asked for, one after the other.
        """
        self.meter.begin()
        for index, found, memory in self._map(partial(metered, function), items, small, brief):
            yield index, self.meter.add(found, memory), memory

    def _map(
        self, function: Callable[[T], R], items: Sequence[T], small: bool, brief: bool
    ) -> Iterator[tuple[int, R, float]]:
        alone = self.workers == 1 or len(items) <= 1 or (small and not self.asked)
        if not items or (alone and not self.cluster):
            for index, item in enumerate(items):
                yield index, *_measured(function, item)
            return
        yield from self._map_on_ray(function, items, brief)

    def run(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        progress: Progress,
        size: Callable[[T], int] = lambda _: 1,
        *,
        small: bool = False,
    ) -> tuple[list[R], float]:
        """Results in the order of the items, and the largest peak memory of a process in MB.

        ``size`` is what an item counts in ``progress``; ``small`` as for `map`.
        """
        found: dict[int, R] = {}
        most = peak_memory_mb()
        with progress:
            for index, result, memory in self.map(function, items, small=small):
                found[index], most = result, max(most, memory)
                progress.advance(size(items[index]))
        return [found[index] for index in range(len(items))], most

    def one(self, function: Callable[[T], R], item: T) -> R:
        """The result for one item: of a task on another's cluster, else of this process."""
        return next(result for _, result, _ in self.map(function, [item]))

    def _map_on_ray(
        self, function: Callable[[T], R], items: Sequence[T], brief: bool
    ) -> Iterator[tuple[int, R, float]]:
        up = self.start()
        remaining = iter(enumerate(items))
        while brief and not self.cluster and not up.done():
            if (entry := next(remaining, None)) is None:
                return
            yield entry[0], *_measured(function, entry[1])
        with ThreadPoolExecutor(1, "own work") as pool:
            yield from self._deal_out(function, remaining, up, pool)

    def _deal_out(
        self, function: Callable[[T], R], remaining: Iterator[tuple[int, T]], up: Future[None], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, R, float]]:
        """Keep ``pool``, if this process is one of the workers, and the others busy until nothing is left."""
        joins = self._cluster is not None and self._cluster.local
        others = self.workers - 1 if joins else self.workers
        if self.cluster and self._capacity is None:
            up.result()
            import ray

            self._capacity = Capacity(ray.nodes, self.workers if self.asked else 0)
        capacity = self._capacity
        waiting: dict[Future[Measured], tuple[int, Any]] = {}  # index, and the reference of a task on Ray
        own: Future[Measured] | None = None
        task: Any = None
        lost: Future[Any] = self._cluster.lost if self._cluster is not None else Future()
        try:
            while True:
                if joins and own is None and (entry := next(remaining, None)) is not None:
                    own = pool.submit(_measured, function, entry[1])
                    waiting[own] = entry[0], None
                if task is None and (up.done() or not joins):
                    task = _task_on_ray(function, up, capacity)
                width = 0 if task is None else 2 * others if capacity is None else capacity.width()
                while len(waiting) - (own is not None) < width and (entry := next(remaining, None)) is not None:
                    reference = task(entry[1])
                    waiting[reference.future()] = entry[0], reference
                if not waiting:
                    return
                starting = [up] if task is None else []  # meanwhile this process works alone
                again = None if capacity is None else LOOK  # nodes may have come
                for done in wait([*waiting, lost, *starting], again, FIRST_COMPLETED).done:
                    if done is up:
                        continue
                    if done is lost:
                        lost.result()
                    index, reference = waiting.pop(done)
                    own = None if done is own else own
                    value, memory = _result(done, reference is None)
                    if capacity is not None:
                        capacity.measured(name_of(function), memory)
                    yield index, value, memory
        finally:
            import ray

            pool.shutdown(wait=False, cancel_futures=True)
            for _, reference in waiting.values() if not lost.done() else ():
                if reference is not None:
                    ray.cancel(reference)

    def start(self) -> Future[None]:
        """Join the cluster of RAY_ADDRESS, or start one here for this run; done when it is up."""
        ray = sys.modules.get("ray")  # its import takes a second, which the thread can spend
        if self._cluster is None and ray is not None and ray.is_initialized():
            up: Future[None] = Future()
            up.set_result(None)
            return up
        if self._cluster is None:
            self._cluster = _Cluster(self.workers)
            self._cluster.start()
        return self._cluster.up

    def close(self) -> None:
        """Stop the Ray that this runner started; leave any other alone."""
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
