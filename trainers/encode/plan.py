"""Which samples lie in which file and which batch: integers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: Most photos of a batch, of tiles that all have as many as the richest.
MOST_PHOTOS = 2048


@dataclass(frozen=True)
class Plan:
    """Samples 0 … ``samples`` - 1, which are sorted by key, cut into files of ``per_file`` and batches of ``batch``."""

    samples: int
    batch: int
    per_file: int  # a multiple of ``batch``

    @property
    def files(self) -> int:
        """Files of a kind."""
        return -(-self.samples // self.per_file)

    def size(self, file: int) -> int:
        """Samples of a file."""
        return min(self.per_file, self.samples - file * self.per_file)

    def starts(self, files: Iterable[int]) -> Iterator[int]:
        """First sample of each batch of ``files``."""
        for file in files:
            first = file * self.per_file
            yield from range(first, first + self.size(file), self.batch)

    def ends(self, start: int) -> bool:
        """Whether the batch that begins at ``start`` is the last of its file."""
        return start + self.batch >= min(self.samples, (start // self.per_file + 1) * self.per_file)


def batch_size(asked: int, photos: int) -> int:
    """Tiles of a batch; ``photos`` are those of the richest tile, of which a batch holds no more than memory bears.

    >>> batch_size(64, 0), batch_size(64, 100)
    (64, 20)
    """
    return max(1, min(asked, MOST_PHOTOS // max(1, photos)))


def cut(samples: int, batch: int, per_file: int) -> Plan:
    """The plan with at least ``per_file`` samples a file.

    >>> cut(1000, 64, 200)
    Plan(samples=1000, batch=64, per_file=256)
    """
    return Plan(samples, batch, -(-per_file // batch) * batch)


def part_name(kind: str, file: int) -> str:
    """Path of a file below the output.

    >>> part_name("tiles", 3)
    'tiles/part-00003.parquet'
    """
    return f"{kind}/part-{file:05d}.parquet"
