"""How a graph stands, as a table, as Mermaid and as SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dags.graph import Step
from dags.state import State, Status
from storage.text import visible

#: Fill and frame of each state (Okabe and Ito 2008, lightened).
_COLOURS: dict[State, tuple[str, str]] = {
    "done": ("#d5f0e6", "#009e73"), "stale": ("#fbeccb", "#e69f00"), "missing": ("#eeeeee", "#777777"),
}  # fmt: skip
_WIDTH, _HEIGHT, _GAP = 150, 56, 40


@dataclass(frozen=True)
class Node:
    """A step with all of its items."""

    step: Step
    state: State  # done: all are; missing: none is
    count: str  # of a mapped step, what of its items is done
    why: str


def nodes_of(steps: Sequence[Step], found: Sequence[Status]) -> list[Node]:
    """One node a step."""
    nodes = []
    for step in steps:
        own = [s for s in found if s.step.name == step.name]
        states = [s.state for s in own]
        first = next((s for s in own if s.state != "done"), None)
        state: State = "done" if first is None else "missing" if set(states) == {"missing"} else "stale"
        mapped = step.each and (not own or own[0].item or not own[0].blocked)
        count = f"{states.count('done')}/{len(own)}" if mapped else "?" if step.each else ""
        last = own[-1].why if own else "nothing to do"
        why = last if first is None else f"{first.item}: {first.why}" if first.item else first.why
        nodes.append(Node(step, state, count, why))
    return nodes


def table(nodes: Sequence[Node]) -> str:
    """Step, state, items and why, a line each."""
    rows = [("step", "state", "items", "why")] + [(n.step.name, n.state, n.count, n.why) for n in nodes]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3])).rstrip() for row in rows]
    return "\n".join(visible(line) for line in (lines[0], "  ".join("-" * w for w in (*widths, 3)), *lines[1:]))


def mermaid(nodes: Sequence[Node]) -> str:
    """A flowchart, as Markdown of many places draws it."""
    lines = ["flowchart LR"]
    for n in nodes:
        label = f"{n.step.name} ×{n.count}" if n.count else n.step.name
        lines.append(f'  {n.step.name}["{label}<br/>{n.state}"]:::{n.state}')
    lines += [f"  {name} --> {n.step.name}" for n in nodes for name in n.step.before]
    lines += [f"  classDef {state} fill:{fill},stroke:{line}" for state, (fill, line) in _COLOURS.items()]
    return "\n".join(lines)


def svg(nodes: Sequence[Node]) -> str:
    """A picture of its own: a column a rank, which is the longest way from a step without one before it."""
    rank: dict[str, int] = {}
    for n in nodes:
        rank[n.step.name] = 1 + max((rank[name] for name in n.step.before), default=-1)
    place, rows = dict[str, tuple[int, int]](), dict[int, int]()
    for n in nodes:
        column = rank[n.step.name]
        row = rows[column] = rows.get(column, -1) + 1
        place[n.step.name] = (10 + column * (_WIDTH + _GAP), 10 + row * (_HEIGHT + _GAP // 2))
    width = 20 + len(rows) * (_WIDTH + _GAP) - _GAP
    height = 20 + (1 + max(rows.values(), default=0)) * (_HEIGHT + _GAP // 2) - _GAP // 2
    parts = [_arrow(place[name], place[n.step.name]) for n in nodes for name in n.step.before]
    parts += [_box(n, *place[n.step.name]) for n in nodes]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
    )
    return f'{head} font-family="sans-serif">{tip}{"".join(parts)}</svg>\n'


def _arrow(tail: tuple[int, int], head: tuple[int, int]) -> str:
    x, y, u, v = tail[0] + _WIDTH, tail[1] + _HEIGHT // 2, head[0], head[1] + _HEIGHT // 2
    bend = f"M{x} {y}C{x + _GAP // 2} {y} {u - _GAP // 2} {v} {u} {v}"
    return f'<path d="{bend}" fill="none" stroke="#555" marker-end="url(#tip)"/>'


def _box(node: Node, x: int, y: int) -> str:
    fill, line = _COLOURS[node.state]
    label = f"{node.step.name} ×{node.count}" if node.count else node.step.name
    title = html.escape(re.sub(r"[\x00-\x1f]", "", visible(f"{node.step.text}: {node.why}")))
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{line}"/><text x="{x + _WIDTH // 2}" y="{y + 24}" font-size="14" text-anchor="middle">'
        f'{html.escape(label)}</text><text x="{x + _WIDTH // 2}" y="{y + 43}" font-size="12" fill="#555" '
        f'text-anchor="middle">{node.state}</text></g>'
    )
