"""Photo sphere metadata in XMP: read as XML, whoever wrote it; a packet that means no good costs nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.pictures.gpano import PhotoSphere, read_gpano
from pipeline.streetview.pictures.xmp import properties
from pipeline.streetview.record import Drops
from tests.streetview.exif import GPANO, exif_block, extended_segments, with_segments, xmp_packet, xmp_segment
from tests.streetview.makers import picture

CROP = {"FullPanoWidthPixels": 8000, "FullPanoHeightPixels": 4000, "CroppedAreaImageWidthPixels": 4000,
        "CroppedAreaImageHeightPixels": 2000, "CroppedAreaLeftPixels": 2000, "CroppedAreaTopPixels": 1000}  # fmt: skip
SPHERE = {"ProjectionType": "equirectangular", "PoseHeadingDegrees": "-90.0", **CROP}
EXPECTED = PhotoSphere("equirectangular", 270.0, (0.25, 0.25, 0.75, 0.75))
HERE = exif_block([(1, "ascii", b"N\0"), (2, "rational", [(47, 1)]), (3, "ascii", b"E\0"), (4, "rational", [(9, 1)])])


def attributes(prefix: str = "GPano", **values: Any) -> str:
    return " ".join(f'{prefix}:{k}="{v}"' for k, v in values.items())


def elements(prefix: str = "GPano", **values: Any) -> str:
    return "".join(f"<{prefix}:{k}>{v}</{prefix}:{k}>" for k, v in values.items())


def described(inner: str = "", own: str = "", space: str = GPANO) -> str:
    return xmp_packet(f'<rdf:Description rdf:about="" {space} {own}>{inner}</rdf:Description>')


def sphere(path: Path, *packets: str | bytes) -> PhotoSphere | None:
    with Image.open(with_segments(path, *(xmp_segment(p) for p in packets))) as image:
        return read_gpano(image)


FORMS = {
    "attributes": described(own=attributes(**SPHERE)),
    "elements": described(elements(**SPHERE)),
    "both": described(elements(**CROP), attributes(ProjectionType="equirectangular", PoseHeadingDegrees=270)),
    "other prefix": described(elements("p", **SPHERE), space=GPANO.replace("GPano", "p")),
    "default namespace": described(
        "".join(f'<{k} xmlns="http://ns.google.com/photos/1.0/panorama/">{v}</{k}>' for k, v in SPHERE.items())
    ),
    "values in resources": described(
        "".join(f'<GPano:{k} rdf:parseType="Resource"><rdf:value>{v}</rdf:value></GPano:{k}>'
                for k, v in SPHERE.items())
    ),
    # As GoPro's software writes it: the projection last, and everything in elements over several lines.
    "lines and spaces": described("\n" + "\n".join(elements(**{k: f"\n {v}\n "}) for k, v in reversed(SPHERE.items()))),
    "prefix undeclared": f"<x:xmpmeta><rdf:Description {attributes(**SPHERE)}/></x:xmpmeta>",
    "escaped": described(elements(**{**SPHERE, "ProjectionType": "equi&#114;ectangula&#x72;"})),
    "behind a comment": described("<!-- <GPano:ProjectionType>cube</GPano:ProjectionType> -->" + elements(**SPHERE)),
    "declared": '<?xml version="1.0" encoding="UTF-8"?>' + described(elements(**SPHERE)),
    "broken off behind": described(elements(**SPHERE)).partition("</rdf:Desc")[0],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_sphere_is_read_from_every_form_of_xmp(tmp_path: Path, form: str) -> None:
    assert sphere(tmp_path / "a.jpg", FORMS[form]) == EXPECTED


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_packet_may_be_in_any_of_the_encodings_of_xmp(tmp_path: Path, coding: str) -> None:
    packet = described(elements(**SPHERE)).replace("\ufeff", "")
    assert sphere(tmp_path / "a.jpg", packet.encode(coding) + b"\0\0") == EXPECTED


def test_a_panorama_in_elements_is_one_in_a_folder(tmp_path: Path) -> None:
    with_segments(tmp_path / "a.jpg", b"Exif\0\0" + HERE, xmp_segment(FORMS["lines and spaces"]))
    ((row),) = FolderSource(tmp_path, "CC0-1.0").list(None, Drops()).to_pylist()
    assert (row["projection"], row["heading"]) == ("equirectangular", 270.0)
    assert row["visible"] == list(EXPECTED.visible)


def test_all_packets_count_the_first_before_the_others(tmp_path: Path) -> None:
    one, other = described(elements(**CROP)), described(elements(ProjectionType="cube", PoseHeadingDegrees=270))
    found = sphere(tmp_path / "a.jpg", described(), one, other, described(elements(ProjectionType="fisheye")))
    assert found == PhotoSphere("cube", 270.0, EXPECTED.visible)


def test_extended_xmp_is_put_together(tmp_path: Path) -> None:
    """As Google's camera writes what a segment does not hold; pieces may come in any order."""
    long = described(f"<GPano:Note>{'x' * 100_000}</GPano:Note>" + elements(**SPHERE)).encode()
    pieces = extended_segments(long, b"0123456789ABCDEF0123456789ABCDEF", 60_000)
    path = with_segments(tmp_path / "a.jpg", xmp_segment(described()), *reversed(pieces))
    with Image.open(path) as image:
        assert read_gpano(image) == EXPECTED


def test_png_and_webp_have_xmp_too(tmp_path: Path) -> None:
    packet, text = FORMS["elements"], PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", xmp=packet.encode())
    for name in ("a.png", "a.webp"):
        with Image.open(tmp_path / name) as image:
            assert read_gpano(image) == EXPECTED


def bomb(levels: int) -> str:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "equirectangular"}">' for i in range(levels))
    return f"<!DOCTYPE x [{entities}]>" + described(f"<GPano:ProjectionType>&e{levels - 1};</GPano:ProjectionType>")


@pytest.mark.parametrize(
    "packet",
    [
        bomb(1), bomb(12), "\ufeff" + bomb(12), f"<x>{bomb(12)}</x>", f'<?xml version="1.0"?>{bomb(12)}',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">' + described("<GPano:ProjectionType>&x;</GPano:ProjectionType>"),
        '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + described(elements(ProjectionType="&x;")),
        "<GPano:a>" * 6_000, "<GPano:a>" * 3_000 + "x<i/>" * 6_000, "", "\0" * 100, "<", "no XML at all",
        described().replace("<rdf", "<GPano:ProjectionType>equirectangular<rdf", 1),
    ],
)  # fmt: skip
def test_entities_and_damage_are_harmless(tmp_path: Path, packet: str) -> None:
    began = time.process_time()
    assert sphere(tmp_path / "a.jpg", packet) is None
    assert time.process_time() - began < 2.0


def test_properties_of_other_namespaces_are_none_of_ours(tmp_path: Path) -> None:
    other = described(elements(**SPHERE), space='xmlns:GPano="http://example.org/"')
    assert sphere(tmp_path / "a.jpg", other) is None
    with Image.open(picture(tmp_path / "b.jpg")) as image:
        assert properties(image, "GPano", "http://ns.google.com/photos/1.0/panorama/") == {}
