"""A dataset's shards driven to their end: what is missing is built, whole groups are folded, documents come last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline.catalog.describe import dataset_document, fingerprint_of, write_documents
from pipeline.catalog.fold import finished, fold, groups, purge
from pipeline.driver.log import log_shard
from pipeline.run.ray_map import Runner
from pipeline.samples.job import ShardJob
from pipeline.samples.work import build_shard
from schemas.catalog import SHARDS_PER_FILE, STAGES, catalog_file
from schemas.errors import ConfigError, DatasetError
from schemas.features import DROPS
from storage.dataset import BEGUN, EXCHANGE, load_dataset, read_begun
from storage.locks import one_writer
from storage.progress import Progress, StageRow
from storage.status import Status
from storage.store import Store
from storage.urls import is_local

#: Samples that one process builds in about the time that Ray takes to start.
_SMALL = 500


def open_out(out: str, name: str, runner: Runner) -> Store:
    """The dataset directory of a run: ``out``, or data/NAME."""
    if is_local(out):
        return Store(out or f"data/{name}")
    if out.startswith("memory://") and runner.workers > 1:
        raise ConfigError("out=memory://… is seen by one process alone; give workers=1")
    return Store(out)


@dataclass(frozen=True)
class Identity:
    """What decides a dataset's bytes."""

    config: dict[str, Any]  # settings, but those of execution
    sources: list[dict[str, Any]]  # every input with its hash, licence and date
    footprints: str  # SHA-256 of those planned, in their shards
    versions: dict[str, str]  # of libraries, and a hash of our own code

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all of it."""
        return fingerprint_of(vars(self))

    @property
    def salt(self) -> str:
        """SHA-256 (hex) of what decides the bytes of every shard; each has its own share of the rest."""
        return sha256(json.dumps([self.config, self.versions], sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return dict(json.loads(json.dumps(vars(self) | {"fingerprint": self.fingerprint})))

    def differs(self, other: dict[str, Any]) -> str:
        """In what another identity (`as_dict`) differs, in words."""
        mine = self.as_dict()
        found = [
            f"{name} ({_shown(before)} there, {_shown(now)} here)"
            for name, before, now in _changed(other.get("config", {}), mine["config"])
        ]
        there, here = ({s["name"]: s for s in d.get("sources", [])} for d in (other, mine))
        found += [f"input {name}" for name in sorted(here | there) if here.get(name) != there.get(name)]
        found += [f"version of {name}" for name, *_ in _changed(other.get("versions", {}), mine["versions"])]
        return ", ".join(found[:6]) or "the footprints that are planned"


class _InTurn(Sequence[ShardJob]):
    """The jobs of some shards, each made when it is asked for: together they hold more than the plan does."""

    def __init__(self, shards: list[int], job: Callable[[int], ShardJob]) -> None:
        self.shards, self._job = shards, job

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: Any) -> Any:
        return self._job(self.shards[number])


def _changed(before: dict[str, Any], now: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Names of the values that differ, in full, with both."""
    for name in sorted(before.keys() | now.keys()):
        a, b = before.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _changed(a, b, f"{where}{name}.")
        elif a != b:
            yield f"{where}{name}", a, b


def _shown(value: Any) -> str:
    return json.dumps(value)[:40]


@dataclass
class Run:
    """One run into one dataset directory."""

    store: Store
    name: str
    identity: Identity
    began: float  # time.monotonic()
    stages: list[StageRow] = field(default_factory=list)
    built: int = 0  # shards written by this run, those taken over among them
    adopted: int = 0  # shards taken over from an earlier version
    status: Status = field(default_factory=lambda: Status("shards"))

    @contextmanager
    def writing(self, whole: bool = True) -> Iterator[None]:
        """Hold the directory; what killed runs left is swept before and after. Without ``whole`` the dataset stays
        begun: other runs do the rest.

        Raises:
            LockError: another process writes there.
            DatasetError: it holds another dataset.
        """
        with one_writer(self.store.root):
            self.store.sweep()
            self._claim()
            yield
            if whole:
                self.store.remove(BEGUN)
            self.store.sweep()

    def _claim(self) -> None:
        """Make sure that the directory is empty, or was begun or finished by the same run."""
        found = None
        if self.store.exists("dataset.json") or self.store.exists(EXCHANGE):  # no version until it is done
            found = load_dataset(self.store)
        elif self.store.names("shards"):  # a run that wrote nothing claims nothing
            found = read_begun(self.store) if self.store.exists(BEGUN) else {}
        if found is None:
            self.store.write(BEGUN, json.dumps(self.identity.as_dict()).encode())
        elif found.get("fingerprint") != self.identity.fingerprint:
            what = self.identity.differs(found) if found else "what it was made from, which it does not say"
            raise DatasetError(
                f"{self.store.root} holds another dataset: it differs in {what}; choose another out, or delete that "
                "folder"
            )

    def build(
        self,
        runner: Runner,
        sizes: Sequence[int],
        job: Callable[[int], ShardJob],
        quiet: bool,
        only: int | None = None,
    ) -> None:
        """Build the shards that are missing; fold each group of them as soon as it is whole.

        Args:
            runner: builds them side by side.
            sizes: footprints of each shard.
            job: of a shard, which is asked for when it is its turn.
            quiet: no progress.
            only: the one group whose shards are built; None: all.
        """
        start = time.monotonic()
        self.status.enter("samples")
        done, folded = finished(self.store)
        members = {n: group for n, group in enumerate(groups(len(sizes))) if only in (None, n)}
        jobs = _InTurn([i for group in members.values() for i in group if i not in done], job)
        planned = sum(sizes[i] for i in jobs.shards)
        counts = {"samples": 0, "drops": 0}
        memory, write_seconds = 0.0, 0.0
        with Progress("samples", planned, "footprints", quiet) as progress:
            self.status.tell()  # of a queue that may be done before the next word is due
            for _, result, worker_memory in runner.map(build_shard, jobs, small=planned < _SMALL):
                done.add(result.index)
                memory = max(memory, worker_memory)
                write_seconds += result.write_seconds
                self.adopted += result.adopted
                for name in counts:
                    counts[name] += getattr(result, name)
                progress.advance(result.planned)
                log_shard(result, worker_memory, progress.display, self.status)
                number = result.index // SHARDS_PER_FILE
                if done.issuperset(members[number]):
                    fold(self.store, number, members[number])
                    folded.add(number)
        for number, group in members.items():  # what an interrupted run left
            if number in folded:
                purge(self.store, group)
            else:
                fold(self.store, number, group)
        self.built = len(jobs)
        self.stages += [
            StageRow.since(start, "samples", counts["samples"], "samples", memory, counts["drops"], not jobs),
            StageRow("shards", len(jobs), "shards", write_seconds, memory, 0, not jobs),
        ]

    def finish(self, vocabulary: pa.Table, drops: pa.Table, classes: pa.Table) -> dict[str, Any]:
        """Write what belongs to no shard: the vocabulary, drops before there were samples, the classes of the rasters,
        stages and documents.

        Returns:
            The content of dataset.json.
        """
        start = time.monotonic()
        self.status.enter("catalog")
        self.store.write_table(catalog_file("vocabulary", 0), vocabulary.replace_schema_metadata(None))
        self.store.write_table("catalog/drops/before-tiles.parquet", drops.cast(DROPS))
        self.store.write_table(catalog_file("classes", 0), classes)
        document = dataset_document(self.store, self.name, self.identity.as_dict())
        self.stages.append(StageRow.since(start, "catalog", document["samples"], "samples"))
        most = max(s.peak_memory_mb for s in self.stages)
        self.stages.append(StageRow.since(self.began, "total", document["samples"], "samples", most))
        if self.built or not self.store.exists("dataset.json"):
            rows = pa.Table.from_pylist([s.as_dict() for s in self.stages], schema=STAGES)
            self.store.write_table(catalog_file("stages", 0), rows)
            write_documents(self.store, document)
        return document
