"""Tag ids, vocabulary and paint classes against counts made by hand."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.features import FEATURES, VALUE, VOCABULARY
from schemas.tags import format_key, tag_id
from tests.osm.opl import RULES
from tests.osm.tables import tag_features

KEYS = st.sampled_from(
    ("building", "roof:shape", "roof shape", "sport", "name", "addr:city", "highway", "natural", ":", "é", "e\u0301")
)
VALUES = st.sampled_from(
    ("yes", "no", "flat", "tennis;soccer", "soccer", " ", "🏠", "a\x07b", "x" * 255, "residential", "water")
)
TAGS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=12)


def column(tags: list[dict[str, str]]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([list(t.items()) for t in tags], FEATURES.field("tags").type)])


@given(TAGS, st.integers(1, 4), st.integers(0, 3))
def test_vocabulary_and_ids_are_what_counting_by_hand_gives(
    tags: list[dict[str, str]], min_count: int, cut: int
) -> None:
    whole = column(tags).slice(cut)  # a slice: its child arrays begin before it
    tags = tags[cut:]
    texts = [set(RULES.tags.texts(t)) for t in tags]
    count = Counter(t for found in texts for t in found)
    key_count = Counter(k for found in texts for k in {t.partition(":")[0] for t in found})
    final = [
        {t if count[t] >= min_count else f"{t.partition(':')[0]}:{t.partition(':')[0]}" for t in found}
        for found in texts
    ]
    final_count = Counter(t for found in final for t in found)
    result = tag_features(whole, RULES, min_count)
    assert result.vocabulary.schema.equals(VOCABULARY)
    assert result.vocabulary.to_pylist() == [
        {
            "tag_id": tag_id(t), "key": t.partition(":")[0], "value": t.partition(":")[2], "text": t,
            "tag_count": final_count[t], "key_count": key_count[t.partition(":")[0]],
        }
        for t in sorted(final_count)
    ]  # fmt: skip
    assert len(result.offsets) == len(tags) + 1
    for n, found in enumerate(final):
        assert result.ids[result.offsets[n] : result.offsets[n + 1]].tolist() == sorted(tag_id(t) for t in found)


@given(TAGS)
def test_an_object_is_painted_as_the_last_class_that_one_of_its_tags_matches(tags: list[dict[str, str]]) -> None:
    expected = []
    for t in tags:
        best = 0
        for n, paint in enumerate(RULES.paint.classes, 1):
            for wanted in paint.tags:
                key, _, value = wanted.partition("=")
                if t.get(key, "no") != "no" and (t[key].strip() if value == "*" else value in t[key].split(";")):
                    best = n
        expected.append(best)
    assert (tag_features(column(tags), RULES, 1).paint & VALUE).tolist() == expected


@pytest.mark.parametrize(
    "tags", [pa.chunked_array([], FEATURES.field("tags").type), column([]), column([{}]), column([{"name": "x"}])]
)
def test_features_without_tags_have_an_empty_vocabulary(tags: pa.ChunkedArray) -> None:
    result = tag_features(tags, RULES, 1)
    assert result.vocabulary.num_rows == 0
    assert len(result.offsets) == len(tags) + 1
    assert result.paint.tolist() == [0] * len(tags)


def test_several_chunks_are_one_column() -> None:
    a, b = {"building": "yes"}, {"highway": "path"}
    chunks = pa.chunked_array([*column([a]).chunks, *column([]).chunks, *column([b, a]).chunks])
    one, many = tag_features(column([a, b, a]), RULES, 1), tag_features(chunks, RULES, 1)
    assert one.ids.tolist() == many.ids.tolist()
    assert one.offsets.tolist() == many.offsets.tolist()
    assert one.vocabulary.equals(many.vocabulary)


def test_a_rare_tag_joins_its_key() -> None:
    result = tag_features(column([{"building": "yes"}, {"building": "shed"}, {"building": "hut"}]), RULES, 2)
    assert result.vocabulary.select(["text", "tag_count", "key_count"]).to_pylist() == [
        {"text": "building:building", "tag_count": 3, "key_count": 3}
    ]
    assert format_key("building") == "building"
