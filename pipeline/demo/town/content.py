"""What goes into a block of each kind."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.demo.town import built, green
from pipeline.demo.town.block import Block, Builder
from pipeline.demo.town.names import SCRIPTS, TOWNS
from pipeline.demo.town.plan import CELL, Plan
from pipeline.demo.town.streets import add_embankment, add_rail, add_river, add_streets

_CONTENT: dict[str, Callable[[Builder], None]] = {
    "centre": built.centre,
    "plaza": built.plaza,
    "apartments": built.apartments,
    "residential": built.residential,
    "industrial": built.industrial,
    "school": built.school,
    "station": built.station,
    "sports": built.sports,
    "cemetery": green.cemetery,
    "allotments": green.allotments,
    "park": green.park,
    "farmland": green.farmland,
    "meadow": green.meadow,
    "orchard": green.orchard,
    "vineyard": green.vineyard,
    "wood": green.wood,
    "farm": green.farm,
    "forest": green.superblock,
    "lake": green.superblock,
    "oddities": green.oddities_meadow,
    "rail": add_rail,
    "river": add_river,
    "embankment": add_embankment,
}

_TURNABLE = frozenset(
    ["residential", "apartments", "industrial", "school", "sports", "allotments", "orchard", "vineyard"]
)


def build_block(plan: Plan, i: int, j: int) -> Block:
    """Block (i, j) with everything in it; a pure function of the plan's seed and size."""
    b = Builder(plan, i, j)
    (_, i1), (_, j1) = plan.extent
    _lattice_nodes(b)
    if i >= i1 or j >= j1:
        return b.block
    if b.block.kind in _TURNABLE and b.rng.random() < 0.5:
        b.turn()
    _CONTENT[b.block.kind](b)
    cell, a, row = plan.locate(i, j)
    if b.block.kind == "river" and a == cell.rail:
        add_rail(b)
    streets = add_streets(b)
    if len(streets) == 2:
        via = b.lattice_id((i, j, 0))
        turn = [("w", streets[0], "from"), ("n", via, "via"), ("w", streets[1], "to")]
        b.relation(turn, {"type": "restriction", "restriction": "no_left_turn"})
    _town_relations(b, a, row)
    return b.finish()


def _lattice_nodes(b: Builder) -> None:
    """The lattice's own nodes: the block's south-west vertex and its south and west edges."""
    (_, i1), (_, j1) = b.plan.extent
    wanted = [0]
    if b.i < i1:
        wanted += [1, 2, 3]
    if b.j < j1:
        wanted += [4, 5, 6]
    refs = [(b.i, b.j, k) for k in wanted]
    b.block.node_ids += map(b.lattice_id, refs)
    b.block.node_xy += map(tuple, b.lattice_xy(refs).tolist())


def _town_relations(b: Builder, a: int, row: int) -> None:
    """Per town: its limits, its place node, a bus route and a site."""
    cell, _, _ = b.plan.locate(b.i, b.j)
    if (a, row) != (cell.primary, cell.secondary):
        return
    (i0, i1), (j0, j1) = b.plan.extent
    ci, cj = b.i // CELL, b.j // CELL
    name = TOWNS[(ci * 3 + cj * 5) % len(TOWNS)]
    limits = {"boundary": "administrative", "admin_level": "8"}
    town = {"place": "town", "name": name, "population": str(int(9000 * cell.size)), **SCRIPTS}
    place = b.node(b.xy([(0.5, 0.45)])[0], town, own=True)
    left, right = max(ci * CELL + 1, i0), min(ci * CELL + CELL - 1, i1)
    low, high = max(cj * CELL + 1, j0), min(cj * CELL + CELL - 1, j1)
    ring = [b.lattice_id(r) for r in b.outline(left, low, right, high)]
    third = len(ring) // 3
    parts = [ring[: third + 1], ring[third : 2 * third + 1], [*ring[2 * third :], ring[0]]]
    members = [("w", b.way(part, limits), "outer") for part in parts]
    b.relation([*members, ("n", place, "label")], {"type": "boundary", "name": name, **limits})
    streets = [w.id for w in b.block.ways if w.tags.get("highway") in ("primary", "secondary")]
    stops = [n for n, t in b.block.node_tags.items() if t.get("highway") == "bus_stop"]
    route = [("n", s, "platform") for s in stops] + [("w", w, "") for w in streets]
    b.relation(route, {"type": "route", "route": "bus", "ref": "1", "name": f"Bus 1: {name} => Bahnhof"})
    church = [k.osm_id for k in b.block.buildings if k.style == "church"]
    b.relation([("w", w, "") for w in church], {"type": "site", "site": "church", "name": "St. Alban"})
