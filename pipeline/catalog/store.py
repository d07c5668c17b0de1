"""A dataset directory as a key-value store: a local path or any fsspec URL. A file appears whole or not at all."""

from __future__ import annotations

import io
import json
import os
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
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
        return fsspec.core.url_to_fs(self.root)

    def write(self, name: str, data: bytes) -> None:
        """Put one file: a temporary file, fsync and rename locally, one completed upload elsewhere."""
        if self.remote:
            fs, base = self._fs()
            fs.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
            fs.pipe_file(f"{base}/{name}", data)
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                with self.path.open("x") as file:
                    json.dump(self.owner, file)
                return self
            except FileExistsError:
                if not self._stale():
                    break
                self.path.unlink(missing_ok=True)
        raise LockError(
            f"{self.path.parent} is being written by {self._holder()}; wait for it, choose another out, "
            f"or delete {self.path} if that process is gone"
        )

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.path.read_text())) if self.path else {}
        except (OSError, ValueError, TypeError):
            return {}

    def _holder(self) -> str:
        holder = self._read()
        return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"

    def _stale(self) -> bool:
        """Whether the holder was a process of this host that is gone."""
        holder = self._read()
        if holder.get("host") != self.owner["host"] or not isinstance(holder.get("pid"), int):
            return False
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return bool(holder["pid"] == self.owner["pid"])
