"""Small documents that are found again: markers of the cache, notes of downloads, owners of locks, counts of keys,
where a stream stands, numbers of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from pipeline.cli.status import document, lines, look
from pipeline.net.client import Client
from pipeline.net.download import Version, _read_note
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError
from storage.entries import MARKER, entry_problems, find_entry
from storage.owner import Owner
from storage.progress import Reading
from storage.status import NAME, Status
from tests.fuzz.damage import Files, Target, by_value, ended, of_files, one_line
from tests.fuzz.imagery import FAST
from tests.trainers import synthetic
from tests.trainers.synthetic import SyntheticSettings
from trainers.embed.vocabulary import read_key_counts
from trainers.engine.report import Metrics
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream, StreamSettings


def notes() -> list[Files]:
    """One of each kind, by the name of its reader."""
    version = {f.name: 1 if f.name == "size" else "x" for f in fields(Version)}
    marker = {"about": {"rows": 3}, "files": {"a.bin": [3, "0" * 64]}}
    documents = {
        "entry": marker, "owner": asdict(Owner.here("x")), "download": version,
        "photo": {"sha256": "0" * 64, "bytes": 3}, "refusal": {"reason": "refused", "detail": "no", "limit": 5},
        "counts": {"building": 725072, "highway": 3}, "state": _stream().state_dict(),
        "metrics": {"step": 3, "loss": 0.5}, "status": _status(),
    }  # fmt: skip
    return [{f"{name}.json": json.dumps(document).encode()} for name, document in documents.items()]


def _status() -> dict[str, object]:
    status = Status("shards")
    status.line, status.values = Reading("samples", 3, 9, "tiles", 0.5), {"loss": 0.5}
    status.done.update(tiles=3)
    status.drops.update(nodata=1)
    return asdict(status.snapshot())


@cache
def _stream() -> GeoStream:
    root = synthetic.write_dataset(Path(mkdtemp()) / "data", SyntheticSettings(samples=2, size=32, photo_size=32))
    os.environ["GEOSHARDS_CACHE"] = str(root.parent / "cache")
    return GeoStream(str(root), View(image_size=32, photos=0), batch_size=2, settings=StreamSettings(workers=0))


def _entry(path: Path) -> object:
    folder = path.parent / "entry"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    (folder / MARKER).write_bytes(path.read_bytes())
    assert all("\n" not in problem for problem in entry_problems(folder))
    return find_entry(folder)


def _photo(path: Path) -> object:
    store = PhotoStore(path.parent / "cache", Client(FAST))
    note = store._note("x")
    note.parent.mkdir(parents=True)
    note.write_bytes(path.read_bytes())
    try:
        return store.fetch("x", "http://127.0.0.1:9/photo.jpg")
    except InputError as error:
        one_line(error)
        return None


def _metrics(path: Path) -> object:
    Metrics(path, 5).close()
    return path.stat().st_size


def _look(path: Path) -> object:
    (path.parent / "run").mkdir()
    (path.parent / "run" / NAME).write_bytes(path.read_bytes())
    view = look(str(path.parent / "run"))
    return json.dumps(document(view)) and lines(view)


def _state(path: Path) -> object:
    _stream().load_state_dict(json.loads(path.read_text()))
    return True


#: What comes of a document: something, or nothing where it is not believed.
_READ: dict[str, Callable[[Path], object]] = {
    "entry": _entry, "owner": lambda path: Owner.parse(path.read_text(errors="replace")), "download": _read_note,
    "photo": _photo, "refusal": _photo, "counts": lambda path: read_key_counts(str(path)), "state": _state,
    "metrics": _metrics, "status": _look,
}  # fmt: skip


def read_note(path: Path) -> str:
    """By whoever finds it."""
    named = of_files(path)
    if path.stem == "state":
        try:
            json.loads(path.read_text())
        except (ValueError, RecursionError):
            return "dropped"  # it lies within a checkpoint, which is no JSON
    return ended(lambda: "read" if _READ[path.stem](path) else "dropped", lambda t: named(t) or "stream" in t)


TARGETS = {"notes": Target(notes, read_note, by_value)}
