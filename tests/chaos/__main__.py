"""Everything that can go wrong while builds run: each ends right or with one clear line, and right when run again.

Usage: python -m tests.chaos [--seconds 120] [--kind builds,points] [--first 0] [--rounds N] [--jobs 2]

A round is made from its kind and number alone (moments of kills depend on the machine). Rounds of all kinds take turns,
two at a time. Prints a line for every finding, and a table at the end; the exit status is 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import Any

from tests.chaos import cluster, kinds, stores
from tests.chaos.world import Round, World, die_with_parent, drop, files_of
from tests.driver.test_update import village_change
from tests.driver.village import Village, write_village

KINDS: dict[str, Callable[[Round], None]] = {
    "builds": kinds.builds, "points": kinds.points, "writers": kinds.writers, "readers": kinds.readers,
    "disk": kinds.disk, "clock": kinds.clock, "store": stores.store, "expiry": stores.expiry, "bucket": stores.bucket,
    "cluster": cluster.cluster,
}  # fmt: skip
_STORES = frozenset({"store", "expiry", "bucket"})
#: Of the table, with what they mean.
_COLUMNS = {
    "rounds": "rounds", "right": "ended right", "refused": "one clear line", "killed": "killed",
    "again": "right when run again", "findings": "findings", "lost": "bytes lost", "left": "bytes left over",
}  # fmt: skip


def environment(home: Path) -> None:
    """Nothing of the user's."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "RAY_", "GEOSHARDS_", "XDG_"))]:
        del os.environ[name]
    home.mkdir()
    os.environ.update(
        HOME=str(home), GEOSHARDS_CACHE=str(home / "cache"), OMP_NUM_THREADS="1", AWS_EC2_METADATA_DISABLED="true"
    )


def apart(work: Callable[[], Any]) -> tuple[int, int]:
    """Do something in a fork; its number, and where its result as JSON can be read."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever forked cleans up
            die_with_parent()
            os.close(reading)
            data = json.dumps(work()).encode()
            while data:
                data = data[os.write(writing, data) :]
            status = 0
        except BaseException:  # noqa: BLE001  # as the interpreter does
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    return pid, reading


def result_of(pid: int, reading: int) -> Any:
    """Wait for it."""
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    if os.waitpid(pid, 0)[1] or not data:
        raise SystemExit("error: a round could not be done")
    return json.loads(data)


def make_world(base: Path, address: str, faults: Path, victims: list[str]) -> World:
    """The town, and what a build and those other commands make of it that nothing disturbs."""
    (base / "village").mkdir()
    made = result_of(*apart(lambda: [str(path) for path in vars(write_village(base / "village")).values()]))
    village = Village(*map(Path, made))
    changes = base / "village" / "changes.osc"
    result_of(*apart(lambda: str(village_change(village, changes))))
    world = World(village, {}, {}, changes, {}, 1.0, address, faults)

    def alone() -> Any:
        right, samples, points, seconds = {}, {}, {}, []

        def take(out: Path, which: str) -> None:
            right[which] = files_of(out)
            samples[which] = json.loads((out / "dataset.json").read_text())["samples"]

        for n, name in enumerate(["18", "build", *victims]):
            (folder := base / f"alone-{n}").mkdir()
            case = Round("alone", n, folder, replace(world, right=right))
            out = folder / "out"
            words = world.words(18, out, case.cache) if name == "18" else kinds.prepare_victim(case, name)[0]
            begin, noted = time.monotonic(), base / f"points-{n}"
            done = case.start(words, before=lambda f=folder, i=noted: kinds.note_changes(f, i))
            if done.wait() != 0:
                raise SystemExit(f"error: {words}: {done.errors}")
            seconds.append(time.monotonic() - begin)
            points[name] = noted.read_text().split()
            take(out, {"18": "18", "update": "update"}.get(name, "17"))
            if case.findings:
                raise SystemExit("error: " + "\n".join(case.findings))
        return [right, samples, points, sum(seconds[:2]) / 2]

    right, samples, points, seconds = result_of(*apart(alone))
    files = {which: {n: (size, digest) for n, (size, digest) in own.items()} for which, own in right.items()}
    return replace(world, right=files, samples=samples, points=points, seconds=seconds)


def play(kind: str, number: int, base: Path, world: World) -> dict[str, Any]:
    """One round."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{number}-", dir=base))
    case = Round(kind, number, folder, world)
    try:
        KINDS[kind](case)
    finally:
        case.end()
        drop(folder)
    return {"ends": case.ends, "findings": case.findings, "lost": case.lost, "left": case.left}


def play_all(turns: Iterator[tuple[str, int]], jobs: int, base: Path, world: World) -> dict[str, Counter[str]]:
    """Rounds, so many at a time; what came of each kind."""
    found: dict[str, Counter[str]] = {}
    running: dict[int, tuple[str, int]] = {}  # by where the result is read: kind and process
    try:
        _play_all(turns, jobs, base, world, running, found)
    finally:
        for _, pid in running.values():  # their commands end with them
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return found


def _play_all(
    turns: Iterator[tuple[str, int]],
    jobs: int,
    base: Path,
    world: World,
    running: dict[int, tuple[str, int]],
    found: dict[str, Counter[str]],
) -> None:
    while True:
        while len(running) < jobs and (turn := next(turns, None)) is not None:
            pid, reading = apart(partial(play, *turn, base, world))
            running[reading] = turn[0], pid
        if not running:
            return
        for reading in select.select(list(running), [], [])[0]:
            kind, pid = running.pop(reading)
            result = result_of(pid, reading)
            print("".join(f"{finding}\n" for finding in result["findings"]), end="", flush=True)
            own = found.setdefault(kind, Counter())
            own.update(result["ends"])
            own.update(rounds=1, findings=len(result["findings"]), lost=result["lost"], left=result["left"])


def turns(names: list[str], first: int, rounds: int | None, seconds: float | None) -> Iterator[tuple[str, int]]:
    """Kind and number of each round."""
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    for number in count(first) if rounds is None else range(first, first + rounds):
        for name in names:
            if time.monotonic() > deadline:
                return
            yield name, number


def table(found: dict[str, Counter[str]]) -> str:
    """In Markdown."""
    whole = Counter[str]()
    for own in found.values():
        whole.update(own)
    rows = [["kind", *_COLUMNS.values()], ["---", *("---:" for _ in _COLUMNS)]]
    rows += [[kind, *(f"{own[c]:,}" for c in _COLUMNS)] for kind, own in [*found.items(), ("all", whole)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="begin no round after so many (default 120, unless --rounds)")
    parser.add_argument("--kind", default="", help=f"some of {', '.join(KINDS)}; default all")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--rounds", type=int, help="of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at a time")
    args = parser.parse_args()
    names = [name for name in args.kind.split(",") if name] or list(KINDS)
    if unknown := set(names) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds is 1 or more: none would find nothing")
    seconds = 120.0 if args.seconds is None and args.rounds is None else args.seconds
    signal.signal(signal.SIGTERM, _stop)
    base = Path(tempfile.mkdtemp(prefix=f"chaos-{os.getpid()}-", dir=_in_memory()))
    # In a process of its own: where this one is told to stop it waits, which can be broken off anywhere.
    pid, reading = apart(partial(run, names, args.first, args.rounds, seconds, args.jobs, base))
    try:
        return int(result_of(pid, reading))
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # and with it all that it has started
            os.waitpid(pid, 0)
        for _ in range(50):  # these may still write
            drop(base)
            if not base.exists():
                break
            time.sleep(0.1)


def run(names: list[str], first: int, rounds: int | None, seconds: float | None, jobs: int, base: Path) -> int:
    """All of it, in a folder; 1 where something was found."""
    with ExitStack() as stack:
        environment(base / "home")
        (faults := base / "faults").mkdir()
        for command in entry_points(group="geoshards.commands"):
            if not command.value.startswith("trainers"):
                command.load()
        address = ""
        if _STORES & set(names):
            import s3fs  # noqa: F401  # once for all forks

            address = stack.enter_context(stores.server(faults))
        numbers = [] if rounds is None else range(first, first + rounds)
        some = {kinds.victim_of(number) for number in numbers} if "points" in names else set[str]()
        all_of_them = "readers" in names or ("points" in names and rounds is None)
        victims = [name for name in kinds.VICTIMS if name != "build" and (all_of_them or name in some)]
        world = make_world(base, address, faults, victims)
        found = play_all(turns(names, first, rounds, seconds), jobs, base, world)
    print(table({name: found[name] for name in names if name in found}), flush=True)
    return int(any(own["findings"] for own in found.values()))


def _stop(*_: object) -> None:
    """So that nothing is left behind; `timeout` sends it twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stderr.write("stopped\n")
    raise SystemExit(143)


def _in_memory() -> str | None:
    """A folder where nothing waits for a disk, if there is one with room."""
    place = Path("/dev/shm")
    try:
        facts = os.statvfs(place)
    except OSError:
        return None
    return str(place) if os.access(place, os.W_OK) and facts.f_bavail * facts.f_frsize > 2 << 30 else None


if __name__ == "__main__":
    sys.exit(main())
