"""Rasters opened where they lie: files by GDAL itself, URLs by ranges: http(s) through the project's own client, object
stores through fsspec, with the credentials that extracts, photos and tables of theirs are read with.

GDAL sees a remote GeoTIFF as a file whose pieces arrive when they are read. So retries, time limits, redirects and
signatures are ours, nothing but TIFF can come in that way, and no text of GDAL's quotes a signed URL.
"""

from __future__ import annotations

import glob
import re
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import rasterio

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import describe
from pipeline.imagery.raster import GDAL, MEMORY, check_raster, open_raster, without_codec
from pipeline.imagery.scene import Scene
from pipeline.net.client import Client, Passing, looks_like_html
from pipeline.net.stores import ask, file_facts, is_store, matching
from schemas.errors import GeoshardsError, InputError
from storage.pieces import PIECE, KeptPieces, PieceStore, runs
from storage.urls import is_local, is_web, shown

#: Bytes of what is asked for first, of all pieces of a file that are held, and of the longest range asked for at once.
_HEAD = 1 << 16
_HELD = 64 << 20
_RANGE = 8 << 20
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PAGE = "a web page where a GeoTIFF was expected (a login page, perhaps)"
_NAME = "asset.tif"
#: A signature is renewed when it has less time left than this.
_LEFT = timedelta(minutes=5)


class RangeFile(RawIOBase):
    """A remote TIFF to read from, in pieces; at most `_HELD` bytes of it are held, and all are kept in a store.

    Reading never raises, since GDAL calls it: what went wrong lies in `error`.
    """

    def __init__(
        self, url: str, client: Client, pool: ThreadPoolExecutor, store: PieceStore | None = None, name: str = ""
    ) -> None:
        """Asks for the first bytes, to see what is there and which version of it. ``name``: the URL unsigned.

        Raises:
            InputError: it cannot be had, is no TIFF, or the server sends no ranges.
        """
        super().__init__()
        self._url, self._client, self._pool = url, client, pool
        self._at, self.version = 0, ""
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self._errors: list[GeoshardsError] = []
        self.size = 0
        head = self._fetch(0, _HEAD)
        if not head.startswith(_TIFF):
            what = _PAGE if looks_like_html(head) else "no TIFF file; only GeoTIFF and COG are read from URLs"
            raise InputError(f"imagery {shown(url)} is {what}")
        self._pieces.update((i // PIECE, head[i : i + PIECE]) for i in range(0, len(head), PIECE))
        self._kept: KeptPieces | None = None
        if store is not None and self.version:  # else nothing tells another version from this one
            facts = "\n".join((name or url, str(self.size), self.version))
            self._kept = store.of(sha256(facts.encode()).hexdigest()[:32])

    def another(self) -> RangeFile:
        """The same file with a position of its own: GDAL may open it more than once at a time."""
        twin = RangeFile.__new__(RangeFile)
        twin.__dict__.update(self.__dict__)
        twin._at = 0
        return twin

    @property
    def error(self) -> GeoshardsError | None:
        """The first that happened, whoever was reading."""
        return self._errors[0] if self._errors else None

    def _fetch(self, start: int, stop: int) -> bytes:
        """Bytes start..stop, or fewer where the file ends."""
        if not is_web(self._url):
            return self._stored(start, stop)

        def attempt() -> bytes:
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            with self._client.open(self._url, headers=headers) as response:
                found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
                if response.status_code != 206 or not found or int(found[1]) != start:
                    if looks_like_html(next(iter(self._client.body(response)), b"")):
                        raise InputError(f"imagery {shown(self._url)} is {_PAGE}")
                    raise InputError(
                        f"imagery {shown(self._url)}: the server sends no ranges of it; download it and give its path"
                    )
                version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
                if start and version != self.version:
                    raise self._changed()
                self.version = version
                data = bytearray()
                for piece in self._client.body(response):
                    data += piece
                    if len(data) > stop - start:
                        raise InputError(f"imagery {shown(self._url)}: the server sends more than it was asked for")
                if len(data) != int(found[2]) + 1 - start or len(data) < min(stop, int(found[3])) - start:
                    raise Passing("the transfer was cut")
                self.size = int(found[3])
                return bytes(data)

        return self._client.retrying(self._url, attempt)

    def _stored(self, start: int, stop: int) -> bytes:
        facts = file_facts(self._url) if not start else (self.size, self.version)
        self.size, self.version = facts[0] or 0, facts[1]
        stop = min(stop, self.size)
        data: bytes = ask(self._url, lambda fs, name: fs.cat_file(name, start=start, end=stop))
        if len(data) != stop - start:
            raise self._changed()
        return data

    def check_version(self) -> None:
        """Raises InputError if a store has another version of the file by now; a web server says so at each range."""
        if not is_web(self._url) and file_facts(self._url) != (self.size, self.version):
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(f"imagery {shown(self._url)} changed while it was read; run the same command again")

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """Several ranges at a time: GDAL asks so for the TIFF tiles of a window. Zeros after an error."""
        try:
            return self._ranges([(o, min(o + n, self.size)) for o, n in zip(offsets, sizes, strict=True)], sizes)
        except GeoshardsError as error:
            self._errors.append(error)
            return [bytes(n) if n <= MEMORY else b"" for n in sizes]

    def _ranges(self, ranges: list[tuple[int, int]], sizes: list[int]) -> list[bytes]:
        """Bytes of ranges (start, stop), each filled up with zeros to its size."""
        if sum(sizes) > MEMORY:
            what = f"claims to hold a piece of {sum(sizes):,} bytes; it is damaged"
            raise InputError(f"imagery {shown(self._url)} {what}")
        numbers = [range(start // PIECE, -(-max(stop, start) // PIECE)) for start, stop in ranges]
        parts = self._parts(sorted(set().union(*numbers)))
        result = []
        for (start, stop), own, size in zip(ranges, numbers, sizes, strict=True):
            first = own.start * PIECE
            result.append(b"".join(parts[p] for p in own)[start - first : max(stop - first, 0)].ljust(size, b"\0"))
        return result

    def read(self, count: int = -1) -> bytes:
        """The next ``count`` bytes; fewer at the end, or after an error."""
        stop = self.size if count < 0 else min(self.size, self._at + count)
        if self.error is not None or stop <= self._at:
            return b""
        try:
            (data,) = self._ranges([(self._at, stop)], [stop - self._at])
        except GeoshardsError as error:
            self._errors.append(error)
            return b""
        self._at = stop
        return data

    def _parts(self, pieces: list[int]) -> dict[int, bytes]:
        """Pieces of ascending numbers: held, kept or fetched."""
        parts = {p: self._pieces[p] for p in pieces if p in self._pieces}
        missing = [p for p in pieces if p not in parts]
        if missing and self._kept is not None:
            fresh = self._kept.find(missing)
            if lacking := [p for p in missing if p not in fresh]:
                with self._kept.alone(lacking):
                    fresh |= self._kept.find(lacking)  # another process may have fetched them meanwhile
                    for first, data in self._fetched([p for p in lacking if p not in fresh]):
                        self._kept.keep(first, data)
                        fresh |= _cut(first, data)
        else:
            fresh = {p: own for first, data in self._fetched(missing) for p, own in _cut(first, data).items()}
        self._pieces |= fresh
        while len(self._pieces) * PIECE > _HELD:
            self._pieces.popitem(last=False)
        return parts | fresh

    def _fetched(self, missing: list[int]) -> Iterator[tuple[int, bytes]]:
        """The first number and the bytes of each run of pieces."""
        wanted = runs(missing, _RANGE // PIECE)
        fetch = map if len(wanted) < 2 else self._pool.map
        found = fetch(lambda run: self._fetch(run[0] * PIECE, min(run[1] * PIECE, self.size)), wanted)
        return zip((first for first, _ in wanted), found, strict=True)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move; returns the new position."""
        self._at = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self.size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True


def _cut(first: int, data: bytes) -> dict[int, bytes]:
    return {first + i // PIECE: data[i : i + PIECE] for i in range(0, len(data), PIECE)}


@dataclass
class Opener:
    """Opens rasters; remembers signatures for as long as they hold."""

    client: Client
    pool: ThreadPoolExecutor
    store: PieceStore | None = None  # what is fetched stays there
    _tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def remote(self, href: str, token: str = "") -> RangeFile:
        """The file behind a URL, to be read from; raises as `RangeFile` does, and for what is no such URL."""
        if not is_web(href) and not is_store(href):
            raise InputError(f"imagery {shown(href)[:200]} is no http(s) URL, and of no store; download it")
        return RangeFile(self._signed(href, token), self.client, self.pool, self.store, href)

    @contextmanager
    def open(self, href: str, token: str = "") -> Iterator[Any]:
        """The raster in rasterio. ``token``: URL of a signature, as ``{"token": …, "msft:expiry": …}``.

        Raises:
            Unavailable: the server does not answer, now; what it would have said is unknown.
            InputError: it cannot be read, whenever it is tried.
        """
        if is_local(href):
            if not Path(href).is_file():  # /vsi… are no files
                raise InputError(f"imagery {href} does not exist")
            with open_raster(href) as source:
                yield source
            return
        with self.opened(self.remote(href, token), href) as source:
            yield source

    @contextmanager
    def opened(self, file: RangeFile, href: str) -> Iterator[Any]:
        """A remote file in rasterio; raises as `open` does."""

        def hand_out(path: str, mode: str = "rb") -> RangeFile:
            if path != _NAME or "r" not in mode:
                raise FileNotFoundError(path)
            return file.another()

        try:
            with (
                rasterio.Env(**GDAL, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
                rasterio.open(_NAME, opener=hand_out, driver="GTiff") as source,
            ):
                check_raster(source, shown(href))
                yield source
        except GeoshardsError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever GDAL meets in a stranger's file; its words can quote the URL
            if file.error is not None:
                raise file.error from None
            if advice := without_codec(error):
                raise InputError(f"imagery {shown(href)} cannot be read: {advice}") from None
            raise InputError(f"imagery {shown(href)} is a damaged TIFF: parts of it are missing or wrong") from None
        if file.error is not None:
            raise file.error
        file.check_version()

    def _signed(self, href: str, token: str) -> str:
        if not token or not _is_signed_at(href, token):
            return href
        text, until = self._tokens.get(token, ("", datetime.min.replace(tzinfo=UTC)))
        if datetime.now(UTC) + _LEFT > until:
            answer = self.client.get_json(token)
            try:
                text, until = str(answer["token"]), datetime.fromisoformat(answer["msft:expiry"])
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{shown(token)} sends no signature; check rs.stac_url") from None
            self._tokens[token] = text, until if until.tzinfo else until.replace(tzinfo=UTC)
        return f"{href}{'&' if '?' in href else '?'}{text}"


def remote_scenes(part: str, config: ImageryConfig, opener: Opener) -> list[Scene]:
    """Scenes of the raster behind a URL, or of those that a pattern of a store's matches, by name.

    A scene's identity is the URL without what may be secret in it, its size, and the version that the server names.

    Raises:
        InputError: one cannot be had, is no GeoTIFF, or is described as `local.describe` refuses; or there is none.
    """
    hrefs = [part]
    if not is_web(part) and glob.has_magic(part):
        hrefs = matching(part)
        if not hrefs:
            raise InputError(f"imagery {shown(part)} matches no file; give URLs of GeoTIFF or COG files")
    elif is_web(part) and "*" in part:
        raise InputError(
            f"imagery {shown(part)}: a web server lists no files; give the URL of each, or a STAC document"
        )
    return [_remote_scene(href, config, opener) for href in hrefs]


def _remote_scene(href: str, config: ImageryConfig, opener: Opener) -> Scene:
    file = opener.remote(href)
    with opener.opened(file, href) as source:
        name = unquote(urlsplit(href).path.rpartition("/")[2])
        scene = describe(source, shown(href), name, config)
    assets = tuple(replace(asset, href=href) for asset in scene.assets)
    mask = None if scene.mask is None else replace(scene.mask, asset=replace(scene.mask.asset, href=href))
    facts = "\n".join((shown(href), str(file.size), file.version))
    return replace(scene, assets=assets, mask=mask, identity=sha256(facts.encode()).hexdigest())


def _is_signed_at(href: str, token: str) -> bool:
    """Whether a signature is for an asset's host: Azure's storage, or the host that signs."""
    host = urlsplit(href).hostname or ""
    return host.endswith(".blob.core.windows.net") or host == urlsplit(token).hostname
