"""What the tasks of a build take: noted while it runs in one process, kept as JSON, and as stages of a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tools.simulate import Stage

from pipeline.driver import shards
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig

#: The functions that builds map over tasks: the stage's name, and what the number of its tasks and the driver's work
#: before them grow with: bytes of the extracts, or tiles.
STAGES = {
    "read_nodes_and_relations": ("nodes", "pbf"),
    "write_points": ("points", "pbf"),
    "read_ways": ("ways", "pbf"),
    "read_areas": ("areas", "pbf"),
    "cover": ("ground", "pbf"),
    "cut_slab": ("cells, cut", "pbf"),
    "merge_run": ("cells, merged", "pbf"),
    "count_objects": ("plan", "tiles"),
    "build_shard": ("samples", "tiles"),
}
#: The stage after which what its tasks wrote is fetched by each node, and the one before which: positions of nodes.
_WRITES_NODES, _READS_NODES = "nodes", "ways"
#: Share of a tile's time that grows with its objects: `tokens.py` makes 433 tiles/s of 40 objects, 1,866 of 4.
OF_OBJECTS = 0.85
#: Bytes of one request at most, reading and writing in ranges and parts.
_PIECE = 16e6


@dataclass
class Noted:
    """Tasks of one stage."""

    name: str
    grows_with: str  # pbf | tiles
    before: float  # seconds that the driver worked since the stage before
    once: float = 0.0  # of them, those that do not grow
    seconds: list[float] = field(default_factory=list)  # of each task
    read: float = 0.0  # bytes of all tasks
    write: float = 0.0
    handling: float = 0.0  # seconds of the driver between tasks


@dataclass(frozen=True)
class Measured:
    """A build in one process; seconds are of ``clock``."""

    clock: str  # wall | cpu
    pbf_bytes: int
    tiles: int
    shards: int
    zoom: int
    stages: list[Noted]  # the last one is what the driver does after all tasks
    crowding: float = 1.0  # by how much two processes slow each other down
    starting: float = 0.0  # seconds until a second process is there
    dispatch: float = 0.0  # seconds of the driver to send a task elsewhere and take its result

    @property
    def seconds(self) -> float:
        """Of all of it, in one process."""
        return sum(s.before + sum(s.seconds) + s.handling for s in self.stages)

    def faster(self, factor: float) -> Measured:
        """On cores that are faster by a factor."""
        return replace(
            self, dispatch=self.dispatch / factor,
            stages=[
                replace(
                    s, before=s.before / factor, once=s.once / factor, handling=s.handling / factor,
                    seconds=[v / factor for v in s.seconds],
                )
                for s in self.stages
            ],
        )  # fmt: skip

    def beside(self, small: Measured) -> Measured:
        """With what the driver does once, whatever the size, told from what grows by a smaller build of its kind."""

        def parted(own: Noted) -> Noted:
            size = "pbf_bytes" if own.grows_with == "pbf" else "tiles"
            there = next((s.before for s in small.stages if s.name == own.name), own.before)
            share = getattr(small, size) / getattr(self, size)
            once = (there - share * own.before) / (1 - share) if share < 1 else 0.0  # the line through both, at size 0
            return replace(own, once=min(max(once, 0.0), own.before))

        return replace(self, stages=[parted(s) for s in self.stages])

    def denser(self, factor: float) -> Measured:
        """With so many times the objects in a tile."""
        longer = 1 - OF_OBJECTS + OF_OBJECTS * factor
        return replace(self, stages=[_scaled(s, longer) if s.name == "samples" else s for s in self.stages])

    def with_images(self, seconds: float, read: float, write: float) -> Measured:
        """With an image for each tile: seconds of work, and bytes."""

        def pictured(own: Noted) -> Noted:
            more = seconds * self.tiles / len(own.seconds)
            return replace(
                own, seconds=[v + more for v in own.seconds], read=own.read + read * self.tiles,
                write=own.write + write * self.tiles,
            )  # fmt: skip

        return replace(self, stages=[pictured(s) if s.name == "samples" else s for s in self.stages])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = asdict(self)
        for stage in found["stages"]:
            stage["seconds"] = [round(s, 4) for s in stage["seconds"]]
            stage |= {name: round(stage[name], 4) for name in ("before", "once", "handling")}
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Measured:
        """Of `as_dict`."""
        return cls(**found | {"stages": [Noted(**s) for s in found["stages"]]})

    def stages_of(self, pbf_bytes: float, tiles: float, workers: int) -> list[Stage]:
        """The stages of another build: as many more tasks as it has more bytes, or tiles; times are drawn from those
        measured, or are those, where it is this very build."""
        found, positions = list[Stage](), 0.0
        slower, sent = (self.crowding, self.dispatch) if workers > 1 else (1.0, 0.0)
        for own in self.stages:
            more = pbf_bytes / self.pbf_bytes if own.grows_with == "pbf" else tiles / self.tiles
            count = len(own.seconds)
            tasks = max(1, round(count * more)) if count else 0
            read, write = (own.read / count, own.write / count) if count else (0.0, 0.0)
            found.append(
                Stage(
                    own.name, np.array(own.seconds) * slower, tasks, read, write,
                    float(np.ceil(max(read, write, 1.0) / _PIECE)), positions if own.name == _READS_NODES else 0.0,
                    own.once + (own.before - own.once) * more, (own.handling / count if count else 0.0) + sent,
                )
            )  # fmt: skip
            if own.name == _WRITES_NODES:
                positions = write * tasks
        return found


def _scaled(own: Noted, factor: float) -> Noted:
    """Tasks that take, read and write more by a factor."""
    return replace(own, seconds=[v * factor for v in own.seconds], read=own.read * factor, write=own.write * factor)


class Recorder(Runner):
    """A runner of one worker that notes its tasks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(1)
        self.clock, self.stages = clock, list[Noted]()
        self._last = clock()

    def _lap(self) -> float:
        before, self._last = self._last, self.clock()
        return self._last - before

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], **how: bool
    ) -> Iterator[tuple[int, Any, float]]:
        """As of `Runner`."""
        noted = self._begin(getattr(function, "__name__", type(function).__name__))

        def timed(item: Any) -> Any:
            noted.handling += self._lap()
            before = _moved()
            result = function(item)
            noted.seconds.append(self._lap())
            after = _moved()
            noted.read += after[0] - before[0]
            noted.write += after[1] - before[1]
            return result

        yield from super().map(timed, items, **how)

    def _begin(self, function: str) -> Noted:
        name, grows_with = STAGES.get(function, (function, "pbf"))
        noted = Noted(name, grows_with, self._lap())
        self.stages.append(noted)
        return noted

    def done(self) -> None:
        """What the driver did after the last task."""
        self.stages.append(Noted("catalog", "tiles", self._lap()))


def measure(config: ShardsConfig, clock: str) -> Measured:
    """Build a dataset in this process, from its extract to its catalog, with a cache that is empty."""
    recorder = Recorder(time.process_time if clock == "cpu" else time.perf_counter)
    usual, shards.Runner = shards.Runner, lambda _: recorder  # type: ignore[assignment,misc]  # the one place where a build makes one
    try:
        outcome = shards.make_shards(config, quiet=True)
    finally:
        shards.Runner = usual  # type: ignore[misc]
    recorder.done()
    planned = {s.stage: s.items for s in outcome.stages}
    return Measured(
        clock, Path(config.region).stat().st_size, planned["plan"], planned["shards"], config.zoom or 0,
        [s for s in recorder.stages if s.seconds or s.before > 0],
    )  # fmt: skip


def _moved() -> tuple[int, int]:
    """Bytes that this process has read from files and written to them; what is mapped is not among them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    found = dict(line.split(": ") for line in lines)
    return int(found["rchar"]), int(found["wchar"])
