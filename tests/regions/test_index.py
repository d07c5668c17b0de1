"""The index: what a name means, which extracts make a region up, and which ones hold an area."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.regions.index import parse_index
from schemas.errors import InputError
from tests.regions.indexes import WORLD, entry, index

EARTH = index(*WORLD)


def ids(text: str) -> list[str]:
    return [r.id for r in EARTH.find(text)]


def leaves(*names: str) -> list[str]:
    return [r.id for r in EARTH.leaves([EARTH.regions[n] for n in names])]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("monaco", ["monaco"]), ("MONACO", ["monaco"]), ("MC", ["monaco"]), ("mc", ["monaco"]), ("FR", ["france"]),
        ("us", ["us"]), ("US", ["us"]), ("US-GA", ["us/georgia"]), ("us/georgia", ["us/georgia"]),
        ("georgia", ["georgia"]), ("GE", ["georgia"]), ("ohio", ["us/ohio"]),
        ("Provence Alpes Côte d'Azur", ["provence-alpes-cote-d-azur"]),
        ("provence_alpes_cote_d_azur", ["provence-alpes-cote-d-azur"]),
        ("ES", ["spain", "canaries"]),  # both have this code alone: the country is both
        ("SN", ["senegal-and-gambia"]), ("AT", ["austria"]),
    ],
)  # fmt: skip
def test_a_region_is_found_by_id_code_or_name(text: str, found: list[str]) -> None:
    assert ids(text) == found


@pytest.mark.parametrize(
    ("text", "named"),
    [("monacco", ["monaco (Monaco) [MC]"]), ("autsria", ["austria (Austria) [AT]"]), ("land", ["switzerland"]),
     ("austria and", ["austria-and-switzerland"]), ("Francce", ["france"])],
)  # fmt: skip
def test_an_unknown_name_lists_what_comes_near(text: str, named: list[str]) -> None:
    with pytest.raises(
        InputError, match=f"region '{text}' is neither 'demo' nor a file, and not in the index"
    ) as error:
        EARTH.find(text)
    assert all(n in str(error.value) for n in named)


def test_a_name_that_several_have_lists_them() -> None:
    with pytest.raises(
        InputError, match=r"'Jersey' can be jersey-north \(Jersey\), jersey-south \(Jersey\); give its id"
    ):
        EARTH.find("Jersey")


def test_europe_is_its_leaf_extracts() -> None:
    assert leaves("europe") == [
        "austria", "bretagne", "canaries", "georgia", "greater-london", "guadeloupe", "jersey-north", "jersey-south",
        "kent", "monaco", "provence-alpes-cote-d-azur", "senegal-and-gambia", "spain", "switzerland",
    ]  # fmt: skip


def test_children_that_are_a_part_only_do_not_stand_for_their_parent() -> None:
    """The real index has one borough below Greater London: to take it alone would lose the rest of the city."""
    assert leaves("greater-london") == ["greater-london"]
    assert leaves("enfield") == ["enfield"]
    assert leaves("greater-london", "enfield") == ["greater-london"]
    assert leaves("france") == ["bretagne", "guadeloupe", "provence-alpes-cote-d-azur"]


def test_states_lie_in_their_country_although_they_name_the_continent() -> None:
    assert leaves("us") == leaves("north-america") == ["us/georgia", "us/ohio"]


def test_what_is_put_together_from_others_is_taken_only_by_its_own_name() -> None:
    assert "alps" not in leaves("europe")
    assert "austria-and-switzerland" not in leaves("europe")
    assert leaves("alps") == ["alps"]
    assert leaves("austria-and-switzerland") == ["austria-and-switzerland"]


def test_where_outlines_are_unknown_the_tree_decides() -> None:
    tree = index(entry("europe"), entry("germany", "europe"), entry("berlin", "germany"), entry("monaco", "europe"))
    assert [r.id for r in tree.leaves(tree.find("europe"))] == ["berlin", "monaco"]


def test_a_folder_without_an_extract_is_its_children() -> None:
    tree = index(entry("europe", url=False), entry("monaco", "europe", (7.4, 43.7, 7.5, 43.8)))
    assert [r.id for r in tree.leaves(tree.roots)] == ["monaco"]


def random_tree(boxes: list[tuple[int, int, int, int]], parents: list[int]) -> Any:
    """Children lie in their parents, as they do where an extract is cut from its parent's."""
    entries: list[dict[str, Any]] = []
    shapes: list[tuple[float, float, float, float]] = []
    for i, (x, y, w, h) in enumerate(boxes):
        parent = parents[i] % (i + 1) - 1
        west, south, east, north = (0.0, 0.0, 15.0, 15.0) if parent < 0 else shapes[parent]
        ax, ay = (east - west) / 15, (north - south) / 15
        shapes.append((west + x * ax, south + y * ay, west + (x + w) * ax, south + (y + h) * ay))
        entries.append(entry(f"r{i}", None if parent < 0 else f"r{parent}", shapes[-1]))
    return index(*entries)


BOXES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=7
)
PARENTS = st.lists(st.integers(0, 20), min_size=7, max_size=7)


@given(BOXES, PARENTS, st.data())
def test_leaves_never_lie_beside_a_part_of_themselves(boxes: Any, parents: list[int], data: st.DataObject) -> None:
    tree = random_tree(boxes, parents)
    asked = data.draw(st.lists(st.sampled_from(sorted(tree.regions)), min_size=1, max_size=3, unique=True))
    found = tree.leaves([tree.regions[i] for i in asked])
    names = {r.id for r in found}
    for region in found:
        assert not names & set(tree.ancestors(region))
        assert names.issubset(tree.regions)
        assert region.id in asked or set(tree.ancestors(region)) & set(asked)
    # nothing of a region that is no continent is lost
    for name in asked:
        region = tree.regions[name]
        if region.parent is not None:
            union = shapely.union_all([r.geometry for r in found])
            lost = shapely.difference(region.geometry, union)
            assert lost.area <= 0.051 * len(boxes) * region.geometry.area


@given(BOXES, st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 5), st.integers(1, 5)))
def test_an_area_gets_a_smallest_set_of_extracts(boxes: Any, area: tuple[int, int, int, int]) -> None:
    """By brute force: all that any extract holds of the area is held, and no extract can be left out."""
    tree = random_tree(boxes, [0] * len(boxes))  # no parents
    x, y, w, h = area
    wanted = shapely.box(x, y, x + w, y + h)
    everything = shapely.union_all([r.geometry for r in tree.roots])
    target = shapely.intersection(wanted, everything)
    if target.area == 0:
        with pytest.raises(InputError, match="no extract of the index meets"):
            tree.covering(wanted)
        return
    found = tree.covering(wanted)

    def holds(regions: Any) -> bool:
        return shapely.difference(target, shapely.union_all([r.geometry for r in regions])).area < 1e-9

    assert holds(found)
    for fewer in combinations(found, len(found) - 1):
        assert not holds(fewer)


def test_of_two_extracts_that_hold_an_area_the_smaller_is_taken() -> None:
    assert [r.id for r in EARTH.covering(shapely.box(7.41, 43.71, 7.44, 43.74))] == ["monaco"]
    assert [r.id for r in EARTH.covering(shapely.box(12, 46.5, 13, 47))] == ["austria"]
    assert [r.id for r in EARTH.covering(shapely.box(8, 46.5, 13, 47))] == ["austria", "switzerland"]


def test_addresses_are_those_of_the_mirror() -> None:
    document = {"features": [entry("a"), entry("b"), entry("c")]}
    document["features"][0]["properties"]["urls"]["pbf"] = "https://download.geofabrik.de/europe/a-latest.osm.pbf"
    document["features"][1]["properties"]["urls"]["pbf"] = "https://else.org/b.osm.pbf"
    found = parse_index(document, "http://h.org/osm", "x").regions
    assert [found[i].url for i in "abc"] == [
        "http://h.org/osm/europe/a-latest.osm.pbf", "https://else.org/b.osm.pbf", "http://h.org/osm/c.osm.pbf",
    ]  # fmt: skip


def broken(**changes: Any) -> dict[str, Any]:
    feature = copy.deepcopy(WORLD[0])
    feature["properties"] |= changes.pop("own", {})
    return {"features": [feature | changes]}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "no index of extracts"),
        ({"features": 3}, "no index of extracts"),
        ({"features": [3]}, "entry 0 cannot be read"),
        ({"features": [{"properties": {}}]}, "entry 0 cannot be read"),
        (broken(own={"urls": "x"}), "entry 0"),
        (broken(own={"iso3166-2": 4}), "entry 0"),
        (broken(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1]]]}), "entry 0"),
        (broken(geometry={"type": "Point", "coordinates": [0, 0]}), "entry 0"),
        (broken(geometry="POLYGON"), "entry 0"),
        ({"features": [WORLD[0], WORLD[0]]}, "two regions 'europe'"),
        ({"features": [entry("a", "b"), entry("b", "a")]}, "lies in itself"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_refused_with_its_place(document: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_index(document, "http://h.org", "the index")
