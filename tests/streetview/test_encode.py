"""What comes out is upright, small and free of metadata; what cannot be used is named; memory stays bounded."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import difference_hash, encode_photos, pixels_needed
from pipeline.streetview.pictures.gpano import read_gpano, visible_part
from pipeline.streetview.record import Drops, Photo
from schemas.errors import InputError
from tests.streetview.makers import encode_photo, picture, reasons
from tests.streetview.test_panorama import draw_panorama, draw_view

ROOT = Path(__file__).resolve().parents[2]


def photo(path: Path, **more: object) -> Photo:
    return Photo(**{"path": str(path), "id": path.stem, "lon": 9.5, "lat": 47.1, "heading": 30.0} | more)  # type: ignore[arg-type]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def xmp(**properties: object) -> bytes:
    """GPano properties as attributes, as most writers have them."""
    inner = " ".join(f'GPano:{k}="{v}"' for k, v in properties.items())
    space = 'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
    return f"<x:xmpmeta><rdf:Description {space} {inner}/></x:xmpmeta>".encode()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_obeyed(tmp_path: Path, orientation: int) -> None:
    """The eight ways of EXIF 2.32, table 6, each undone: the picture always comes out the same way up."""
    quarters = np.zeros((48, 64, 3), np.uint8)
    quarters[:24, :32], quarters[:24, 32:], quarters[24:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    stored = {
        1: quarters, 2: quarters[:, ::-1], 3: quarters[::-1, ::-1], 4: quarters[::-1],
        5: quarters.transpose(1, 0, 2), 6: np.rot90(quarters), 7: np.rot90(quarters[::-1]),
        8: np.rot90(quarters, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = opened(encode_photo(str(tmp_path / "a.jpg"), 64, 95))
    assert found.size == (64, 48)
    assert np.abs(np.asarray(found).astype(int) - quarters)[::8, 4::8].mean() < 12


def test_nothing_of_the_metadata_is_left(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "MAKER-SECRET", "ARTIST-SECRET"
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path / "a.jpg"
    picture(
        path,
        comment=b"COMMENT-SECRET",
        exif=exif,
        icc_profile=b"ICC-SECRET",
        xmp=b"<xmp>XMP-SECRET</xmp>",
        dpi=(300, 300),
    )
    assert path.read_bytes().count(b"SECRET") >= 5
    data = encode_photo(str(path), 64, 80)
    assert b"SECRET" not in data
    assert not opened(data).getexif()
    assert set(opened(data).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_photos_keep_their_order_and_the_bad_ones_are_named(tmp_path: Path) -> None:
    good = [photo(picture(tmp_path / f"{i}.jpg", i)) for i in range(3)]
    cut = picture(tmp_path / "cut.jpg", 3)
    cut.write_bytes(cut.read_bytes()[:-300])
    text = tmp_path / "text.jpg"
    text.write_text("no photo")
    drops = Drops()
    images = encode_photos([good[2], photo(cut), good[0], photo(text), photo(tmp_path / "none.jpg"), good[1]],
                           StreetviewConfig(size=48), drops)  # fmt: skip
    assert [i.photo.id for i in images] == ["2", "0", "1"]
    assert all(opened(i.data).size == (48, 32) for i in images)
    assert reasons(drops.rows()) == dict.fromkeys(("cut", "text", "none"), "unreadable_image")
    assert not any(str(tmp_path) in str(r["detail"]) for r in drops.rows())


def test_photos_that_look_alike_come_once(tmp_path: Path) -> None:
    one = picture(tmp_path / "one.jpg", 1, (320, 240))
    picture(tmp_path / "again.jpg", 1, (160, 120), quality=40)
    picture(tmp_path / "other.jpg", 2, (320, 240))
    photos = [photo(one), photo(tmp_path / "again.jpg"), photo(tmp_path / "other.jpg")]
    drops = Drops()
    kept = encode_photos(photos, StreetviewConfig(hash_distance=6), drops)
    assert [i.photo.id for i in kept] == ["one", "other"]
    assert reasons(drops.rows()) == {"again": "duplicate_image"}
    assert len(encode_photos(photos, StreetviewConfig(), Drops())) == 3


def test_the_hash_of_a_picture_is_which_neighbour_is_brighter() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 252, 28, dtype=np.uint8), (8, 1)))
    assert difference_hash(ramp) == (1 << 64) - 1
    assert difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0


def test_a_panorama_becomes_views_with_their_headings(tmp_path: Path) -> None:
    path = tmp_path / "pano.jpg"
    Image.fromarray(draw_panorama(1024, 200.0)).save(path, quality=98, subsampling=0)
    config = StreetviewConfig(size=64, quality=98, panorama="views", views=5, view_fov=80.0)
    pano = photo(path, heading=200.0, projection="equirectangular")
    images = encode_photos([pano], config, Drops())
    assert [i.heading for i in images] == pytest.approx([200.0, 272.0, 344.0, 56.0, 128.0])
    for image in images:
        assert (image.projection, image.fov) == ("perspective", 80.0)
        assert image.heading is not None
        error = np.abs(np.asarray(opened(image.data)).astype(float) - draw_view(image.heading, 80.0, 64))
        assert error.mean() < 2.0
    (whole,) = encode_photos([pano], StreetviewConfig(size=64), Drops())
    assert (whole.heading, whole.projection, whole.fov) == (200.0, "equirectangular", None)
    assert opened(whole.data).size == (64, 32)
    unknown = encode_photos([photo(path, heading=None, projection="equirectangular")], config, Drops())
    assert [i.heading for i in unknown] == [None] * 5


def test_a_large_panorama_is_made_smaller_before_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "pano.jpg"
    Image.fromarray(draw_panorama(2048)).save(path, quality=98)
    config = StreetviewConfig(size=64, quality=98, panorama="views", views=1)
    (image,) = encode_photos([photo(path, heading=0.0, projection="equirectangular")], config, Drops())
    assert np.abs(np.asarray(opened(image.data)).astype(float) - draw_view(0.0, 90.0, 64)).mean() < 2.0


def test_a_partial_panorama_gives_the_views_that_it_holds_or_is_named(tmp_path: Path) -> None:
    whole = draw_panorama(1024)
    config = StreetviewConfig(size=64, panorama="views", quality=98)
    part = tmp_path / "part.jpg"  # the middle 200° of the circle, all of its height
    left, width = 1024 * 80 // 360, 1024 * 200 // 360
    said = xmp(ProjectionType="equirectangular", FullPanoWidthPixels=4096, FullPanoHeightPixels=2048,
               CroppedAreaImageWidthPixels=width * 4, CroppedAreaImageHeightPixels=2048, CroppedAreaLeftPixels=left * 4,
               CroppedAreaTopPixels=0)  # fmt: skip
    Image.fromarray(whole[:, left : left + width]).save(part, quality=98, xmp=said)
    Image.fromarray(whole[:, left : left + width]).save(tmp_path / "silent.jpg")
    Image.fromarray(whole[200:300]).save(tmp_path / "strip.jpg")
    drops = Drops()
    photos = [photo(p, heading=0.0, projection="equirectangular") for p in (part, tmp_path / "silent.jpg")]
    strip = photo(tmp_path / "strip.jpg", projection="equirectangular", visible=(0.0, 200 / 512, 1.0, 300 / 512))
    images = encode_photos([*photos, strip], config, drops)
    assert [(i.photo.id, i.heading) for i in images] == [("part", 0.0)]  # that to the back and sides reach out
    assert np.abs(np.asarray(opened(images[0].data)).astype(float) - draw_view(0.0, 90.0, 64)).mean() < 2.0
    assert reasons(drops.rows()) == {"silent": "partial_panorama", "strip": "partial_panorama"}
    narrow = StreetviewConfig(size=64, panorama="views", view_fov=30.0, views=1)
    assert [i.photo.id for i in encode_photos([strip], narrow, Drops())] == ["strip"]


def test_sphere_metadata_are_read_in_every_form(tmp_path: Path) -> None:
    full = {"FullPanoWidthPixels": 8000, "FullPanoHeightPixels": 4000, "CroppedAreaImageWidthPixels": 4000,
            "CroppedAreaImageHeightPixels": 2000, "CroppedAreaLeftPixels": 2000,
            "CroppedAreaTopPixels": 1000}  # fmt: skip
    elements = "".join(f"<GPano:{k}>{v}</GPano:{k}>" for k, v in {**full, "ProjectionType": "equirectangular"}.items())
    for data in (xmp(**full, ProjectionType="equirectangular", PoseHeadingDegrees="-90.0"), elements.encode()):
        picture(tmp_path / "a.jpg", xmp=data)
        with Image.open(tmp_path / "a.jpg") as image:
            sphere = read_gpano(image)
        assert sphere is not None
        assert sphere.visible == (0.25, 0.25, 0.75, 0.75)
        assert sphere.heading in (270.0, None)
    picture(tmp_path / "a.jpg", xmp=b"<xmp>nothing of the kind</xmp>")
    with Image.open(tmp_path / "a.jpg") as image:
        assert read_gpano(image) is None


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((8000, 4000, 8000, 4000, 0, 0), (0.0, 0.0, 1.0, 1.0)), ((8000, None, 8000, 4000, 0, 0), (0.0, 0.0, 1.0, 1.0)),
        ((None, 4000, 4000, 4000, None, 0), (0.25, 0.0, 0.75, 1.0)), ((8000, 4000, 9000, 4000, 0, 0), (0.0,) * 4),
        ((8000, 4000, 4000, 4000, 6000, 0), (0.0,) * 4), ((0, 0, 10, 10, 0, 0), (0.0,) * 4),
        ((8000, 4000, None, None, 0, 0), (0.0,) * 4), ((-8000, -4000, 10, 10, 0, 0), (0.0,) * 4),
    ],
)  # fmt: skip
def test_sphere_metadata_that_contradict_themselves_show_nothing(
    numbers: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    assert visible_part(*numbers) == expected


def test_photos_are_fetched_as_wide_as_they_are_used() -> None:
    assert pixels_needed(StreetviewConfig(size=256), panorama=True) == 256
    assert pixels_needed(StreetviewConfig(size=512, panorama="views"), panorama=False) == 512
    assert pixels_needed(StreetviewConfig(size=512, panorama="views"), panorama=True) == 1608


def png_bomb(path: Path, side: int) -> Path:
    """A PNG of side² black pixels: 30,000² are 2.7 GB in memory and 3 MB on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    line = b"\0" * (1 + 3 * side)
    body = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


MEASURE = """
import resource, sys
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, Photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
drops = Drops()
settings = StreetviewConfig(panorama="views")
made = encode_photos([Photo(p, p.rsplit("/")[-1], 9.5, 47.1, 0.0, projection=k) for p in sys.argv[1:]
                      for k in ("perspective", "equirectangular")], settings, drops)
print(len(made), ",".join(sorted({r["reason"] for r in drops.rows()})),
      (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(*paths: Path) -> tuple[int, str, int]:
    """Images made, reasons of drops and megabytes that it took, in a process of its own."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
    words = [sys.executable, "-c", MEASURE, *map(str, paths)]
    out = subprocess.run(words, env=env, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split(" ")
    return int(out[0]), out[1], int(out[-1])


def test_bombs_are_refused_before_memory_is_spent_on_them(tmp_path: Path) -> None:
    jpeg = tmp_path / "bomb.jpg"  # 100 megapixels in 600 kB
    Image.new("RGB", (10_000, 10_000)).save(jpeg, quality=10)
    progressive = tmp_path / "progressive.jpg"  # 600 MB of coefficients to whoever decodes it
    Image.new("RGB", (10_000, 10_000)).save(progressive, quality=10, progressive=True)
    made, why, megabytes = measured(jpeg, progressive, png_bomb(tmp_path / "bomb.png", 12_000))
    assert (made, why) == (0, "too_many_pixels")
    assert megabytes < 30


def test_the_largest_photo_that_is_taken_keeps_memory_bounded(tmp_path: Path) -> None:
    """72 megapixels, a 360° camera's: JPEG is scaled down as it is decoded."""
    path = tmp_path / "large.jpg"
    Image.new("RGB", (12_000, 6_000), "grey").save(path, quality=20)
    made, why, megabytes = measured(path)
    assert (made, why) == (5, "")
    assert megabytes < 60


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", size=(1200, 1000))
    with pytest.raises(InputError, match=r"a\.jpg has 1200 × 1000 pixels, over sv\.max_megapixels=1"):
        encode_photo(str(path), 64, 80, max_megapixels=1.0)
