"""Augmentation: picture, tokens and photos go together, by the slot's seed alone."""

from __future__ import annotations

import colorsys
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio.features
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st

from geometry.turn import Turn
from schemas.errors import ConfigError
from schemas.sample import StreetviewInfo
from schemas.tokens import OsmTokens
from tests.geometry.test_crop import crop_tokens, shapes_of, tokens_of
from tests.trainers.stream.test_stream import VIEW, equal
from trainers.stream.augment import (
    WHOLE,
    AugmentSettings,
    Colours,
    Look,
    Photo,
    TileSample,
    augment,
    coloured,
    draw_colours,
    draw_turn,
    draw_window,
    jitter,
    recolour,
    turned,
)
from trainers.stream.members.decode import resize
from trainers.stream.order import slot_seeds
from trainers.stream.pixels import LOOK, look_row, show
from trainers.stream.sample import Cut, cut_each
from trainers.stream.stream import GeoStream, StreamSettings

SEEDS = slot_seeds(9, np.arange(400))


def painted(shapes: list[object], size: int) -> np.ndarray:
    """u8[3,size,size]: 255 where a polygon of the unit square covers a pixel's centre."""
    scaled = [shapely.transform(s, lambda xy: xy * size) for s in shapes]
    if not scaled:
        return np.zeros((3, size, size), np.uint8)
    plane = rasterio.features.rasterize(scaled, (size, size), fill=0, default_value=255, dtype="uint8")
    return np.stack([plane] * 3)


def share(shapes: list[object], size: int, fine: int = 4) -> np.ndarray:
    """f64[size,size]: share of each pixel, 0..255, that polygons of the unit square cover."""
    return painted(shapes, size * fine)[0].reshape(size, fine, size, fine).mean((1, 3))


def filled(tokens: OsmTokens) -> list[object]:
    """What the polygons of tokens fill of the unit square."""
    found = []
    for n in range(len(tokens)):
        fill = shapely.Polygon()
        for r in range(tokens.object_ring_offsets[n], tokens.object_ring_offsets[n + 1]):
            xy = tokens.vertices[tokens.ring_offsets[r] : tokens.ring_offsets[r + 1]] / 65535
            if len(xy) > 2:
                fill = fill.symmetric_difference(shapely.make_valid(shapely.Polygon(xy)))
        found.append(fill)
    whole = shapely.union_all(found)
    return [] if whole.is_empty else [whole]


def shift(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many pixels along x and y one picture lies beside the other: least squares on the slopes of its edges."""
    inner = np.s_[3:-3, 3:-3]
    slopes = np.stack([g[inner].ravel() for g in np.gradient(other)[::-1]], 1)
    return np.linalg.lstsq(slopes, (other - picture)[inner].ravel(), rcond=None)[0]


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("on_device", [False, True])
def test_graph_and_picture_agree_within_a_sixteenth_of_a_pixel(number: int, on_device: bool) -> None:
    """The picture cut, scaled and turned is the one painted from the tokens that were cut and turned."""
    settings = AugmentSettings(crop=1.0, rotate=1.0, flip=0.5, flip_vertical=0.5, jitter=0.0)
    shapes = [s for s in shapes_of([number, number + 1000, number + 2000], []) if "Polygon" in s.geom_type]
    seed = SEEDS[number]
    window, turn = draw_window(seed, settings), draw_turn(seed, settings)
    assert window is not None
    source = np.stack([np.rint(share(shapes, 512)).astype(np.uint8)] * 3)
    if on_device:
        row = torch.tensor([look_row(Look(window, turn), 512, 512)], dtype=torch.float64)
        picture = show(torch.from_numpy(source)[None], row, 128)[0].numpy()
    else:
        picture = turn.image(resize(source, 128, window))
    tokens = turned(TileSample(None, crop_tokens(tokens_of(shapes), window), ()), turn).tokens
    assert tokens is not None
    graph = share(filled(tokens), 128, 8)
    assert np.abs(shift(picture[0].astype(float), graph)).max() < 1 / 16
    assert np.abs(graph - picture[0]).mean() < 2


@pytest.mark.parametrize(
    ("bands", "chosen"), [(("R", "G", "B"), ()), (("B8", "B4", "B3", "B2"), ()), (("B8", "B4", "B3"), ("red", "B8"))]
)
@pytest.mark.parametrize("size", [32, 100])
def test_the_device_makes_the_pixels_that_workers_make(
    bands: tuple[str, ...], chosen: tuple[str, ...], size: int
) -> None:
    settings = AugmentSettings(
        crop=0.7, rotate=0.6, flip_vertical=0.5, jitter=0.8, brightness=0.3, contrast=0.3, saturation=0.4, hue=0.1,
        jitter_bands=chosen,
    )  # fmt: skip
    rng = np.random.default_rng(size)
    sides = rng.integers(20, 260, (40, 2)).tolist()
    noise = [rng.integers(0, 256, (len(bands), h, w)).astype(np.uint8) for h, w in sides]
    smooth = [resize(rng.integers(0, 256, (len(bands), 7, 7)).astype(np.uint8), 260)[:, :h, :w] for h, w in sides]
    images = [n if i % 2 else s for i, (n, s) in enumerate(zip(noise, smooth, strict=True))]
    expected, rows = [], []
    for image, seed in zip(images, SEEDS, strict=False):
        window, turn = draw_window(seed, settings), draw_turn(seed, settings)
        colours = draw_colours(seed, settings, bands)
        expected.append(coloured(turn.image(resize(image, size, window)), colours))
        rows.append(look_row(Look(window or WHOLE, turn, colours), *image.shape[1:]))
    packed = np.zeros((41, len(bands), 260, 260), np.uint8)  # the last slot is masked
    for slot, image in zip(packed, images, strict=False):
        slot[:, : image.shape[1], : image.shape[2]] = image
    look = torch.tensor([*rows, [0.0] * LOOK], dtype=torch.float64)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        found = show(torch.from_numpy(packed).to(device), look.to(device), size).cpu().numpy()
        differ = np.abs(found[:40].astype(int) - np.stack(expected))
        assert differ.max() <= 2
        assert (differ > 0).mean() < 1e-3
        assert not found[40].any()


def test_a_stream_may_leave_the_pixels_to_the_device(dataset: Path) -> None:
    vary = AugmentSettings(crop=0.7, rotate=0.5, drop_objects=0.2, hue=0.1)
    streams = [GeoStream(str(dataset), VIEW, batch_size=8, augment=vary, pixels=p) for p in ("workers", "device")]
    for here, raw in zip(*streams, strict=True):
        assert raw.rs.shape[2] > 32  # as it was decoded
        assert raw.look.shape == (8, LOOK)
        there = raw.to("cpu")
        assert (here.rs.int() - there.rs.int()).abs().max() <= 2
        assert equal(here, replace(there, rs=here.rs))
        assert there.to("cpu") is not there
        assert torch.equal(there.to("cpu").rs, there.rs)  # made once
    with pytest.raises(ConfigError, match="workers or device"):
        GeoStream(str(dataset), VIEW, batch_size=8, pixels="gpu")


def test_windows_keep_to_their_bounds_and_follow_the_seed() -> None:
    settings = AugmentSettings(crop=0.8)
    windows = [draw_window(s, settings) for s in SEEDS]
    assert windows == [draw_window(s, settings) for s in SEEDS]
    assert 0.7 < np.mean([w is not None for w in windows]) < 0.9
    for window in filter(None, windows):
        left, top, right, bottom = window
        assert 0 <= left < right <= 1 + 1e-12
        assert 0 <= top < bottom <= 1 + 1e-12
        assert 0.3 < (right - left) * (bottom - top) < 0.9 + 1e-9
        assert 0.74 < (right - left) / (bottom - top) < 1.35
    assert draw_window(SEEDS[0], AugmentSettings(enabled=False, crop=1.0)) is None


def test_turns_follow_their_probabilities() -> None:
    def share(settings: AugmentSettings) -> dict[Turn, float]:
        turns = [draw_turn(s, settings) for s in SEEDS]
        return {t: turns.count(t) / len(turns) for t in set(turns)}

    assert share(AugmentSettings(flip=0.0)) == {Turn(): 1.0}
    assert share(AugmentSettings(flip=1.0)) == {Turn(flip_x=True): 1.0}
    assert share(AugmentSettings(flip=0.0, flip_vertical=1.0)) == {Turn(flip_y=True): 1.0}
    quarters = share(AugmentSettings(flip=0.0, rotate=1.0))
    assert set(quarters) == {Turn.quarter(n) for n in (1, 2, 3)}
    assert min(quarters.values()) > 0.25
    every = share(AugmentSettings(flip=0.5, flip_vertical=0.5, rotate=0.75))
    assert len(every) == 8


def info(x: float, y: float) -> StreetviewInfo:
    return StreetviewInfo("sv.0.jpg", f"{x},{y}", 9.0, 47.0, x, y)


def test_a_window_that_would_leave_no_photo_or_no_object_is_not_taken() -> None:
    tokens, window = tokens_of([shapely.Point(0.9, 0.9)]), (0.0, 0.0, 0.5, 0.5)
    cuts = [
        Cut(window, tokens, [], 1), Cut(window, tokens_of([]), [], 1), Cut(window, None, [info(0.9, 0.1)], 1),
        Cut(window, None, [info(0.9, 0.1), info(0.1, 0.1)], 1), Cut(None, tokens, [info(0.9, 0.1)], 1),
    ]  # fmt: skip
    found = cut_each(cuts)
    assert [c.window for c in found] == [None, window, None, window, None]
    assert found[0].tokens is tokens
    assert found[2].infos == cuts[2].infos
    assert [i.x for i in found[3].infos] == [0.1]
    assert found[4] == cuts[4]


#: The frame of a camera that looks to the right of an image of 50 m by 100 m.
EAST = np.array([[0, 0.01], [0.02, 0]])


def test_a_mirrored_photo_has_its_right_where_its_left_was() -> None:
    photo = Photo(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), 0.25, 0.75, 9.0, 47.0, EAST)
    shown = augment(TileSample(None, None, (photo,)), np.uint64(1), AugmentSettings(flip=0, photo_flip=1)).photos[0]
    assert shown.pixels[0].tolist() == [[1, 0], [3, 2]]
    assert shown.frame.tolist() == [[0, -0.01], [0.02, 0]]


def test_photos_turn_with_their_tile_and_keep_their_own_picture() -> None:
    photo = Photo(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), 0.25, 0.75, 9.0, 47.0, EAST)
    shown = turned(TileSample(None, None, (photo,)), Turn.quarter(1)).photos[0]
    assert (shown.x, shown.y) == (0.25, 0.25)
    assert shown.frame.tolist() == [[-0.01, 0], [0, 0.02]]  # it looks down, its right is on the left
    assert np.array_equal(shown.pixels, photo.pixels)


@given(st.integers(0, 399), st.floats(0, 1))
def test_left_out_objects_follow_the_seed_and_the_others_stay(number: int, share: float) -> None:
    shapes = shapes_of(list(range(6)), [])
    sample = TileSample(None, tokens_of(shapes), ())
    settings = AugmentSettings(flip=0.0, jitter=0.0, drop_objects=share)
    one, two = augment(sample, SEEDS[number], settings).tokens, augment(sample, SEEDS[number], settings).tokens
    assert one is not None
    assert two is not None
    assert one.osm_id.tolist() == two.osm_id.tolist()
    assert set(one.osm_id.tolist()) <= set(range(len(shapes)))
    assert share > 0 or len(one) == len(shapes)


def test_hue_and_saturation_turn_the_colour_circle_as_hsv_does_for_pure_colours() -> None:
    image = np.zeros((3, 1, 2), np.uint8)
    image[:, 0, 0], image[:, 0, 1] = (200, 60, 60), (120, 120, 120)
    same = recolour(image, 1.0, 0.0)
    assert np.abs(same.astype(int) - image).max() <= 1
    grey = recolour(image, 0.0, 0.3)
    assert len({int(v) for v in grey[:, 0, 0]}) == 1
    assert np.abs(recolour(image, 1.5, 0.37)[:, 0, 1].astype(int) - 120).max() <= 1  # grey stays grey
    hues = [colorsys.rgb_to_hsv(*(recolour(image, 1.0, h)[:, 0, 0] / 255.0))[0] for h in (0.0, 1 / 3, 2 / 3)]
    for a, b in itertools.pairwise(hues):
        step = (b - a) % 1.0
        assert min(step, 1 - step) == pytest.approx(1 / 3, abs=0.08)


def test_colours_are_turned_in_rgb_alone() -> None:
    image = np.random.default_rng(1).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    plain = AugmentSettings(flip=0, jitter=1.0, brightness=0, contrast=0, saturation=0.5, hue=0.2)
    sample = TileSample(image, None, ())
    rgb, infrared = (augment(sample, SEEDS[3], plain, bands).rs for bands in (("R", "G", "B"), ("B8", "B4", "B3")))
    assert rgb is not None
    assert infrared is not None
    assert not np.array_equal(rgb, image)
    assert np.array_equal(infrared, image)


@pytest.mark.parametrize(
    "wrong",
    [{"crop": 1.5}, {"crop_area": (0.0, 0.5)}, {"crop_area": (0.9, 0.5)}, {"crop_ratio": (2.0, 1.0)}, {"hue": 0.7}],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentSettings(**wrong)  # type: ignore[arg-type]


def test_a_cropped_stream_resumes_byte_for_byte_and_names_its_windows(dataset: Path) -> None:
    settings = StreamSettings(augment=AugmentSettings(crop=1.0, rotate=0.5, flip_vertical=0.5, drop_objects=0.2))

    def fresh() -> GeoStream:
        return GeoStream(str(dataset), VIEW, batch_size=8, settings=settings, seed=3)

    whole = list(fresh())
    assert any((b.window[b.valid] != b.window.new_tensor([0, 0, 1, 1])).any() for b in whole)
    first, again = fresh(), fresh()
    batches = first.batches(steps=2)
    next(batches), next(batches)
    again.load_state_dict(first.state_dict())
    for a, b in zip(again, whole[2:], strict=True):
        assert equal(a, b)
    plain = list(
        GeoStream(
            str(dataset), VIEW, batch_size=8, settings=replace(settings, augment=AugmentSettings(enabled=False)), seed=3
        )
    )
    assert [b.key for b in plain] == [b.key for b in whole]  # what is shown changes, not the order


def test_colours_of_chosen_bands_leave_the_others_as_they_are() -> None:
    bands = ("B2", "B3", "B4", "B5")
    settings = AugmentSettings(jitter=1.0, jitter_bands=("B4", "green"))
    image = np.random.default_rng(0).integers(0, 256, (4, 9, 9)).astype(np.uint8)
    colours = draw_colours(SEEDS[0], settings, bands)
    found = coloured(image, colours)
    assert np.array_equal(found[[0, 3]], image[[0, 3]])
    assert np.array_equal(found[1:3], jitter(image[1:3], colours.brightness, colours.contrast))
    assert not np.array_equal(found[1:3], image[1:3])
    assert draw_colours(SEEDS[0], AugmentSettings(jitter=1.0, jitter_bands=("B9",)), bands) == Colours()


def test_photos_are_varied_one_by_one_and_at_their_rates() -> None:
    """Each by itself, in its colours or its side, within what the settings allow."""
    grey = np.full((3, 8, 8), 100, np.uint8)
    grey[:, :, :4] = 50
    photos = tuple(Photo(grey, 0.5, 0.5, 0.0, 0.0, math.nan) for _ in range(4))
    settings = AugmentSettings(photo_flip=0.5, photo_jitter=0.3, photo_colour=0.1, jitter=0.0, flip=0.0)
    mirrored = recoloured = 0
    for seed in SEEDS[:100]:
        for shown in augment(TileSample(None, None, photos), seed, settings).photos:
            mirrored += bool(shown.pixels[0, 0, 0] > shown.pixels[0, 0, 7])
            recoloured += not set(np.unique(shown.pixels)) <= {50, 100}
            assert 40 <= shown.pixels.min() < shown.pixels.max() <= 115
    assert 0.42 < mirrored / 400 < 0.58
    assert 0.2 < recoloured / 400 < 0.4
    still = augment(TileSample(None, None, photos), SEEDS[0], AugmentSettings(jitter=0.0, flip=0.0)).photos
    assert all(np.array_equal(p.pixels, grey) for p in still)
