"""The one exception tree of geoshards. A message names the file, key or tile, and the way out."""


class GeoshardsError(Exception):
    """Base of every error that geoshards raises on purpose; shown to users without a traceback."""


class ConfigError(GeoshardsError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class InputError(GeoshardsError):
    """An input file or row cannot be used: missing, truncated, out of range."""


class DatasetError(GeoshardsError):
    """A dataset directory is incomplete, of another version, or not what was asked for."""


class LockError(GeoshardsError):
    """Another process writes to the same directory."""


class CorruptSampleError(DatasetError):
    """A member of a sample cannot be decoded; the stream turns it into a masked slot."""


class DependencyError(GeoshardsError):
    """An optional library is needed for what was asked, and is not installed."""
