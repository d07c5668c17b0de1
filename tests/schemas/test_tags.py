"""Tags as text and as ids."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tags import Reading, TagRules, clean, format_key, format_tag, split_text, tag_id

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WEIRD = st.text("ab:; \t\n\x00\x1f\x7f\x85é\u0301\u037e🏠ﬁ", max_size=12) | ANY
RULES = TagRules("1", frozenset({"name"}), ("addr:",))


@given(WEIRD)
def test_clean_text_is_a_fixed_point(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert once == unicodedata.normalize("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" for c in once)
    assert once == once.strip()
    assert "  " not in once


@given(WEIRD, WEIRD)
def test_a_tag_text_holds_one_key_and_one_value(key: str, value: str) -> None:
    name = format_key(key)
    assert ":" not in name
    for text in format_tag(key, value):
        assert split_text(text)[0] == name
        assert split_text(text)[1] != ""


@given(WEIRD.filter(lambda k: ";" not in k and "\u037e" not in k), WEIRD)
def test_formatting_a_formatted_tag_changes_nothing(key: str, value: str) -> None:
    for text in format_tag(key, value):
        assert format_tag(*split_text(text)) == [text]


@given(ANY.filter(lambda k: format_key(k)))
def test_value_yes_becomes_the_key(key: str) -> None:
    name = format_key(key)
    assert format_tag(key, "yes") == format_tag(key, " yes\n") == [f"{name}:{name}"]


@given(st.lists(st.text("abcdé", min_size=1, max_size=4).filter(lambda t: t != "yes"), min_size=1, max_size=5))
def test_a_list_of_values_is_one_tag_each(values: list[str]) -> None:
    assert format_tag("sport", " ; ".join(values)) == [f"sport:{v}" for v in values]
    assert format_tag("sport", ";".join(["", *values, " "])) == [f"sport:{v}" for v in values]


def test_a_key_is_corrected_by_value_where_a_correction_names_one_of_its_tags() -> None:
    rules = replace(RULES, corrections={"landuse=wood": "natural=wood", "bulding": "building"})
    keys = ("landuse", " landuse ", "bulding", "natural", "landuse=wood")
    assert [key for key in keys if rules.is_corrected_by_value(key)] == ["landuse", " landuse "]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (("bulding", "yes"), Reading(("building:building",), "corrected_tag", "bulding=yes is building=yes")),
        (("landuse", "wood"), Reading(("natural:wood",), "corrected_tag", "landuse=wood is natural=wood")),
        (("landuse", "grass"), Reading(("landuse:grass",))),
        (("fixme", "no"), Reading((), "corrected_tag", "fixme=no is left out")),
        (("name", "A"), Reading()),
        (("a$", "b"), Reading((), "malformed_tag", "a$=b")),
    ],
)
def test_a_tag_that_is_corrected_left_out_or_malformed_says_so(tag: tuple[str, str], expected: Reading) -> None:
    corrections = {"landuse=wood": "natural=wood", "bulding": "building", "fixme": None}
    assert replace(RULES, corrections=corrections, malformed_key=r"\$").read(*tag) == expected


@given(ANY, ANY)
def test_composed_and_decomposed_spellings_are_one_tag(key: str, value: str) -> None:
    decomposed = format_tag(unicodedata.normalize("NFD", key), unicodedata.normalize("NFD", value))
    assert decomposed == format_tag(unicodedata.normalize("NFC", key), unicodedata.normalize("NFC", value))


@pytest.mark.parametrize(
    ("key", "value", "texts"),
    [
        ("roof:shape", "flat", ["roof shape:flat"]),
        ("building", "yes", ["building:building"]),
        ("sport", "soccer;;tennis ; ", ["sport:soccer", "sport:tennis"]),
        ("opening", "Mo:08:00", ["opening:Mo:08:00"]),
        ("cafe\u0301", "e\u0301", ["café:é"]),
        ("emoji", "🏠", ["emoji:🏠"]),
        ("a\x00b", "c\x07\x1fd", ["a b:c d"]),
        ("long", "x" * 255, ["long:" + "x" * 255]),
        ("k" * 255, "yes", ["k" * 255 + ":" + "k" * 255]),
        (":", "x", []),
        ("", "x", []),
        ("key", "", []),
        ("key", " ;; \x00", []),
        ("no", "no", ["no:no"]),
    ],
)
def test_tag_texts(key: str, value: str, texts: list[str]) -> None:
    assert format_tag(key, value) == texts


@given(ANY)
def test_a_tag_id_is_a_signed_64_bit_hash_of_the_text(text: str) -> None:
    value = tag_id(text)
    assert -(2**63) <= value < 2**63
    assert value % 2**64 == int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def test_tag_ids_are_the_same_in_every_dataset() -> None:
    assert [tag_id(t) for t in ("building:building", "highway:residential", "natural:tree")] == [
        int.from_bytes(blake2b(t, digest_size=8).digest(), "little", signed=True)
        for t in (b"building:building", b"highway:residential", b"natural:tree")
    ]
    assert tag_id("building:building") == -6250362265166982711


@given(st.lists(ANY, unique=True, max_size=30))
def test_different_texts_have_different_ids(texts: list[str]) -> None:
    assert len({tag_id(t) for t in texts}) == len(texts)


@given(st.dictionaries(st.sampled_from(("building", "name", "addr:city", "roof:shape", "sport")), WEIRD))
def test_texts_of_an_object_are_sorted_distinct_and_without_dropped_keys(tags: dict[str, str]) -> None:
    texts = RULES.texts(tags)
    assert texts == sorted(set(texts))
    assert not any(split_text(t)[0] in ("name", "addr city") for t in texts)
    assert set(texts) == {t for k, v in tags.items() if k not in ("name", "addr:city") for t in format_tag(k, v)}
    assert texts == RULES.texts(list(tags.items())[::-1])


def test_with_a_keep_list_only_its_keys_are_kept() -> None:
    rules = TagRules("1", frozenset({"name"}), ("addr:",), frozenset({"building", "name"}))
    assert [k for k in ("building", "name", "addr:city", "sport", ":") if rules.keeps(k)] == ["building"]
    assert [k for k in ("building", "name", "addr:city", "sport", ":") if RULES.keeps(k)] == ["building", "sport"]
