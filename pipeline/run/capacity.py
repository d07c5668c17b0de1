"""What a cluster has room for: how many tasks are in flight follows its nodes, their memory is declared as measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from storage.progress import peak_memory_mb

#: Tasks in flight for each core, so that a node that is done need not wait for the driver, and an autoscaler sees what
#: waits; seconds between two looks at the nodes.
_AHEAD, LOOK = 2, 2.0
#: What is declared beyond the most that was measured: a share of it, and bytes.
_MARGIN, _SPARE = 1.25, 64 << 20
#: Seconds between two looks at a task's memory.
_SAMPLE = 0.05


class Capacity:
    """The nodes of a cluster as they come and go, and what tasks have taken.

    Args:
        nodes: asks for the cluster's nodes, as ``ray.nodes`` does.
        most: tasks that run at once at most; 0: as many as there are cores.
    """

    def __init__(self, nodes: Callable[[], list[dict[str, Any]]], most: int = 0) -> None:
        self._nodes, self._most = nodes, most
        self._seen, self._cores, self._largest = -LOOK, 0.0, 0.0
        self._peaks: dict[str, float] = {}

    def width(self) -> int:
        """Tasks to have in flight now."""
        self._look()
        cores = int(self._cores) if not self._most else min(int(self._cores), self._most)
        return _AHEAD * max(1, cores)  # one is asked for where there is no node: it may come for it

    def measured(self, name: str, megabytes: float) -> None:
        """What a task of that name has taken."""
        self._peaks[name] = max(self._peaks.get(name, 0.0), megabytes)

    def memory(self, name: str) -> int:
        """Bytes to declare for a task of that name; 0 as long as none is measured. Never more than the largest node
        has: what no node can have would wait without end."""
        if name not in self._peaks:
            return 0
        self._look()
        return int(min(self._peaks[name] * (1 << 20) * _MARGIN + _SPARE, self._largest or 0))

    def _look(self) -> None:
        if time.monotonic() - self._seen < LOOK:
            return
        own = [node["Resources"] for node in self._nodes() if node["Alive"]]
        self._cores = sum(resources.get("CPU", 0.0) for resources in own)
        self._largest = max((resources.get("memory", 0.0) for resources in own), default=0.0)
        self._seen = time.monotonic()


def name_of(function: Callable[..., Any]) -> str:
    """A name under which tasks of a function, or of what it is wrapped in, are measured."""
    while isinstance(function, partial):
        function = function.args[0] if function.args and callable(function.args[0]) else function.func
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


def watched(function: Callable[[Any], Any], item: Any) -> tuple[Any, float]:
    """A result, and the most memory in MB that the process held of its own meanwhile: files that it maps are not
    counted, the system takes them back where it needs room."""
    most, done = anonymous_mb(), threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(_SAMPLE):
            most = max(most, anonymous_mb())

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        return function(item), max(most, anonymous_mb())
    finally:
        done.set()


def anonymous_mb() -> float:
    """MB that this process holds now and that no file backs; where the system does not say, the most that it held."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return peak_memory_mb()
