"""Files to download, and where from."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import numpy as np

from pipeline.net.config import NetConfig
from tests.mirror.server import Mirror

#: Impatient, so that tests are fast.
FAST = NetConfig(timeout=2.0, retries=3, backoff=0.001, max_wait=0.05)


def pbf_bytes(size: int, seed: int = 0) -> bytes:
    """One blob of ``size`` random bytes that calls itself an OSM header: whole, or visibly not."""
    varint = bytearray()
    left = size
    while left > 127:
        varint.append(left & 127 | 128)
        left >>= 7
    header = b"\x0a\x09OSMHeader\x18" + bytes([*varint, left])
    return len(header).to_bytes(4, "big") + header + np.random.default_rng(seed).bytes(size)


def publish(folder: Path, data: bytes, name: str = "x.osm.pbf") -> Path:
    """Put a file on the mirror in one step."""
    path = folder / "geofabrik" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / ".new").write_bytes(data)
    os.replace(path.parent / ".new", path)
    return path


def address(mirror: Mirror, name: str = "x.osm.pbf") -> str:
    """Its URL."""
    return f"{mirror.url}/geofabrik/{name}"


def raw_server(answer: bytes, asked: list[bytes] | None = None) -> tuple[str, socket.socket]:
    """A server that sends these bytes to whoever comes, and hangs up; ``asked`` gets what they asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65_536)
                if asked is not None:
                    asked.append(request)
                with contextlib.suppress(ConnectionError):
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/x", listener
