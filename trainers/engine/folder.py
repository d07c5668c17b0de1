"""Where a run writes: a folder of this machine; for a URL one in the cache, whose files follow to the store meanwhile.

Training waits for no store: a thread sends each file whole, and again as it changes, a checkpoint after the history
that leads to it. A store that fails is asked again as long as the run lasts; what it has not taken by then stays on
this machine.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from schemas.errors import GeoshardsError, InputError
from storage.files import put
from storage.owner import Owner
from storage.store import Store
from storage.text import visible
from storage.urls import cache_folder, shown
from trainers.engine.evaluation import JSON_NAME
from trainers.engine.report import METRICS_NAME, WANDB_NAME

#: Seconds between looks for what has changed; a checkpoint is sent at once.
EVERY = 30.0
#: What a run that goes on adds to.
_HISTORY = (METRICS_NAME, JSON_NAME, WANDB_NAME)
#: Names the process that a work folder belongs to, until the store fails: what has lost its process is swept.
_OWNER = ".owner"


class RunFolder:
    """The folder of one run.

    Attributes: ``url``, its path or URL; ``local``, where the run writes while it is open.
    """

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self.url = self._store.root
        self.local = Path(self.url)
        self._sent: dict[str, tuple[int, int]] = {}  # file to its time (ns) and size when it was sent
        self._soon, self._done = threading.Event(), threading.Event()
        self._failure = ""  # why the store did not take the last file; empty: it did

    def path(self, name: str) -> str:
        """Path or URL of a file."""
        return self._store.path(name)

    def send_soon(self) -> None:
        """Let what has been written follow to the store now."""
        self._soon.set()

    @contextmanager
    def opened(self, name: str, text: str) -> Iterator[None]:
        """The folder, for the one process that writes, with a first file in it, which shows that it can be written.

        Raises:
            GeoshardsError: it cannot; or, at the end, not all of it is in the store.
        """
        if not self._store.remote:
            put(self.local / name, text)
            yield
            return
        work = self._make()
        try:
            self._store.write(name, text.encode())
            for held in _HISTORY:
                if self._store.exists(held):
                    put(self.local / held, self._store.read(held))
            put(self.local / name, text)
        except GeoshardsError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        self._sent = {file: facts for file, (_, facts) in self._files().items()}
        thread = threading.Thread(target=self._follow, name=f"sends to {shown(self.url)}", daemon=True)
        thread.start()
        ended = ""
        try:
            yield
        except GeoshardsError as error:
            ended = f"{error}. "
            raise
        finally:
            self._done.set()
            self._soon.set()
            thread.join()
            self._send()
            if self._failure:
                raise InputError(
                    f"{ended}{shown(self.url)} did not take all files of the run ({self._failure}); they lie in "
                    f"{self.local}: copy them there, or go on with resume={self.local}/checkpoint.pt"
                )
            shutil.rmtree(work, ignore_errors=True)

    def _make(self) -> Path:
        """A new work folder; those of processes that have ended go, but for what their store did not take."""
        runs = cache_folder() / "runs"
        for note in runs.glob(f"*/{_OWNER}"):
            with suppress(OSError):
                owner = Owner.parse(note.read_text())
                if owner is not None and owner.alive() is False:
                    shutil.rmtree(note.parent, ignore_errors=True)
        work = (runs / uuid4().hex[:12]).absolute()
        self.local = work / (self.url.rpartition("/")[2] or "run")
        try:
            self.local.mkdir(parents=True)
            put(work / _OWNER, Owner.here().text())
        except OSError as error:
            raise InputError(
                f"{runs} cannot be written: {error.strerror}; files wait there on their way to {shown(self.url)}, so "
                "set GEOSHARDS_CACHE to a folder that can be"
            ) from None
        return work

    def _files(self) -> dict[str, tuple[Path, tuple[int, int]]]:
        """Path, time and size of each file by its name: in the order in which they were last written, checkpoints
        behind the others."""
        found = {}
        for path in self.local.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(self.local).parts)
            if path.is_file() and not hidden:
                with suppress(FileNotFoundError):
                    found[path.relative_to(self.local).as_posix()] = path, _facts(path)
        return dict(sorted(found.items(), key=lambda item: (item[0].endswith(".pt"), item[1][1])))

    def _follow(self) -> None:
        while not self._done.is_set():
            self._soon.wait(EVERY)
            self._soon.clear()
            self._send()

    def _send(self) -> None:
        """Send what has changed, up to the first file that the store does not take."""
        for name, (path, facts) in self._files().items():
            if self._sent.get(name) == facts:
                continue
            try:
                if name.endswith(".pt") and _facts(path) != facts:  # a newer one, and so is its history
                    continue
                self._store.send(name, path)
            except (GeoshardsError, FileNotFoundError) as error:
                if path.exists():
                    self._fails(str(error))
                    return
                continue  # a file of a tracker that was there for a moment
            self._sent[name] = facts
        if self._failure:
            self._failure = ""
            put(self.local.parent / _OWNER, Owner.here().text())
            print(f"{shown(self.url)} takes files again", file=sys.stderr)

    def _fails(self, reason: str) -> None:
        """Say so once, and keep the files even if this process is killed."""
        if not self._failure:
            (self.local.parent / _OWNER).unlink(missing_ok=True)
            print(
                f"{shown(self.url)} takes no files ({visible(reason)}); training goes on, and they wait in "
                f"{self.local}",
                file=sys.stderr,
            )
        self._failure = reason


def _facts(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size
