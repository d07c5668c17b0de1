"""A described graph as an Airflow DAG: tasks, order, mapped items, retries, limits, pools, schedule. No second
description; a task runs ``geoshards dag run NAME --step STEP``, which knows by itself what is done.

Read by Airflow's processes, in Airflow's own environment: nothing of the product but `dags` and `schemas.errors` is
imported. The product runs in its own: ``GEOSHARDS_BIN`` is the folder of its programs (default: ``.venv/bin`` of this
checkout), ``GEOSHARDS_HOME`` the folder that relative paths start from (default: this checkout).
``GEOSHARDS_DAG_REFRESH='data=… run=…'`` are values for the runs of its schedule; so for the other graphs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param

from dags.graph import Graph, Step
from dags.graphs import graph_of

ROOT = Path(__file__).resolve().parents[1]
#: Before the first retry; each further one waits twice as long, at most an hour.
_RETRY = timedelta(minutes=1)


class StepOperator(BaseOperator):
    """One step, or one item of it, as a process of its own; its items are what the next tasks are mapped over."""

    template_fields: Sequence[str] = ("item",)

    def __init__(self, *, graph: str, step: str, item: str = "", followed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.graph, self.step, self.item, self.followed = graph, step, item, followed
        self.process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> list[str] | None:
        """Run it; what it says at the terminal is the task's log. Its items, where tasks are mapped over them."""
        params = [f"{p.name}={context['params'][p.name]}" for p in graph_of(self.graph).parameters]
        item = ["--only", self.item] if self.item else []
        words = ["dag", "run", self.graph, "--step", self.step, *item, *params]
        self._run(words)
        if not self.followed:
            return None
        return list(json.loads(self._run([*words, "--json"]))["items"])  # it is done: this says so again

    def _run(self, words: list[str]) -> str:
        """The last line that the product says.

        Raises:
            RuntimeError: it fails; that line, which is its reason.
        """
        home, last = os.environ.get("GEOSHARDS_HOME") or ROOT, ""
        self.process = subprocess.Popen(
            [_program(), *words], cwd=home, text=True, errors="replace", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            last = line.rstrip() or last
            self.log.info("%s", line.rstrip())
        if status := self.process.wait():
            raise RuntimeError(last or f"status {status}")
        return last

    def on_kill(self) -> None:
        """A limit, or a person: the command ends as with Ctrl-C, and saves what it can."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def _program() -> str:
    """The product's own program."""
    own = Path(os.environ.get("GEOSHARDS_BIN") or ROOT / ".venv" / "bin") / "geoshards"
    return str(own) if own.exists() else "geoshards"


def dag_of(name: str) -> DAG:
    """The DAG of a graph, with its parameters and their defaults."""
    graph = graph_of(name)
    with DAG(
        f"geoshards_{name}", description=graph.text, schedule=graph.schedule, catchup=False, max_active_runs=1,
        start_date=datetime(2026, 1, 1, tzinfo=UTC), params=_params(graph), tags=["geoshards"], doc_md=_doc(graph),
    ) as dag:  # fmt: skip
        tasks: dict[str, Any] = {}
        for step in graph.shape():
            tasks[step.name] = _task(graph, step, tasks)
            for before in step.after:
                tasks[before] >> tasks[step.name]
    return dag


def _params(graph: Graph) -> dict[str, Param]:
    words = shlex.split(os.environ.get(f"GEOSHARDS_DAG_{graph.name.upper()}", ""))
    values = {p.name: p.default for p in graph.parameters} | dict(word.split("=", 1) for word in words)
    return {
        p.name: Param(
            values[p.name], type="string", description=p.text, **({"enum": list(p.choices)} if p.choices else {})
        )
        for p in graph.parameters
    }


def _doc(graph: Graph) -> str:
    return "\n".join([graph.text, "", *(f"- **{step.name}**: {step.text}" for step in graph.shape())])


def _task(graph: Graph, step: Step, tasks: dict[str, Any]) -> Any:
    """A task, mapped where the step is; one whose items are none is skipped, and what comes after it is not."""
    settings: dict[str, Any] = {
        "task_id": step.name, "graph": graph.name, "step": step.name, "pool": step.pool.name,
        "followed": any(other.each == step.name for other in graph.shape()),
        "retries": step.retries, "retry_delay": _RETRY, "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1), "execution_timeout": timedelta(hours=step.hours),
        "trigger_rule": "none_failed",
    }  # fmt: skip
    if not step.each:
        return StepOperator(**settings)
    return StepOperator.partial(**settings).expand(item=tasks[step.each].output)
