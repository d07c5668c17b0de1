"""A folder as a key-value store: a local path or any fsspec URL. A file appears whole or not at all.

What is asked of a store behind a URL is asked for again where it fails.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DatasetError, InputError, is_short, reason_of, shortage
from storage.files import UNFINISHED, atomic_file, put
from storage.nodes.copies import copy_of, scratch
from storage.nodes.copies import fetch as fetch_to
from storage.retry import NO_RANGES, TRAFFIC, patiently
from storage.urls import expand, file_system, is_local, shown

#: Kinds of stores that know no folders, and make a bucket where one is asked for.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "obs", "cos"})


def place_of(path: str | Path) -> tuple[Store, str]:
    """The store of a file's path or URL, and its name there.

    >>> place_of("s3://bucket/run/last.pt")[1]
    'last.pt'
    """
    folder, _, name = expand(path).rpartition("/")
    return Store(folder or ("/" if str(path).startswith("/") else ".")), name


class Store:
    """Files under one root. Picklable, so that workers can write to the same place."""

    def __init__(self, root: str | Path) -> None:
        self.root = expand(root)
        self.remote = not is_local(self.root)

    def path(self, name: str) -> str:
        """Full path or URL of a file."""
        return f"{self.root}/{name}"

    def _fs(self, name: str) -> tuple[Any, str]:
        """The file system behind the URL, and its own path of a file."""
        fs, base = file_system(self.root)
        return fs, f"{base}/{name}"

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Put one file: see :func:`storage.files.atomic_file` locally, one completed upload elsewhere.

        Raises:
            InputError: it cannot be written.
        """
        if self.remote:
            self._upload(name, lambda fs, path: fs.pipe_file(path, data))
            TRAFFIC.sent += len(data)
            return
        try:
            put(Path(self.path(name)), data, durable)
        except OSError as error:
            raise InputError(
                f"{self.path(name)} cannot be written: {error.strerror}; free space, or choose another folder "
                "(out=…, GEOSHARDS_CACHE)"
            ) from None

    def below(self, folder: str) -> Store:
        """The store of a folder in it."""
        return Store(self.path(folder))

    def local(self, name: str) -> Path:
        """The path of one file on this machine: its own, or that of a copy (see :mod:`storage.nodes.copies`).

        Raises:
            FileNotFoundError: there is no such file behind the URL.
            DatasetError, InputError: it cannot be had.
        """
        return copy_of(self.root, name) if self.remote else Path(self.path(name))

    def fetch(self, name: str, target: Path) -> None:
        """Write a file behind a URL to a path of this machine. Raises as :func:`storage.nodes.copies.fetch`."""
        fetch_to(self.root, name, target)

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        """The path of a file for the block to write: its own, or one of this machine that is sent if the block ends
        well. What is below a URL appears whole or not at all; what is here appears as it is written.

        Raises:
            OSError, InputError, DatasetError: it cannot be written.
        """
        if not self.remote:
            yield Path(self.path(name))
            return
        with scratch() as folder:
            yield folder / "file"
            self.send(name, folder / "file")

    @contextmanager
    def part(self, name: str, start: int, end: int) -> Iterator[BinaryIO]:
        """A file open for reading between two offsets: of a URL just these bytes are asked for.

        Raises:
            OSError, DatasetError: it cannot be read.
        """
        if not self.remote:
            with Path(self.path(name)).open("rb") as file:
                yield file
            return
        with _Window(self.read_range(name, start, end), start) as window:
            yield window

    def send(self, name: str, source: Path) -> None:
        """Put a file of this machine, of any size, into a store behind a URL: one completed upload.

        Raises:
            InputError, DatasetError: it cannot be written, or the store does not answer.
        """
        self._upload(name, lambda fs, path: fs.put_file(str(source), path))
        TRAFFIC.sent += source.stat().st_size

    @contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """The path of a new file of this machine for the block to write, which takes the place of ``name`` if the
        block ends well.

        Raises:
            OSError, InputError, DatasetError: it cannot be written.
        """
        if not self.remote:
            with atomic_file(Path(self.path(name))) as fresh:
                yield fresh
            return
        with tempfile.TemporaryDirectory(prefix="geoshards-") as folder:
            fresh = Path(folder, name.rpartition("/")[2])
            yield fresh
            self.send(name, fresh)

    def _upload(self, name: str, put_at: Callable[[Any, str], object]) -> None:
        fs, path = self._fs(name)
        try:
            if self.root.partition("://")[0] not in _BUCKETS:
                fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            patiently(self.path(name), lambda: put_at(fs, path))
        except FileNotFoundError:
            raise InputError(
                f"{self.root}: there is no such bucket; create it, or mend the address (nothing here creates one)"
            ) from None
        except NotImplementedError:
            raise InputError(
                f"{shown(self.root)}: nothing can be written to addresses of this kind; give a folder, or s3://…"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.path(name)} cannot be written: {reason_of(error)}; check your rights to the store"
            ) from None

    def read(self, name: str, size: int | None = None) -> bytes:
        """The bytes of one file; ``size`` is what a list of the store's has said of it.

        Raises:
            DatasetError: there is no such file, or the store does not answer.
        """
        try:
            if not self.remote:
                return self._regular(name).read_bytes()
            fs, path = self._fs(name)
            return patiently(self.path(name), partial(_fetch, fs, path, size or 0), size is not None)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(
                f"{self.path(name)} does not exist; give a dataset directory, or make one with: make shards REGION=demo"
            ) from None
        except OSError as error:
            raise DatasetError(f"{self.path(name)} cannot be read: {reason_of(error)}; check your rights") from None

    def exists(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            DatasetError: the store does not answer, or not to us.
        """
        if not self.remote:
            return Path(self.path(name)).exists()
        fs, path = self._fs(name)
        try:
            return patiently(self.path(name), lambda: bool(fs.exists(path)))
        except OSError as error:
            raise DatasetError(f"{self.path(name)} cannot be read: {reason_of(error)}; check your rights") from None

    def files(self, folder: str) -> dict[str, dict[str, Any]]:
        """What is known of each file of a folder (``size`` in bytes, and when or as what it was written), by name,
        sorted; unfinished files are left out.

        Raises:
            DatasetError: the store does not answer.
        """
        try:
            found = self._remote_files(folder) if self.remote else self._local_files(folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {name: found[name] for name in sorted(found) if name and not name.endswith(UNFINISHED)}

    def _remote_files(self, folder: str) -> dict[str, dict[str, Any]]:
        fs, path = self._fs(folder)
        fs.invalidate_cache(path)  # other writers' files count
        entries = patiently(self.path(folder), lambda: fs.ls(path, detail=True))
        return {entry["name"].rsplit("/", 1)[-1]: entry for entry in entries if entry["type"] == "file"}

    def _local_files(self, folder: str) -> dict[str, dict[str, Any]]:
        found = {}
        with os.scandir(self.path(folder)) as entries:
            for entry in entries:
                with suppress(OSError):  # another process may rename or remove it meanwhile; links may go in circles
                    facts = entry.stat()
                    if S_ISREG(facts.st_mode):  # a pipe would be waited for
                        found[entry.name] = {"size": facts.st_size, "mtime": facts.st_mtime}
        return found

    def walk(self) -> list[str]:
        """Names of all files below the root, sorted; what is hidden is left out.

        Raises:
            DatasetError: the store does not answer.
        """
        if self.remote:
            fs, base = self._fs("")
            fs.invalidate_cache()
            entries = patiently(self.root, lambda: fs.find(base))
            names = [str(path).removeprefix(base) for path in entries]
        else:
            names = [p.relative_to(self.root).as_posix() for p in Path(self.root).rglob("*") if p.is_file()]
        return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of one file, fewer where it is shorter.

        Raises:
            DatasetError: there is no such file, or the store does not answer.
        """
        if self.remote:
            fs, path = self._fs(name)
            return patiently(self.path(name), lambda: bytes(fs.cat_file(path, start=start, end=end)), listed=True)
        try:
            with self._regular(name).open("rb") as file:
                return os.pread(file.fileno(), end - start, start)
        except OSError as error:
            raise DatasetError(f"{self.path(name)} cannot be read: {error.strerror}") from None

    def _regular(self, name: str) -> Path:
        """The path of a local file. A pipe would be waited for without end, a device read without end.

        Raises:
            DatasetError: something else is there.
        """
        path = Path(self.path(name))
        if path.exists() and not path.is_file():
            raise DatasetError(f"{path} is no file; put the dataset's own file there, or build the dataset again")
        return path

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted."""
        return list(self.files(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name."""
        return {name: int(facts["size"]) for name, facts in self.files(folder).items()}

    def sweep(self, folders: Collection[str] = ("shards", "catalog")) -> None:
        """Remove the unfinished files that killed processes left, at the root and anywhere in ``folders``. Local only:
        an upload leaves none."""
        if not self.remote:
            places = [Path(self.root).glob, *(Path(self.path(folder)).rglob for folder in folders)]
            for path in chain.from_iterable(find(f".*{UNFINISHED}") for find in places):
                path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if not self.remote:
            Path(self.path(name)).unlink(missing_ok=True)
            return
        fs, path = self._fs(name)
        with suppress(FileNotFoundError):
            patiently(self.path(name), lambda: fs.rm_file(path))

    def remove_all(self, folder: str = "") -> None:
        """Delete a folder with all that is in it, if it is there."""
        if not self.remote:
            shutil.rmtree(self.path(folder) if folder else self.root, ignore_errors=True)
            return
        fs, path = self._fs(folder)
        with suppress(FileNotFoundError):
            patiently(self.path(folder), lambda: fs.rm(path.rstrip("/"), recursive=True))

    def write_table(
        self,
        name: str,
        table: pa.Table,
        metadata: dict[bytes, bytes] | None = None,
        repeating: Sequence[str] | None = None,
        durable: bool = True,
    ) -> None:
        """Put an Arrow table as Parquet; equal tables give equal bytes.

        Args:
            repeating: paths of the columns whose values repeat, which alone get a dictionary; None: each is tried.
            durable: see :func:`storage.files.atomic_file`.
        """
        buffer = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata(metadata), buffer, compression="zstd", row_group_size=65_536,
            use_dictionary=True if repeating is None else list(repeating), write_page_checksum=True,
        )  # fmt: skip
        self.write(name, buffer.getvalue(), durable)

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file that has been listed, opened; what is read of it is asked for by ranges."""
        source = pa.PythonFile(_Patient(self, name), mode="r") if self.remote else self.path(name)
        try:
            return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        except UnicodeDecodeError as error:
            raise pa.ArrowInvalid(f"its columns have names that are no text: {error}") from None

    def read_table(self, name: str, without: Collection[str] = ()) -> pa.Table:
        """One Parquet file whole, its columns ``without`` left unread, without metadata of the file.

        Raises:
            DatasetError: it cannot be read.
        """
        try:
            file = self.parquet(name)
            columns = [c for c in file.schema_arrow.names if c not in without]
            table = file.read(columns).replace_schema_metadata(None)
            table.validate(full=True)  # texts that are no UTF-8, offsets beyond their bytes
            return table
        except (pa.ArrowException, OSError) as error:
            if is_short(error):
                raise shortage(error, self.path(name)) from None
            first = str(error).splitlines()[0]
            raise DatasetError(f"{self.path(name)} cannot be read ({first}); build the dataset again") from None


class _Window(io.BytesIO):
    """Some bytes of a file, by their offsets in it."""

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(data)
        self._start = start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset - self._start if whence == io.SEEK_SET else offset, whence) + self._start

    def tell(self) -> int:
        return super().tell() + self._start


class _Patient(io.RawIOBase):
    """A file behind a URL, each read one request."""

    def __init__(self, store: Store, name: str) -> None:
        self._url, self._at = store.path(name), 0
        self._fs, self._path = store._fs(name)
        self._size: int = patiently(self._url, lambda: self._fs.info(self._path)["size"], listed=True)

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        first = self._at
        self._at = self._size if size < 0 else min(self._size, first + size)
        fetch = partial(_fetch, self._fs, self._path, self._at - first, first, self._at)
        return patiently(self._url, fetch, listed=True) if self._at > first else b""


def _fetch(fs: Any, path: str, size: int, start: int | None = None, end: int | None = None) -> bytes:
    data = bytes(fs.cat_file(path, start=start, end=end))
    if end is not None and len(data) > size:
        raise EOFError(f"{NO_RANGES}, {len(data)} bytes for {size}")
    if len(data) < size:
        raise EOFError(f"{len(data)} of {size} bytes came")
    return data
