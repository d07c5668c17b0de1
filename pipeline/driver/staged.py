"""A build in parts that a scheduler runs, tries again and limits one by one: ``geoshards shards --stage …``.

Plan, then the extracts one by one, features, the samples group by group, the catalog: together they write, byte for
byte, what one run does. Each takes what those before it left in the cache and in ``out``, and does what it lacks
itself, so a stage may run again at any time. What a stage answers with is the same each time, timings aside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.catalog.fold import finished, groups
from pipeline.driver.inputs import keep_inputs
from pipeline.driver.shards import opened, require_samples
from pipeline.driver.sources import obtain, resolve
from pipeline.regions.resolve import Extract, select
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from schemas.errors import ConfigError, DatasetError, nearest
from storage.cache import using
from storage.files import file_sha256
from storage.nodes.copies import node_cache
from storage.nodes.held import held_in, size_of
from storage.progress import StageRow
from storage.store import Store
from storage.urls import is_local, shared_cache


@dataclass(frozen=True)
class Answer:
    """What a stage has done."""

    facts: dict[str, Any]  # the same each time; ``items``: what the next stage may be run for one by one
    line: str  # in words
    rows: list[StageRow] = field(default_factory=list)


def run_stage(config: ShardsConfig, stage: str, only: str = "", quiet: bool = False) -> Answer:
    """Do one stage of the build of ``config``.

    Args:
        config: settings.
        stage: one of `STAGES`.
        only: of the extracts, or of the samples' groups of shards: which; empty: all of them.
        quiet: no progress.

    Raises:
        GeoshardsError: as `make_shards`; the stage has no such part; for the catalog a shard is missing.
    """
    if stage not in STAGES:
        raise ConfigError(f"there is no stage {stage}; {nearest(stage, list(STAGES))}")
    if only and stage not in ("extracts", "samples"):
        raise ConfigError(f"--stage {stage} is done as a whole; leave --only out")
    with using(node_cache(config.cache)):
        return STAGES[stage](config, only, quiet)


def _extracts(config: ShardsConfig, quiet: bool) -> dict[str, Extract]:
    """The extracts of a region by their ids, none of them fetched; two of one id by their paths."""
    found = select(config.region, config.sources, config.net, node_cache(config.cache), quiet).extracts
    ids = [e.id for e in found]
    return {e.id if ids.count(e.id) == 1 else str(e.path): e for e in found}


def _plan(config: ShardsConfig, only: str, quiet: bool) -> Answer:  # noqa: ARG001  # as the others
    if config.region == "none":
        names: list[str] = []
    else:
        names = ["demo"] if config.region == "demo" else sorted(_extracts(config, quiet))
    return Answer({"items": names}, f"extracts: {', '.join(names) or 'none'}")


def _fetch(config: ShardsConfig, only: str, quiet: bool) -> Answer:
    cache = node_cache(config.cache)
    with Runner(config.workers) as runner:
        if config.region in ("none", "demo"):
            known = [] if config.region == "none" else ["demo"]
            _known("extract", only, known)
            paths = {name: resolve(config, cache, runner, quiet).extracts[0] for name in known}
        else:
            chosen = select(config.region, config.sources, config.net, cache, quiet)
            extracts = _extracts(config, quiet)
            _known("extract", only, sorted(extracts))
            wanted = {name: e for name, e in extracts.items() if only in ("", name)}
            found = obtain(replace(chosen, extracts=list(wanted.values())), config, runner, quiet)
            paths = dict(zip(wanted, found, strict=True))
    home = Store(shared_cache(config.cache))
    facts: dict[str, dict[str, Any]] = {}
    for name, path in sorted(paths.items()):
        local = is_local(str(path))
        digest = file_sha256(Path(path)) if local else held_in(home, path).sha256
        facts[name] = {"bytes": size_of(path), "sha256": digest}
    size = sum(fact["bytes"] for fact in facts.values())
    return Answer({"extracts": facts}, f"{', '.join(facts) or 'no extract'}: {size / 1e6:,.1f} MB")


def _features(config: ShardsConfig, only: str, quiet: bool) -> Answer:  # noqa: ARG001  # as the others
    with opened(config, quiet) as (_, plan, job, run):
        numbers = [str(n) for n in range(len(groups(len(plan.shards))))]
    facts = {"items": numbers, "shards": len(plan.shards), "fingerprint": job.identity.fingerprint}
    words = f"{len(plan.footprints):,} footprints in {len(plan.shards):,} shards, groups 0 to {numbers[-1]}"
    return Answer(facts, words, run.stages)


def _samples(config: ShardsConfig, only: str, quiet: bool) -> Answer:
    with opened(config, quiet) as (runner, plan, job, run):
        members = groups(len(plan.shards))
        _known("group", only, [str(n) for n in range(len(members))])
        with run.writing(whole=False):
            keep_inputs(job.identity.fingerprint, plan.config, plan.region, plan.features)
            run.build(runner, [s.stop - s.start for s in plan.shards], job, quiet, int(only) if only else None)
    asked = members[int(only)] if only else range(len(plan.shards))
    facts = {"shards": len(asked), "fingerprint": job.identity.fingerprint}
    return Answer(facts, f"{run.store.root}: {run.built:,} of {len(asked):,} shards built", run.stages)


def _catalog(config: ShardsConfig, only: str, quiet: bool) -> Answer:  # noqa: ARG001  # as the others
    with opened(config, quiet) as (_, plan, _, run), run.writing():
        done, folded = finished(run.store)
        if missing := [i for i in range(len(plan.shards)) if i not in done]:
            raise DatasetError(
                f"{run.store.root} lacks {len(missing):,} of {len(plan.shards):,} shards, the first "
                f"part-{missing[0]:07d}; run --stage samples first"
            )
        if left := [n for n in range(len(groups(len(plan.shards)))) if n not in folded]:
            raise DatasetError(f"{run.store.root} has no catalog of group {left[0]}; run --stage samples first")
        document = run.finish(*plan.tables())
    require_samples(document, plan, run.store)
    facts = {k: document[k] for k in ("samples", "shards", "bytes", "content_hash", "layout_hash")}
    words = f"{run.store.root}: {document['samples']:,} samples, content {document['content_hash'][:12]}"
    return Answer({"out": run.store.root} | facts, words, run.stages)


def _known(what: str, only: str, names: list[str]) -> None:
    if only and only not in names:
        raise ConfigError(f"there is no {what} {only}; {nearest(only, names)}")


#: The stages in their order.
STAGES: dict[str, Callable[[ShardsConfig, str, bool], Answer]] = {
    "plan": _plan, "extracts": _fetch, "features": _features, "samples": _samples, "catalog": _catalog,
}  # fmt: skip
