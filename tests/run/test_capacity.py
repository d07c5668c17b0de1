"""Tasks in flight follow a cluster's nodes, and declare the memory that those before them took."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipeline.run import capacity
from pipeline.run.capacity import Capacity, name_of, watched


def node(cores: float, memory: float, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cores, "memory": memory}}


def test_tasks_in_flight_follow_the_nodes_as_they_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOOK", 0.0)
    nodes = [node(2, 1e9)]
    plain, bounded = Capacity(lambda: nodes), Capacity(lambda: nodes, 3)
    assert (plain.width(), bounded.width()) == (4, 4)
    nodes.append(node(8, 1e9))
    assert (plain.width(), bounded.width()) == (20, 6)
    nodes[1] = node(8, 1e9, alive=False)
    assert (plain.width(), bounded.width()) == (4, 4)
    nodes.clear()
    assert plain.width() == 2  # what is asked for makes a node come


def test_memory_is_declared_as_measured_and_never_more_than_a_node_has() -> None:
    room = Capacity(lambda: [node(4, 8e9), node(4, 2e9), node(4, 64e9, alive=False)])
    assert room.memory("cut") == 0
    room.measured("cut", 100.0)
    room.measured("cut", 60.0)
    assert 100 << 20 < room.memory("cut") < 250 << 20
    assert room.memory("merge") == 0
    room.measured("cut", 1e6)
    assert room.memory("cut") == 8_000_000_000


def hungry(megabytes: int) -> int:
    block = np.ones(megabytes << 17)
    time.sleep(0.3)
    return len(block)


def test_what_a_task_held_meanwhile_is_measured_though_it_is_given_back() -> None:
    before = capacity.anonymous_mb()
    value, memory = watched(hungry, 200)
    assert value == 200 << 17
    assert 190 < memory - before < 260


def test_a_function_is_measured_under_its_own_name() -> None:
    assert name_of(partial(partial(hungry, 1))) == name_of(hungry) == f"{__name__}.hungry"
