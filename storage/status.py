"""What a run says of itself while it works: one small document beside what it makes, written anew every few seconds.

It is no part of the result: its name is hidden, so that no manifest holds it, and a build that ends well takes it away.
A run that was killed cannot do that; whoever reads it asks whether its process lives, or, where that cannot be known,
how old the document is.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from schemas.errors import DatasetError, GeoshardsError, LockError, at_the_door
from storage.locks import SILENCE
from storage.owner import Owner
from storage.progress import Reading, Usage, open_lines, peak_memory_mb
from storage.retry import TRAFFIC
from storage.store import Store

#: The document's name in the folder of a run.
NAME = ".status.json"
#: Seconds between two writings on a disk, and into a store. A run that ends before the first says nothing.
EVERY, EVERY_REMOTE = 2.0, 10.0
#: Seconds that the end of a run waits for a store that is slow to take its word.
_PATIENCE = 10.0
#: How a run stands: `gone` is what a reader says of one that was killed.
RUNNING, FINISHED, FAILED, STOPPED, GONE = "running", "finished", "failed", "stopped", "gone"
#: Types of JSON that the fields of a snapshot take.
_KINDS: dict[str, Any] = {"str": str, "float": (int, float), "dict": dict, "list": list}
#: What no number in it reaches.
_LARGEST = 1e18


@dataclass(frozen=True)
class Snapshot:
    """How a run stands at one moment."""

    kind: str  # shards | train
    name: str  # of what it makes
    owner: dict[str, Any]  # `Owner` of the process that says so
    began: float  # seconds since 1970
    written: float
    every: float  # seconds to the next
    state: str = RUNNING
    reason: str = ""  # why it failed
    stage: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)  # `Reading` of each thing that it is at
    done: dict[str, int] = field(default_factory=dict)  # what this run has made so far, by unit
    drops: dict[str, int] = field(default_factory=dict)  # by reason
    values: dict[str, float] = field(default_factory=dict)  # of the last step of a training
    usage: dict[str, Any] = field(default_factory=dict)  # `Usage` of all of its processes
    memory_mb: float = 0.0  # peak of the largest process of the stage
    retried: str = ""  # what failed last and was asked for again

    def readings(self) -> list[Reading]:
        """What it is at."""
        names = [f.name for f in fields(Reading)]
        return [Reading(**{name: line[name] for name in names}) for line in self.lines]

    def standing(self, now: float) -> str:
        """Its state at ``now`` (seconds since 1970), as a reader sees it."""
        if self.state != RUNNING:
            return self.state
        owner = Owner.parse(json.dumps(self.owner))
        alive = None if owner is None else owner.alive()
        if alive is None:  # another machine's
            alive = now - self.written <= max(SILENCE, 3 * self.every)
        return RUNNING if alive else GONE


def read_status(store: Store, name: str = NAME) -> Snapshot | None:
    """What the last run in a folder says of itself; None where none does.

    Raises:
        DatasetError: what is there is no such document.
    """
    try:
        data = store.read(name)
    except DatasetError:
        if not store.exists(name):
            return None
        raise
    with at_the_door(f"{store.path(name)} is no status of a run", "delete it", DatasetError):
        return _parse(json.loads(data))


def _parse(found: Any) -> Snapshot:
    """A snapshot of what JSON holds.

    Raises:
        TypeError, KeyError, ValueError: it is none.
    """
    values: dict[str, Any] = {}
    for f in fields(Snapshot):
        value = found[f.name]
        kind = _KINDS[str(f.type).partition("[")[0]]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{f.name}: {value!r}")
        values[f.name] = value
    snapshot = Snapshot(**values)
    snapshot = replace(snapshot, usage=Usage(**snapshot.usage).as_dict())
    readings = snapshot.readings()
    counts = (snapshot.done, snapshot.drops, snapshot.values, snapshot.usage, vars(snapshot))
    numbers = [n for own in counts for n in own.values() if own is not vars(snapshot) or isinstance(n, (int, float))]
    numbers += [n for reading in readings for n in (reading.done, reading.total, reading.rate)]
    if not all(isinstance(n, (int, float)) and abs(n) < _LARGEST for n in numbers):  # nor is it NaN
        raise TypeError("a number is none")
    if snapshot.state not in (RUNNING, FINISHED, FAILED, STOPPED):
        raise ValueError(snapshot.state)
    return snapshot


class Status:
    """What one run says of itself.

    Args:
        kind: what runs: shards | train.
        others: what its other processes have used.
        memory: peak in MB of the largest of them in this stage.
        told: called with each snapshot, before it is written.
    """

    def __init__(
        self,
        kind: str,
        others: Callable[[], Usage] = Usage,
        memory: Callable[[], float] = lambda: 0.0,
        told: Sequence[Callable[[Snapshot], object]] = (),
    ) -> None:
        self.kind, self.others, self.memory, self.told = kind, others, memory, told
        self.name = self.stage = ""
        self.values: Mapping[str, float] = {}
        self.line: Reading | None = None  # in place of the open lines of this process
        self.done: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self._store: Store | None = None
        self._began, self._before = time.time(), Usage.here()
        self._over, self._telling = threading.Event(), threading.Lock()
        self._is_there = self._fails = False

    def snapshot(self, state: str = RUNNING, reason: str = "") -> Snapshot:
        """How it stands now."""
        lines = [line.reading() for line in open_lines()] if self.line is None else [self.line]
        usage = Usage.here() - self._before + self.others()
        return Snapshot(
            self.kind, self.name, asdict(Owner.here()), self._began, time.time(), self._every(), state, reason,
            self.stage,
            lines=[line.as_dict() for line in lines],
            done=dict(self.done),
            drops=dict(self.drops.most_common()),
            values=dict(self.values),
            usage=usage.as_dict(),
            memory_mb=round(max(peak_memory_mb(), self.memory()), 1),
            retried=TRAFFIC.last,
        )  # fmt: skip

    @contextmanager
    def telling(
        self, root: str = "", stay: bool = False, halts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    ) -> Iterator[None]:
        """Say how it stands every few seconds, until the block ends.

        Args:
            root: folder or URL of what the run makes; empty: not known yet, see `at`.
            stay: a run that ends well leaves its last word; else it takes it away.
            halts: what ends a run that was told to stop; all else has failed.
        """
        if root:
            self.at(root)
        thread = threading.Thread(target=self._follow, name="status", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            state = STOPPED if isinstance(error, halts) else FAILED
            stay = not isinstance(error, LockError)  # another run speaks for the folder
            self._end(thread, state, str(error) or type(error).__name__, stay)
            raise
        self._end(thread, FINISHED, "", stay)

    def at(self, root: str) -> None:
        """Say it in this folder from now on."""
        self._store = Store(root)

    def enter(self, stage: str) -> None:
        """Another stage begins; the one before has its last word, however short it was."""
        if self.stage:
            self.tell()
        self.stage = stage

    def tell(self) -> None:
        """Tell how it stands now those who follow in this process."""
        self._tell(self.snapshot())

    def _every(self) -> float:
        return EVERY_REMOTE if self._store is not None and self._store.remote else EVERY

    def _follow(self) -> None:
        while not self._over.wait(self._every()):
            self._say(self.snapshot())

    def _say(self, snapshot: Snapshot) -> None:
        self._tell(snapshot)
        self._write(snapshot)

    def _tell(self, snapshot: Snapshot) -> None:
        with self._telling:
            for tell in self.told:
                tell(snapshot)

    def _write(self, snapshot: Snapshot | None) -> None:
        """Put the document, or take it away. A status that cannot be told ends no run: what is wrong with the folder is
        said where the run was started."""
        if self._store is None:
            return
        self._fails = True
        with suppress(GeoshardsError, OSError):
            if not self._is_ours():
                return
            if snapshot is None:
                self._store.remove(NAME)
            else:
                self._store.write(NAME, json.dumps(asdict(snapshot)).encode(), durable=False)
                self._is_there = True
            self._fails = False

    def _is_ours(self) -> bool:
        """Whether there is no word of another run that lives."""
        assert self._store is not None
        with suppress(DatasetError):
            found = read_status(self._store)
            return found is None or found.owner == asdict(Owner.here()) or found.standing(time.time()) != RUNNING
        return True  # no status

    def _end(self, thread: threading.Thread, state: str, reason: str, stay: bool = True) -> None:
        """The last word; none of a run that ends badly before its first, or that the store has no ear for. What
        a killed one has left goes too."""
        self._over.set()
        thread.join(_PATIENCE)
        last = self.snapshot(state, reason)
        self._tell(last)
        if not thread.is_alive() and not self._fails and (self._is_there or state == FINISHED):
            self._write(last if stay else None)
