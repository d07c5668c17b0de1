"""The graphs are made of commands that exist, in an order that can be done, and take the words they say they take."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from dags.graph import POOLS, Graph
from dags.graphs import GRAPHS
from pipeline.cli.shards import read_config
from schemas.command import GROUP
from schemas.errors import ConfigError
from trainers.engine.cli import parse

ROOT = Path(__file__).resolve().parents[2]
#: Words that give every parameter of a graph a value.
WORDS = {
    "dataset": ("region=-83,42,-82,43", "imagery=a.tif", "streetview=none", "zoom=16", "size=64", "out=d", "config=",
                "set=plan.per_shard=3 split.val=0.2", "workers=2", "cache=c"),
    "pretrain": ("region=x.osm.pbf", "out=d", "trainer=gair", "model=tiny", "steps=3", "train=eval.samples=8",
                 "run=r", "format=croma"),
    "refresh": ("data=d", "changes=a.osc.gz,b.osc.gz", "extract=x", "trainer=joint", "run=r", "workers=1", "cache=c"),
}  # fmt: skip


#: Other words for the same: changes come from files or from a server; all may lie in a bucket.
OTHERS = {
    "dataset": ("region=a.osm.pbf", "out=d", "cache=s3://bucket/cache"),
    "refresh": ("data=d", "replication=https://x.example/updates", "run=r", "cache=s3://bucket/cache"),
}


@pytest.mark.parametrize(("name", "given"), [*WORDS.items(), *OTHERS.items()])
def test_every_step_is_a_command_that_takes_its_words(name: str, given: tuple[str, ...]) -> None:
    points = {p.name: p for p in entry_points(group=GROUP)}
    for step in GRAPHS[name].steps(given):
        program, word, *rest = [*step.words, *step.free]
        if program == "python":
            task = rest[0].removeprefix("trainers.")
            parse(getattr(import_module(f"trainers.tasks.{task}"), task.upper()), rest[1:])
            continue
        command = points[word].load()
        parser = argparse.ArgumentParser(exit_on_error=False)
        command.configure(parser)
        args = parser.parse_intermixed_args([f" {w}" if w.startswith("-83") else w for w in rest])
        if word == "shards":
            assert read_config(args).out == "d"


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_a_step_comes_after_all_that_it_needs(graph: Graph) -> None:
    seen: set[str] = set()
    for step in graph.shape():
        assert seen.issuperset(step.before), step.name
        assert step.name not in seen
        assert step.pool in POOLS
        seen.add(step.name)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_the_shape_is_that_of_any_values(graph: Graph) -> None:
    def shape(steps: object) -> list[tuple[object, ...]]:
        return [(s.name, s.before, s.pool, s.hours, s.retries) for s in steps]  # type: ignore[attr-defined]

    assert shape(graph.shape()) == shape(graph.steps(WORDS[graph.name]))


def test_where_changes_come_from_is_either_files_or_a_server() -> None:
    words = ("data=d", "run=r")
    update = GRAPHS["refresh"].steps((*words, "replication=https://x.example/updates"))[0]
    assert update.words[-2:] == ("--replication", "https://x.example/updates")
    assert update.always
    for wrong in (words, (*words, "changes=a", "replication=b")):
        with pytest.raises(ConfigError, match="either changes="):
            GRAPHS["refresh"].steps(wrong)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["regoin=x"], "did you mean region?"),
        (["region"], "write key=value"),
        (["region=a,b"], "with out=data/NAME"),
        (["set=a='b"], "set=a='b cannot be read"),
    ],
)
def test_wrong_words_are_one_line_with_the_way_out(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        GRAPHS["dataset"].steps(words)
    assert reason in str(error.value)
    with pytest.raises(ConfigError, match=r"did you mean geolink\?"):
        GRAPHS["pretrain"].steps(["trainer=geolinc"])


def test_a_scheduler_reads_the_graphs_without_the_product_and_its_libraries() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dags.graphs; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'__main__'}))"
    )
    shown = subprocess.check_output([sys.executable, "-I", "-S", "-c", code, str(ROOT)], text=True)
    assert shown.strip() == "['dags', 'schemas']"


def test_the_file_of_pools_holds_those_that_steps_name() -> None:
    held = json.loads((ROOT / "dags/pools.json").read_text())
    assert {name: (pool["slots"], pool["description"]) for name, pool in held.items()} == {
        pool.name: (pool.slots, pool.text) for pool in POOLS
    }
