"""Who wrote a file that is not whole, or holds a lock: a process, told apart from every other that ever was."""

from __future__ import annotations

import json
import os
import socket
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process: the machine since its last start, its number there, and when it began."""

    host: str
    boot: str  # of the machine's last start, and of the numbering of processes in it
    pid: int
    started: int  # ticks since that start
    token: str = ""  # of one lock

    @staticmethod
    def here(token: str = "") -> Owner:
        """This process."""
        return Owner(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()) or 0, token)

    @staticmethod
    def parse(text: str) -> Owner | None:
        """What `text` names; None where it is no owner."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            values = json.loads(text)
            owner = Owner(**{f.name: values[f.name] for f in fields(Owner)})
            if isinstance(owner.pid, int) and owner.pid > 0 and isinstance(owner.started, int):
                return owner
        return None

    def text(self) -> str:
        """As `parse` reads it."""
        return json.dumps(asdict(self))

    def alive(self) -> bool | None:
        """Whether it still runs; None where this machine cannot know."""
        return None if self.boot != _boot() else _started(self.pid) == self.started


def mark() -> str:
    """This process, as part of a file's name."""
    return f"{_boot_mark()}-{os.getpid()}-{_started(os.getpid()) or 0}"


def is_gone(marked: str) -> bool | None:
    """Whether the process that `mark` named has ended; None where this machine cannot know."""
    boot, _, rest = marked.partition("-")
    pid, _, started = rest.partition("-")
    if boot != _boot_mark() or not (pid.isdecimal() and started.isdecimal()):
        return None
    return _started(int(pid)) != int(started)


@cache
def _boot_mark() -> str:
    return f"{zlib.crc32(f'{socket.gethostname()} {_boot()}'.encode()):08x}"


@cache
def _boot() -> str:
    """What all processes have in common whose numbers mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> int | None:
    """When a process began, in ticks (0 where the system does not say); None: there is none, or it is dead."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if facts[0] in "ZXx" else int(facts[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0
