"""The graphs: ``dataset``, ``pretrain``, ``refresh``. Here alone stands which command follows which."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from dags.graph import BUILD, FETCH, TRAIN, Graph, Parameter, Step
from schemas.errors import ConfigError, nearest

Values = Mapping[str, str]

_DATASET = (
    Parameter(
        "region", "demo", "demo, names, ISO codes, a box, an outline, OSM extracts; as geoshards shards --region"
    ),
    Parameter("imagery", "auto", "rasters or a service, as geoshards shards --imagery"),
    Parameter("streetview", "auto", "photos or a service, as geoshards shards --streetview"),
    Parameter("zoom", "", "zoom of the tiles (default: the imagery's own)"),
    Parameter("size", "", "pixels a side of an image (default 256)"),
    Parameter("out", "", "dataset directory or URL (default data/REGION, where the region is one name)"),
    Parameter("config", "", "YAML file of further settings of geoshards shards"),
    Parameter("set", "", "further settings of geoshards shards: set='plan.per_shard=16 split.val=0.2'"),
    Parameter("encoder", "hash", "of geoshards embed: hash, minilm, clip:…, hf:…"),
)
_HOW = (
    Parameter("workers", "", "processes of builds (default: one a core, or what the cluster has)"),
    Parameter("cache", "", "folder or URL of what can be made again (default: $GEOSHARDS_CACHE, else data/cache)"),
)
_TRAIN = (
    Parameter("trainer", "geolink", "what is trained", ("geolink", "gair", "joint")),
    Parameter("model", "auto", "size: auto, tiny, small, base, large"),
    Parameter("steps", "", "optimiser steps (default: the size's own)"),
    Parameter("train", "", "further settings of the trainer: train='batch_size=512 loss.cont=0.1'"),
    Parameter("split", "val", "whose samples are measured", ("train", "val", "test")),
)
_RUN = Parameter("run", "", "folder or URL of the training run (default runs/TRAINER)")


def _dataset(v: Values) -> tuple[Step, ...]:
    flags = {name: v[name] for name in ("region", "imagery", "streetview", "zoom", "size", "out", "config")}
    given = tuple(word for name, value in flags.items() if value for word in (f"--{name}", value))
    shards, out, how = ("geoshards", "shards", *given, *shlex.split(v["set"])), v["out"], _how(v)
    free = (*how, *((f"cache={v['cache']}",) if v["cache"] else ()), "--yes")
    files = (v["region"], v["imagery"], v["streetview"], v["config"])
    return (
        Step("plan", (*shards, "--stage", "plan"), out, "which extracts the region has", FETCH,
             inputs=(v["region"], v["config"]), says=("items",), free=free, hours=1),
        Step("extracts", (*shards, "--stage", "extracts", "--only", "{item}"), out, "each extract fetched and checked",
             FETCH, each="plan", inputs=(v["region"],), says=("extracts",), free=free, hours=12, retries=5),
        Step("features", (*shards, "--stage", "features"), out, "extracts as features and cells; what will be built",
             BUILD, after=("extracts",), inputs=files, says=("items", "fingerprint"), free=free),
        Step("samples", (*shards, "--stage", "samples", "--only", "{item}"), out, "the shards, 256 at a time", BUILD,
             each="features", says=("fingerprint",), free=free, retries=5),
        Step("catalog", (*shards, "--stage", "catalog"), out, "tables and documents of the whole", BUILD,
             after=("samples",), outputs=(f"{out}/dataset.json",), free=free, hours=6),
        _verified(v, out, "catalog"),
        _embedded(v, out, "verify"),
    )  # fmt: skip


def _verified(v: Values, out: str, after: str) -> Step:
    return Step("verify", ("geoshards", "verify", out), out, "every hash, table and member checked", BUILD,
                after=(after,), free=_how(v), retries=0)  # fmt: skip


def _embedded(v: Values, out: str, after: str) -> Step:
    return Step("embed", ("geoshards", "embed", out, "--encoder", v["encoder"]), out, "each tag encoded once", BUILD,
                after=(after,), outputs=("{table}",), hours=6)  # fmt: skip


def _pretrain(v: Values) -> tuple[Step, ...]:
    run, out = v["run"], v["out"]
    saved = f"{run}/checkpoint.pt"
    return (
        *_dataset(v),
        Step("train", _trainer(v, out, run), run, "pretraining, on from the last checkpoint", TRAIN, after=("embed",),
             outputs=(saved,), hours=24 * 14, retries=10),
        _measured(v, saved, out, run),
        Step("export", ("geoshards", "export", saved, "--format", v["format"]), run, "the model for other software",
             BUILD, after=("train",), outputs=("{file}",), hours=1),
        Step("encode", ("geoshards", "encode", saved, out, "--out", f"{run}/embeddings"), run,
             "the dataset as embeddings", TRAIN, after=("train",), outputs=(f"{run}/embeddings/encode.json",)),
    )  # fmt: skip


def _refresh(v: Values) -> tuple[Step, ...]:
    data, into, source = v["data"], v["into"], v["replication"]
    asked = ("--replication", source) if source else tuple(_listed(v["changes"]))
    extract = ("--extract", v["extract"]) if v["extract"] else ()
    cache = ("--cache", v["cache"]) if v["cache"] else ()
    start = f"{v['run']}/checkpoint.pt"
    return (
        Step("update", ("geoshards", "update", data, *asked, *extract), data, "OSM's changes since; shards they touch",
             BUILD, inputs=(v["changes"],), outputs=(f"{data}/dataset.json",), free=(*_how(v), *cache),
             always=bool(source)),
        _embedded(v, data, "update"),  # the table of before is none of the new version's, and verify would say so
        _verified(v, data, "embed"),
        Step("train", (*_trainer(v, data, into), f"init.run={start}"), into, "on from the weights of before",
             TRAIN, after=("update", "embed", "verify"), inputs=(start,), outputs=(f"{into}/checkpoint.pt",),
             hours=24 * 7, retries=10),
        _measured(v, f"{into}/checkpoint.pt", data, into),
    )  # fmt: skip


def _trainer(v: Values, data: str, run: str) -> tuple[str, ...]:
    steps = (f"steps={v['steps']}",) if v["steps"] else ()
    words = (f"data={data}", f"out={run}", f"model={v['model']}", *steps, *shlex.split(v["train"]), "resume=auto")
    return ("python", "-m", f"trainers.{v['trainer']}", *words)


def _measured(v: Values, saved: str, data: str, run: str) -> Step:
    out = f"{run}/evaluation-{v['split']}"
    words = ("geoshards", "evaluate", saved, data, "--split", v["split"], "--out", out)
    return Step("evaluate", words, run, "scores on a split, with a page", TRAIN, after=("train",),
                outputs=(f"{out}/evaluation.json",), hours=12)  # fmt: skip


def _how(v: Values) -> tuple[str, ...]:
    return ("--workers", v["workers"]) if v["workers"] else ()


def _listed(text: str) -> list[str]:
    return [part for part in (p.strip() for p in text.split(",")) if part]


def _check_words(values: Values) -> None:
    for name in ("set", "train"):
        try:
            shlex.split(values.get(name, ""))
        except ValueError as error:
            raise ConfigError(f"{name}={values[name]} cannot be read: {error}; write {name}='a=1 b=2'") from None


def _check_dataset(values: dict[str, str]) -> None:
    _check_words(values)
    if not values["out"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", values["region"]):
            raise ConfigError(f"say where region={values['region']} is to lie, with out=data/NAME")
        values["out"] = f"data/{values['region'].lower()}"
    values["out"] = values["out"].rstrip("/")


def _check_pretrain(values: dict[str, str]) -> None:
    _check_dataset(values)
    values["run"] = (values["run"] or f"runs/{values['trainer']}").rstrip("/")


def _check_refresh(values: dict[str, str]) -> None:
    _check_words(values)
    if bool(values["changes"]) == bool(values["replication"]):
        raise ConfigError("graph refresh needs either changes=FILE.osc.gz,… or replication=URL, where they come from")
    for name in ("data", "run"):
        values[name] = values[name].rstrip("/")
    values["into"] = values["into"].rstrip("/") or values["run"] + "-{update.content_hash:.12}"


GRAPHS: dict[str, Graph] = {
    graph.name: graph
    for graph in (
        Graph("dataset", "A dataset from a region, checked, its tags encoded", (*_DATASET, *_HOW), _dataset,
              _check_dataset),
        Graph("pretrain", "A dataset, and GeoLink, GAIR or both trained on it, measured, exported, encoded",
              (*_DATASET, *_TRAIN, _RUN, Parameter("format", "timm", "of geoshards export"), *_HOW), _pretrain,
              _check_pretrain),
        Graph("refresh", "A dataset brought up to OSM's changes, and training gone on with",
              (Parameter("data", "", "dataset directory", required=True),
               Parameter("changes", "", "change files (.osc.gz) in order of time, or one newer extract; by commas"),
               Parameter("replication", "", "URL of a replication server, asked for changes each time"),
               Parameter("extract", "", "which extract changes, where the dataset was made from several"),
               Parameter("encoder", "hash", "of geoshards embed, as the dataset has it"), *_TRAIN,
               Parameter("run", "", "folder of the run whose checkpoint.pt is gone on from", required=True),
               Parameter("into", "", "folder of the new run (default: RUN-, and the new dataset's content hash)"),
               *_HOW),
              _refresh, _check_refresh, schedule="0 3 * * *"),
    )
}  # fmt: skip


def graph_of(name: str) -> Graph:
    """A graph by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in GRAPHS:
        raise ConfigError(f"there is no graph {name}; {nearest(name, GRAPHS)}")
    return GRAPHS[name]
