"""OSM tokens and their bytes."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, CorruptSampleError
from schemas.relations import INVERSE
from schemas.tokens import FIELDS, GRANULARITIES, UNITS, Granularity, OsmTokens, empty_tokens, snap, unsnap

OFFSETS = {"tag_offsets": "tag_ids", "object_ring_offsets": "ring_offsets", "ring_offsets": "vertices"}
NAMES = [f.name for f in fields(OsmTokens)]


def random_tokens(seed: int, n: int) -> OsmTokens:
    """Legal tokens of n objects."""
    rng = np.random.default_rng(seed)
    kind = np.sort(rng.integers(0, 3, n)).astype(np.uint8)
    rings = np.where(kind == 0, 1, rng.integers(1, 4, n))
    ring_sizes = rng.integers(1, 6, rings.sum())
    tags = rng.integers(0, 4, n)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.3]
    rows, columns = int(rng.integers(1, 33)), int(rng.integers(1, 33))
    p, k = (int(rng.integers(0, 3 * n)) if n else 0), int(rng.integers(0, 5))
    big = np.iinfo(np.int64)

    def rise(counts: np.ndarray) -> np.ndarray:
        return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)

    anchors = rng.random((n, 4, 2)).astype(np.float32)
    anchors[kind == 0, 1:] = np.nan
    return OsmTokens(
        kind=kind, osm_type=rng.integers(0, 3, n).astype(np.uint8), osm_id=rng.integers(big.min, big.max, n),
        tag_offsets=rise(tags), tag_ids=rng.integers(big.min, big.max, tags.sum()), anchors=anchors,
        extent=rng.random(n).astype(np.float32),
        vertices=rng.integers(0, 65536, (ring_sizes.sum(), 2)).astype(np.uint16),
        ring_offsets=rise(ring_sizes), object_ring_offsets=rise(rings),
        edges=np.array(pairs, np.int32).reshape(-1, 2).T.copy(),
        relation=rng.integers(0, 10, len(pairs)).astype(np.uint8),
        patch_grid=np.array([rows, columns], np.uint16),
        patch_cell=rng.integers(0, rows * columns, p).astype(np.uint16),
        patch_object=rng.integers(0, max(n, 1), p).astype(np.int32), patch_cover=rng.random(p).astype(np.float32),
        region_tag_id=np.sort(rng.integers(big.min, big.max, k)), region_count=rng.integers(0, 9, k).astype(np.int32),
        region_area=rng.random(k).astype(np.float32), region_length=rng.random(k).astype(np.float32),
    )  # fmt: skip


TOKENS = st.builds(random_tokens, st.integers(0, 2**32), st.integers(0, 12))


def use_everything(t: OsmTokens) -> None:
    """Every index step that a consumer takes: none may leave its array."""
    for i in range(len(t)):
        tags = t.tag_ids[t.tag_offsets[i] : t.tag_offsets[i + 1]]
        assert tags.shape == (t.tag_offsets[i + 1] - t.tag_offsets[i],)
        first, last = int(t.object_ring_offsets[i]), int(t.object_ring_offsets[i + 1])
        assert 0 <= first < last  # an object without a ring has no place
        for ring in range(first, last):
            a, b = int(t.ring_offsets[ring]), int(t.ring_offsets[ring + 1])
            assert a < b
            assert t.vertices[a:b].shape == (b - a, 2)
    for i, j in t.edges.T:
        assert t.osm_id[i].shape == t.osm_id[j].shape == ()
    assert INVERSE[t.relation].shape == t.relation.shape
    assert np.zeros(int(t.patch_grid[0]) * int(t.patch_grid[1]))[t.patch_cell].shape == t.patch_cell.shape
    assert t.kind[t.patch_object].shape == t.patch_cover.shape
    assert sum(t.counts()) == len(t)


def same(a: OsmTokens, b: OsmTokens) -> None:
    for name in NAMES:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        assert x.shape == y.shape, name
        assert x.tobytes() == y.tobytes(), name  # NaN included


@given(TOKENS)
def test_tokens_survive_their_bytes(tokens: OsmTokens) -> None:
    assert tokens.problem() is None
    same(OsmTokens.from_bytes(tokens.to_bytes()), tokens)


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_footprint_without_objects_survives_its_bytes(rows: int, columns: int) -> None:
    tokens = empty_tokens((rows, columns))
    assert tokens.problem() is None
    assert len(tokens) == 0
    assert tokens.counts() == (0, 0, 0)
    same(OsmTokens.from_bytes(tokens.to_bytes()), tokens)


@given(TOKENS, st.sets(st.sampled_from(GRANULARITIES)))
def test_what_is_not_wanted_is_not_read(tokens: OsmTokens, wanted: set[Granularity]) -> None:
    read = OsmTokens.from_bytes(tokens.to_bytes(), wanted)
    for name, f in FIELDS.items():
        if f.granularity in {"objects", *wanted}:
            assert getattr(read, name).tobytes() == getattr(tokens, name).tobytes()
        else:
            assert not getattr(read, name).any()
            assert name == "patch_grid" or not getattr(read, name).size
    assert read.problem() is None


def test_a_tensor_that_is_not_wanted_may_hold_anything() -> None:
    arrays = safetensors.numpy.load(random_tokens(4, 6).to_bytes())
    arrays["patch_object"] = np.full_like(arrays["patch_object"], 99)
    data = safetensors.numpy.save(arrays)
    assert len(OsmTokens.from_bytes(data, ("objects", "relations"))) == 6
    with pytest.raises(CorruptSampleError, match="patch_object"):
        OsmTokens.from_bytes(data, ("patches",))


def test_patches_may_be_left_out_and_whoever_wants_them_is_told_the_setting() -> None:
    tokens = random_tokens(4, 6)
    none = OsmTokens.from_bytes(tokens.to_bytes(), ("objects", "relations", "region"))
    data = none.to_bytes()
    assert not any(name.startswith("patch") for name in safetensors.numpy.load(data))
    same(OsmTokens.from_bytes(data), none)
    with pytest.raises(ConfigError, match=r"holds no patches: .*tokens\.patches=true"):
        OsmTokens.from_bytes(data, ("patches",))


@pytest.mark.parametrize("granularity", ["objects", "relations", "region"])
def test_no_other_granularity_may_be_left_out(granularity: Granularity) -> None:
    arrays = safetensors.numpy.load(random_tokens(4, 6).to_bytes())
    left = {name: a for name, a in arrays.items() if FIELDS[name].granularity != granularity}
    with pytest.raises(CorruptSampleError, match="lacks"):
        OsmTokens.from_bytes(safetensors.numpy.save(left))


def test_every_field_says_its_type_shape_granularity_and_unit() -> None:
    tokens = random_tokens(4, 6)
    for name, f in FIELDS.items():
        assert f.granularity in GRANULARITIES
        assert f.unit
        assert getattr(tokens, name).dtype == f.dtype
        assert getattr(tokens, name).ndim == len(f.shape)


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_equal_tokens_give_equal_bytes(seed: int, n: int) -> None:
    tokens = random_tokens(seed, n)
    data = tokens.to_bytes()
    assert data == random_tokens(seed, n).to_bytes()
    assert data == OsmTokens.from_bytes(data).to_bytes()
    strided = replace(tokens, anchors=np.asfortranarray(tokens.anchors), vertices=tokens.vertices[::-1][::-1])
    assert strided.to_bytes() == data


@given(TOKENS, st.floats(0, 1, exclude_max=True))
def test_truncated_tokens_are_refused_with_a_reason(tokens: OsmTokens, share: float) -> None:
    data = tokens.to_bytes()
    with pytest.raises(CorruptSampleError, match="build the sample again"):
        OsmTokens.from_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_without_a_tensor_are_refused_by_its_name(name: str) -> None:
    arrays = safetensors.numpy.load(random_tokens(4, 6).to_bytes())
    del arrays[name]
    with pytest.raises(CorruptSampleError, match=name):
        OsmTokens.from_bytes(safetensors.numpy.save(arrays))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["dtype", "rank", "length"])
def test_a_tensor_of_another_form_is_refused_by_its_name(name: str, change: str) -> None:
    arrays = safetensors.numpy.load(random_tokens(4, 6).to_bytes())
    a = arrays[name]
    if change == "dtype":
        arrays[name] = a.astype(np.float64)
    elif change == "rank":
        arrays[name] = a[..., None].copy()
    else:
        arrays[name] = np.concatenate((a, a[-1:], a[-1:]))
    with pytest.raises(CorruptSampleError):
        OsmTokens.from_bytes(safetensors.numpy.save(arrays))


@settings(max_examples=300)
@given(TOKENS, st.data())
def test_flipped_bits_are_refused_or_harmless(tokens: OsmTokens, data: st.DataObject) -> None:
    buffer = bytearray(tokens.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(buffer) * 8 - 1))
        buffer[at // 8] ^= 1 << at % 8
    try:
        read = OsmTokens.from_bytes(bytes(buffer))
    except CorruptSampleError:
        return
    use_everything(read)


@settings(max_examples=300)
@given(
    st.integers(0, 2**32),
    st.sampled_from([*OFFSETS, "edges", "patch_object", "patch_cell", "kind", "relation"]),
    st.data(),
)
def test_flipped_offsets_and_indices_are_refused_or_harmless(seed: int, name: str, data: st.DataObject) -> None:
    arrays = safetensors.numpy.load(random_tokens(seed, 8).to_bytes())
    raw = bytearray(arrays[name].tobytes())
    if not raw:
        return
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    arrays[name] = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
    try:
        read = OsmTokens.from_bytes(safetensors.numpy.save(arrays))
    except CorruptSampleError:
        return
    use_everything(read)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptSampleError):
        OsmTokens.from_bytes(data)


def test_offsets_whose_steps_overflow_are_refused() -> None:
    """0, 2147483647, -2 rises by two positive steps in 32-bit arithmetic."""
    tokens = random_tokens(5, 6)
    offsets = tokens.tag_offsets.copy()
    offsets[1:3] = 2147483647, -2
    assert replace(tokens, tag_offsets=offsets).problem() is not None


def test_an_unknown_relation_is_refused() -> None:
    tokens = random_tokens(5, 12)
    relation = tokens.relation.copy()
    relation[0] = 10
    assert replace(tokens, relation=relation).problem() is not None


def test_an_object_without_a_vertex_is_refused() -> None:
    tokens = random_tokens(5, 6)
    rings = tokens.object_ring_offsets.copy()
    rings[1] = 0
    assert replace(tokens, object_ring_offsets=rings).problem() is not None


def test_a_ring_without_a_vertex_is_refused() -> None:
    tokens = random_tokens(5, 6)
    rings = tokens.ring_offsets.copy()
    rings[1] = 0
    assert replace(tokens, ring_offsets=rings).problem() is not None


def test_a_patch_behind_the_last_of_the_grid_is_refused() -> None:
    tokens = random_tokens(2, 6)
    cells = int(tokens.patch_grid.astype(int).prod())
    for cell, refused in ((cells - 1, False), (cells, True)):
        patch_cell = np.full(len(tokens.patch_cell), cell, np.uint16)
        assert (replace(tokens, patch_cell=patch_cell).problem() is not None) == refused


@pytest.mark.parametrize("name", ["edges", "patch_object", "tag_offsets"])
def test_each_buffer_is_held_to_its_own_rows_whatever_is_read_with_it(name: str) -> None:
    """A number that leads out of a small footprint, and would be inside of a large one."""
    small, large = random_tokens(2, 6), random_tokens(6, 40)
    values = getattr(small, name).copy()
    values[..., -1] = 30
    harmed = replace(small, **{name: values})
    found = OsmTokens.from_buffers([large.to_bytes(), harmed.to_bytes(), small.to_bytes()])
    assert [isinstance(t, CorruptSampleError) for t in found] == [False, True, False]
    assert name in str(found[1])


@given(st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=20))
def test_snapping_moves_a_place_by_at_most_half_a_unit(values: list[float]) -> None:
    xy = np.array(values)
    assert np.abs(unsnap(snap(xy)) - np.clip(xy, 0, 1)).max() <= 0.5 / UNITS * (1 + 1e-9)


def test_every_unit_survives_snapping() -> None:
    units = np.arange(UNITS + 1, dtype=np.uint16)
    assert (snap(unsnap(units)) == units).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("name", ["extent", "patch_cover", "region_area", "region_length"])
def test_an_amount_that_is_none_is_refused(name: str, value: float) -> None:
    tokens = next(t for seed in range(99) if len(getattr(t := random_tokens(seed, 9), name)) > 2)
    values = getattr(tokens, name).copy()
    values[1] = value
    with pytest.raises(CorruptSampleError, match=f"{name} holds a number that is no amount"):
        OsmTokens.from_bytes(replace(tokens, **{name: values}).to_bytes())


def test_a_grid_that_would_fill_the_memory_is_refused() -> None:
    """Whoever packs it makes an array of its cells."""
    for rows, columns in ((65535, 65535), (257, 256)):
        with pytest.raises(CorruptSampleError, match="more than 65,536 cells"):
            OsmTokens.from_bytes(empty_tokens((rows, columns)).to_bytes())
    OsmTokens.from_bytes(empty_tokens((256, 256)).to_bytes())
