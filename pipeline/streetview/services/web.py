"""What the photo services have in common: an area is asked for tile by tile, and what they answer is kept in the cache.

So a run that is killed and given again asks only for what it lacks, and gets the same photos however the service has
grown since; ``sources.refresh=newer`` asks anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.net.client import Client
from pipeline.streetview.position import Area, Position, place
from pipeline.streetview.record import PHOTOS, PLACED, Drops, doubles, to_table
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError, at_the_door
from storage.progress import Progress
from storage.store import Store

Box = tuple[float, float, float, float]  # west, south, east, north in degrees
Rows = list[dict[str, Any]]  # of PHOTOS

#: In place of a projection: of photos that a service lists, and has not.
GONE = "gone"
#: Boxes are cut in four at most this often: 2.4 km become 2 m.
_MOST_CUTS = 10
#: Tiles that are asked for before the first of them is looked at.
_AHEAD = 1000


class WebSource(ABC):
    """A service. How one is asked, and how a photo's bytes are found, is said by the classes below this one."""

    name = ""
    #: Zoom of the tiles by which an area is asked for.
    zoom = 14

    def __init__(
        self, base: str, client: Client, cache: Path, *, licence: str | None = None, position: Position = "corrected",
        max_mb: float = 64.0, renew: bool = False, quiet: bool = True,
    ) -> None:  # fmt: skip
        """``licence`` is of photos that name none; ``renew`` asks anew for what the cache has."""
        self.base, self.client, self.licence, self.position = base, client, licence, position
        self.renew, self.quiet = renew, quiet
        self.parallel = client.config.parallel
        self.store = PhotoStore(cache, client, max_mb, renew)
        self.folder = cache / "streetview" / f"{self.name}-{sha256(base.encode()).hexdigest()[:12]}"

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area``; those without a usable position are added to ``drops``.

        Raises:
            InputError: the service cannot be used, or there is no area: it has photos of the whole world.
        """
        if area is None:
            raise InputError(f"{self.name} has photos of the whole world; say where they are wanted")
        boxes = area.boxes(self.zoom)
        parts = [PLACED.empty_table()]
        pool = ThreadPoolExecutor(self.parallel, self.name)
        try:
            with Progress(self.name, len(boxes), "areas", self.quiet) as progress:
                items = list(boxes.items())
                for first in range(0, len(items), _AHEAD):
                    for rows in pool.map(lambda item: self._listed(*item), items[first : first + _AHEAD]):
                        placed = place(rows, self.position, None, drops)
                        lonlat = np.stack((doubles(placed, "lon"), doubles(placed, "lat")), axis=1)
                        inside = placed.filter(pa.array(area.holds(lonlat)))
                        gone = pc.equal(inside.column("projection"), GONE)
                        for name in inside.filter(gone).column("id").to_pylist():
                            drops.add("gone", name, f"{self.name} lists it and has it no more")
                        parts.append(inside.filter(pc.invert(gone)))
                        progress.advance(1)
        except BaseException:
            self.close()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return _first_of_each(pa.concat_tables(parts))

    @abstractmethod
    def ask(self, tile: tuple[int, int], box: Box) -> Rows:
        """Photos in ``box``, which lies in tile (x, y) of `zoom` or reaches out of it by the margin."""

    @abstractmethod
    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file of a row's photo, fetched unless it is in the cache.

        Raises:
            PhotoError: the service says no, or sends something else.
            Unavailable: it does not answer.
        """

    def close(self) -> None:
        """End requests that are under way."""
        self.client.stop.set()

    def _listed(self, tile: tuple[int, int], box: Box) -> pa.Table:
        key = sha256(repr((self.settings(), box)).encode()).hexdigest()[:16]
        path = self.folder / f"{self.zoom}-{tile[0]}" / f"{tile[1]}-{key}.parquet"
        if not self.renew and (known := _read(path)) is not None:
            return known
        with at_the_door(f"what {self.name} answers cannot be read"):
            table = _first_of_each(to_table(self.ask(tile, box)))
        Store(path.parent).write_table(path.name, table)
        return table

    def settings(self) -> tuple[Any, ...]:
        """What else decides the answer to `ask`."""
        return (self.licence,)


def ask_in_parts(ask: Callable[[Box], Rows | None], box: Box, what: str) -> Rows:
    """``ask`` for a box, or for its quarters where it says None: that there is more than one answer holds.

    Raises:
        InputError: there is still more in a box of some metres.
    """
    waiting, found = [(box, 0)], []
    while waiting:
        part, cuts = waiting.pop()
        rows = ask(part)
        if rows is not None:
            found += rows
            continue
        if cuts >= _MOST_CUTS:
            raise InputError(f"{what} has more photos at {part[0]:.6f},{part[1]:.6f} than it lists; try another source")
        west, south, east, north = part
        x, y = (west + east) / 2, (south + north) / 2
        quarters = ((west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north))
        waiting += [(q, cuts + 1) for q in reversed(quarters)]
    return found


def _first_of_each(table: pa.Table) -> pa.Table:
    """Without repeats: boxes share their edges, and services repeat themselves from page to page."""
    first: dict[str, int] = {}
    for i, name in enumerate(table.column("id").to_pylist()):
        first.setdefault(name, i)
    return table if len(first) == len(table) else table.take(pa.array(list(first.values()), pa.int64()))


def _read(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException):
        return None
    return table.cast(PHOTOS) if table.column_names == PHOTOS.names else None
