"""Images of footprints from scenes: which scene, which day, what is filled from another, and why there is none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline.alignment import place
from pipeline.imagery import stretch
from pipeline.imagery.choice.order import candidates, day_of, mosaic_of
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.nodata import check_palette, find_valid, weigh
from pipeline.imagery.raster import Layer, Patch, read_footprints, read_together
from pipeline.imagery.remote import Opener
from pipeline.imagery.scene import Asset, Scene, TileImage
from pipeline.imagery.tiles import read_tiles
from pipeline.meridian import quadrilaterals
from pipeline.net.client import Client, Stopped, Unavailable
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from schemas.features import drop_row
from schemas.footprint import Footprint
from storage.pieces import PieceStore
from storage.urls import is_local, shown

K = TypeVar("K", bound=Hashable)
#: Windows a side, and pixels a side of each, of a scene without overviews that percentiles are taken of.
_SPOTS, _SPOT = 16, 64


@dataclass(frozen=True, eq=False)
class _Part:
    """What one scene gives to one footprint."""

    pixels: NDArray[Any]  # [B,h,w]
    valid: NDArray[np.bool_] | None  # [h,w]; None: all
    masked: NDArray[np.bool_] | None  # [h,w]; None: nothing
    original: bytes | None
    ranges: stretch.Ranges | None


def _fill(image: TileImage, pixels: NDArray[Any], part: _Part, scene: Scene) -> None:
    """Put another scene's pixels where there are none yet."""
    if image.missing is None:
        return
    there = image.missing if part.valid is None else image.missing & part.valid
    if not there.any():
        return
    image.pixels[:, there] = pixels[:, there]
    if part.masked is not None:
        image.masked = (np.zeros_like(there) if image.masked is None else image.masked) | (part.masked & there)
    left = image.missing & ~there
    image.missing = left if left.any() else None
    image.scenes.append(scene)


@dataclass
class _Wish(Generic[K]):
    """What is still to be had for one footprint."""

    key: K
    footprint: Footprint
    scenes: list[int]  # not tried yet, the first choice first
    image: TileImage | None = None  # of the mosaic that is being read
    empty: Scene | None = None  # the first that lies there, and has no pixel with data
    done: list[TileImage] = field(default_factory=list)
    refused: list[TileImage] = field(default_factory=list)


def read_images(
    scenes: Sequence[Scene],
    footprints: Mapping[K, Footprint],
    config: ImageryConfig,
    net: NetConfig,
    source: str = "imagery",
    cache: Path | None = None,
) -> tuple[dict[K, list[TileImage]], list[dict[str, Any]]]:
    """Up to ``rs.dates`` images of each footprint, each of another day, and DROPS rows of those without any.

    An image is its first scene's, with what that lacks filled from the mosaic's other scenes. A mosaic with too much
    nodata, or too much under the mask, is passed over. So is a remote scene that is damaged, and a row says so.

    Args:
        scenes: of equal bands, with their mosaics.
        footprints: by key, all of one CRS and size.
        config: settings.
        net: of the HTTP client.
        source: name for footprints that no scene meets, in their rows.
        cache: folder in which what is fetched of remote rasters stays, at most ``net.cache_gb`` of it; None: nothing.

    Raises:
        Unavailable: a server does not answer, now. What it would have said is unknown, so nothing is decided.
        InputError: a local file cannot be read.
    """
    if not footprints:
        return {}, []
    rows: list[dict[str, Any]] = []
    placement = place(list(footprints.values()))
    found = candidates(scenes, quadrilaterals(placement.corners), placement.gsd.mean(axis=1), config)
    wishes = [_Wish(key, f, own) for (key, f), own in zip(footprints.items(), found, strict=True)]
    store = PieceStore(cache / "ranges", int(net.cache_gb * 1e9)) if cache is not None and net.cache_gb else None
    with ThreadPoolExecutor(net.parallel) as pool:
        reader = _Reader(config, Opener(Client(net), pool, store), rows)
        while round_ := _next_round(wishes, scenes, config):
            for number, own in sorted(round_.items()):
                reader.read(scenes[number], own)
    for wish in wishes:
        _settle(wish, config)
        if not wish.done:
            rows.append(_refusal(wish, config, source))
    return {w.key: w.done for w in wishes if w.done}, rows


def _next_round(wishes: list[_Wish[K]], scenes: Sequence[Scene], config: ImageryConfig) -> dict[int, list[_Wish[K]]]:
    """The next scene of every footprint that needs one, by scene."""
    result: dict[int, list[_Wish[K]]] = {}
    for wish in wishes:
        while wish.scenes and len(wish.done) < config.dates:
            scene = scenes[wish.scenes[0]]
            if wish.image is not None and mosaic_of(wish.image.scene, config) != mosaic_of(scene, config):
                _settle(wish, config)
            elif (wish.image is not None and wish.image.missing is None) or _has_day(wish, scene, config):
                wish.scenes.pop(0)
            else:
                result.setdefault(wish.scenes.pop(0), []).append(wish)
                break
    return result


def _has_day(wish: _Wish[K], scene: Scene, config: ImageryConfig) -> bool:
    """Whether a scene's day has given an image already, of another resolution; scenes without a time are of none."""
    day = day_of(scene, config)
    return bool(day) and any(day_of(image.scene, config) == day for image in wish.done)


def _settle(wish: _Wish[K], config: ImageryConfig) -> None:
    """Take or refuse the image of the mosaic that is finished."""
    image, wish.image = wish.image, None
    if image is None:
        return
    if image.nodata_share > config.max_nodata or image.masked_share > config.max_masked:
        wish.refused.append(image)
    elif len(wish.done) < config.dates:
        wish.done.append(image)


def _refusal(wish: _Wish[K], config: ImageryConfig, source: str) -> dict[str, Any]:
    """Why a footprint has no image: by its best mosaic."""
    key = wish.footprint.key
    if not wish.refused:
        if wish.empty is not None:
            return drop_row("samples", wish.empty.name, "nodata", key=key, detail="no pixel has data")
        return drop_row("samples", source, "no_imagery", key=key)
    best = min(wish.refused, key=lambda c: (max(c.nodata_share - config.max_nodata, 0), c.masked_share))
    if best.nodata_share > config.max_nodata:
        detail = f"{best.nodata_share:.4f} of the pixels, over rs.max_nodata={config.max_nodata}"
        return drop_row("samples", best.scene.name, "nodata", key=key, detail=detail)
    detail = f"{best.masked_share:.4f} of the pixels are under the mask, over rs.max_masked={config.max_masked}"
    return drop_row("samples", best.scene.name, "masked", key=key, detail=detail)


@dataclass
class _Reader:
    """Reads scenes into the images of wishes."""

    config: ImageryConfig
    opener: Opener
    rows: list[dict[str, Any]]
    _ranges: dict[str, stretch.Ranges] = field(default_factory=dict)

    def read(self, scene: Scene, wishes: list[_Wish[K]]) -> None:
        """All of them at once; one by one where a remote file is damaged somewhere, so that only those are lost."""
        try:
            parts = self._parts(scene, {i: w.footprint for i, w in enumerate(wishes)})
        except (Unavailable, Stopped):
            raise
        except InputError as error:
            if scene.tiles is None and not scene.identity:
                raise
            if len(wishes) > 1:
                for wish in wishes:
                    self.read(scene, [wish])
                return
            key = wishes[0].footprint.key
            self.rows.append(drop_row("samples", scene.name, "unreadable_imagery", key=key, detail=str(error)[:200]))
            return
        for i, wish in enumerate(wishes):
            if i in parts:
                self._put(scene, wish, parts[i])
            elif scene.tiles is None:
                wish.empty = wish.empty or scene

    def _put(self, scene: Scene, wish: _Wish[K], part: _Part) -> None:
        pixels, text = part.pixels, None
        if part.ranges is not None:
            pixels, text = stretch.apply(pixels, part.ranges, part.valid), stretch.describe(self.config, part.ranges)
        if wish.image is None:
            missing, acquired = None if part.valid is None else ~part.valid, self.config.acquired or scene.acquired
            wish.image = TileImage(pixels, missing, part.masked, [scene], acquired, text, part.original)
        else:
            _fill(wish.image, pixels, part, scene)

    def _parts(self, scene: Scene, footprints: dict[int, Footprint]) -> dict[int, _Part]:
        if scene.tiles is not None:
            found = read_tiles(scene.tiles, footprints, self.config.resampling, self.opener.client, self.opener.pool)
            return {k: _Part(p.pixels, p.valid, None, original, None) for k, p, original in found}
        try:
            bands = self._together(scene, footprints)
        except (Unavailable, Stopped):
            raise
        except InputError:  # of any of the files: by itself each says what is wrong with it
            bands = {k: {} for k in footprints}
            for i, asset in enumerate(scene.assets):
                for key, patch in self._asset(scene, asset, footprints, self.config.resampling).items():
                    bands[key][i] = patch
        whole = {k: [own[i] for i in range(len(own))] for k, own in bands.items() if len(own) == len(scene.assets)}
        masks: dict[int, Patch] = {}
        if scene.mask is not None and whole:
            masks = self._asset(scene, scene.mask.asset, {k: footprints[k] for k in whole}, "nearest")
        ranges = self._stretch(scene)
        return {k: self._part(scene, own, masks.get(k), ranges) for k, own in whole.items()}

    def _together(self, scene: Scene, footprints: dict[int, Footprint]) -> dict[int, dict[int, Patch]]:
        """Pixels of each footprint by number of the asset; assets of one grid at once."""
        bands: dict[int, dict[int, Patch]] = {k: {} for k in footprints}
        with ExitStack() as stack:
            groups: dict[Any, list[tuple[int, Layer]]] = {}
            for i, asset in enumerate(scene.assets):
                source = stack.enter_context(self.opener.open(asset.href, scene.token))
                _check(source, scene, asset, self.config.resampling)
                layer = Layer(source, list(asset.bands), asset.stated)
                groups.setdefault(layer.grid, []).append((i, layer))
            for group in groups.values():
                for number, key, patch in read_together([own for _, own in group], footprints, self.config.resampling):
                    bands[key][group[number][0]] = patch
        return bands

    def _asset(self, scene: Scene, asset: Asset, footprints: dict[int, Footprint], resampling: str) -> dict[int, Patch]:
        with self.opener.open(asset.href, scene.token) as source:
            _check(source, scene, asset, resampling)
            return dict(read_footprints(source, list(asset.bands), footprints, resampling, asset.stated))

    def _part(self, scene: Scene, patches: list[Patch], mask: Patch | None, ranges: stretch.Ranges | None) -> _Part:
        valid: NDArray[np.bool_] | None = None
        for patch in patches:
            if patch.valid is not None:
                valid = patch.valid if valid is None else valid & patch.valid
        pixels = patches[0].pixels if len(patches) == 1 else np.concatenate([p.pixels for p in patches])
        if scene.offset:
            pixels = lowered(pixels, scene.offset)
        return _Part(pixels, valid, hidden(mask, scene), None, ranges)

    def _stretch(self, scene: Scene) -> stretch.Ranges | None:
        """The scene's ranges; percentiles are of the whole scene, reduced."""
        if self.config.stretch == "none":
            return None
        if self.config.stretch == "linear":
            return stretch.linear_ranges(self.config, scene.bands)
        if scene.path not in self._ranges:
            ranges: list[tuple[float, float]] = []
            for asset in scene.assets:
                with self.opener.open(asset.href, scene.token) as source:
                    ranges += [_percentiles(source, b, asset, scene.offset, self.config) for b in asset.bands]
            self._ranges[scene.path] = tuple(ranges)
        return self._ranges[scene.path]


def _check(source: Any, scene: Scene, asset: Asset, resampling: str) -> None:
    """Whether a raster is what its scene says."""
    where = f"imagery {asset.href if is_local(asset.href) else shown(asset.href)} of {scene.name}"
    if source.crs is None:
        raise InputError(f"{where} has no coordinate reference system")
    if max(asset.bands) > source.count:
        raise InputError(f"{where} has {source.count} bands, not {max(asset.bands)}")
    own = {source.dtypes[b - 1] for b in asset.bands}
    if scene.mask is not None and asset == scene.mask.asset:
        return
    check_palette(source, asset.bands, resampling, where)
    if own != {scene.dtype}:
        raise InputError(f"{where} is {', '.join(sorted(own))}, not {scene.dtype}")


def hidden(mask: Patch | None, scene: Scene) -> NDArray[np.bool_] | None:
    """Which pixels [h,w] the scene's mask says to be hidden; None: none."""
    if mask is None or scene.mask is None:
        return None
    values = mask.pixels[0]
    result = np.isin(values, scene.mask.values)
    if scene.mask.bits:
        result |= (values.astype(np.int64) & sum(1 << b for b in scene.mask.bits)) != 0
    if mask.valid is not None:
        result &= mask.valid
    return result if result.any() else None


def lowered(pixels: NDArray[Any], offset: int) -> NDArray[Any]:
    """Pixels less ``offset``; what would fall to 0 or below becomes 1, since 0 says that there is no data."""
    return np.where(pixels > offset, pixels - np.asarray(offset, pixels.dtype), np.minimum(pixels, 1))


def _percentiles(source: Any, band: int, asset: Asset, offset: int, config: ImageryConfig) -> tuple[float, float]:
    """The stretch of one band, from a reduced image where there are overviews, else from spots all over the scene."""
    height, width = source.shape
    levels = [1, *source.overviews(band)]
    level = next((v for v in levels if max(height, width) <= stretch.SAMPLE * v), None)
    windows: list[tuple[Window, tuple[int, int]]] = []
    if level is not None:
        windows.append((Window(0, 0, width, height), (-(-height // level), -(-width // level))))
    else:
        for row, column in np.ndindex(_SPOTS, _SPOTS):
            y, x = (n * (2 * i + 1) // (2 * _SPOTS) - _SPOT // 2 for n, i in ((height, row), (width, column)))
            own = Window(max(x, 0), max(y, 0), _SPOT, _SPOT).intersection(Window(0, 0, width, height))
            windows.append((own, (own.height, own.width)))
    values = []
    evidence = weigh(source, [band], asset.stated)
    for window, shape in windows:
        read = source.read([band], window=window, out_shape=(1, *shape))
        valid = find_valid(source, evidence, read, window, shape)
        values.append(read[0].reshape(-1) if valid is None else read[0][valid])
    every = np.concatenate(values)
    return stretch.percentile_range(lowered(every, offset) if offset else every, config)
