"""Ray nodes on this machine with nothing in common: each sees folders of its own alone, and the network."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

#: Where commands lie that belong to the environment of these tests.
_BIN = Path(sys.executable).parent
#: How a mount namespace of one's own is had: as root, or as nobody who is root within.
_WAYS = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])


#: Attempts to start a node: Ray gives one half a minute, in which a busy machine has not always started it.
_ATTEMPTS = 4


def apart() -> list[str] | None:
    """Words before a command that give it mounts of its own; None: the kernel lets nobody."""
    for words in _WAYS:
        with suppress(OSError):
            mount = [*words, "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
                return words
    return None


class Nodes:
    """A cluster of the nodes that are asked for. The first is the head, with which drivers share a machine."""

    def __init__(self, root: Path, variables: Mapping[str, str], names: Sequence[str]) -> None:
        self.root, self.names = root, names
        self.sessions = root / "ray"  # Ray's own folder: the head's lies here, each other node's over it
        self.variables = dict(variables)
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.address, self.token = "", token_hex(32)
        for name in (*names, "ray"):
            (root / name).mkdir()

    def environment(self, name: str) -> dict[str, str]:
        """Of a process on a node: a home, a cache and temporary files of its own."""
        own = self.root / name
        for folder in ("home", "tmp", "cache"):
            (own / folder).mkdir(exist_ok=True)
        return {
            **os.environ, **self.variables, "HOME": str(own / "home"), "TMPDIR": str(own / "tmp"),
            "GEOSHARDS_CACHE": str(own / "cache"),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_ADDRESS": self.address, "RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "5", "RAY_gcs_server_port_wait_time_s": "90",
        }  # fmt: skip

    def command(self, name: str, words: Sequence[str]) -> list[str]:
        """A command as it runs on a node: the folders of the others are empty there, and cannot be written."""
        hidden = [self.root / other for other in self.names if other != name]
        hidden += [] if name == self.names[0] else [self.sessions]
        mounts = [f"mount -t tmpfs -o size=64m none {shlex.quote(str(folder))}" for folder in hidden]
        return [*(apart() or []), "sh", "-c", " && ".join([*mounts, f"exec {shlex.join(words)}"])]

    def run(self, name: str, words: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command on a node; it ends with the block at the latest, and by :meth:`kill` of ``NAME: command``."""
        process = subprocess.Popen(
            self.command(name, words), env=self.environment(name), cwd=self.root / name,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.processes[f"{name}: command"] = process
        return process

    def start(self, name: str, cores: int) -> None:
        """Start a node, and wait for it."""
        head = name == self.names[0]
        port = _free_port()
        where = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.sessions}"]
        where = where if head else [f"--address={self.address}"]
        words = [str(_BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--num-cpus={cores}", *where,
                 "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]  # fmt: skip
        environment = self.environment(name) | ({} if self.address else {"RAY_ADDRESS": ""})
        if not environment["RAY_ADDRESS"]:
            del environment["RAY_ADDRESS"]
        log = self.root / f"{name}.log"
        for _ in range(_ATTEMPTS):
            with log.open("wb") as file:
                process = self.processes[name] = subprocess.Popen(
                    self.command(name, words), env=environment, stdout=file, stderr=file, start_new_session=True,
                    cwd=self.root / name,
                )  # fmt: skip
            self.wait(lambda: process.poll() is not None or "runtime started" in log.read_text(), f"node {name}")
            if process.poll() is None:
                break
            self.kill(name)
        else:
            raise AssertionError(log.read_text())
        if head:
            self.address = f"127.0.0.1:{port}"

    def kill(self, name: str) -> None:
        """End all processes of a node at once, as a machine that is taken away."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            for pid in _session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def wait(self, there: Callable[[], object], what: str, seconds: float = 180.0) -> None:
        """Until something is there."""
        deadline = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def _session(leader: int) -> list[int]:
    """Processes of a leader's session and what they have started; those whose parents have ended are among them."""
    parents: dict[int, list[int]] = {}
    found = [leader]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                _, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                parents.setdefault(int(parent), []).append(int(entry.name))
                found += [int(entry.name)] if int(session) == leader and int(entry.name) != leader else []
    for pid in found:
        found += [child for child in parents.get(pid, []) if child not in found]
    return found[::-1]


@contextmanager
def nodes(variables: Mapping[str, str], names: Sequence[str]) -> Iterator[Nodes]:
    """Such nodes, none of which is started; all end with the block."""
    root = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))  # paths of sockets are short
    cluster = Nodes(root, variables, names)
    try:
        yield cluster
    finally:
        for name in list(cluster.processes):
            cluster.kill(name)
        shutil.rmtree(root, ignore_errors=True)
