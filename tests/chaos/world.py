"""What all kinds of chaos share: commands in forks of one process, what they should give, what a round has found."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.driver.village import Village
from tests.forks import call

ZOOMS = (17, 18)
#: What a command may say that does not end well, in any kind of chaos.
CLEAR = (
    "is being written by process",
    "is being written by another process",
    "holds another dataset",
    "run the same again",
)
#: Seconds after which a command stands still.
PATIENCE = 240.0
#: Names a round's processes, whoever their parents are by now.
_MARK = "GEOSHARDS_CHAOS_ROUND"

Files = dict[str, tuple[int, str]]  # bytes and SHA-256 of each file, by name


def files_of(folder: Path) -> Files:
    """Those of a dataset but the timings and what changes with them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "stages" not in name and not name.startswith(("MANIFEST", ".")):
            data = path.read_bytes()
            found[name] = len(data), sha256(data).hexdigest()
    return found


@dataclass(frozen=True)
class World:
    """What is made before the first round, and only read later."""

    village: Village
    right: dict[str, Files]  # of each zoom, and of an update, what a build gives that nothing disturbs
    samples: dict[str, int]  # of the same
    changes: Path  # of that update
    points: dict[str, list[str]]  # changes on the disk that each command makes, see `points.py`
    seconds: float  # of one build
    store: str  # address of an S3 server; empty: none was asked for
    faults: Path  # folder of what that server does to each bucket

    def words(self, zoom: int, out: Path | str, cache: Path, workers: int = 1) -> list[str]:
        """A build."""
        return [
            "shards", f"region={self.village.osm}", f"imagery={self.village.imagery}",
            f"streetview={self.village.photos}", f"zoom={zoom}", "size=64", f"workers={workers}",
            "plan.per_shard=10", f"out={out}", f"cache={cache}", "--quiet",
        ]  # fmt: skip


class Process:
    """``geoshards`` with some words, in a fork."""

    def __init__(
        self,
        words: list[str],
        said: Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.words, self._said = words, said
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.setsid()
                die_with_parent()
                for number, name in enumerate((os.devnull, f"{said}.out", f"{said}.err")):
                    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
                os.environ.update(environment or {})
                if before is not None:
                    before()
                status = call(["geoshards", *words])
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        """Its exit status once it has ended; that of a signal is negative."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def kill(self) -> None:
        """At once, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int | None:
        """Until it ends; None: it stood still, and is killed."""
        deadline = time.monotonic() + PATIENCE
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self.poll() is not None:
            return self.status
        self.kill()
        os.waitpid(self.pid, 0)
        self.status = -signal.SIGKILL
        return None

    @property
    def out(self) -> str:
        """What it has printed."""
        return Path(f"{self._said}.out").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """And on standard error."""
        return Path(f"{self._said}.err").read_text(errors="replace")


@dataclass
class Round:
    """One round of one kind, made from its number alone."""

    kind: str
    number: int
    folder: Path
    world: World
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    lost: int = 0  # bytes that a command which ended well has not, or has otherwise
    left: int = 0  # bytes that the last run left beside what is whole

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.kind} {self.number}")
        self.cache = self.folder / "cache"
        self.mark = uuid.uuid4().hex
        self._sessions: set[int] = set()

    def start(
        self, words: list[str], environment: Mapping[str, str] | None = None, before: Callable[[], object] | None = None
    ) -> Process:
        """A command."""
        name = self.folder / f"said-{len(self._sessions)}"
        process = Process(words, name, {**(environment or {}), _MARK: self.mark}, before)
        self._sessions.add(process.pid)
        return process

    def build(self, zoom: int, out: Path | str, **how: Any) -> Process:
        """A build over the round's cache."""
        return self.start(self.world.words(zoom, out, self.cache), **how)

    def find(self, what: str) -> None:
        """Something that should not be."""
        self.findings.append(f"{self.kind} {self.number}: {what}")

    def judge(
        self,
        process: Process,
        right: Callable[[], int] | None = None,
        clear: tuple[str, ...] = CLEAR,
        again: bool = False,
        noise: bool = False,
    ) -> str:
        """Wait for a command and note how it ended: right, refused, killed, or wrong.

        Args:
            process: it.
            right: bytes that are not as they should be, asked for after a good end.
            clear: what the line of a refusal may hold.
            again: nothing disturbs it: it may not be refused.
            noise: others may have printed before that line.
        """
        status = process.wait()
        name = " ".join(process.words)
        if status is None:
            end = "wrong"
            self.find(f"{name}: stands still: {process.errors[-600:]!r}")
        elif status == -signal.SIGKILL:
            end = "killed"
        elif status == 0:
            lost = 0 if right is None else right()
            self.lost += lost
            end = "wrong" if lost else "again" if again else "right"
            if lost:
                self.find(f"{name}: ended well, and {lost} bytes are not what they should be")
        else:
            lines = process.errors.strip().splitlines() or [""]
            line = (
                (noise or len(lines) == 1)
                and lines[-1].startswith("error: ")
                and "Traceback" not in process.errors
                and any(words in lines[-1] for words in clear)
            )
            end = "refused" if line and not again else "wrong"
            if end == "wrong":
                self.find(
                    f"{name}: ended with {status}{' though nothing disturbed it' * again}: {process.errors[-1500:]!r}"
                )
        self.ends[end] += 1
        return end

    def compared(self, out: Path, which: str) -> Callable[[], int]:
        """Bytes in which a dataset differs from what it should be, when asked."""
        return lambda: differing(self.world.right[which], files_of(out))

    def end(self) -> None:
        """What is left beside what is whole, and processes that outlive the round; they are ended."""
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            if path.name == ".pending" and not any(path.iterdir()):
                continue
            if path.name.startswith(".") or (parts[-2:-1] and parts[-2].startswith(".")):
                self.left += path.stat().st_size if path.is_file() else 0
                self.find(f"left behind: {path.relative_to(self.folder)}")
        self.end_others("outlives the round")

    def end_others(self, what: str) -> None:
        """Processes that should not be there are findings, and end."""
        for pid in self.others():
            self.find(f"process {pid} {what}: {_command_of(pid)}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def others(self) -> list[int]:
        """Numbers of the round's processes but this one."""
        found, mark = [], f"{_MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z" and (int(session) in self._sessions or mark in (entry / "environ").read_bytes()):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def differing(right: Files, found: Files) -> int:
    """Bytes of files that are missing, others, or too many."""
    wrong = [name for name in right.keys() | found.keys() if right.get(name) != found.get(name)]
    return sum(max(1, right.get(name, found.get(name, (0, "")))[0]) for name in wrong)


def die_with_parent() -> None:
    """Let this process end when its parent does."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"


def own_mounts() -> bool:
    """Give this process mounts of its own, which go with it; whether it may have them."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, mounts = os.getuid(), 0x00020000
    if libc.unshare(mounts) and libc.unshare(mounts | 0x10000000):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    return libc.mount(None, b"/", None, 0x44000, None) == 0  # private, and all below it


def mount_disk(folder: Path, size: int, again: bool = False) -> bool:
    """A disk of so many bytes at a folder; ``again``: another size for the one that is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(exist_ok=True)
    flags = 32 if again else 0
    return libc.mount(b"none", bytes(folder), b"tmpfs", flags, f"size={max(4096, size)},mode=700".encode()) == 0


def drop(folder: Path) -> None:
    """A round's folder."""
    shutil.rmtree(folder, ignore_errors=True)
