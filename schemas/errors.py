"""The one exception tree of geoshards. A message names the file, key or tile, and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

#: How libraries say that memory, threads or files have run out on this machine.
_SHORT = re.compile(
    r"(cannot|can't|unable to|failed to) (allocate|map|mmap|launch)|bad_alloc|out of memory|can't start new thread"
    r"|allocation.* failed|temporarily unavailable|too many open files",
    re.IGNORECASE,
)


class GeoshardsError(Exception):
    """Base of every error that geoshards raises on purpose; shown to users without a traceback, as one line.

    >>> str(GeoshardsError("STAC item a\\nb has no band red"))
    'STAC item a b has no band red'
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names and texts of others stand in it


class ConfigError(GeoshardsError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class InputError(GeoshardsError):
    """An input file or row cannot be used: missing, truncated, out of range."""


class DatasetError(GeoshardsError):
    """A dataset directory is incomplete, of another version, or not what was asked for."""


class NoAnswerError(DatasetError):
    """A store does not answer, however often it was asked; later it may."""


class LockError(GeoshardsError):
    """Another process writes to the same directory."""


class ClusterError(GeoshardsError):
    """Ray, or a process of it that work was given to, is gone."""


class CorruptSampleError(DatasetError):
    """A member of a sample cannot be decoded; the stream turns it into a masked slot."""


class ResourceError(GeoshardsError):
    """The machine has not the memory, or does not let live the processes, that what was asked takes."""


class DependencyError(GeoshardsError):
    """An optional library is needed for what was asked, and is not installed."""


#: What may pass by itself, or on another machine: the same again is worth a try. All other errors stay what they are.
PASSING = (ClusterError, ResourceError, NoAnswerError)


@contextmanager
def at_the_door(what: str, advice: str = "", kind: type[GeoshardsError] = InputError) -> Iterator[None]:
    """Whatever a library raises while a block reads one outside thing, as one line that names it.

    No list of types holds all that readers of strangers' files raise.

    Args:
        what: the thing, and what it turns out to be: ``x is no YAML``, ``x cannot be read``.
        advice: the way out.
        kind: what is raised.

    Raises:
        GeoshardsError: of that kind; or what the block raised, if it was one.
    """
    try:
        yield
    except GeoshardsError:
        raise
    except Exception as error:  # noqa: BLE001  # see above
        if isinstance(error, OSError) and error.strerror and not what.endswith(" cannot be read"):
            what = f"{what.rpartition(' is ')[0] or what} cannot be read"  # what it is was not seen
        raise kind(f"{what}: {reason_of(error)}{'; ' if advice else ''}{advice}") from None


def nearest(word: str, known: Collection[str]) -> str:
    """The way out of an unknown word.

    >>> nearest("datset", ["dataset", "pretrain"]), nearest("x", ["dataset", "pretrain"])
    ('did you mean dataset?', 'choose of dataset, pretrain')
    """
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else f"choose of {', '.join(known) or 'none'}"


def is_short(error: BaseException) -> bool:
    """Whether an error says that this machine's memory, threads or open files have run out; not a GPU's memory."""
    text = last_line(error)
    return isinstance(error, MemoryError) or (_SHORT.search(text) is not None and "CUDA" not in text)


def shortage(error: BaseException, what: str = "this process") -> ResourceError:
    """Such an error as one line with the way out; ``what`` could not be done."""
    said = last_line(error) or "out of memory"
    return ResourceError(
        f"{what} does not get what it needs ({said}); raise the limit (ulimit -v, -n, -u), or free memory"
    )


def last_line(error: BaseException) -> str:
    """Its last line: the reason, where another process has put its traceback before it."""
    text = Exception.__str__(error) if isinstance(error, GeoshardsError) else str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^[\w.]+Error: ", "", lines[-1].strip()) if lines else ""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    error = error.__cause__ or error  # rasterio has GDAL's own words there
    text = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
    own = text or type(error).__name__
    return " ".join(str(own).split())[:200]
