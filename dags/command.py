"""``geoshards dag run|show NAME key=value``: graphs of steps on this machine, and how they stand."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dags.graph import Graph
from dags.graphs import GRAPHS, graph_of
from schemas.command import Command
from schemas.errors import ConfigError, nearest
from storage.files import put
from storage.text import visible
from storage.urls import local_path

_VERBS = ("run", "show")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="run|show NAME key=value", help="what to do with which graph")
    parser.add_argument("--step", default="", help="run: this step alone; those before it must be done")
    parser.add_argument("--only", default="", metavar="ITEM", help="run: of --step, this item alone")
    parser.add_argument("--again", action="append", default=[], metavar="STEP", help="run: this step though it is done")
    parser.add_argument("--mermaid", action="store_true", help="show: print the graph for Mermaid")
    parser.add_argument("--svg", type=local_path, metavar="FILE", help="show: draw the graph")
    parser.epilog = "\n\n".join(_help(graph) for graph in GRAPHS.values())


def _help(graph: Graph) -> str:
    lines = [f"{graph.name}: {graph.text}", f"  {' → '.join(step.name for step in graph.shape())}"]
    for p in graph.parameters:
        value = f"={p.default}" if p.default else ""
        choices = f" ({', '.join(p.choices)})" if p.choices else ""
        lines.append(f"    {p.name + value:20} {p.text}{choices}")
    return "\n".join(lines)


def _run(args: argparse.Namespace) -> int:
    verb, name, *words = [*args.words, "", ""][: max(2, len(args.words))]
    if verb not in _VERBS:
        raise ConfigError(f"geoshards dag {verb or '…'}: {nearest(verb, _VERBS)}, as in geoshards dag show dataset")
    if not name and verb == "show":
        print(json.dumps(list(GRAPHS)) if args.json else "\n".join(f"{g.name:10} {g.text}" for g in GRAPHS.values()))
        return 0
    graph = graph_of(name)
    return _VERB[verb](args, graph, words)


def _show(args: argparse.Namespace, graph: Graph, words: list[str]) -> int:
    from dags.draw import mermaid, nodes_of, svg, table
    from dags.state import look

    steps = graph.steps(words)
    found = look(steps)
    nodes = nodes_of(steps, found)
    if args.svg is not None:
        put(Path(args.svg), svg(nodes))
    if args.json:
        rows = [{"step": s.step.name, "item": s.item, "state": s.state, "why": s.why, "words": s.words} for s in found]
        print(json.dumps({"graph": graph.name, "steps": rows}))
    elif args.mermaid:
        print(mermaid(nodes))
    elif args.svg is None or not args.quiet:
        print(table(nodes))
    return 0


def _do(args: argparse.Namespace, graph: Graph, words: list[str]) -> int:
    from dags.run import run_steps

    if args.only and not args.step:
        raise ConfigError("--only goes with --step: which step's item is meant")
    quiet = args.quiet or args.json

    def tell(line: str) -> None:
        if not quiet:
            print(visible(line), file=sys.stderr)

    done = run_steps(graph.steps(words), args.step, args.only, args.again, quiet, tell)
    ran = sum(d.ran for d in done)
    if args.json:
        rows = [{"step": d.step, "item": d.item, "ran": d.ran, "seconds": round(d.seconds, 3)} for d in done]
        alone = done[0].answer if args.step and len(done) == 1 else {}
        print(json.dumps({"graph": graph.name, "steps": rows, "items": alone.get("items")}))
    elif not args.quiet:
        print(f"{graph.name}: {len(done)} of {len(done)} done, {ran} of them now")
    return 0


_VERB = {"run": _do, "show": _show}
COMMAND = Command("Run a graph of steps (dataset, pretrain, refresh), or show what is done and what is not",
                  _configure, _run)  # fmt: skip
