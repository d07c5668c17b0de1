"""Numbers of a build for Prometheus, by the road that Ray has for them: each node's own metrics endpoint.

Nothing is said where this process is in no cluster. A rate, tiles a second say, is Prometheus's to make of a counter.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from storage.progress import Reading, Usage
from storage.status import Snapshot

#: Names as Ray takes them (it puts ``ray_`` before each, and ``_total`` behind counters), with their labels.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "geoshards_done": ("Footprints tried, samples made of them, shards written", ("what",)),
    "geoshards_drops": ("What was dropped", ("reason",)),
    "geoshards_bytes": ("Bytes read, written, fetched from and sent to stores and servers", ("way",)),
    "geoshards_cpu_seconds": ("CPU time of all processes of the build", ()),
    "geoshards_retries": ("Times that a store or service had to be asked again", ()),
}
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "geoshards_rate": ("Items a second since the stage began", ("stage", "unit")),
    "geoshards_queue": ("Items that a stage has still to do", ("stage", "unit")),
    "geoshards_memory_bytes": ("Peak memory of the largest process of a stage", ("stage",)),
}


class RayMetrics:
    """Tells Ray of each snapshot of one build; its name is a label of all numbers."""

    def __init__(self) -> None:
        self._dataset = ""
        self._known: dict[str, Any] = {}  # metrics by name
        self._told: dict[tuple[str, ...], float] = {}  # what counters stand at, by name and labels
        self._open: set[tuple[str, str]] = set()  # stages and units whose gauges are not 0

    def __call__(self, snapshot: Snapshot) -> None:
        """Tell of one."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        self._dataset = snapshot.name
        self._tell_stages(snapshot.readings())
        for what, count in snapshot.done.items():
            self._count("geoshards_done", count, {"what": what})
        if snapshot.stage:
            self._set("geoshards_memory_bytes", snapshot.memory_mb * 2**20, {"stage": snapshot.stage})
        for reason, count in snapshot.drops.items():
            self._count("geoshards_drops", count, {"reason": reason})
        usage = Usage(**snapshot.usage)
        for way in ("read", "written", "fetched", "sent"):
            self._count("geoshards_bytes", getattr(usage, f"bytes_{way}"), {"way": way})
        self._count("geoshards_cpu_seconds", usage.cpu_seconds, {})
        self._count("geoshards_retries", usage.retries, {})

    def _tell_stages(self, lines: list[Reading]) -> None:
        """Rate and queue of what goes on; both are 0 of what has ended."""
        now = {(line.name.partition(" of ")[0], line.unit): line for line in lines}
        for key in self._open | now.keys():
            line, labels = now.get(key), dict(zip(("stage", "unit"), key, strict=True))
            self._set("geoshards_rate", line.rate if line else 0.0, labels)
            self._set("geoshards_queue", max(0, line.total - line.done) if line else 0, labels)
        self._open = set(now)

    def _count(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Bring a counter to ``value``."""
        key = (name, *labels.values())
        if (more := value - self._told.get(key, 0.0)) > 0:
            self._metric(name).inc(more, self._labels(labels))
            self._told[key] = value

    def _set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._metric(name).set(value, self._labels(labels))

    def _labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        return {"dataset": self._dataset, **labels}

    def _metric(self, name: str) -> Any:
        if name not in self._known:
            from ray.util.metrics import Counter, Gauge

            kind, (text, labels) = (Counter, COUNTERS[name]) if name in COUNTERS else (Gauge, GAUGES[name])
            self._known[name] = kind(name, text, ("dataset", *labels))
        return self._known[name]
