"""Steps: done once, done again when something has changed, by one process at a time; here of small commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dags.draw import mermaid, nodes_of, svg, table
from dags.graph import BUILD, Step
from dags.run import Done, StepError, run_steps
from dags.state import look
from pipeline.cli.main import main
from schemas.errors import ConfigError
from tests.buckets import s3_server

#: Writes its second word into the file of its first, and counts in calls.txt; what it answers with is its third.
_CODE = (
    "import sys, pathlib; f, text, said = sys.argv[1:4]; pathlib.Path(f).write_text(text); "
    "p = pathlib.Path('calls.txt'); p.open('a').write(f + '\\n'); print(said)"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(name: str, text: str = "x", said: str = "{}", **changes: object) -> Step:
    words = ("python", "-c", _CODE, f"{name}.txt", text, said)
    return replace(Step(name, words, "made", name, BUILD, outputs=(f"{name}.txt",)), **changes)  # type: ignore[arg-type]


def chain(first: str = "x") -> tuple[Step, ...]:
    return step("a", first), step("b", after=("a",)), step("c", after=("b",))


def ran(done: list[Done]) -> list[str]:
    return [d.step for d in done if d.ran]


def states(steps: tuple[Step, ...]) -> list[str]:
    return [s.state for s in look(steps)]


def test_a_step_that_is_done_is_not_done_again() -> None:
    assert ran(run_steps(chain())) == ["a", "b", "c"]
    assert ran(run_steps(chain())) == []
    assert states(chain()) == ["done"] * 3
    assert ran(run_steps(chain(), again=["b"])) == ["b"]


def test_a_changed_command_is_told_and_only_what_takes_a_changed_result_is_done_again() -> None:
    run_steps(chain())
    found = look(chain("y"))
    assert [s.state for s in found] == ["stale"] * 3
    assert found[0].why == "the command: x there, y here"
    assert found[1].why == "comes after a"
    assert ran(run_steps(chain("y"))) == ["a", "b"]  # b makes what it made before: c has nothing to do
    assert look(chain("y"))[2].state == "done"


def test_words_that_say_only_how_change_nothing() -> None:
    run_steps((step("a", free=("1",)),))
    assert ran(run_steps((step("a", free=("2",)),))) == []


def test_an_input_is_known_by_its_content(here: Path) -> None:
    (here / "in.txt").write_text("one")
    steps = (step("a", inputs=("in.txt,monaco,https://x.example/y.pbf",)),)
    run_steps(steps)
    os.utime(here / "in.txt", (1, 1))
    assert states(steps) == ["done"]
    (here / "in.txt").write_text("two")
    assert (look(steps)[0].state, look(steps)[0].why) == ("stale", "in.txt has changed")


def test_an_output_that_is_gone_or_another_is_noticed(here: Path) -> None:
    run_steps(chain())
    (here / "c.txt").unlink()
    assert (look(chain())[2].state, look(chain())[2].why) == ("missing", "c.txt is gone")
    (here / "c.txt").write_text("by hand")
    assert (look(chain())[2].state, look(chain())[2].why) == ("stale", "c.txt has changed since")
    assert ran(run_steps(chain())) == ["c"]


def test_a_mapped_step_is_done_for_each_item_and_again_for_a_new_one_alone() -> None:
    def steps(items: str) -> tuple[Step, ...]:
        words = ("python", "-c", _CODE, "m-{item}.txt", "x", "{}")
        mapped = step("m", words=words, each="a", outputs=("m-{item}.txt",))
        return step("a", said=f'{{"items": [{items}]}}', says=("items",)), mapped, step("z", after=("m",))

    assert [s.item for s in look(steps('"p", "q/r"'))] == ["", "", ""]
    one = steps('"p"')
    assert [(d.step, d.item) for d in run_steps(one)] == [("a", ""), ("m", "p"), ("z", "")]
    both = steps('"p", "s"')
    run_steps(both, only="a")
    assert [(s.step.name, s.item, s.state) for s in look(both)][1:3] == [("m", "p", "stale"), ("m", "s", "missing")]
    assert [d.item for d in run_steps(both, only="m", item="s")] == ["s"]
    assert nodes_of(both, look(both))[1].count == "1/2"
    with pytest.raises(ConfigError, match="has no item t; choose of p, s"):
        run_steps(both, only="m", item="t")


def test_what_a_step_answered_stands_in_the_words_of_the_next() -> None:
    first = step("a", said='{"hash": "0123456789"}', says=("hash",))
    words = ("python", "-c", _CODE, "b-{a.hash:.4}.txt", "x", "{}")
    run_steps((first, step("b", words=words, after=("a",), outputs=("b-{a.hash:.4}.txt",))))
    assert Path("b-0123.txt").exists()


def test_a_step_that_asks_each_time_does_not_make_others_do_their_work_again() -> None:
    steps = (step("a", always=True), step("b", after=("a",)))
    assert ran(run_steps(steps)) == ["a", "b"]
    assert states(steps) == ["stale", "done"]
    assert ran(run_steps(steps)) == ["a"]


def test_a_failing_step_stops_all_with_its_reason_and_its_log_and_the_next_run_goes_on(here: Path) -> None:
    code = "import pathlib, sys; pathlib.Path('ok').exists() or sys.exit('error: no ok'); open('b.txt', 'w')"
    steps = (step("a"), step("b", words=("python", "-c", code), after=("a",)), step("c", after=("b",)))
    with pytest.raises(StepError, match=r"step b failed \(status 1\): no ok; log: made.steps/b.log; run the same"):
        run_steps(steps)
    assert "error: no ok" in (here / "made.steps/b.log").read_text()
    assert states(steps) == ["done", "missing", "missing"]
    with pytest.raises(StepError, match="step c comes after b, which is missing"):
        run_steps(steps, only="c")
    (here / "ok").touch()
    assert ran(run_steps(steps)) == ["b", "c"]


def test_a_step_that_leaves_no_output_is_not_done() -> None:
    with pytest.raises(StepError, match=r"it did not leave other\.txt"):
        run_steps((step("a", outputs=("a.txt", "other.txt")),))
    assert states((step("a"),)) == ["missing"]


_TWO = "from tests.dags.test_steps import *; print(ran(run_steps((step('slow', words=('python', '-c', CODE_SLOW)),))))"
CODE_SLOW = "import time; time.sleep(1); open('calls.txt', 'a').write('slow\\n'); open('slow.txt', 'w')"


def _start(code: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)


def test_two_runs_at_once_do_a_step_once(here: Path) -> None:
    shown = [p.communicate(timeout=60)[0].strip() for p in [_start(_TWO), _start(_TWO)]]
    assert sorted(shown) == ["['slow']", "[]"]
    assert (here / "calls.txt").read_text() == "slow\n"
    assert not list(here.glob("made.steps/*.lock"))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_run_ends_its_command_and_the_next_goes_on(here: Path) -> None:
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    run = (
        "import signal; from pipeline.cli.main import _heed_signals; from tests.dags.test_steps import *; "
        f"_heed_signals(); run_steps((step('slow', words=('python', '-c', {code!r})),))"
    )
    process = _start(run)
    _until(lambda: (here / "pid").exists() and (here / "pid").read_text() != "")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int((here / "pid").read_text()), 0)
    assert ran(run_steps((step("slow"),))) == ["slow"]


def test_records_lie_in_a_store_beside_what_lies_there(here: Path) -> None:
    with s3_server("there") as fs:
        code = "import fsspec; f = fsspec.open('s3://there/d/made', 'w').open(); f.write('x'); f.close()"
        a = step("a", words=("python", "-c", code), folder="s3://there/d", outputs=("s3://there/d/made",))
        steps = (a, step("b", folder="s3://there/d", after=("a",)))
        assert ran(run_steps(steps)) == ["a", "b"]
        assert ran(run_steps(steps)) == []
        assert sorted(fs.ls("there/d.steps", detail=False)) == ["there/d.steps/a.json", "there/d.steps/b.json"]
        fs.pipe_file("there/d/made", b"another")
        assert states(steps) == ["stale", "stale"]
        assert not list(here.glob("*.steps"))


def test_pictures_show_each_step_once_with_its_state() -> None:
    run_steps(chain()[:2])
    nodes = nodes_of(chain(), look(chain()))
    drawn = ElementTree.fromstring(svg(nodes))
    space = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in drawn.iter(f"{space}text")]
    assert texts == ["a", "done", "b", "done", "c", "missing"]
    assert len(list(drawn.iter(f"{space}rect"))) == 3
    assert mermaid(nodes).splitlines()[:4] == [
        "flowchart LR", '  a["a<br/>done"]:::done', '  b["b<br/>done"]:::done', '  c["c<br/>missing"]:::missing'
    ]  # fmt: skip
    assert table(nodes).splitlines()[-1].split() == ["c", "missing", "not", "run", "yet"]


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["dag", "rnu", "dataset"], 2, "did you mean run?"),
        (["dag", "run", "datset"], 2, "there is no graph datset; did you mean dataset?"),
        (["dag", "run", "dataset", "--step", "sampels"], 2, "did you mean samples?"),
        (["dag", "run", "dataset", "--only", "0"], 2, "--only goes with --step"),
        (["dag", "run", "dataset", "--step", "catalog"], 1, "step catalog comes after samples, which is missing"),
        (["dag", "run", "dataset", "region=none.osm.pbf", "out=d"], 1, "none.osm.pbf does not exist"),
    ],
)
def test_a_wrong_call_ends_with_its_reason(
    words: list[str], status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    assert reason in capsys.readouterr().err.strip().splitlines()[-1]


def test_show_says_what_would_be_run(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert main(["dag", "show", "dataset", "zoom=16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["steps"]
    assert rows[0]["words"][:4] == ["geoshards", "shards", "--region", "demo"]
    assert {row["state"] for row in rows} == {"missing"}
    assert main(["dag", "show", "dataset", "--svg", "g.svg", "--quiet"]) == 0
    assert (here / "g.svg").read_text().startswith("<svg")
