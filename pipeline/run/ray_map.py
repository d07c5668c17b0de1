"""Running one function over many items, in this process or on Ray; progress with an ETA; a table at the end."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Timed:
    """A result and what its process needed for it."""

    value: Any
    memory_mb: float


def _timed(function: Callable[[Any], Any], item: Any) -> Timed:
    return Timed(function(item), peak_memory_mb())


@dataclass
class StageRow:
    """One line of the closing table; also a row of catalog/stages."""

    stage: str
    items: int
    unit: str
    seconds: float
    peak_memory_mb: float
    drops: int = 0
    cached: bool = False

    def as_dict(self) -> dict[str, Any]:
        """A row in schemas.catalog.STAGES order."""
        rate = self.items / self.seconds if self.seconds > 0 else 0.0
        return {
            "stage": self.stage, "items": self.items, "unit": self.unit, "seconds": round(self.seconds, 3),
            "items_per_second": round(rate, 3), "peak_memory_mb": round(self.peak_memory_mb, 1), "drops": self.drops,
            "cached": self.cached,
        }  # fmt: skip


@dataclass
class Progress:
    """Lines on standard error: in place on a terminal, every few seconds elsewhere, none when quiet."""

    stage: str
    total: int
    unit: str
    quiet: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    _start: float = field(default_factory=time.monotonic)
    _shown: float = 0.0

    def advance(self, count: int) -> None:
        """``count`` more items are done."""
        self.done += count
        now = time.monotonic()
        every = 0.2 if self.stream.isatty() else 5.0
        if not self.quiet and now - self._shown >= every and (self.stream.isatty() or now - self._start >= every):
            self._shown = now
            self._write(now)

    def update(self, done: int, total: int) -> None:
        """``done`` of ``total`` items are done."""
        self.total = total
        self.advance(done - self.done)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, now: float) -> None:
        elapsed = now - self._start
        rate = self.done / elapsed if elapsed else 0.0
        left = (self.total - self.done) / rate if rate else 0.0
        share = 100 * self.done / self.total if self.total else 100
        text = f"{self.stage}: {self.done}/{self.total} {self.unit} ({share:.0f} %), {rate:.1f}/s, ETA {_clock(left)}"
        self.stream.write(f"\r\x1b[K{text}" if self.stream.isatty() else f"{text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Clear the line on a terminal."""
        if self.stream.isatty() and not self.quiet:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


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
        self._over = threading.Event()

    def run(self) -> None:
        """Start, then wait."""
        import ray

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.local:  # the process that starts it is one of the workers
            options |= {"num_cpus": self.workers - 1, "include_dashboard": False}
            # Ray would make one itself and leave it in the home, where it changes what a later `ray start` asks for.
            os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
        try:
            ray.init(**options)
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it
            self.up.set_exception(error)
            return
        self.up.set_result(None)
        self._over.wait()
        ray.shutdown()

    def stop(self) -> None:
        """Leave the cluster, or stop it if it was started here."""
        self._over.set()
        self.join()


def _task_on_ray(function: Callable[[T], R], up: Future[None]) -> Callable[[T], Any]:
    """What starts a task; ``up`` is done when the cluster is."""
    up.result()
    import ray

    # An error that the user can mend must not be retried; a worker that died (memory, a lost node) may be.
    task = ray.remote(num_cpus=1, max_retries=2)(_timed)
    shared = ray.put(function)
    return lambda item: task.remote(shared, item)


def _result(done: Future[Timed]) -> Timed:
    import ray

    try:
        return done.result()
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


class Runner:
    """Maps functions over items with ``workers`` processes.

    This process is one of them, in a thread beside the one that deals out the work, unless the cluster is another's.
    With one worker there is no Ray.
    """

    def __init__(self, workers: int = 0) -> None:
        self.asked = workers > 0
        self.workers = workers or len(os.sched_getaffinity(0))
        self._cluster: _Cluster | None = None

    def map(
        self, function: Callable[[T], R], items: Sequence[T], *, small: bool = False, brief: bool = False
    ) -> Iterator[tuple[int, R, float]]:
        """(index, result, worker's peak memory in MB) of each item, in the order in which they finish.

        ``small`` says that all items together take no longer than starting Ray does (5 to 10 s): unless a number of
        workers was asked for, or a cluster is there already, this process then does them itself. ``brief`` says that
        an item takes less than a second: this process then does the first ones for as long as Ray takes to start.
        """
        alone = small and not self.asked and not os.environ.get("RAY_ADDRESS")
        if self.workers == 1 or len(items) <= 1 or alone:
            for index, item in enumerate(items):
                yield index, function(item), peak_memory_mb()
            return
        yield from self._map_on_ray(function, items, brief)

    def _map_on_ray(
        self, function: Callable[[T], R], items: Sequence[T], brief: bool
    ) -> Iterator[tuple[int, R, float]]:
        up = self.start()
        remaining = iter(enumerate(items))
        while brief and not up.done():
            if (entry := next(remaining, None)) is None:
                return
            yield entry[0], function(entry[1]), peak_memory_mb()
        with ThreadPoolExecutor(1, "own work") as pool:
            yield from self._deal_out(function, remaining, up, pool)

    def _deal_out(
        self, function: Callable[[T], R], remaining: Iterator[tuple[int, T]], up: Future[None], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, R, float]]:
        """Keep ``pool``, if this process is one of the workers, and the others busy until nothing is left."""
        joins = self._cluster is not None and self._cluster.local
        others = self.workers - 1 if joins else self.workers
        waiting: dict[Future[Timed], tuple[int, Any]] = {}  # index, and the reference of a task on Ray
        own: Future[Timed] | None = None
        task: Any = None
        try:
            while True:
                if joins and own is None and (entry := next(remaining, None)) is not None:
                    own = pool.submit(_timed, function, entry[1])
                    waiting[own] = entry[0], None
                if task is None:
                    task = _task_on_ray(function, up)
                while len(waiting) - (own is not None) < 2 * others and (entry := next(remaining, None)) is not None:
                    reference = task(entry[1])
                    waiting[reference.future()] = entry[0], reference
                if not waiting:
                    return
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    index, _ = waiting.pop(done)
                    own = None if done is own else own
                    timed = _result(done)
                    yield index, timed.value, timed.memory_mb
        finally:
            import ray

            pool.shutdown(wait=False, cancel_futures=True)
            for _, reference in waiting.values():
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


def format_table(rows: list[StageRow]) -> str:
    """The closing table as text."""
    head = ["stage", "items", "seconds", "items/s", "peak MB", "drops"]
    body = [
        [
            r.stage + (" (cached)" if r.cached else ""), f"{r.items:,} {r.unit}", f"{r.seconds:.1f}",
            f"{r.items / r.seconds:,.1f}" if r.seconds >= 0.05 and not r.cached else "-",
            f"{r.peak_memory_mb:,.0f}", f"{r.drops:,}",
        ]
        for r in rows
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in [head, *body]
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
