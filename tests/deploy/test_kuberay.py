"""The clusters in deploy/: fields as KubeRay and Kubernetes document them, and words as our own commands take them."""

from __future__ import annotations

import argparse
import re
import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.shards import SHARDS, read_config
from trainers.engine.cli import parse
from trainers.engine.ray_job import count_workers
from trainers.tasks.geolink import GEOLINK

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed")

ROOT = Path(__file__).resolve().parents[2]
FIELDS = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text())
PLAIN = {"string": str, "integer": int, "boolean": bool, "number": int | float}
KUBERNETES = "1.34"


def problems(value: Any, kind: Any, where: str) -> list[str]:
    """What of a value is not as its type says, each with the place."""
    if isinstance(kind, list):
        return [p for i, part in enumerate(value) for p in problems(part, kind[0], f"{where}[{i}]")]
    if kind in ("PodTemplateSpec", "ResourceRequirements", "ObjectMeta"):
        return kubernetes(value, kind, where)
    if kind == "map":
        return [f"{where}.{k}={v!r} is no text" for k, v in value.items() if not isinstance(v, str)]
    if kind in PLAIN:
        fits = isinstance(value, PLAIN[kind]) and (kind == "boolean" or not isinstance(value, bool))
        return [] if fits else [f"{where}={value!r} is no {kind}"]
    if kind not in FIELDS:
        return [] if value in kind.removeprefix("is ").split(" | ") else [f"{where}={value!r} is none of {kind}"]
    fields = FIELDS[kind]
    return [
        p
        for name, part in value.items()
        for p in (problems(part, fields[name], f"{where}.{name}") if name in fields else [f"{where}.{name} is unknown"])
    ]


def kubernetes(value: Any, kind: str, where: str) -> list[str]:
    """The same of Kubernetes' own types, by its published schemas, in a pod that holds the value."""
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "any"}]}}
    if kind == "PodTemplateSpec":
        pod |= value
    elif kind == "ObjectMeta":
        pod["metadata"] = value
    else:
        pod["spec"]["containers"][0]["resources"] = value
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{where}.{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


def pods(spec: Any) -> list[Any]:
    """The pods of a cluster: that of the head, then those of the workers."""
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_every_field_is_one_that_kuberay_or_kubernetes_documents(name: str) -> None:
    document = load(name)
    assert problems(document, document["kind"], document["kind"]) == []


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("spec", "maxRestarts"), 3, "RayCluster.spec.maxRestarts is unknown"),
        (("spec", "workerGroupSpecs", 0, "minReplica"), 1, "RayCluster.spec.workerGroupSpecs[0].minReplica is unknown"),
        (("spec", "workerGroupSpecs", 1, "maxReplicas"), "8", "maxReplicas='8' is no integer"),
        (("spec", "enableInTreeAutoscaling"), "yes", "is no boolean"),
        (("spec", "autoscalerOptions", "upscalingMode"), "Fast", "is none of"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "num-cpus=0 is no text"),
        (("spec", "headGroupSpec", "template", "spec", "toleration"), [], "toleration"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "env", 0, "secretRef"), "x", "secretRef"),
    ],
)
def test_a_wrong_field_is_named(path: tuple[Any, ...], value: Any, found: str) -> None:
    document = deepcopy(load("raycluster.yaml"))
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert any(found in problem for problem in problems(document, "RayCluster", "RayCluster"))


def test_both_clusters_are_the_same() -> None:
    assert load("rayjob.yaml")["spec"]["rayClusterSpec"] == load("raycluster.yaml")["spec"]


def test_no_secret_is_written_down_and_every_name_is_one_that_is_read() -> None:
    """By our code, by botocore, or by Ray."""
    session = pytest.importorskip("botocore.session", reason="botocore says which variables it reads")
    credentials = pytest.importorskip("botocore.credentials").EnvProvider
    read = {v for entry in session.Session.SESSION_VARIABLES.values() for v in _names(entry[1])}
    read |= {credentials.ACCESS_KEY, credentials.SECRET_KEY, *credentials.TOKENS, "AWS_ENDPOINT_URL"}
    for room in ("pipeline", "storage", "trainers"):
        for file in (ROOT / room).rglob("*.py"):
            read |= set(re.findall(r'"((?:GEOSHARDS|MAPILLARY|AWS)_[A-Z_0-9]+)"', file.read_text()))
    for pod in pods(load("raycluster.yaml")["spec"]):
        for variable in pod["containers"][0]["env"]:
            if variable["name"].startswith("RAY_"):
                continue
            assert variable["name"] in read
            assert variable["valueFrom"]["secretKeyRef"]["key"] == variable["name"]
    page = (ROOT / "docs/cluster.md").read_text()
    assert set(re.findall(r"\b(?:GEOSHARDS|MAPILLARY|AWS)_[A-Z_0-9]+\b", page)) <= read


def _names(entry: Any) -> list[str]:
    return [] if entry is None else [entry] if isinstance(entry, str) else list(entry)


def test_no_pod_runs_as_root_and_none_of_the_workers_needs_a_machine_that_stays() -> None:
    head, *workers = pods(load("raycluster.yaml")["spec"])
    for pod in (head, *workers):
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
        assert pod["restartPolicy"] == "Never"  # KubeRay's autoscaler counts pods
    taints = {t["key"] for t in workers[0]["tolerations"]}
    assert "geoshards/spot" in taints
    assert taints | {"nvidia.com/gpu"} == {t["key"] for t in workers[1]["tolerations"]}
    assert "tolerations" not in head
    assert workers[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_clusters_have_the_ray_that_is_pinned() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert load("raycluster.yaml")["spec"]["rayVersion"] == pinned[1]


def test_the_job_is_made_of_commands_that_exist_and_fits_the_cluster() -> None:
    job = load("rayjob.yaml")["spec"]
    build, train = (shlex.split(part) for part in job["entrypoint"].split("&&"))
    assert build[:2] == ["geoshards", "shards"]
    parser = argparse.ArgumentParser()
    SHARDS.configure(parser)
    config = read_config(parser.parse_intermixed_args(build[2:]))
    assert config.region == "europe"
    assert train[:3] == ["python", "-m", "trainers.geolink"]
    settings, _, _ = parse(GEOLINK, train[3:])
    assert settings.data == config.out
    assert settings.resume == "auto"
    (gpus,) = (g["maxReplicas"] for g in job["rayClusterSpec"]["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert count_workers(settings, 0, 150) == gpus
