"""A build that is a job of a Ray cluster: what differs from one at a terminal."""

from __future__ import annotations

from pathlib import Path

from storage.urls import expand, is_local

#: Part of the path of a copy of the working directory, which Ray makes for a job and deletes some time after it.
_COPIES = "runtime_resources/working_dir_files"


def goes_with_job(out: str, here: Path) -> str:
    """That a dataset would not outlive its job, in a line; empty where it does.

    Args:
        out: as the setting; empty: the default, below ``here``.
        here: the working directory.

    >>> goes_with_job("s3://bucket/x", Path("/tmp/ray/runtime_resources/working_dir_files/_ray_pkg_1"))
    ''
    """
    if _COPIES not in here.as_posix() or not is_local(out) or Path(expand(out)).is_absolute():
        return ""
    return f"{here} is the job's copy of your folder, which Ray deletes: give out= a URL or an absolute path"
