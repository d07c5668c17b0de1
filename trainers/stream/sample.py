"""Members of one sample to what a slot shows: image, tokens and photos, cut to the slot's window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from geometry.crop import Window, crop_tokens
from schemas.errors import ConfigError, CorruptSampleError
from schemas.sample import JSON, OSM_TOKENS, SampleMeta, StreetviewInfo, member_order
from schemas.tokens import OsmTokens
from trainers.stream.augment import DATE, PHOTO_CHOICE, AugmentSettings, Photo, TileSample, augment, draw_window
from trainers.stream.batch import View
from trainers.stream.decode import Buffer, Pixels, decode_npy, decode_rgb, resize, to_uint8
from trainers.stream.order import draw
from trainers.stream.read import Members

More = Callable[[list[str]], Members]


@dataclass(frozen=True)
class Decoder:
    """What a model takes of a sample, and how it is varied."""

    view: View
    augmentation: AugmentSettings

    def wanted(self, names: tuple[str, ...], seed: np.uint64 | None, photos: bool) -> tuple[str, ...]:
        """Those of the member ``names`` that the slot with ``seed`` takes, any slot where it is None.

        ``photos`` adds all photos: which of them are shown is known when the json member is read.
        """
        images, sv = split_names(names)
        wanted = list(images) if seed is None else images[:1]
        if seed is not None and len(images) > 1 and self.augmentation.enabled:
            wanted = [images[int(draw(seed, DATE)[0] * len(images))]]
        if self.view.osm:
            wanted.append(OSM_TOKENS)
        if self.view.photos and sv:
            wanted.append(JSON)
            wanted += sv if photos else []
        elif images and images[0].endswith(".npy"):
            wanted.append(JSON)
        return tuple(wanted)

    def decode(
        self, names: tuple[str, ...], data: Members, tokens: OsmTokens | None, seed: np.uint64, more: More
    ) -> TileSample:
        """The sample as the slot with ``seed`` shows it.

        Args:
            names: of all its members.
            data: contents of those that :meth:`wanted` names.
            tokens: those of ``osm.safetensors``, None where the view takes none.
            seed: of the slot.
            more: gives the contents of photos that ``data`` lacks.

        Raises:
            CorruptSampleError: a member cannot be decoded.
            ConfigError: the image has other bands than the view takes.
        """
        image = next((n for n in data if n.startswith("rs.")), None)
        photos = split_names(names)[1] if self.view.photos else []
        meta = SampleMeta.from_bytes(bytes(data[JSON])) if JSON in data else None
        infos = _photo_infos(photos, meta)
        window, tokens, infos = cut(draw_window(seed, self.augmentation), tokens, infos, seed)
        if len(infos) > self.view.photos:
            random = self.augmentation.enabled
            order = np.argsort(draw(seed, PHOTO_CHOICE, len(infos)), kind="stable") if random else range(len(infos))
            infos = [infos[i] for i in sorted(list(order)[: self.view.photos])]
        if any(info.member not in data for info in infos):
            data = {**data, **more([info.member for info in infos])}
        rs = self._image(data[image], image, meta, window) if image else None
        shown = self._photos(infos, window, data)
        whole = TileSample(rs, tokens, shown) if window is None else TileSample(rs, tokens, shown, window)
        return augment(whole, seed, self.augmentation, self.view.bands)

    def _image(self, data: Buffer, name: str, meta: SampleMeta | None, window: Window | None) -> Pixels:
        wanted = self.view.bands
        if not name.endswith(".npy"):
            if len(wanted) != 3:
                raise ConfigError(f"{name} has three bands, the model takes {len(wanted)}; set arch.bands=[R,G,B]")
            side = self.view.image_size
            share = 1.0 if window is None else min(window[2] - window[0], window[3] - window[1])
            return resize(decode_rgb(data, name, math.ceil(side / share), exact=True), side, window)
        raster = decode_npy(data, name)
        info = next((r for r in meta.rs if r.member == name), None) if meta else None
        bands = list(info.bands) if info else []
        missing = [b for b in wanted if b not in bands]
        if missing or len(bands) != len(raster):
            raise ConfigError(
                f"{name} has the bands {', '.join(bands) or 'unknown'}, the model takes "
                f"{list(wanted)}; name those it shall take with arch.bands=[{', '.join(bands[:3])}]"
            )
        chosen = raster[[bands.index(b) for b in wanted]]
        return resize(to_uint8(chosen, list(wanted)), self.view.image_size, window)

    def _photos(self, infos: Sequence[StreetviewInfo], window: Window | None, data: Members) -> tuple[Photo, ...]:
        side = self.view.photo_size
        left, top, right, bottom = window or (0.0, 0.0, 1.0, 1.0)
        photos = []
        for info in infos:
            pixels = resize(decode_rgb(data[info.member], info.member, at_least=side), side)
            heading = float("nan") if info.heading is None else info.heading
            x, y = (info.x - left) / (right - left), (info.y - top) / (bottom - top)
            photos.append(Photo(pixels, x, y, info.lon, info.lat, heading))
        return tuple(photos)


@lru_cache(1 << 14)
def split_names(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Images and photos among member names, each in their order."""
    ordered = sorted(names, key=member_order)
    return [n for n in ordered if n.startswith("rs.")], [n for n in ordered if n.startswith("sv.")]


def _photo_infos(names: list[str], meta: SampleMeta | None) -> list[StreetviewInfo]:
    infos = {info.member: info for info in meta.streetview} if meta else {}
    missing = [n for n in names if n not in infos]
    if missing:
        raise CorruptSampleError(f"{missing[0]} is not described in the json member; build the sample again")
    return [infos[n] for n in names]


def cut(
    window: Window | None, tokens: OsmTokens | None, infos: list[StreetviewInfo], seed: np.uint64
) -> tuple[Window | None, OsmTokens | None, list[StreetviewInfo]]:
    """Tokens and photos of a window; the whole footprint where the window would leave no object, or no photo."""
    if window is None:
        return None, tokens, infos
    left, top, right, bottom = window
    inside = [i for i in infos if left <= i.x < right and top <= i.y < bottom]
    if infos and not inside:
        return None, tokens, infos
    if tokens is None:
        return window, None, inside
    width, height = right - left, bottom - top
    cropped = crop_tokens(tokens, window, (width, height), seed=int(seed))
    if len(tokens) and not len(cropped):
        return None, tokens, infos
    return window, cropped, inside
