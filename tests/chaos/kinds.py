"""What goes wrong on one machine: kills, several writers, readers meanwhile, a full disk, a clock that is astray."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.world import CLEAR, ZOOMS, Process, Round, mount_disk, own_mounts

#: Changes of a disk that Python tells before they are done, and those of them that clean up or publish.
_EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir", "os.truncate", "os.utime", "open"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CLEANING = frozenset({"os.rename", "os.remove", "os.rmdir"})


def builds(case: Round) -> None:
    """Two to four builds at once over one cache, into one directory or several, some killed at any moment, the cache
    pruned meanwhile; then each once more."""
    rng, shared = case.rng, case.rng.random() < 0.4
    plans = []
    for n in range(rng.randint(2, 4)):
        zoom = rng.choice(ZOOMS)
        plans.append((zoom, case.folder / (f"out-{zoom}" if shared else f"out-{n}")))
    seconds = case.world.seconds * len(plans)
    begin, processes, kills = time.monotonic(), [], {}
    for n, (zoom, out) in enumerate(plans):
        processes.append(case.build(zoom, out))
        if rng.random() < 0.5:
            kills[n] = begin + rng.random() * seconds
        time.sleep(rng.choice([0.0, 0.0, 0.3 * case.world.seconds]))
    pruning = begin + rng.random() * seconds if rng.random() < 0.3 else None
    pruned = None
    while any(p.poll() is None for p in processes) and time.monotonic() < begin + 240:
        now = time.monotonic()
        for n in [n for n, moment in kills.items() if now >= moment]:
            processes[n].kill()
            del kills[n]
        if pruning is not None and pruned is None and now >= pruning:
            pruned = case.start(["cache", "prune", f"--cache={case.cache}", "--keep=0", "--quiet"])
        time.sleep(0.005)
    for (zoom, out), process in zip(plans, processes, strict=True):
        case.judge(process, case.compared(out, str(zoom)))
    if pruned is not None:
        case.judge(pruned)
    for zoom, out in dict.fromkeys(plans):
        case.judge(case.build(zoom, out), case.compared(out, str(zoom)), again=True)


def writers(case: Round) -> None:
    """Two or three builds into one directory at the same moment: one writes, the others say so."""
    out = case.folder / "out"
    zooms = [case.rng.choice(ZOOMS) for _ in range(case.rng.randint(2, 3))]
    if case.rng.random() < 0.5:  # all that comes before is done: they meet in the directory
        for zoom in set(zooms):
            case.judge(case.build(zoom, case.folder / f"first-{zoom}"), again=True)
    processes = [case.build(zoom, out) for zoom in zooms]
    ends = [case.judge(p, lambda: _one_of(case, out)) for p in processes]
    if "right" not in ends:
        case.find("of builds into one directory none ended well")
    for zoom in dict.fromkeys(zooms):
        mine = case.compared(out, str(zoom))() == 0
        case.judge(case.build(zoom, out), case.compared(out, str(zoom)), again=mine)
    case.judge(case.build(zooms[0], case.folder / "last"), again=True)  # who is refused sweeps nothing


def _one_of(case: Round, out: Path) -> int:
    return min(case.compared(out, str(zoom))() for zoom in ZOOMS)


# kills at points


def stop_before(folder: Path, number: int) -> None:
    """Let this process be killed before its ``number``-th change of something below a folder, counted from one."""
    left = [number]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_change(event, arguments, folder):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def note_changes(folder: Path, into: Path) -> None:
    """Let this process note its changes of a folder in a file, a line each."""
    number = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_change(event, arguments, folder):
            os.write(number, f"{event}\n".encode())

    sys.addaudithook(hook)


def is_change(event: str, arguments: tuple[object, ...], folder: Path) -> bool:
    """Whether an event of Python's audit is one of the disk below a folder."""
    if event not in _EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return False
    if event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        return False
    name = os.fsdecode(arguments[0])  # a call beside an open folder names the entry alone
    return not os.path.isabs(name) or name.startswith(str(folder))


Command = Callable[[Round, Path], list[str]]


def _damage(case: Round, out: Path) -> None:
    """Something that `verify --repair` has to do."""
    shard = sorted((out / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (out / "README.md").unlink()


#: Commands that are killed: what is there before, the words, and which dataset should be there at last.
VICTIMS: dict[str, tuple[bool, Command, str]] = {
    "build": (False, lambda r, out: r.world.words(17, out, r.cache), "17"),
    "update": (
        True,
        lambda r, out: ["update", str(out), str(r.world.changes), f"--cache={r.cache}", "--workers=1", "--quiet"],
        "update",
    ),
    "repair": (
        True,
        lambda r, out: ["verify", str(out), "--repair", f"--cache={r.cache}", "--workers=1", "--quiet"],
        "17",
    ),
    "prune": (True, lambda r, _: ["cache", "prune", f"--cache={r.cache}", "--keep=0", "--quiet"], "17"),
}


def victim_of(number: int) -> str:
    """Which command a round kills."""
    return list(VICTIMS)[number % len(VICTIMS)]


def prepare_victim(case: Round, name: str) -> tuple[list[str], Path]:
    """What is there before the command; its words and the dataset's directory."""
    there, command, _ = VICTIMS[name]
    out = case.folder / "out"
    if there:
        case.judge(case.build(17, out), again=True)
        if name == "repair":
            _damage(case, out)
    return command(case, out), out


def points(case: Round) -> None:
    """One command killed just before a change of the disk, one or two times in a row: every one has its turn, and those
    that clean up or publish more often."""
    name = victim_of(case.number)
    events = case.world.points[name]
    words, out = prepare_victim(case, name)
    turn = case.number // len(VICTIMS) * 0.6180339887498949 % 1.0  # an even walk over all
    numbers = [n for n, e in enumerate(events, 1) if case.number % 8 < 4 or e in _CLEANING]
    number = numbers[int(turn * len(numbers))]
    for n in (number, case.rng.randint(1, len(events)))[: case.rng.randint(1, 2)]:
        case.judge(case.start(words, before=lambda n=n: stop_before(case.folder, n)), clear=(*CLEAR, *UNFINISHED))  # type: ignore[misc]
    if name == "prune":
        words = case.world.words(17, out, case.cache)
    case.judge(case.start(words), case.compared(out, VICTIMS[name][2]), again=True)
    case.judge(case.start(["verify", str(out), "--quiet"]), again=True)


#: What readers, and what repairs, say of a dataset that is not whole.
UNFINISHED = (
    "run it again",
    "make one with",
    "did not finish",
    "has no catalog",
    "build the dataset again",
    "does not exist",
)


# readers


def readers(case: Round) -> None:
    """A dataset is verified, asked and drawn while it is built, updated or repaired: what reads it sees a whole one, or
    says in one line that there is none."""
    out, rng = case.folder / "out", case.rng
    name = rng.choice(["build", "update", "repair"])
    words, _ = prepare_victim(case, name)
    writer = case.start(words)
    counts = {case.world.samples[which] for which in ("17", VICTIMS[name][2])}
    asked = 0
    while writer.poll() is None and asked < 40:
        asked += 1
        what = rng.choice(["query", "query", "inspect", "preview", "verify"])
        if what == "query":
            reader = case.start(["query", str(out), "SELECT count(*) AS n FROM samples", "--json"])
            if case.judge(reader, clear=UNFINISHED) == "right" and json.loads(reader.out)[0]["n"] not in counts:
                case.find(f"query counted {reader.out.strip()} samples while there was {name}: {sorted(counts)}")
        elif what == "verify":
            reader = case.start(["verify", str(out), "--quiet", "--workers=1"])
            case.judge(reader, clear=(*UNFINISHED, "problems in"))
        elif what == "preview":
            sheet = case.folder / "sheet.png"
            case.judge(case.start(["preview", str(out), f"--out={sheet}", "--samples=2"]), clear=(*UNFINISHED, *CLEAR))
        else:
            case.judge(case.start(["inspect", str(out)]), clear=UNFINISHED)
    case.judge(writer, case.compared(out, VICTIMS[name][2]))
    case.judge(case.start(["verify", str(out), "--quiet"]), again=True)


# a full disk

_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "cannot be written", "free space")


def disk(case: Round) -> None:
    """The cache, the dataset or both on a disk that is full at some moment; then there is room.

    Where no disk can be mounted no file may be larger than some size."""
    rng, zoom = case.rng, case.rng.choice(ZOOMS)
    place = case.folder / "disk"
    place.mkdir()
    size = int(rng.random() ** 2 * (1.1 * sum(n for n, _ in case.world.right[str(zoom)].values()) + 200_000))
    mounted = own_mounts() and mount_disk(place, size)
    on = rng.choice(["both", "cache", "out"])
    case.cache = (place if on != "out" else case.folder) / "cache"
    out = (place if on != "cache" else case.folder) / "out"
    limit = None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for _ in range(rng.randint(1, 2)):
        case.judge(case.build(zoom, out, before=limit), case.compared(out, str(zoom)), clear=(*CLEAR, *_FULL))
    if mounted:
        mount_disk(place, 1 << 30, again=True)
    case.judge(case.build(zoom, out), case.compared(out, str(zoom)), again=True)


# a clock


def shift_clock(steps: list[tuple[float, float]]) -> None:
    """Let this process's clock be wrong by the second numbers of seconds once the first have passed."""
    begin, real = time.monotonic(), time.time

    def astray() -> float:
        passed = time.monotonic() - begin
        return real() + next((wrong for after, wrong in reversed(steps) if passed >= after), 0.0)

    time.time = astray


def clock(case: Round) -> None:
    """Builds at once whose clocks differ by hours or years and step while they run, over a cache whose files were last
    used in the future and the past; one is killed; the cache is pruned by such a clock too."""
    rng, day = case.rng, 86_400.0
    spans = [0.0, 5.0, -5.0, 61.0, -61.0, 3700.0, -3700.0, 2 * day, -2 * day, 3650 * day, -3650 * day]

    def wrong() -> Callable[[], None]:
        steps = sorted((rng.random() * case.world.seconds, rng.choice(spans)) for _ in range(3))
        return lambda: shift_clock([(0.0, steps[0][1]), *steps])

    def age() -> None:
        for path in [p for p in case.folder.rglob("*") if p.exists() and rng.random() < 0.5]:
            moment = max(0.0, time.time() + rng.choice(spans))
            try:
                os.utime(path, (moment, moment))
            except FileNotFoundError:
                continue

    plans = [(rng.choice(ZOOMS), case.folder / f"out-{n}") for n in range(2)]
    processes: list[Process] = [case.build(zoom, out, before=wrong()) for zoom, out in plans]
    time.sleep(rng.random() * case.world.seconds)
    age()
    if rng.random() < 0.5:
        processes[0].kill()
    for (zoom, out), process in zip(plans, processes, strict=True):
        case.judge(process, case.compared(out, str(zoom)))
    age()
    keep = rng.choice(["0", "100KB"])
    prune = ["cache", "prune", f"--cache={case.cache}", f"--keep={keep}", "--quiet"]
    case.judge(case.start(prune, before=wrong()), again=True)
    for zoom, out in plans:
        case.judge(case.build(zoom, out, before=wrong()), case.compared(out, str(zoom)), again=True)
