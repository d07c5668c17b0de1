"""The rules of the class raster are a file to edit: what it says is done, what it contradicts is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pipeline.rules
from pipeline.osm.vocabulary import read_tags
from pipeline.rules import Rules, RulesConfig, load_rules
from pipeline.rules.paint import raised
from schemas.catalog import CLASSES
from schemas.errors import ConfigError
from schemas.features import COASTLINE, FEATURES, VALUE
from schemas.tags import format_tag

RULES = load_rules()
OWN: dict[str, Any] = {
    "version": "mine",
    "classes": [
        {"name": "soil", "colour": "#010203", "ground": True, "tags": ["landuse=*"]},
        {"name": "sea", "colour": "#0000ff", "ground": True, "tags": []},
        {"name": "house", "colour": "#ff0000", "width": 2, "tags": ["building=*", "disused:building=*"]},
        {"name": "church", "colour": "#00ff00", "tags": ["building=church"]},
    ],
    "hidden": {"roof": {"only": ["green"]}, "depth": {"below": -5, "but": ["soil"]}},
    "gone": ["burnt"],
    "planned": ["dreamt"],
    "layer": "storey",
    "bridges": {"man_made": {"only": ["bridge"]}},
    "sea": {"class": "sea", "over": "soil", "coastline": ["shore=sea"], "beside": ["soil"]},
}


def rules_of(folder: Path, document: dict[str, Any]) -> Rules:
    path = folder / "classes.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_rules(RulesConfig(classes=str(path)))


def code(rules: Rules, **tags: str) -> int:
    pairs = [(k.replace("__", ":"), v) for k, v in tags.items()]
    return int(read_tags(pa.array([pairs], FEATURES.field("tags").type), rules).paint[0])


def test_a_file_of_ones_own_decides_classes_hiding_life_cycle_layers_and_sea(tmp_path: Path) -> None:
    own = rules_of(tmp_path, OWN)

    def value(**tags: str) -> int:
        return code(own, **tags) & VALUE

    assert value(landuse="farm") == 1
    assert value(building="hut") == value(disused__building="hut") == 3
    assert value(building="church") == 4
    assert value(building="dreamt") == value(building="burnt") == value(building="no") == 0
    assert value(building="hut", burnt__building="yes", landuse="farm") == 1
    assert value(building="hut", roof="green") == value(building="hut", depth="-7;-6") == 0
    assert value(building="hut", depth="-7;-5") == value(building="hut", roof="red") == 3
    assert value(building="hut", tunnel="yes") == 3
    assert value(landuse="farm", depth="-7") == 1
    levels = [code(own, building="hut", storey=s) for s in ("-3", "0", "2")]
    assert levels == sorted(levels)
    assert code(own, building="hut", man_made="bridge") == code(own, building="hut", storey="1")
    assert code(own, building="hut", bridge="yes", layer="3") == levels[1]
    assert code(own, shore="sea") == COASTLINE
    assert code(own, natural="coastline") == 0
    assert own.paint.palette == [255, 255, 255, 1, 2, 3, 0, 0, 255, 255, 0, 0, 0, 255, 0]


def test_a_file_without_the_optional_parts_hides_nothing_and_has_no_sea(tmp_path: Path) -> None:
    plain = rules_of(tmp_path, {"version": "0", "classes": OWN["classes"]})
    assert plain.paint.sea is None
    assert code(plain, building="hut", tunnel="yes", demolished="yes") & VALUE == 3
    assert code(plain, natural="coastline") == 0


def test_every_edit_of_the_file_changes_the_fingerprint(tmp_path: Path) -> None:
    before = rules_of(tmp_path, OWN).fingerprint
    assert rules_of(tmp_path, OWN).fingerprint == before
    for key in OWN.keys() - {"classes"}:
        assert rules_of(tmp_path, {k: v for k, v in OWN.items() if k != key} | {"version": "x"}).fingerprint != before


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"sea": OWN["sea"] | {"over": "house"}}, "'house', which is no class of the ground"),
        ({"sea": OWN["sea"] | {"class": "ocean"}}, "'ocean'"),
        ({"sea": OWN["sea"] | {"beside": ["reef"]}}, "'reef'"),
        ({"sea": {"class": "sea"}}, "'over' is missing"),
        ({"hidden": {"roof": {"only": ["green"], "but": ["castle"]}}}, "'castle'"),
        ({"hidden": {"depth": {"below": "deep"}}}, "deep"),
        ({"hidden": {f"key{i}": "all" for i in range(63)}}, "63 rules under hidden"),
        ({"classes": [{"name": f"c{i}", "colour": "#000000", "tags": []} for i in range(255)]}, "over 254 classes"),
        ({"bridges": {"bridge": "some"}}, "misspells"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path, edit: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        rules_of(tmp_path, OWN | edit)
    assert "\n" not in str(refused.value)


def test_classes_of_the_ground_come_before_the_others_so_that_the_list_is_the_order_of_painting() -> None:
    ground = [c.ground for c in RULES.paint.classes]
    assert ground == sorted(ground, reverse=True)


def test_the_table_of_classes_says_what_the_file_says() -> None:
    table = pa.Table.from_pylist(RULES.paint.rows(), schema=CLASSES).to_pylist()
    text = yaml.safe_load((Path(pipeline.rules.__file__).parent / "classes.yaml").read_text())["classes"]
    assert table[0]["name"] == "unmapped"
    for value, (row, own) in enumerate(zip(table[1:], text, strict=True), 1):
        shown = {k: v for k, v in own.items() if k != "water"}  # it chooses footprints, and is in no pixel
        assert row == {"value": value, "width": None, "ground": False} | shown


@given(st.integers(-300, 300), st.sampled_from(["yes", "no", "aqueduct", ""]))
def test_a_higher_layer_is_a_higher_code_and_above_the_ground_is_raised(layer: int, bridge: str) -> None:
    tags = {"building": "yes", "layer": str(layer)} | ({"bridge": bridge} if bridge else {})
    own = read_tags(pa.array([list(tags.items())], FEATURES.field("tags").type), RULES).paint
    up = bridge in ("yes", "aqueduct")
    assert raised(own).tolist() == [layer > 0 or up]
    if -30 < layer < 30 and not up:
        below, above = (code(RULES, building="yes", layer=str(n)) for n in (layer - 1, layer + 1))
        assert below < own[0] < above


def test_a_lifecycle_prefix_that_says_no_leaves_its_object() -> None:
    assert code(RULES, building="yes", **{"demolished:building": "no"}) == code(RULES, building="yes") > 0
    assert code(RULES, building="yes", **{"demolished:building": "yes"}) == 0


def test_ground_lies_under_all_else_whatever_its_layer_unless_it_is_on_a_bridge() -> None:
    plain, deep, bridge = (code(RULES, landuse="grass", **own) for own in ({}, {"layer": "-2"}, {"bridge": "yes"}))
    assert plain == deep < code(RULES, building="yes", layer="-2") < bridge
    assert raised(np.array([plain, bridge], np.uint16)).tolist() == [False, True]


def test_of_several_layers_the_highest_counts() -> None:
    for text in ("1;3", "3;1", "-1;3"):
        assert code(RULES, building="yes", layer=text) == code(RULES, building="yes", layer="3")


KEYS = st.sampled_from(["building", " building", "natural", "natural ", "landuse", "buidling", "leisure", "area", "é"])
VALUES = st.lists(st.sampled_from(["water", " water", "yes", "no", "grass ", "forrest", "pitch", "?", ""]), max_size=3)


@given(KEYS, VALUES.map(";".join))
def test_raster_and_area_rule_judge_the_tag_that_the_tokens_hold(key: str, value: str) -> None:
    """What is judged is written as text again: the same text as the tag's own."""
    right, values = RULES.tags.cleaned(key, value)
    texts = sorted({t for v in values for t in format_tag(right, v)})
    assert texts == RULES.tags.texts({key: value}) or not RULES.tags.keeps(key)
    clean = {right: ";".join(values)} if right else {}
    assert RULES.is_area({key: value}) == RULES.is_area(clean)
    assert code(RULES, **{key: value}) == code(RULES, **clean)


@pytest.mark.parametrize("name", ["malformed_key", "malformed_value"])
def test_a_pattern_that_is_none_is_refused_by_its_file(tmp_path: Path, name: str) -> None:
    document = yaml.safe_load((Path(pipeline.rules.__file__).parent / "tags.yaml").read_bytes())
    (tmp_path / "tags.yaml").write_text(yaml.safe_dump(document | {name: "(a"}))
    with pytest.raises(ConfigError, match=r"tags\.yaml: '\(a' is no regular expression: missing \)"):
        load_rules(RulesConfig(tags=str(tmp_path / "tags.yaml")))
