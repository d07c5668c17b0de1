"""Values of any type to the 8 bits that models take: by the statistics of each band, never by the image's own range.

A band's mean becomes 127.5, and two standard deviations to either side are what 8 bits hold. Statistics are those of
the dataset, where ``geoshards stats`` has made them, else the published ones of ``schemas.bands``. Red, green and blue
of 8 bits stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.bands import RGB, canonical, published
from schemas.errors import DatasetError
from storage.dataset import find_catalog, load_dataset
from storage.store import Store
from trainers.stream.members.decode import Pixels

#: Whose statistics of bands decide: the dataset's where it has them, or the published ones always.
Levels = Literal["dataset", "published"]


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation of the bands of one dataset."""

    root: str = ""  # path or URL of the dataset directory
    held: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # by canonical name and type
    stale: bool = False  # whether they are of other samples than the dataset has now

    def moments(self, name: str, dtype: str) -> tuple[float, float]:
        """Mean and standard deviation of the band that an image calls ``name``.

        Raises:
            DatasetError: nothing is known of its values, or what is known is of other samples.
        """
        found = self.held.get((canonical(name), dtype))
        if found is not None and self.stale:
            raise DatasetError(
                f"{self.root}/catalog/statistics is of other samples than the dataset has now; make it anew with "
                f"geoshards stats {self.root}"
            )
        found = found or published(name, dtype)
        if found is None:
            raise DatasetError(
                f"nothing says which values the band {name} ({dtype}) of {self.root} has; find out with "
                f"geoshards stats {self.root}"
            )
        return found

    def identity(self, bands: Sequence[str]) -> str:
        """What decides the levels of these bands beside the images: a run goes on only with the same."""
        used = [
            (key, value)
            for key, value in sorted(self.held.items())
            if key[0] in map(canonical, bands) and not as_they_are(bands, key[1])
        ]
        return blake2b(repr(used).encode(), digest_size=8).hexdigest() if used else "published"


def read_statistics(root: str, levels: Levels = "dataset") -> BandStatistics:
    """The statistics of a dataset; none where it has no such table, or ``levels`` are by the published ones.

    Raises:
        DatasetError: they cannot be read.
    """
    if levels == "published":
        return BandStatistics(root)
    store = Store(root)
    table = find_catalog(store, "statistics")
    if table is None:
        return BandStatistics(root)
    rows = [r for r in table.to_pylist() if r["mean"] is not None]
    stale = {r["content_hash"] for r in rows} - {load_dataset(store)["content_hash"]}
    return BandStatistics(root, {(r["band"], r["dtype"]): (r["mean"], r["std"]) for r in rows}, bool(stale))


def as_they_are(bands: Sequence[str], dtype: str) -> bool:
    """Whether values are what a model takes: red, green and blue of 8 bits."""
    return dtype == "uint8" and all(canonical(b) in RGB for b in bands)


def to_levels(raster: NDArray[Any], names: Sequence[str], statistics: BandStatistics) -> Pixels:
    """u8[C,H,W] of values [C,H,W] of the bands that the image calls ``names``; 0 where a value is no number.

    Raises:
        DatasetError: see :meth:`BandStatistics.moments`.
    """
    dtype = str(raster.dtype)
    if as_they_are(names, dtype):
        return raster
    known = np.array([statistics.moments(name, dtype) for name in names], np.float32)
    mean, deviation = known[:, 0, None, None], np.maximum(known[:, 1, None, None], 1e-6)
    levels = (raster.astype(np.float32) - mean) * (63.75 / deviation) + 127.5
    return np.clip(np.nan_to_num(levels), 0, 255).astype(np.uint8)
