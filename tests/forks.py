"""Runs commands in forks of one process that has imported what they import: starting Python, Arrow and torch anew takes
most of them longer than their work.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def call(words: list[str]) -> int:
    """Do what the words say as a new process of theirs would; returns its exit status."""
    sys.argv = words[1:]
    try:
        if words[0] == "geoshards":
            from pipeline.cli.main import entry

            sys.argv = words
            entry()
        elif words[0] == "python":
            sys.path[0] = str(Path(words[1]).resolve().parent)
            runpy.run_path(words[1], run_name="__main__")
        elif words[:2] == [sys.executable, "-c"]:
            sys.path[0] = ""
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(words[2], "<string>", "exec"), main.__dict__)
        else:
            return subprocess.run(words, check=False).returncode
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def run(words: list[str]) -> dict[str, Any]:
    """Exit status and output of a command that runs in a fork."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors, open(os.devnull) as nothing:
        if not (pid := os.fork()):
            for number, stream in enumerate((nothing, out, errors)):
                os.dup2(stream.fileno(), number)
            status = call(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        errors.seek(0)
        return {"words": words, "status": status, "out": out.read(), "err": errors.read()}


def run_list(name: str, commands: list[list[str]]) -> None:
    """Run commands up to the first that fails; prints a line of JSON for each."""
    for words in commands:
        if words[0] == "cd":
            os.chdir(words[1])
            continue
        result = run(words)
        os.write(1, (json.dumps({"list": name} | result) + "\n").encode())
        if result["status"]:
            return


def main() -> None:
    """Run all lists."""
    sys.path[0] = str(ROOT)
    for command in entry_points(group="geoshards.commands"):
        command.load()
    import trainers.engine.cli
    import trainers.tasks  # noqa: F401

    assert threading.active_count() == 1, "a fork would lose a thread"
    left, running = list(json.load(sys.stdin).items()), 0
    while left or running:
        if left and running < 2:
            name, commands = left.pop(0)
            if not os.fork():
                run_list(name, commands)
                os._exit(0)
            running += 1
        else:
            os.wait()
            running -= 1


def in_forks(lists: dict[str, list[list[str]]], folder: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What each command of some lists gave: the keys are list, words, status, out and err.

    Args:
        lists: commands by the name of their list; each list is done in order, two lists at a time. ``cd FOLDER`` holds
            for the rest of its list.
        folder: where they run.
        environment: of all.
    """
    words = [sys.executable, str(Path(__file__).resolve())]
    with tempfile.TemporaryFile("a+") as lines:  # appended to by both
        subprocess.run(words, input=json.dumps(lists), cwd=folder, env=environment, text=True, stdout=lines, check=True)
        lines.seek(0)
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
