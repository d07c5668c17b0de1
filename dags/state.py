"""What is known of each step: a record beside what it makes, and from it whether it is done, stale or missing, and why.

A fingerprint is the SHA-256 of a step's command and of its inputs: files of the user's by their content, results of
steps before it. A step is done whose record has the fingerprint of now and whose outputs are as it left them.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from dags.graph import Step, filled
from schemas.errors import at_the_door
from storage.files import file_sha256
from storage.store import Store, place_of
from storage.urls import cache_folder, expand, is_local

State = Literal["done", "stale", "missing"]
#: Of a record, so that one of another form counts as none.
_LAYOUT = 1
Facts = dict[str, Any]  # what is known of a file: size, time, sha256


@dataclass(frozen=True)
class Status:
    """One step, or one item of it, as it stands."""

    step: Step
    item: str  # empty: the step is no mapped one, or its items are not known yet
    state: State
    why: str
    words: tuple[str, ...] = ()  # the command, as far as it is known
    inputs: dict[str, str] = field(default_factory=dict)  # digests by name
    files: dict[str, Facts] = field(default_factory=dict)  # of the inputs that are files
    blocked: str = ""  # the step before that is not done, or whose items are not known
    record: dict[str, Any] = field(default_factory=dict)  # of the last time; empty: never

    @property
    def name(self) -> str:
        """Of the record and the log: the step's, and the item's in letters that any file system takes."""
        if not self.item:
            return self.step.name
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", self.item)[:60]
        return f"{self.step.name}-{plain}" + ("" if plain == self.item else f"-{_digest(self.item)[:8]}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of command and inputs."""
        return _digest([self.words, self.inputs])


def look(steps: Sequence[Step]) -> list[Status]:
    """How each step stands, in order; a mapped one has an entry an item, or one without item while none is known."""
    found: list[Status] = []
    answers: dict[str, dict[str, Any]] = {}
    results: dict[str, dict[str, str]] = {}
    for step in steps:
        own = [_judge(step, item, answers, results) for item in _items(step, answers)]
        found += own
        if all(s.state == "done" or (step.always and s.record and not s.blocked) for s in own):
            results[step.name] = _result(step, own)
            answers[step.name] = own[0].record["answer"] if own else {}
    return found


def _items(step: Step, answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not step.each or step.each not in answers:
        return [""]
    return [str(item) for item in answers[step.each].get("items", [])]


def _judge(
    step: Step, item: str, answers: Mapping[str, Mapping[str, Any]], results: Mapping[str, dict[str, str]]
) -> Status:
    blocked = next((name for name in step.before if name not in results), "")
    words, folder = filled(step.words, item, answers), filled((step.folder,), item, answers)[0]
    step = replace(step, folder=folder, outputs=filled(step.outputs, item, answers))
    bare = Status(step, item, "missing", "", words, blocked=blocked)
    record = read_record(bare)
    files = {name: facts for value in step.inputs for name, facts in _files(value, record.get("files", {}))}
    inputs = {name: digest for before in step.before for name, digest in results.get(before, {}).items()}
    inputs |= {name: str(facts["sha256"]) for name, facts in files.items()}
    now = Status(step, item, "missing", "", words, inputs, files, blocked, record)
    state, why = _verdict(now)
    return replace(now, state=state, why=why)


def _verdict(now: Status) -> tuple[State, str]:
    """How a step stands, and why."""
    record = now.record
    if not record:
        return "missing", f"comes after {now.blocked}" if now.blocked else "not run yet"
    if now.blocked:
        return "stale", f"comes after {now.blocked}"
    if record["fingerprint"] != now.fingerprint:
        return "stale", _change(record, now)
    for path, then in record["outputs"].items():
        facts = file_facts(path, then)
        if facts is None:
            return "missing", f"{path} is gone"
        if facts["sha256"] != then["sha256"]:
            return "stale", f"{path} has changed since"
    if now.step.always:
        return "stale", "asks for news each time"
    return "done", f"{record['finished']}, {record['seconds']:.0f} s"


def _change(record: Mapping[str, Any], now: Status) -> str:
    """In what a step differs from the last time, in words."""
    before, after = list(record["words"]), list(now.words)
    if before != after:
        there = " ".join(w for w in before if w not in after) or "nothing"
        here = " ".join(w for w in after if w not in before) or "nothing"
        return f"the command: {there} there, {here} here"
    names = sorted(record["inputs"].keys() | now.inputs.keys())
    changed = [n for n in names if record["inputs"].get(n) != now.inputs.get(n)]
    return f"{', '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed"


def _result(step: Step, own: Sequence[Status]) -> dict[str, str]:
    """Digests by name of what a step has made: what steps after it take. Its files, and what of its answers counts; of
    a mapped one a digest over its items; of one that makes nothing, that it was done."""
    if not step.each:
        record = own[0].record
        made = {path: str(facts["sha256"]) for path, facts in record["outputs"].items()}
        made |= {f"{step.name}.{key}": _digest(record["answer"].get(key)) for key in step.says}
        return made or {step.name: record["fingerprint"]}
    return {step.name: _digest([_result(replace(step, each=""), [s]) for s in own])}


def _files(value: str, known: Mapping[str, Facts]) -> Iterator[tuple[str, Facts]]:
    """The files that a value names, of those that lie here, and what is known of each. Names of regions and services,
    boxes and URLs are none: the command alone says what they are."""
    for part in filter(None, (p.strip() for p in value.split(","))):
        if is_local(part):
            for path in sorted(glob.glob(expand(part))) or [expand(part)]:
                facts = file_facts(path, known.get(path, {}))
                if facts is not None:
                    yield path, facts


def file_facts(path: str, known: Facts) -> Facts | None:
    """Size, time and content of a file or folder, path or URL; None where there is none.

    Of a file here that has kept size and time the ``known`` hash is taken; a folder is the names, sizes and times of
    its files; what lies in a store is what the store says of it.
    """
    if not is_local(path):
        store, name = place_of(path)
        said = store.files("").get(name)
        if said is None:
            return None
        names = ("size", "ETag", "etag", "md5Hash", "content_md5")
        return {"sha256": _digest({k: str(said[k]) for k in names if said.get(k)})}
    file = Path(path)
    if file.is_dir():
        entries = ((p, p.stat()) for p in sorted(file.rglob("*")) if p.is_file())
        return {"sha256": _digest([(str(p.relative_to(file)), s.st_size, s.st_mtime_ns) for p, s in entries])}
    if not file.is_file():
        return None
    facts = file.stat()
    same = (known.get("size"), known.get("time")) == (facts.st_size, facts.st_mtime_ns)
    digest = known["sha256"] if same else file_sha256(file)
    return {"size": facts.st_size, "time": facts.st_mtime_ns, "sha256": digest}


def read_record(status: Status) -> dict[str, Any]:
    """What is known of the last time a step was done; empty: it never was, or that cannot be read."""
    store, name = Store(f"{expand(status.step.folder)}.steps"), f"{status.name}.json"
    if not store.exists(name):
        return {}
    with at_the_door(f"{store.path(name)} cannot be read", "delete it"):
        found = json.loads(store.read(name))
    return dict(found) if isinstance(found, dict) and found.get("layout") == _LAYOUT else {}


def write_record(status: Status, answer: Mapping[str, Any], seconds: float, finished: str) -> list[str]:
    """Remember that a step is done; or, where it has not left all outputs, write nothing and return the others."""
    paths = [re.sub(r"\{(\w+)\}", lambda m: str(answer.get(m[1], m[0])), path) for path in status.step.outputs]
    outputs = {path: file_facts(path, {}) for path in paths}
    if lacking := [path for path, facts in outputs.items() if facts is None]:
        return lacking
    record = {
        "layout": _LAYOUT, "step": status.step.name, "item": status.item, "fingerprint": status.fingerprint,
        "words": status.words, "inputs": status.inputs, "files": status.files, "outputs": outputs,
        "answer": {k: v for k, v in answer.items() if k != "stages"}, "seconds": round(seconds, 3),
        "finished": finished,
    }  # fmt: skip
    store = Store(f"{expand(status.step.folder)}.steps")
    store.write(f"{status.name}.json", json.dumps(record, indent=1, sort_keys=True).encode())
    return []


def local_steps(status: Status) -> Path:
    """The folder of this machine for logs and locks: beside the records, or in the cache where these are in a store."""
    folder = f"{expand(status.step.folder)}.steps"
    return Path(folder) if is_local(folder) else cache_folder() / "steps" / _digest(folder)[:16]


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
