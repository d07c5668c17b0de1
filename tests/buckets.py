"""An S3 server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest


@contextmanager
def s3_server(bucket: str, fails: int = 0, down: threading.Event | None = None) -> Iterator[Any]:
    """The file system of a server with an empty bucket; the environment has its address and credentials.

    ``fails``: so many requests after the bucket is there, and again, one ends in an error of the server (0: none);
    ``down``: all do while it is set.
    """
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    import fsspec
    from werkzeug.serving import make_server

    inner = moto.DomainDispatcherApplication(moto.create_backend_app)
    asked = count(1)
    ready = threading.Event()

    def application(environ: Any, start_response: Any) -> Any:
        if (down and down.is_set()) or (fails and ready.is_set() and next(asked) % fails == 0):
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return inner(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
        ):  # fmt: skip
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()  # of a server before this one
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir(bucket)
        ready.set()
        yield fs
        fsspec.filesystem("s3").clear_instance_cache()
    server.shutdown()
