"""Commands of docs/cluster.md that need a cluster: each is one that its own program would take."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from pipeline.cli.shards import read_config
from schemas.command import GROUP
from tests.deploy.test_images import stages
from trainers.engine.cli import parse
from trainers.tasks.geolink import GEOLINK

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()
COMMANDS = [
    shlex.split(line)
    for text in re.findall(r"^ *```text\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    for line in text.splitlines()
]


def ours(words: list[str]) -> None:
    """Parse a command of geoshards or of a trainer, settings included."""
    if words[:3] == ["python", "-m", "trainers.geolink"]:
        parse(GEOLINK, words[3:])
        return
    (point,) = (p for p in entry_points(group=GROUP) if p.name == words[1])
    parser = argparse.ArgumentParser(exit_on_error=False)
    point.load().configure(parser)
    given = parser.parse_intermixed_args(words[2:])
    if words[1] in ("shards", "plan"):
        read_config(given)


def on_ray(words: list[str]) -> None:
    """Parse `ray job WORD` by Ray's own definition, and what it submits by ours."""
    cli = pytest.importorskip("ray.dashboard.modules.job.cli")
    command = getattr(cli, words[2])
    found = command.make_context(words[2], words[3:]).params
    if words[2] == "submit":
        ours(list(found["entrypoint"]))


def on_kubernetes(words: list[str]) -> None:
    """Files that are applied exist, and things that are named are those of the files."""
    known = {"secret/geoshards"}
    for name in ("raycluster", "rayjob"):
        document = yaml.safe_load((ROOT / f"deploy/{name}.yaml").read_text())
        known |= {f"{name}/{document['metadata']['name']}", f"service/{document['metadata']['name']}-head-svc"}
    verb = words[1]
    if verb == "apply":
        assert (ROOT / words[words.index("-f") + 1]).is_file()
    elif verb in ("get", "delete", "patch"):
        assert f"{words[2]}/{words[3]}" in known
        patches = [words[i + 1] for i, word in enumerate(words) if word == "--patch"]
        assert all(json.loads(patch)["spec"].keys() == {"suspend"} for patch in patches)
    elif verb == "port-forward":
        assert words[2] in known
    elif verb == "label":
        pools = re.findall(r"geoshards/pool: (\w+)", (ROOT / "deploy/raycluster.yaml").read_text())
        assert words[4].removeprefix("geoshards/pool=") in pools
    else:
        assert words[1:4] == ["create", "secret", "generic"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:4]))
def test_a_command_of_the_page_is_one_that_its_program_takes(words: list[str]) -> None:
    if words[0] == "geoshards":
        ours(words)
    elif words[:2] == ["ray", "job"]:
        on_ray(words)
    elif words[0] == "kubectl":
        on_kubernetes(words)
    elif words[:2] == ["docker", "build"]:
        assert words[words.index("--target") + 1] in stages()
        assert (ROOT / words[words.index("-f") + 1]).is_file()
    else:
        assert words[:2] in (["docker", "push"], ["helm", "repo"], ["helm", "install"])


def test_the_secret_that_the_page_makes_has_the_keys_that_the_clusters_ask_for() -> None:
    """Made by kubectl itself where there is one; no server is asked."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    (words,) = (words for words in COMMANDS if words[1:3] == ["create", "secret"])
    dry = [kubectl, *words[1:], "--dry-run=client", "--output=json"]
    made = json.loads(subprocess.run(dry, text=True, capture_output=True, check=True).stdout)
    asked = yaml.safe_load((ROOT / "deploy/raycluster.yaml").read_text())["spec"]["headGroupSpec"]["template"]["spec"]
    references = [v["valueFrom"]["secretKeyRef"] for v in asked["containers"][0]["env"] if "valueFrom" in v]
    assert {r["name"] for r in references} == {made["metadata"]["name"]}
    assert made["data"].keys() <= {r["key"] for r in references}
