"""Steps run on this machine, one after the other; each command uses all cores, or the cluster of RAY_ADDRESS."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from dags.graph import Step
from dags.state import Status, local_steps, look, write_record
from schemas.errors import ConfigError, GeoshardsError, LockError, nearest
from storage.locks import locked, one_writer
from storage.text import visible
from storage.urls import is_local, shown

#: Seconds that a command has to end by itself (a trainer finishes its step and saves), and between looks at a lock.
_PATIENCE, _LOOK = 60.0, 2.0
Told = Callable[[str], None]


class StepError(GeoshardsError):
    """A command of a step failed."""


@dataclass(frozen=True)
class Done:
    """A step, or one item of it, that is done now."""

    step: str
    item: str
    ran: bool  # False: it was done already
    seconds: float  # that it took, whenever that was
    answer: dict[str, Any]  # the JSON that its command printed


def run_steps(
    steps: Sequence[Step], only: str = "", item: str = "", again: Collection[str] = (), quiet: bool = False,
    tell: Told = lambda _: None,
) -> list[Done]:  # fmt: skip
    """Do what is not done, in order; stops at the first that fails.

    Args:
        steps: of a graph.
        only: one step, for schedulers; those before it must be done. Empty: all.
        item: of that step, one item. Empty: all.
        again: steps to run though they are done.
        quiet: commands show no progress.
        tell: hears a line as each step begins and ends.

    Raises:
        ConfigError: there is no such step or item.
        StepError: a command failed, or a step before is not done.
    """
    names = [step.name for step in steps]
    for name in (*filter(None, (only,)), *again):
        if name not in names:
            raise ConfigError(f"there is no step {name}; {nearest(name, names)}")
    done: list[Done] = []
    for number, name in enumerate(names):
        if only in ("", name):
            for status in _asked(look(steps[: number + 1]), name, item):
                own = partial(_tell, tell, f"[{number + 1}/{len(names)}] {status.name}")
                done.append(_do(steps[: number + 1], status, name in again, quiet, own))
    return done


def _tell(tell: Told, where: str, line: str) -> None:
    tell(f"{where}: {line}")


def _asked(found: Sequence[Status], step: str, item: str) -> list[Status]:
    own = [s for s in found if s.step.name == step]
    if blocked := next((s.blocked for s in own if s.blocked), ""):
        before = next(s for s in found if s.step.name == blocked and s.state != "done")
        raise StepError(f"step {step} comes after {blocked}, which is {before.state} ({before.why}); run that first")
    if item and item not in [s.item for s in own]:
        raise ConfigError(f"step {step} has no item {item}; {nearest(item, [s.item for s in own])}")
    return [s for s in own if item in ("", s.item)]


def _do(steps: Sequence[Step], status: Status, again: bool, quiet: bool, tell: Told) -> Done:
    """One item, unless it is done; of several processes one does it, the others wait and find it done."""
    if status.state != "done" or again:
        with _alone(status, tell):
            seen = status.record.get("finished")
            status = next(s for s in look(steps) if (s.step.name, s.item) == (status.step.name, status.item))
            renewed = status.record.get("finished") != seen  # by the process that was waited for
            if status.state != "done" or (again and not renewed):
                return _run(status, quiet, tell)
    tell("done before")
    return Done(status.step.name, status.item, False, float(status.record["seconds"]), status.record["answer"])


@contextmanager
def _alone(status: Status, tell: Told) -> Iterator[None]:
    """Hold a step: one process of all that see its records works on it."""
    said: list[str] = []

    def wait() -> None:
        if not said:
            said.append("waits for another process that does the same")
            tell(said[0])
        time.sleep(_LOOK)

    folder = f"{status.step.folder}.steps"
    if is_local(folder):
        with locked(local_steps(status) / f"{status.name}.lock", wait):
            yield
        return
    while True:
        try:
            held = one_writer(f"{folder}/{status.name}")
            held.__enter__()
            break
        except LockError:
            wait()
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _run(status: Status, quiet: bool, tell: Told) -> Done:
    """Run the command of a step; its answer and what it left are recorded.

    Raises:
        StepError: it ended with another status than 0, or did not leave what it should.
    """
    words = (*status.words, *status.step.free, "--json")
    log = local_steps(status) / f"{status.name}.log"
    tell(f"{status.state} ({status.why}); begins")
    begin = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        file.write(f"$ {shlex.join(words)}\n")
        file.flush()
        code, out, last = _follow(words, file, quiet)
    seconds = time.monotonic() - begin
    what, way = f"step {status.name} failed", f"; log: {log}; run the same again to go on"
    if code:
        raise StepError(f"{what} (status {code}): {last.removeprefix('error: ') or 'it says no reason'}{way}")
    answer = _answer(out)
    if lacking := write_record(status, answer, seconds, datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")):
        raise StepError(f"{what}: it did not leave {', '.join(map(shown, lacking))}{way}")
    tell(f"done in {seconds:.1f} s")
    return Done(status.step.name, status.item, True, seconds, answer)


def _follow(words: Sequence[str], log: IO[str], quiet: bool) -> tuple[int, str, str]:
    """Status of a command, its standard output, and the last line of its standard error, which goes to the log and to
    ours. It ends when this process is interrupted."""
    process = subprocess.Popen(
        [*_program(words[0]), *words[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    last = ""
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:  # what a command prints is one line, less than a pipe holds
            log.write(line)
            log.flush()
            last = line.strip() or last
            if not quiet:
                print(f"  {visible(line.rstrip())}", file=sys.stderr)
        out = process.stdout.read()
        log.write(out)
        return process.wait(), out, visible(last)
    except BaseException:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _program(word: str) -> list[str]:
    """The program of a command's first word, in the environment that runs this."""
    if word == "python":
        return [sys.executable]
    own = Path(sys.executable).with_name(word)
    return [str(own) if own.exists() else shutil.which(word) or word]


def _answer(out: str) -> dict[str, Any]:
    """The JSON object that a command printed last; empty where it printed none."""
    try:
        found = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}
