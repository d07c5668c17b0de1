"""Sample keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.keys import MAX_KEY_LENGTH, GridKey, XyzKey, check_key

SOURCES = st.text("abcXYZ019_", max_size=20)


@st.composite
def xyz_keys(draw: st.DrawFn) -> XyzKey:
    zoom = draw(st.integers(0, 30))
    tile = st.integers(0, (1 << zoom) - 1)
    return XyzKey(zoom, draw(tile), draw(tile), draw(st.integers(1, 8192)), draw(SOURCES))


@given(xyz_keys())
def test_xyz_key_survives_its_text(key: XyzKey) -> None:
    text = str(key)
    assert XyzKey.parse(text) == key
    assert check_key(text) == text
    assert "." not in text  # webdataset cuts keys at the first dot
    assert len(text.encode("ascii")) <= MAX_KEY_LENGTH


@given(xyz_keys(), xyz_keys())
def test_different_xyz_keys_have_different_texts(a: XyzKey, b: XyzKey) -> None:
    assert (a == b) == (str(a) == str(b))


@given(st.text("xyz-0123456789_ab١", max_size=40).map(lambda t: "xyz-" + t) | xyz_keys().map(str))
def test_what_parses_is_the_one_text_of_its_key(text: str) -> None:
    try:
        key = XyzKey.parse(text)
    except InputError:
        return
    assert str(key) == text


@pytest.mark.parametrize("text", ["xyz-01-0-0-256", "xyz-1-00-0-256", "xyz-1-0-0-0256", "xyz-١-0-0-256"])
def test_a_second_spelling_of_a_tile_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="XYZ key"):
        XyzKey.parse(text)


@pytest.mark.parametrize(
    ("zoom", "x", "y"), [(-1, 0, 0), (31, 0, 0), (0, 1, 0), (3, 8, 0), (3, 0, 8), (3, -1, 0), (3, 0, -1)]
)
def test_a_tile_that_does_not_exist_is_refused(zoom: int, x: int, y: int) -> None:
    with pytest.raises(InputError, match="does not exist"):
        XyzKey(zoom, x, y, 256)


@pytest.mark.parametrize(
    ("size", "source"), [(0, ""), (-1, ""), (256, "a-b"), (256, "a.b"), (256, "ä"), (256, "a" * 80)]
)
def test_a_key_that_could_not_be_parsed_again_is_refused(size: int, source: str) -> None:
    with pytest.raises(InputError):
        XyzKey(3, 1, 1, size, source)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "ä", "a" * 81, "a\n", "..", "a\0"])
def test_illegal_sample_key_is_refused_with_a_way_out(key: str) -> None:
    with pytest.raises(InputError, match="rename the chip"):
        check_key(key)


GRID_KEYS = st.builds(
    GridKey, st.integers(1, 60), st.sampled_from("ns"), st.integers(0, 10**7), st.integers(0, 10**10),
    st.integers(1, 8192), st.integers(1, 12_000), SOURCES,
)  # fmt: skip


@given(GRID_KEYS)
def test_grid_key_survives_its_text(key: GridKey) -> None:
    text = str(key)
    assert GridKey.parse(text) == key
    assert check_key(text) == text


@given(GRID_KEYS, GRID_KEYS)
def test_different_grid_keys_have_different_texts(a: GridKey, b: GridKey) -> None:
    assert (a == b) == (str(a) == str(b))


@given(st.text("utmns-0123456789_ab١", max_size=40).map(lambda t: "utm-" + t) | GRID_KEYS.map(str))
def test_what_parses_is_the_one_text_of_its_grid_key(text: str) -> None:
    try:
        key = GridKey.parse(text)
    except InputError:
        return
    assert str(key) == text


@pytest.mark.parametrize(
    "text",
    ["utm-01n-0-0-256-1mm", "utm-1N-0-0-256-1mm", "utm-1n-00-0-256-1mm", "utm-1n-0-0-256-1", "utm-1n-0-0-256-1mm-"],
)
def test_a_second_spelling_of_a_grid_cell_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="grid cell"):
        GridKey.parse(text)


@pytest.mark.parametrize(
    ("zone", "hemisphere", "column", "size", "gsd_mm", "source"),
    [(0, "n", 0, 256, 1, ""), (61, "n", 0, 256, 1, ""), (1, "x", 0, 256, 1, ""), (1, "n", -1, 256, 1, ""),
     (1, "n", 0, 0, 1, ""), (1, "n", 0, 256, 0, ""), (1, "n", 0, -256, -1, ""), (1, "n", 0, 256, 400_000, ""),
     (1, "n", 0, 256, 1, "a-b"), (1, "n", 0, 256, 1, "a" * 80)],
)  # fmt: skip
def test_a_grid_cell_that_does_not_exist_is_refused(
    zone: int, hemisphere: str, column: int, size: int, gsd_mm: int, source: str
) -> None:
    with pytest.raises(InputError):
        GridKey(zone, hemisphere, column, 0, size, gsd_mm, source)
