"""A dataset directory as a key-value store: a local path or any fsspec URL. A file appears whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DatasetError, InputError, LockError


def is_remote(root: str) -> bool:
    """Whether ``root`` is a URL of another file system than the local one."""
    return "://" in root and not root.startswith("file://")


class Store:
    """Files under one root. Picklable, so that workers can write to the same place."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).removeprefix("file://").rstrip("/")
        self.remote = is_remote(self.root)

    def path(self, name: str) -> str:
        """Full path or URL of a file."""
        return f"{self.root}/{name}"

    def _fs(self) -> tuple[Any, str]:
        import fsspec  # a tenth of a second, which only URLs need

        return fsspec.core.url_to_fs(self.root)

    def write(self, name: str, data: bytes) -> None:
        """Put one file: a temporary file, fsync and rename locally, one completed upload elsewhere."""
        if self.remote:
            fs, base = self._fs()
            fs.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
            fs.pipe_file(f"{base}/{name}", data)
            return
        target = Path(self.path(name))
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise InputError(
                f"{target} cannot be written: {error.strerror}; free space or choose another out"
            ) from None

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            DatasetError: there is no such file.
        """
        try:
            if self.remote:
                fs, base = self._fs()
                return bytes(fs.cat_file(f"{base}/{name}"))
            return Path(self.path(name)).read_bytes()
        except FileNotFoundError:
            raise DatasetError(f"{self.path(name)} is missing; run `geoshards shards` into this directory") from None

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        if self.remote:
            fs, base = self._fs()
            return bool(fs.exists(f"{base}/{name}"))
        return Path(self.path(name)).exists()

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; unfinished temporary files are left out."""
        if self.remote:
            fs, base = self._fs()
            if not fs.exists(f"{base}/{folder}"):
                return []
            found = [str(p).rsplit("/", 1)[-1] for p in fs.ls(f"{base}/{folder}", detail=False)]
        else:
            local = Path(self.path(folder))
            found = [p.name for p in local.iterdir()] if local.is_dir() else []
        return sorted(n for n in found if not n.endswith(".tmp"))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name."""
        if self.remote:
            fs, base = self._fs()
            if not fs.exists(f"{base}/{folder}"):
                return {}
            return {str(f["name"]).rsplit("/", 1)[-1]: int(f["size"]) for f in fs.ls(f"{base}/{folder}", detail=True)}
        local = Path(self.path(folder))
        return {p.name: p.stat().st_size for p in local.iterdir()} if local.is_dir() else {}

    def sweep(self) -> None:
        """Remove the temporary files that killed processes left. Local only: an upload leaves none."""
        for folder in ("shards", "catalog"):
            for path in Path(self.path(folder)).rglob(".*.tmp") if not self.remote else ():
                path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.remote:
            fs, base = self._fs()
            if fs.exists(f"{base}/{name}"):
                fs.rm_file(f"{base}/{name}")
        else:
            Path(self.path(name)).unlink(missing_ok=True)

    def write_table(self, name: str, table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> None:
        """Put an Arrow table as Parquet; equal tables give equal bytes."""
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd", row_group_size=65_536)
        self.write(name, buffer.getvalue())

    def read_table(self, name: str) -> pa.Table:
        """Read one Parquet file whole."""
        return pq.read_table(io.BytesIO(self.read(name)))


class Lock:
    """One writer a directory. Local directories only: an object store has no exclusive create in fsspec."""

    def __init__(self, store: Store) -> None:
        self.path = Path(store.path(".lock")) if not store.remote else None
        self.owner = {"host": socket.gethostname(), "pid": os.getpid()}

    def __enter__(self) -> Lock:
        if self.path is None:
            return self
        mine = self.path.with_name(f".lock.{self.owner['pid']}.{uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_text(json.dumps(self.owner))
        except OSError as error:
            raise InputError(f"{self.path.parent} cannot be written: {error.strerror}; choose another out") from None
        try:
            for _ in range(2):
                try:
                    os.link(mine, self.path)  # appears with its content, or fails
                    return self
                except FileExistsError:
                    if not self._stale(self.path):
                        break
                    self._take_away(self.path, mine.with_name(f"{mine.name}.stale"))
        finally:
            mine.unlink()
        raise LockError(
            f"{self.path.parent} is being written by {self._holder()}; wait for it, choose another out, "
            f"or delete {self.path} if that process is gone"
        )

    def _take_away(self, path: Path, moved: Path) -> None:
        """Remove a stale lock; one who moved a living one by mistake puts it back."""
        with contextlib.suppress(OSError):
            path.rename(moved)
            if not self._stale(moved):
                os.link(moved, path)
            moved.unlink()

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _holder(self) -> str:
        holder = self._read(self.path) if self.path else {}
        return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"

    def _stale(self, path: Path) -> bool:
        """Whether the holder was a process of this host that is gone, or is this very process."""
        holder = self._read(path)
        if holder.get("host") != self.owner["host"] or not isinstance(holder.get("pid"), int):
            return False
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return bool(holder["pid"] == self.owner["pid"])
