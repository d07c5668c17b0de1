"""A build on a cluster as discrete events: what `benchmarks/scaling.py` forecasts with. Pure functions, seeded.

A build is stages, one after the other: a driver works alone for a while, then deals out tasks. A task reads from the
bucket, works, and writes to the bucket; its worker takes the next one. What is modelled, and nothing else:

- a driver that takes ``handling`` seconds a task, and has ``ahead`` tasks a worker in flight at most;
- a bucket that answers after ``latency`` seconds a request, gives one connection ``connection`` bytes a second at most
  and all together ``total``, shared equally;
- nodes of several workers, which fetch what a stage needs of the earlier ones once (``copied``), and which end at
  random: what they work on is done again, what is in the bucket stays;
- stragglers: tasks that take longer by a factor drawn from the longest of the measured times.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
#: Quantile of the measured times above which they are those of stragglers.
_TAIL = 0.95


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a build."""

    name: str
    seconds: Seconds  # [M] of tasks as measured: exactly these where tasks is M, else each draws one
    tasks: int
    read: float = 0.0  # bytes of a task from the bucket
    write: float = 0.0  # bytes of a task to the bucket
    requests: float = 1.0  # of each, reading and writing, one after the other
    copied: float = 0.0  # bytes that a node fetches before its first task
    before: float = 0.0  # seconds in which the driver works alone
    handling: float = 0.0  # seconds of the driver a task

    @property
    def work(self) -> float:
        """Seconds of all tasks, as expected."""
        return self.tasks * float(np.mean(self.seconds)) if self.tasks else 0.0

    def slow(self) -> Seconds:
        """Factors by which stragglers take longer: the longest of the measured times over their median."""
        if not len(self.seconds):
            return np.ones(1)
        tail = self.seconds[self.seconds >= np.quantile(self.seconds, _TAIL)]
        return np.maximum(tail / max(float(np.median(self.seconds)), 1e-9), 1.0)

    def draw(self, seed: int, straggle: float) -> Seconds:
        """Seconds [tasks] of each task."""
        random = np.random.default_rng(seed)
        exact = len(self.seconds) == self.tasks
        own = self.seconds.copy() if exact else random.choice(self.seconds, self.tasks)
        late = np.flatnonzero(random.random(self.tasks) < straggle)
        own[late] *= random.choice(self.slow(), len(late))
        return own


@dataclass(frozen=True)
class Bucket:
    """An object store."""

    latency: float = 0.0  # seconds until a request is answered
    connection: float = np.inf  # bytes a second of one connection
    total: float = np.inf  # bytes a second of all together


@dataclass(frozen=True)
class Cluster:
    """Who works."""

    workers: int
    per_node: int = 16  # workers of a node
    ahead: int = 2  # tasks in flight for each worker
    mtbf: float = np.inf  # seconds until a node ends, on average
    back: float = 300.0  # seconds until another one takes its place
    straggle: float = 0.0  # share of tasks that straggle
    late: float = 0.0  # seconds until all nodes but the first are there
    bucket: Bucket = Bucket()


@dataclass
class StageTime:
    """What became of a stage."""

    name: str
    seconds: float = 0.0  # from the end of the one before
    alone: float = 0.0  # of them, those in which the driver works alone
    busy: float = 0.0  # worker-seconds of work that counts
    moving: float = 0.0  # worker-seconds of waiting for the bucket
    lost: float = 0.0  # worker-seconds of tasks that were done again
    moved: float = 0.0  # bytes from and to the bucket
    limit: str = ""  # what it cannot be faster than: workers, driver, bucket, or its longest task


@dataclass
class Outcome:
    """What became of a build."""

    workers: int
    stages: list[StageTime] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From start to end."""
        return sum(s.seconds for s in self.stages)

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that is work that counts."""
        return sum(s.busy for s in self.stages) / max(self.workers * self.seconds, 1e-12)

    @property
    def bytes(self) -> float:
        """From and to the bucket."""
        return sum(s.moved for s in self.stages)


def simulate(stages: Sequence[Stage], cluster: Cluster, seed: int = 0) -> Outcome:
    """A build from its first stage to its last. The same seed gives the same outcome, and for any cluster the same
    times of tasks."""
    outcome, nodes = Outcome(cluster.workers), _Nodes(cluster, seed)
    now = 0.0
    for number, stage in enumerate(stages):
        running = _Running(stage, cluster, nodes, stage.draw(seed + 1000 * number, cluster.straggle), now)
        now = running.run()
        running.told.limit = limit_of(stage, cluster, running.longest)
        outcome.stages.append(running.told)
    return outcome


def limit_of(stage: Stage, cluster: Cluster, longest: float) -> str:
    """What bounds a stage most; ``longest`` is its longest task in seconds."""
    return max(bounds_of(stage, cluster, longest).items(), key=lambda bound: bound[1])[0]


def bounds_of(stage: Stage, cluster: Cluster, longest: float) -> dict[str, float]:
    """Seconds that a stage takes at least, by what it waits for."""
    bucket = cluster.bucket
    nodes = -(-cluster.workers // cluster.per_node)
    waits = 2 * stage.requests * bucket.latency + (stage.read + stage.write) / bucket.connection
    moved = stage.tasks * (stage.read + stage.write) + min(nodes, stage.tasks) * stage.copied
    return {
        "workers": (stage.work + stage.tasks * waits) / cluster.workers,
        "driver": stage.before + stage.tasks * stage.handling,
        "bucket": moved / bucket.total,
        "longest task": longest + (waits + stage.copied / bucket.connection if stage.tasks else 0.0),
    }


def grouped(stage: Stage, workers: int, most: int = 4_000) -> Stage:
    """The same work in fewer, longer tasks, where there are far more tasks than workers: ends of stages, where workers
    wait for the last task, stay short beside them."""
    size = stage.tasks // max(most, 40 * workers)
    if size <= 1:
        return stage
    random = np.random.default_rng(size)
    seconds = random.choice(stage.seconds, (max(len(stage.seconds), 256), size)).sum(axis=1)
    seconds *= size * float(np.mean(stage.seconds)) / float(np.mean(seconds))
    return replace(
        stage, seconds=seconds, tasks=round(stage.tasks / size), read=stage.read * size, write=stage.write * size,
        requests=stage.requests * size, handling=stage.handling * size,
    )  # fmt: skip


class _Nodes:
    """Which nodes are there, and when the next ones end; it goes on from stage to stage."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.random = np.random.default_rng([seed, 1])
        self.cluster = cluster
        self.of = np.arange(cluster.workers) // cluster.per_node  # node of each worker
        several = range(int(self.of[-1]) + 1)
        self.gone = set(several[1:] if cluster.late else ())
        self.events = [
            (cluster.late, node, "comes") if node in self.gone else (self._life(), node, "ends") for node in several
        ]
        heapq.heapify(self.events)

    def _life(self) -> float:
        return float(self.random.exponential(self.cluster.mtbf)) if np.isfinite(self.cluster.mtbf) else np.inf

    def next(self) -> tuple[int, str]:
        """What happens next, node and ends | comes, with what follows from it put down."""
        when, node, what = heapq.heappop(self.events)
        if what == "ends":
            self.gone.add(node)
            heapq.heappush(self.events, (when + self.cluster.back, node, "comes"))
        else:
            self.gone.discard(node)
            heapq.heappush(self.events, (when + self._life(), node, "ends"))
        return node, what


class _Transfers:
    """Bytes on their way, at equal shares of the bucket: each has the same amount ``v`` moved since it began."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.heap: list[tuple[float, int, int]] = []  # v at its end, number, worker
        self.ends: dict[int, int] = {}  # number of the transfer of each worker that has one
        self.numbers = count()
        self.v = self.now = 0.0

    def _rate(self) -> float:
        return min(self.bucket.connection, self.bucket.total / len(self.ends)) if self.ends else 0.0

    def to(self, now: float) -> None:
        """Time goes on."""
        if self.ends and now > self.now:
            self.v += (now - self.now) * self._rate()
        self.now = now

    def start(self, worker: int, size: float) -> None:
        """Begin one, now."""
        number = next(self.numbers)
        self.ends[worker] = number
        heapq.heappush(self.heap, (self.v + size, number, worker))

    def stop(self, worker: int) -> None:
        """The one of a worker is over, or given up."""
        self.ends.pop(worker, None)

    def next(self) -> tuple[float, int]:
        """When the next one is over, and whose it is."""
        while self.heap and self.ends.get(self.heap[0][2]) != self.heap[0][1]:
            heapq.heappop(self.heap)
        if not self.heap:
            return np.inf, -1
        return self.now + max(0.0, self.heap[0][0] - self.v) / self._rate(), self.heap[0][2]


class _Running:
    """One stage, event by event."""

    def __init__(self, stage: Stage, cluster: Cluster, nodes: _Nodes, seconds: Seconds, now: float) -> None:
        self.stage, self.cluster, self.nodes, self.seconds = stage, cluster, nodes, seconds
        self.bucket, self.now, self.begun = cluster.bucket, now, now
        self.told = StageTime(stage.name)
        self.longest = float(seconds.max(initial=0.0))
        self.left, self.waiting = iter(range(stage.tasks)), deque[int]()
        self.flying = self.done = 0
        self.driver = False  # has a task in hand
        self.idle = deque(w for w in range(cluster.workers) if int(nodes.of[w]) not in nodes.gone)
        self.own: dict[int, tuple[int, float, Iterator[object]]] = {}  # task, its begin, and steps left, by worker
        self.copies: dict[int, list[int] | None] = {}  # workers that wait for a node's copy; None once it is there
        self.transfers, self.timers, self.numbers = _Transfers(cluster.bucket), list[tuple[float, int, int]](), count()
        self.valid: dict[int, int] = {}  # number of the timer of each worker that has one

    def run(self) -> float:
        """When it is done."""
        self.now += self.stage.before
        self.told.alone = self.stage.before
        self.transfers.now = self.now
        while self.nodes.events[0][0] <= self.now:
            self._node(*self.nodes.next())
        self._deal()
        while self.done < self.stage.tasks:
            self._next()
        self.told.seconds = self.now - self.begun
        return self.now

    def _next(self) -> None:
        while self.timers and self.timers[0][2] >= 0 and self.valid.get(self.timers[0][2]) != self.timers[0][1]:
            heapq.heappop(self.timers)
        timer = self.timers[0][0] if self.timers else np.inf
        moved, who = self.transfers.next()
        node = self.nodes.events[0][0]
        self.now = max(self.now, min(timer, moved, node))
        self.transfers.to(self.now)
        if node <= min(timer, moved):
            self._node(*self.nodes.next())
        elif moved <= timer:
            self.transfers.stop(who)
            self._step(who)
        else:
            _, _, worker = heapq.heappop(self.timers)
            if worker < 0:
                self.driver = False
                self.waiting.append(-1 - worker)
            else:
                del self.valid[worker]
                self._step(worker)
        self._deal()

    def _deal(self) -> None:
        """The driver takes tasks in hand, idle workers what is dealt out."""
        while not self.driver and self.flying < self.cluster.ahead * self.cluster.workers:
            if (task := next(self.left, None)) is None:
                break
            self.flying += 1
            if self.stage.handling:
                self.driver = True
                heapq.heappush(self.timers, (self.now + self.stage.handling, next(self.numbers), -1 - task))
            else:
                self.waiting.append(task)
        while self.waiting and self.idle:
            worker, task = self.idle.popleft(), self.waiting.popleft()
            self.own[worker] = task, self.now, self._steps(worker, task)
            self._step(worker)

    def _steps(self, worker: int, task: int) -> Iterator[object]:
        """What a worker does for a task: each step ends by an event."""
        stage, node = self.stage, int(self.nodes.of[worker])
        answer = stage.requests * self.bucket.latency
        if stage.copied and self.copies.get(node, []) is not None:
            if node in self.copies:
                self.copies[node].append(worker)  # type: ignore[union-attr]
                yield None
            else:
                self.copies[node] = []
                self._move(worker, stage.copied)
                yield None
                others, self.copies[node] = self.copies[node] or [], None
                for other in others:
                    self._wait(other, 0.0)
        if stage.read:
            yield self._wait(worker, answer)
            yield self._move(worker, stage.read)
        yield self._wait(worker, float(self.seconds[task]) + (answer if stage.write else 0.0))
        if stage.write:
            yield self._move(worker, stage.write)

    def _wait(self, worker: int, seconds: float) -> None:
        self.valid[worker] = number = next(self.numbers)
        heapq.heappush(self.timers, (self.now + seconds, number, worker))

    def _move(self, worker: int, size: float) -> None:
        self.told.moved += size
        self.transfers.start(worker, size)

    def _step(self, worker: int) -> None:
        """Go on to the next step of a worker's task, or be done with it."""
        task, begun, steps = self.own[worker]
        for _ in steps:
            return
        del self.own[worker]
        self.done += 1
        self.flying -= 1
        self.told.busy += float(self.seconds[task])
        self.told.moving += self.now - begun - float(self.seconds[task])
        self.idle.append(worker)

    def _node(self, node: int, what: str) -> None:
        """A node ends: its workers' tasks wait again, first of all. Or another comes in its place."""
        own = np.flatnonzero(self.nodes.of == node).tolist()
        if what == "comes":
            self.idle.extend(own)
            return
        self.copies.pop(node, None)
        for worker in own:
            self.valid.pop(worker, None)
            self.transfers.stop(worker)
            if worker in self.own:
                task, begun, _ = self.own.pop(worker)
                self.told.lost += self.now - begun
                self.waiting.appendleft(task)
        gone = set(own)
        self.idle = deque(w for w in self.idle if w not in gone)
