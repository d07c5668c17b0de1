"""Typed settings."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.config import (
    build,
    content,
    execution,
    key_paths,
    merge,
    parse_override,
    parse_settings,
    parse_yaml,
    to_mapping,
)
from schemas.errors import ConfigError
from schemas.splits import SplitConfig


@dataclass(frozen=True)
class Inner:
    """A group."""

    share: float = 0.1
    rounds: int = 3
    mode: Literal["fast", "exact"] = "fast"


@dataclass(frozen=True)
class Outer:
    """Every kind of setting."""

    name: str
    zoom: int = 16
    verbose: bool = False
    limit: int | None = None
    grid: tuple[int, int] = (14, 14)
    grids: tuple[int, ...] = ()
    keys: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    split: Inner = Inner()


TEXT = st.text("abcxyz -_", min_size=1, max_size=8)
INNER = st.builds(Inner, st.floats(0, 1), st.integers(0, 99), st.sampled_from(("fast", "exact")))
OUTER = st.builds(
    Outer, TEXT, st.integers(0, 30), st.booleans(), st.none() | st.integers(0, 9),
    st.tuples(st.integers(1, 64), st.integers(1, 64)), st.lists(st.integers(), max_size=3).map(tuple),
    st.lists(TEXT, max_size=3), st.dictionaries(TEXT, st.floats(-9, 9), max_size=3), INNER,
)  # fmt: skip


@given(OUTER)
def test_settings_survive_their_mapping_and_its_yaml(config: Outer) -> None:
    mapping = to_mapping(config)
    assert build(Outer, mapping) == config
    assert build(Outer, parse_yaml(yaml.safe_dump(mapping), "x.yaml")) == config


@given(OUTER, OUTER)
def test_overrides_reach_every_setting(base: Outer, wanted: Outer) -> None:
    target = to_mapping(wanted)

    def value(path: str) -> Any:
        node: Any = target
        for part in path.split("."):
            node = node[part]
        return node

    overrides = [
        f"{path}={yaml.safe_dump(value(path), default_flow_style=True, width=10**6).removesuffix('...' + chr(10))}"
        for path in key_paths(Outer)
    ]
    before = to_mapping(base)
    assert build(Outer, merge(before, overrides)) == wanted
    assert before == to_mapping(base)  # the base is not written to


def test_content_is_all_settings_of_all_groups_but_those_of_execution() -> None:
    @dataclass(frozen=True)
    class Whole:
        name: str = "x"
        inner: Inner = Inner()
        workers: int = execution(2)
        machine: Inner = execution(Inner())

    assert content(Whole()) == {"name": "x", "inner": {"share": 0.1, "rounds": 3, "mode": "fast"}}


def test_the_last_override_wins() -> None:
    assert merge({}, ["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": "2", "c": "3"}}


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=3", ["a"], "3"),
        ("a.b=[1, x]", ["a", "b"], ["1", "x"]),
        ("a=x=y", ["a"], "x=y"),
        ("a=", ["a"], ""),
        ("a=true", ["a"], "true"),
        ("a='0017'", ["a"], "0017"),
        ("a=s3://bucket/x", ["a"], "s3://bucket/x"),
        ("a=%Y-%m-%d", ["a"], "%Y-%m-%d"),
        ("a=%d'%Y: #%m", ["a"], "%d'%Y: #%m"),
    ],
)
def test_an_override_is_kept_as_it_is_written(text: str, path: list[str], value: Any) -> None:
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["a", "=3", " =3", "a=[1", "a={", "a=[!!python/name:os.system x]"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_override(text)


@pytest.mark.parametrize("value", ["2020-13-45", "!!int x", "\x00", "!!python/name:os.system", "&a [*a]", "nan"])
def test_what_is_no_number_is_refused_as_one(value: str) -> None:
    for name in ("zoom", "split.share"):
        with pytest.raises(ConfigError, match=name):
            build(Outer, merge({"name": "n"}, [f"{name}={value}"]))


@pytest.mark.parametrize(
    "text", ["0017", "12:30:45", "0x1F", "1e3", "1_000", "no", "null", "2024-1-1", "a: b #c", "it's"]
)
def test_what_is_typed_for_text_stays_text(text: str) -> None:
    assert build(Outer, merge({}, [f"name={text}"])).name == text
    if ": " not in text and text != "null":
        assert build(Outer, merge({"name": "n"}, [f"keys=[{text}]"])).keys == [text]
        assert build(Outer, parse_settings(f"name: {text}", "x.yaml")).name == text


@given(st.text(max_size=20))
@example('"\\UFFFFFFFF"')  # no character: the quotes are part of the text
def test_any_text_is_a_setting_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_override("a=" + text)


@given(st.sampled_from(list(key_paths(Outer))), st.data())
def test_a_misspelt_setting_names_the_nearest_one(path: str, data: st.DataObject) -> None:
    group, _, leaf = path.rpartition(".")
    at = data.draw(st.integers(0, len(leaf) - 1))
    wrong = leaf[:at] + leaf[at + 1 :] if len(leaf) > 4 else leaf + "s"
    if wrong in ("keys", *key_paths(Outer)):
        return
    full = f"{group}.{wrong}" if group else wrong
    with pytest.raises(ConfigError, match=f"unknown setting {full}; did you mean {path}"):
        build(Outer, merge({"name": "n"}, [f"{full}=1"]))


def test_a_setting_of_another_group_is_found_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting rounds; did you mean split\.rounds"):
        build(Outer, {"name": "n", "rounds": 1})


def test_an_unknown_setting_without_a_neighbour_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known settings: .*zoom"):
        build(Outer, {"name": "n", "qqqqqqqqqqqq": 1})


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("zoom=high", "zoom='high'"),
        ("zoom=1.5", r"zoom=1\.5"),
        ("zoom=true", "zoom=True"),
        ("verbose=1", "verbose=1"),
        ("limit=x", "limit='x' .* a whole number or null"),
        ("grid=[1]", "grid=.*2 values"),
        ("grid=14", r"grid=14 .* a list, grid=\[…,…\]"),
        ("grids=3", r"grids=3 .* a list, grids=\[…,…\]"),
        ("grid=[1, x]", "grid='x'"),
        ("keys=5", "keys=5"),
        ("weights.a=heavy", r"weights\.a='heavy'"),
        ("weights=3", "weights=3"),
        ("split=3", "split is a group"),
        ("split.share=much", r"split\.share='much'"),
        ("split.mode=fats", "split.mode='fats'.*did you mean fast"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_full_name(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(Outer, merge({"name": "n"}, [override]))


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="name is missing"):
        build(Outer, {})


def test_a_value_is_no_group() -> None:
    with pytest.raises(ConfigError, match="zoom is a value"):
        merge({"zoom": 3}, ["zoom.sub=1"])


@pytest.mark.parametrize("text", ["[1]", "3", "a: [", "a: 2020-13-45"])
def test_a_document_that_is_no_mapping_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        parse_yaml(text, "run.yaml")


def test_an_empty_document_changes_nothing() -> None:
    assert parse_yaml("# nothing\n", "run.yaml") == {}


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("3", 3.0), ("0.5", 0.5)])
def test_a_fraction_may_be_written_in_any_way(text: str, value: float) -> None:
    built = build(Inner, merge({}, [f"share={text}"]))
    assert built.share == value
    assert isinstance(built.share, float)


@pytest.mark.parametrize(
    "override",
    [
        "block_degrees=0",
        "block_degrees=11",
        "val=0.6,",
        "val=-0.1",
        "test=1.1",
        "buffer_degrees=0.1",
        "buffer_degrees=-1",
    ],
)
def test_an_impossible_split_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        build(SplitConfig, merge({}, [override]))


def test_a_list_of_words_may_be_written_with_commas_alone() -> None:
    @dataclass(frozen=True)
    class Words:
        names: tuple[str, ...] = ()
        numbers: tuple[float, ...] = ()

    assert build(Words, merge({}, ["names=tiles, grid"])) == Words(("tiles", "grid"))
    assert build(Words, merge({}, ["names=tiles"])) == Words(("tiles",))
    with pytest.raises(ConfigError, match="numbers"):
        build(Words, merge({}, ["numbers=1, 2"]))


def test_a_choice_is_taken_before_a_list_of_one_word() -> None:
    @dataclass(frozen=True)
    class Bands:
        bands: tuple[str, ...] | Literal["all"] = "all"

    assert build(Bands, merge({}, ["bands=all"])) == Bands("all")
    assert build(Bands, merge({}, ["bands=red"])) == Bands(("red",))
    with pytest.raises(ConfigError, match=r"bands=None .* it takes a list, bands=\[…,…\] or all$"):
        build(Bands, merge({}, ["bands=null"]))


def test_a_choice_that_yaml_reads_as_a_number_is_the_choice() -> None:
    @dataclass(frozen=True)
    class Jpeg:
        subsampling: Literal["444", "420"] = "444"

    assert build(Jpeg, merge({}, ["subsampling=420"])) == Jpeg("420")


@pytest.mark.parametrize(
    "text",
    ["rs: &a {x: *a}", "a: &a [1]\nb: [*a, &b [*b]]", "x: " + "[" * 40 + "]" * 40, "x: " + "[" * 5000,
     "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 + "]" for i in range(1, 12))])],
)  # fmt: skip
def test_yaml_that_has_no_end_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "s.yaml")
    assert "\n" not in str(caught.value)


def test_a_text_with_a_nul_is_refused_by_name_before_a_path_is_made_of_it() -> None:
    with pytest.raises(ConfigError, match=r"name='a\\x00b' holds a NUL"):
        build(Outer, {"name": "a\0b"})
