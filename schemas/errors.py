"""The one exception tree of geoshards. A message names the file, key or tile, and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class GeoshardsError(Exception):
    """Base of every error that geoshards raises on purpose; shown to users without a traceback, as one line.

    >>> str(GeoshardsError("STAC item a\\nb has no band red"))
    'STAC item a b has no band red'
    """

    def __init__(self, message: str = "") -> None:
        # Names and texts of others stand in it.
        super().__init__(" ".join(message.splitlines()))


class ConfigError(GeoshardsError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class InputError(GeoshardsError):
    """An input file or row cannot be used: missing, truncated, out of range."""


class DatasetError(GeoshardsError):
    """A dataset directory is incomplete, of another version, or not what was asked for."""


class LockError(GeoshardsError):
    """Another process writes to the same directory."""


class ClusterError(GeoshardsError):
    """Ray, or a process of it that work was given to, is gone."""


class CorruptSampleError(DatasetError):
    """A member of a sample cannot be decoded; the stream turns it into a masked slot."""


class DependencyError(GeoshardsError):
    """An optional library is needed for what was asked, and is not installed."""


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


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    error = error.__cause__ or error  # rasterio has GDAL's own words there
    text = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
    own = text or type(error).__name__
    return " ".join(str(own).split())[:200]
