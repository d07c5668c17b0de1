"""``geoshards status DIR|URL``: how far a build or a training is, told to whoever asks from elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from schemas.command import Command
from schemas.errors import ConfigError, DatasetError, GeoshardsError
from storage.dataset import EXCHANGE, find_catalog, load_dataset, unfinished
from storage.progress import REDRAW, duration, format_table
from storage.status import FAILED, FINISHED, GONE, NAME, RUNNING, STOPPED, Snapshot, read_status
from storage.store import Store
from storage.text import visible

#: Seconds between two looks with --watch.
_LOOK = 2.0
#: Where an update says how far it is: in the folder of the version that it makes.
_OF_UPDATE = f"{EXCHANGE.partition('/')[0]}/{NAME}"
_WORDS = {
    RUNNING: "running", FINISHED: "finished", FAILED: "failed", STOPPED: "stopped",
    GONE: "no longer running; the same command goes on",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What there is to say of a folder."""

    out: str
    state: str  # as in `storage.status`
    run: Snapshot | None  # None: no run says anything of itself
    dataset: dict[str, Any] | None  # what dataset.json says, if that is whole
    stages: list[dict[str, Any]]  # of the dataset
    age: float | None  # seconds since the run's last word


def look(directory: str) -> View:
    """How a run stands that makes ``directory``, or what it has made.

    Raises:
        DatasetError: nothing is there.
    """
    store = Store(directory)
    said = [s for s in (read_status(store), read_status(store, _OF_UPDATE)) if s is not None]
    if said:
        run, now = max(said, key=lambda s: s.written), time.time()
        return View(store.root, run.standing(now), run, None, [], max(0.0, now - run.written))
    if not store.exists("dataset.json"):
        if unfinished(store):
            return View(store.root, GONE, None, None, [], None)
        raise DatasetError(
            f"{store.root} holds neither a dataset nor a run; a build that has just begun says so after some seconds"
        )
    stages = find_catalog(store, "stages")
    rows = [] if stages is None else stages.to_pylist()
    return View(store.root, FINISHED, None, load_dataset(store), rows, None)


def document(view: View) -> dict[str, Any]:
    """A view as JSON: one shape, whatever there is."""
    found: dict[str, Any] = {"out": view.out, "state": view.state, "age": view.age and round(view.age, 1)}
    if view.run is not None:
        run = asdict(view.run)
        found |= {name: run[name] for name in _SAID} | {"errors": _errors(view.run), "cost": _cost(view.run)}
        found |= {"host": run["owner"].get("host"), "pid": run["owner"].get("pid")}
    if view.dataset is not None:
        found |= {name: view.dataset.get(name) for name in ("samples", "shards", "bytes", "content_hash")}
    return found | {"stages": view.stages}


_SAID = ("kind", "name", "began", "written", "stage", "lines", "done", "drops", "values", "reason")


def _errors(run: Snapshot) -> dict[str, Any]:
    return {"retries": run.usage.get("retries", 0), "last": run.retried, "reason": run.reason}


def _cost(run: Snapshot) -> dict[str, Any]:
    used = {name: value for name, value in run.usage.items() if name != "retries"}
    hours = round(float(used.get("cpu_seconds", 0.0)) / 3600, 4)
    return {"seconds": round(run.written - run.began, 1), "core_hours": hours, **used, "memory_mb": run.memory_mb}


def lines(view: View) -> list[str]:
    """A view in words."""
    run = view.run
    if run is None:
        return _of_dataset(view)
    who = f"process {run.owner.get('pid')} on {run.owner.get('host')}"
    at = f", stage {run.stage}" if run.stage else ""
    found = [f"{view.out}: {run.kind} {_WORDS[view.state]}{at}; {who}, last word {view.age:.0f} s ago"]
    if run.reason:
        found.append(f"  reason:  {run.reason}")
    found += [f"  {reading}" for reading in run.readings()]
    if run.values:
        found.append("  " + "  ".join(f"{name} {value:.4g}" for name, value in run.values.items()))
    if run.done:
        found.append(f"  done:    {_counted(run.done)}")
    found.append(f"  drops:   {_counted(run.drops) or 'none so far'}")
    errors = _errors(run)
    again = f"{errors['retries']:,} attempts had to be repeated (the last: {errors['last']})"
    found.append(f"  errors:  {again if errors['retries'] else 'none so far'}")
    cost = _cost(run)
    moved = ", ".join(f"{cost.get(f'bytes_{way}', 0) / 1e9:,.2f} GB {way}" for way in _WAYS)
    took = f"{duration(cost['seconds'])} so far, {cost['core_hours']:,.2f} core-hours ({cost['cpu_seconds']:,.0f} s)"
    found.append(f"  cost:    {took}, {moved}, peak {cost['memory_mb']:,.0f} MB")
    return found


_WAYS = ("read", "written", "fetched", "sent")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _of_dataset(view: View) -> list[str]:
    d = view.dataset
    if d is None:
        return [f"{view.out}: {_WORDS[view.state]}; no run says that it is at it"]
    size = f"{d['samples']:,} samples, {d['shards']:,} shards, {d['bytes'] / 1e6:,.1f} MB"
    table = format_table(view.stages).splitlines() if view.stages else []
    return [f"{view.out}: {_WORDS[view.state]}: {size}, content {d['content_hash'][:12]}", *table]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="what is being made: dataset directory, folder of a training, or its URL")
    parser.add_argument("--watch", action="store_true", help="look again and again, until the run has ended")
    parser.add_argument("--every", type=float, default=_LOOK, help=f"seconds between looks (default {_LOOK:g})")
    parser.epilog = (
        "status 0; with --watch 1 where the run ends without a result\n"
        "examples:\n  geoshards status data/europe --watch\n  geoshards status s3://bucket/europe --json"
    )


def _run(args: argparse.Namespace) -> int:
    if args.every < REDRAW:
        raise ConfigError(f"--every {args.every:g} is too often; give {REDRAW:g} or more seconds")
    if not args.watch:
        _show([look(args.directory)], args)
        return 0
    view = _show(_looks(args.directory, args.every), args)
    return 0 if view is not None and view.state == FINISHED else 1


def _looks(directory: str, every: float) -> Iterator[View]:
    """Looks at a run until it has ended."""
    seen = False
    while True:
        try:
            view = look(directory)
        except GeoshardsError:
            if not seen:
                raise
            raise DatasetError(f"{directory}: the run has ended, and has made nothing") from None
        yield view
        if view.state != RUNNING:
            return
        seen = True
        time.sleep(every)


def _show(views: Any, args: argparse.Namespace) -> View | None:
    """Print views, one in the place of the other at a terminal; the last."""
    drawn, last = 0, None
    for last in views:
        if args.json:
            print(json.dumps(document(last)), flush=True)
            continue
        text = [visible(line) for line in lines(last)]
        up = f"\x1b[{drawn}F\x1b[J" if drawn and sys.stdout.isatty() else ""
        print(up + "\n".join(text), flush=True)
        drawn = len(text)
    return last


COMMAND = Command("Say how far a build or a training is, what it has dropped and what it has cost", _configure, _run)
