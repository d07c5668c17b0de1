"""Which photos the settings leave out: by the accuracy of their position, date, night, and nearness to others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.record import Drops, doubles
from pipeline.streetview.times import day_seconds, sun_elevation, utc_seconds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Photos from one place that look this far apart, in degrees, are no duplicates of each other.
LOOKS_APART = 45.0
_EARTH_M = 6_371_008.8  # mean radius


def filter_photos(photos: pa.Table, config: StreetviewConfig, drops: Drops) -> pa.Table:
    """The rows of PLACED that the settings leave in, by time and id; each of the others is added to ``drops``.

    What a source does not state is no reason: a photo without an accuracy, a time or a heading is kept by the filter of
    it, but for ``sv.after`` and ``sv.before``, which ask for a time.
    """
    photos = photos.take(pa.array(in_order(photos)))
    ids = photos.column("id").to_pylist()
    keep = np.ones(len(photos), bool)

    def drop(which: NDArray[np.bool_] | Ints, reason: str, details: Sequence[str] | str) -> None:
        rows = np.flatnonzero(which & keep) if which.dtype == bool else which
        for i in rows.tolist():
            drops.add(reason, ids[i], details if isinstance(details, str) else details[i])
        keep[rows] = False

    drop(_repeated(photos), "duplicate_id", "the source lists it more than once")
    if config.max_accuracy is not None:
        accuracy = doubles(photos, "accuracy_m")
        stated = [f"{a:g} m, over sv.max_accuracy={config.max_accuracy:g}" for a in accuracy]
        drop(np.nan_to_num(accuracy, nan=0.0) > config.max_accuracy, "gps_accuracy", stated)
    if config.after is not None or config.before is not None:
        _by_date(photos, config, drop)
    if config.min_sun is not None:
        sun = _sun(photos)
        stated = [f"the sun at {s:.1f}°, under sv.min_sun={config.min_sun:g}" for s in sun]
        drop(np.nan_to_num(sun, nan=90.0) < config.min_sun, "night", stated)
    if config.sequence_spacing > 0:
        drop(_thin_sequences(photos, keep, config.sequence_spacing), "duplicate_sequence",
             f"within sv.sequence_spacing={config.sequence_spacing:g} m of the photo before")  # fmt: skip
    if config.spacing > 0:
        drop(_thin_places(photos, keep, config.spacing), "duplicate_place",
             f"within sv.spacing={config.spacing:g} m of another that looks its way")  # fmt: skip
    return photos.filter(pa.array(keep))


def in_order(photos: pa.Table) -> Ints:
    """Rows by capture time and id, those without a time first; the order in which photos come everywhere."""
    times, ids = (photos.column(c).to_pylist() for c in ("captured_at", "id"))
    keys = [(-math.inf if (s := day_seconds(t)) is None else s, i) for t, i in zip(times, ids, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _repeated(photos: pa.Table) -> NDArray[np.bool_]:
    seen: set[tuple[str, str]] = set()
    result = np.zeros(len(photos), bool)
    for i, key in enumerate(zip(*(photos.column(c).to_pylist() for c in ("source", "id")), strict=True)):
        result[i] = key in seen
        seen.add(key)
    return result


def _by_date(photos: pa.Table, config: StreetviewConfig, drop: Callable[..., None]) -> None:
    days = np.array([_or_nan(day_seconds(t)) for t in photos.column("captured_at").to_pylist()])
    stated = [f"captured at {t}" for t in photos.column("captured_at").to_pylist()]
    drop(np.isnan(days), "no_time", "sv.after and sv.before ask for a time, and the source gives none")
    if (after := day_seconds(config.after)) is not None:
        drop(days < after, "too_old", stated)
    if (before := day_seconds(config.before)) is not None:
        drop(days >= before, "too_new", stated)


def _sun(photos: pa.Table) -> Floats:
    """Elevation of the sun in degrees f64[N]; NaN: unknown.

    From the moment in UTC; of a photo that has only a local time, from what the source says of day and night (±90),
    else from that time as the sun's own.
    """
    lon, lat = doubles(photos, "lon"), doubles(photos, "lat")
    times, night = (photos.column(c).to_pylist() for c in ("captured_at", "night"))
    seconds = np.array([_or_nan(utc_seconds(t, x)) for t, x in zip(times, lon.tolist(), strict=True)])
    elevation = sun_elevation(seconds, lon, lat)
    for i, (time, dark) in enumerate(zip(times, night, strict=True)):
        if dark is not None and not (time or "").endswith("Z"):
            elevation[i] = -90.0 if dark else 90.0
    return elevation


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _thin_sequences(photos: pa.Table, keep: NDArray[np.bool_], spacing: float) -> NDArray[np.bool_]:
    """Photos nearer than ``spacing`` metres to the one of their sequence that was kept before, bool[N]."""
    place = _on_sphere(photos)
    sequence, index = (photos.column(c).to_pylist() for c in ("sequence", "index"))
    rows = sorted((s, -1 if n is None else n, i) for i, (s, n) in enumerate(zip(sequence, index, strict=True)) if s)
    result = np.zeros(len(photos), bool)
    last: tuple[str, int] | None = None
    for name, _, i in rows:
        if not keep[i]:
            continue
        if last is not None and last[0] == name and math.dist(place[i], place[last[1]]) < spacing:
            result[i] = True
        else:
            last = (name, i)
    return result


def _thin_places(photos: pa.Table, keep: NDArray[np.bool_], spacing: float) -> NDArray[np.bool_]:
    """Photos nearer than ``spacing`` metres to an earlier kept one that looks within `LOOKS_APART` of them, bool[N]."""
    place, heading = _on_sphere(photos), doubles(photos, "heading")
    cells = np.floor(place / spacing).astype(np.int64)
    grid: dict[tuple[int, int, int], list[int]] = {}
    result = np.zeros(len(photos), bool)
    steps = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    for i in np.flatnonzero(keep).tolist():
        x, y, z = cells[i].tolist()
        near = (j for a, b, c in steps for j in grid.get((x + a, y + b, z + c), ()))
        if any(math.dist(place[i], place[j]) < spacing and _alike(heading[i], heading[j]) for j in near):
            result[i] = True
        else:
            grid.setdefault((x, y, z), []).append(i)
    return result


def _alike(a: float, b: float) -> bool:
    """Whether two headings in degrees are near; an unknown one is near to any."""
    return math.isnan(a) or math.isnan(b) or abs((a - b + 180.0) % 360.0 - 180.0) < LOOKS_APART


def _on_sphere(photos: pa.Table) -> Floats:
    """Positions in metres f64[N,3]: chords are as good as arcs over a few hundred metres, on every meridian."""
    lon, lat = np.radians(doubles(photos, "lon")), np.radians(doubles(photos, "lat"))
    return _EARTH_M * np.stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=1)
