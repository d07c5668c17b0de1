"""Which datasets a run reads: one, several as one, or a mixture by weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigError

_WEIGHTED = re.compile(r"(.+):([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)")
_HOST = re.compile(r"https?://[^/]+:\d+/?")


@dataclass(frozen=True)
class Datasets:
    """Dataset directories, and their weights where they are a mixture."""

    roots: tuple[str, ...]  # paths or URLs, no trailing slash
    weights: tuple[float, ...] | None = None  # None: one dataset with one epoch

    def __post_init__(self) -> None:
        twice = [r for i, r in enumerate(self.roots) if r in self.roots[:i]]
        if not self.roots or not all(self.roots):
            raise ConfigError("data= names no dataset; give data=DIR, data=DIR,DIR2 or data=DIR:0.7,DIR2:0.3")
        if twice:
            raise ConfigError(f"data= names {twice[0]} twice; a sample would come twice an epoch")


def parse_datasets(given: str | Path | Sequence[str | Path] | Mapping[str, float] | Datasets) -> Datasets:
    """The datasets that a user names: a path or URL, or several joined by commas or in a list (one epoch over all), or
    with weights, ``DIR:0.7,DIR2:0.3`` or a mapping (a mixture).

    >>> parse_datasets("a,s3://b/c")
    Datasets(roots=('a', 's3://b/c'), weights=None)
    >>> parse_datasets("a:0.7,s3://b/c:0.3")
    Datasets(roots=('a', 's3://b/c'), weights=(0.7, 0.3))

    Raises:
        ConfigError: some have a weight and others none, one is given twice, or a weight is not positive.
    """
    if isinstance(given, Datasets):
        return given
    if isinstance(given, Mapping):
        return _weighted(list(given), [float(w) for w in given.values()])
    if not isinstance(given, str):
        many = [given] if isinstance(given, Path) else list(given)
        return Datasets(tuple(str(g).rstrip("/") for g in many))
    if Path(given).exists():
        return Datasets((given.rstrip("/") or "/",))
    parts = [p.strip() for p in given.split(",")]
    # The number after a bare host is its port; and what exists under its full name is a path.
    matches = [None if Path(p).exists() or _HOST.fullmatch(p) else _WEIGHTED.fullmatch(p) for p in parts]
    if not any(matches) or len(parts) == 1:
        return Datasets(tuple(p.rstrip("/") for p in parts))
    bare = [p for p, m in zip(parts, matches, strict=True) if m is None]
    if bare:
        raise ConfigError(f"data={given}: {bare[0]} has no weight; give one to each, data=DIR:0.7,DIR2:0.3, or to none")
    return _weighted([m[1] for m in matches if m], [float(m[2]) for m in matches if m])


def _weighted(roots: list[str], weights: list[float]) -> Datasets:
    if not all(w > 0 for w in weights):
        raise ConfigError(f"weights of a mixture must be positive, not {weights}")
    return Datasets(tuple(str(r).rstrip("/") for r in roots), tuple(weights))
