"""One part of one global batch, from positions to a packed batch: a pure function, run in any process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geometry.crop import Window, crop_tokens
from schemas.errors import ConfigError, CorruptSampleError
from schemas.sample import JSON, OSM_TOKENS, SampleMeta, StreetviewInfo, member_order
from schemas.tokens import OsmTokens
from trainers.stream.augment import DATE, PHOTO_CHOICE, AugmentSettings, Photo, TileSample, augment, draw_window
from trainers.stream.batch import Slot, TileBatch, View, pack
from trainers.stream.decode import Pixels, decode_npy, decode_rgb, resize, to_uint8
from trainers.stream.index import Index
from trainers.stream.order import Shuffle, batch_positions, draw, epoch_key, samples_at, slot_seeds
from trainers.stream.read import ShardReader
from trainers.stream.tagtable import TagTable


@dataclass(frozen=True)
class Request:
    """Which part of which global batch."""

    epoch: int
    start: int  # position of the global batch's first slot
    part: int  # micro * world + rank


class BatchLoader:
    """Maps a :class:`Request` to a :class:`TileBatch`. Holds no state that changes an answer; safe to pickle."""

    def __init__(
        self,
        index: Index,
        view: View,
        tags: TagTable | None,
        augmentation: AugmentSettings,
        *,
        batch_size: int,
        parts: int,
        seed: int,
        shuffle: Shuffle,
    ) -> None:
        self.index, self.view, self.tags, self.augmentation = index, view, tags, augmentation
        self.batch_size, self.parts, self.seed, self.shuffle = batch_size, parts, seed, shuffle
        self._reader = ShardReader(index)

    def __getitem__(self, request: Request) -> TileBatch:
        count = len(self.index)
        key = epoch_key(self.index.content_hash, self.index.selection_hash, self.shuffle, self.seed, request.epoch)
        positions, real = batch_positions(request.start, count, self.batch_size, request.part, self.parts)
        samples = np.full(len(positions), -1, np.int64)
        samples[real] = samples_at(positions[real], count, key, self.shuffle)
        corrupt: list[str] = []
        slots = [
            self._slot(int(sample), seed, corrupt)
            for sample, seed in zip(samples, slot_seeds(key, positions), strict=True)
        ]
        in_global = min(self.batch_size, count - request.start)
        weight = float(real.sum()) * self.parts / in_global
        return pack(slots, self.view, self.tags, weight, corrupt)

    def _slot(self, sample: int, seed: np.uint64, corrupt: list[str]) -> Slot:
        if sample < 0:
            return Slot("", seed, np.zeros(2), np.zeros(4), np.ones(2), None)
        index = self.index
        place = (index.lonlat[sample], index.bbox[sample], index.gsd[sample])
        key = str(index.key[sample])
        try:
            decoded = self._decode(sample, seed)
            return Slot(key, seed, *place, augment(decoded, seed, self.augmentation, self.view.bands))
        except CorruptSampleError as error:
            corrupt.append(f"{key}: {error}")
            return Slot("", seed, *place, None)

    def _decode(self, sample: int, seed: np.uint64) -> TileSample:
        names = sorted(self.index.members(sample), key=member_order)
        random = self.augmentation.enabled
        images = [n for n in names if n.startswith("rs.")]
        image = images[int(draw(seed, DATE)[0] * len(images)) if random else 0] if images else None
        photos = [n for n in names if n.startswith("sv.")] if self.view.photos else []
        wanted = [image] if image else []
        wanted += [OSM_TOKENS] if self.view.osm else []
        wanted += [JSON] if photos or (image or "").endswith(".npy") else []
        data = self._reader.read(sample, wanted)
        meta = SampleMeta.from_bytes(data[JSON]) if JSON in data else None
        tokens = OsmTokens.from_bytes(data[OSM_TOKENS]) if OSM_TOKENS in data else None
        infos = _photo_infos(photos, meta)
        window, tokens, infos = cut(draw_window(seed, self.augmentation), tokens, infos, seed)
        if len(infos) > self.view.photos:
            order = np.argsort(draw(seed, PHOTO_CHOICE, len(infos)), kind="stable") if random else range(len(infos))
            infos = [infos[i] for i in sorted(list(order)[: self.view.photos])]
        rs = self._image(data[image], image, meta, window) if image else None
        shown = self._photos(sample, infos, window)
        return TileSample(rs, tokens, shown) if window is None else TileSample(rs, tokens, shown, window)

    def _image(self, data: bytes, name: str, meta: SampleMeta | None, window: Window | None) -> Pixels:
        wanted = self.view.bands
        if not name.endswith(".npy"):
            if len(wanted) != 3:
                raise ConfigError(f"{name} has three bands, the model takes {len(wanted)}; set arch.bands=[R,G,B]")
            return resize(decode_rgb(data, name), self.view.image_size, window)
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

    def _photos(self, sample: int, infos: list[StreetviewInfo], window: Window | None) -> tuple[Photo, ...]:
        side = self.view.photo_size
        data = self._reader.read(sample, [info.member for info in infos]) if infos else {}
        left, top, right, bottom = window or (0.0, 0.0, 1.0, 1.0)
        photos = []
        for info in infos:
            pixels = resize(decode_rgb(data[info.member], info.member, at_least=side), side)
            heading = float("nan") if info.heading is None else info.heading
            x, y = (info.x - left) / (right - left), (info.y - top) / (bottom - top)
            photos.append(Photo(pixels, x, y, info.lon, info.lat, heading))
        return tuple(photos)


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
