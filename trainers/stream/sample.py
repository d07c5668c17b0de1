"""Members of one sample to what a slot shows: image, tokens and photos, cut to the slot's window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geometry.crop import Window, crop_each
from geometry.keypoints import with_key_points
from schemas.bands import RGB, canonical, channels
from schemas.errors import ConfigError, CorruptSampleError
from schemas.sample import (
    JSON,
    OSM_TOKENS,
    RsInfo,
    SampleMeta,
    StreetviewInfo,
    image_infos,
    is_image,
    member_order,
    valid_member,
)
from schemas.tokens import OsmTokens
from trainers.stream.augment import (
    DATE,
    PHOTO_CHOICE,
    WHOLE,
    AugmentSettings,
    Look,
    Photo,
    TileSample,
    augment,
    draw_window,
)  # fmt: skip
from trainers.stream.batch import View
from trainers.stream.members.decode import Pixels, decode_npy, decode_rgb, decode_valid, resize
from trainers.stream.members.levels import BandStatistics, to_levels
from trainers.stream.members.read import Members
from trainers.stream.order import draw

More = Callable[[list[str]], Members]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One slot before decoding."""

    names: tuple[str, ...]  # of all members of the sample
    data: Members  # contents of those that :meth:`Decoder.wanted` names
    tokens: OsmTokens | None  # those of osm.safetensors; None where the view takes none
    seed: np.uint64
    more: More  # gives the contents of photos that ``data`` lacks
    where: str = ""  # dataset and key, for messages
    statistics: BandStatistics = BandStatistics()  # of the dataset's bands


class Cut(NamedTuple):
    """A window of a footprint and what lies in it."""

    window: Window | None  # None: the whole footprint
    tokens: OsmTokens | None
    infos: list[StreetviewInfo]
    seed: int
    metres: tuple[float, float] = (math.nan, math.nan)  # along x and y of the footprint, where it has photos


@dataclass(frozen=True)
class Decoder:
    """What a model takes of a sample, and how it is varied; ``on_device`` leaves the pixels of the image for later."""

    view: View
    augmentation: AugmentSettings
    on_device: bool = False

    def wanted(self, names: tuple[str, ...], seed: np.uint64 | None, photos: bool) -> tuple[str, ...]:
        """Those of the member ``names`` that the slot with ``seed`` takes, any slot where it is None.

        ``photos`` adds all photos: which of them are shown is known when the json member is read.
        """
        images, sv = split_names(names)
        wanted = list(images)
        if seed is not None:
            wanted = self._dates(images, seed)
        wanted += [plane for plane in map(valid_member, wanted) if plane in names]
        if self.view.osm:
            wanted.append(OSM_TOKENS)
        if images or (self.view.photos and sv):
            wanted.append(JSON)
        if self.view.photos and photos:
            wanted += sv
        return tuple(wanted)

    def _dates(self, images: list[str], seed: np.uint64) -> list[str]:
        """Those of a sample's images that the slot with ``seed`` shows, in their order; drawn only to vary samples."""
        most = self.view.dates
        if len(images) <= most or not self.augmentation.enabled:
            return images[:most]
        if most == 1:
            return [images[int(draw(seed, DATE)[0] * len(images))]]
        return [images[i] for i in sorted(np.argsort(draw(seed, DATE, len(images)), kind="stable")[:most])]

    def decode(self, slots: Sequence[Encoded]) -> list[TileSample | CorruptSampleError]:
        """The samples as their slots show them, or why one cannot be decoded.

        Raises:
            ConfigError: an image lacks a band that the view takes.
            InputError: an image has two channels of one band.
            DatasetError: nothing says which values a band has.
        """
        found: list[TileSample | CorruptSampleError | None] = []
        cuts: list[Cut] = []
        images: list[dict[str, RsInfo]] = []
        for slot in slots:
            photos, shown, infos, fault = split_names(slot.names)[1] if self.view.photos else [], {}, [], None
            metres = (math.nan, math.nan)
            try:
                document = bytes(slot.data.get(JSON, b""))
                if photos:
                    meta = SampleMeta.from_bytes(document)
                    infos, shown = _photo_infos(photos, meta), {info.member: info for info in meta.rs}
                    metres = meta.gsd[0] * meta.footprint.width, meta.gsd[1] * meta.footprint.height
                elif document:
                    shown = image_infos(document)
            except CorruptSampleError as error:
                fault = error
            found.append(fault)
            images.append(shown)
            cuts.append(Cut(draw_window(slot.seed, self.augmentation), slot.tokens, infos, int(slot.seed), metres))
        for i, (slot, shown, cut) in enumerate(zip(slots, images, cut_each(cuts), strict=True)):
            if found[i] is None:
                try:
                    found[i] = self._one(slot, shown, cut)
                except CorruptSampleError as error:
                    found[i] = error
        return [f for f in found if f is not None]

    def _one(self, slot: Encoded, images: dict[str, RsInfo], cut: Cut) -> TileSample:
        data, infos, seed = slot.data, cut.infos, slot.seed
        names = sorted(filter(is_image, data), key=member_order)[: self.view.dates]
        if len(infos) > self.view.photos:
            random = self.augmentation.enabled
            order = np.argsort(draw(seed, PHOTO_CHOICE, len(infos)), kind="stable") if random else range(len(infos))
            infos = [infos[i] for i in sorted(list(order)[: self.view.photos])]
        if any(info.member not in data for info in infos):
            data = {**data, **slot.more([info.member for info in infos])}
        rs, valid = self._images(slot, names, images, cut.window)
        shown = self._photos(infos, cut.window, cut.metres, data)
        look = Look(cut.window or WHOLE) if self.on_device and rs is not None else None
        tokens = None if cut.tokens is None else with_key_points(cut.tokens, self.view.anchors)
        whole = TileSample(rs, tokens, shown, cut.window or WHOLE, look, valid)
        return augment(whole, seed, self.augmentation, self.view.bands)

    def _images(
        self, slot: Encoded, names: Sequence[str], known: dict[str, RsInfo], window: Window | None
    ) -> tuple[Pixels | None, Pixels | None]:
        """The images of the dates ``names`` and which of their pixels are data, as TileSample has them."""
        found: list[Pixels] = []
        planes: list[Pixels | None] = []
        size: tuple[int, ...] = ()
        for name in names:
            levels, plane = self._image(slot, name, known.get(name), window), valid_member(name)
            if size not in ((), levels.shape):
                raise CorruptSampleError(f"{names[0]} and {name} differ in their size; build the sample again")
            size = levels.shape
            valid = decode_valid(slot.data[plane], plane, *levels.shape[1:])[None] if plane in slot.data else None
            if not self.on_device:
                valid = None if valid is None else resize(valid, self.view.image_size, window)
                levels = resize(levels, self.view.image_size, window)
            found.append(levels)
            planes.append(valid)
        if not found:
            return None, None
        if self.view.dates == 1:
            return found[0], None if planes[0] is None else planes[0][0]
        whole = np.full((1, *found[0].shape[1:]), 255, np.uint8)
        lacking = any(p is not None for p in planes)
        return np.stack(found), np.concatenate([whole if p is None else p for p in planes]) if lacking else None

    def _image(self, slot: Encoded, name: str, info: RsInfo | None, window: Window | None) -> Pixels:
        """The bands that the view takes, in its order, wherever the image has them; at the size that it is decoded."""
        if name.endswith(".npy"):
            raster, names = decode_npy(slot.data[name], name), info.names if info else ()
            if len(names) != len(raster):
                raise CorruptSampleError(f"{name} has {len(raster)} bands, its json member names {len(names)}")
        else:
            share = 1.0 if window is None else min(window[2] - window[0], window[3] - window[1])
            at_least = math.ceil(self.view.image_size / share)
            raster, names = decode_rgb(slot.data[name], name, at_least, exact=True), info.names if info else RGB
        order = choose_channels(names, self.view.bands, f"{slot.where}.{name}")
        chosen = raster if order == list(range(len(raster))) else raster[order]
        return to_levels(chosen, [names[i] for i in order], slot.statistics)

    def _photos(
        self, infos: Sequence[StreetviewInfo], window: Window | None, metres: tuple[float, float], data: Members
    ) -> tuple[Photo, ...]:
        side = self.view.photo_size
        left, top, right, bottom = window or WHOLE
        photos = []
        for info in infos:
            picture = decode_rgb(data[info.member], info.member, at_least=side)
            pixels = resize(picture, side, middle(picture) if self.view.photo_fit == "crop" else None)
            x, y = (info.x - left) / (right - left), (info.y - top) / (bottom - top)
            shown = metres[0] * (right - left), metres[1] * (bottom - top)
            photos.append(Photo(pixels, x, y, info.lon, info.lat, frame_of(info, shown)))
        return tuple(photos)


def frame_of(info: StreetviewInfo, metres: tuple[float, float]) -> NDArray[np.float64]:
    """Photo.frame of a photo, in an image that shows so many ``metres`` along x and along y."""
    if info.heading is None:
        return np.full((2, 2), np.nan)
    angle = math.radians(info.heading + info.north)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [s, -c]]) / metres


def middle(picture: Pixels) -> Window | None:
    """The square in the middle of a picture [C,H,W]; None where it is one."""
    height, width = picture.shape[1:]
    if height == width:
        return None
    across, down = min(1.0, height / width), min(1.0, width / height)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def choose_channels(names: tuple[str, ...], wanted: tuple[str, ...], where: str) -> list[int]:
    """Channels of an image with the bands ``names`` that hold those that are ``wanted``, by whatever alias.

    Raises:
        ConfigError: it lacks one.
        InputError: two channels are one band.
    """
    held = channels(names, where)
    missing = [b for b in wanted if canonical(b) not in held]
    if missing:
        raise ConfigError(
            f"{where} has the bands {', '.join(names)}, the model takes {', '.join(missing)}, too; name those that it "
            "shall take with arch.bands=[…], or take all with arch.bands=all"
        )
    return [held[canonical(b)] for b in wanted]


@lru_cache(1 << 14)
def split_names(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Images and photos among member names, each in their order."""
    ordered = sorted(names, key=member_order)
    return [n for n in ordered if is_image(n)], [n for n in ordered if n.startswith("sv.")]


def _photo_infos(names: list[str], meta: SampleMeta) -> list[StreetviewInfo]:
    infos = {info.member: info for info in meta.streetview}
    missing = [n for n in names if n not in infos]
    if missing:
        raise CorruptSampleError(f"{missing[0]} is not described in the json member; build the sample again")
    return [infos[n] for n in names]


def cut_each(cuts: Sequence[Cut]) -> list[Cut]:
    """Tokens and photos of windows; the whole footprint where a window would leave no object, or no photo."""
    found = [_photos_inside(c) for c in cuts]
    crops = [(i, c.window, c.tokens) for i, c in enumerate(found) if c.window is not None and c.tokens is not None]
    sizes = [(w[2] - w[0], w[3] - w[1]) for _, w, _ in crops]
    seeds = [cuts[i].seed for i, *_ in crops]
    left = crop_each([t for *_, t in crops], [w for _, w, _ in crops], sizes, None, seeds)
    for (i, _, tokens), cropped in zip(crops, left, strict=True):
        empty = len(tokens) and not len(cropped)
        found[i] = cuts[i]._replace(window=None) if empty else found[i]._replace(tokens=cropped)
    return found


def _photos_inside(cut: Cut) -> Cut:
    if cut.window is None:
        return cut
    left, top, right, bottom = cut.window
    inside = [i for i in cut.infos if left <= i.x < right and top <= i.y < bottom]
    return cut._replace(window=None) if cut.infos and not inside else cut._replace(infos=inside)
