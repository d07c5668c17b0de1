"""What a build says of each shard as it is done: a line for who reads along, counts for who watches from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from socket import gethostname

from pipeline.driver.plan import Plan
from pipeline.samples.write import ShardResult
from schemas.catalog import shard_name
from storage.progress import Display
from storage.status import Status

#: Reasons that a line names.
_NAMED = 3


def log_shard(result: ShardResult, memory_mb: float, display: Display, status: Status) -> None:
    """Tell of a shard that is done; ``memory_mb`` is the peak of the process that made it."""
    status.done.update(tiles=result.planned, samples=result.samples, shards=1)
    status.drops.update(result.reasons)
    display.note(shard_line(result, memory_mb))


def shard_line(result: ShardResult, memory_mb: float) -> str:
    """A shard in one line.

    >>> shard_line(ShardResult(7, 64, 60, 4, 0.1, bytes=1_250_000, seconds=0.8, reasons={"nodata": 4}), 210.4)
    'part-0000007: 64 tiles, 60 samples, 4 nodata, 1.25 MB in 0.8 s (80.0 tiles/s), peak 210 MB'
    """
    what = f"{shard_name(result.index)}: {result.planned:,} tiles, {result.samples:,} samples"
    lost = f", {named(result.reasons, _NAMED)}" if result.reasons else ""
    if result.adopted:
        return f"{what}{lost}, taken over from the version before"
    rate = f"{result.planned / result.seconds:,.1f} tiles/s" if result.seconds else "at once"
    where = f" on {result.host}" if result.host not in ("", gethostname()) else ""
    size = f"{result.bytes / 1e6:,.2f} MB in {result.seconds:.1f} s"
    return f"{what}{lost}, {size} ({rate}), peak {memory_mb:,.0f} MB{where}"


def named(reasons: Mapping[str, int], most: int) -> str:
    """Counts by reason in words, the largest first.

    >>> named({"nodata": 3, "no_photo": 1200, "too_few_objects": 1}, 2)
    '1,200 no_photo, 3 nodata, 1 of other reasons'
    """
    first = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in first[most:])
    words = [f"{count:,} {reason}" for reason, count in first[:most]]
    return ", ".join([*words, f"{rest:,} of other reasons"] if rest else words)


def planned_drops(plan: Plan) -> Counter[str]:
    """What was dropped before there were samples, by reason."""
    found = Counter[str]()
    for row in plan.drops:
        found[row["reason"]] += row["count"]
    for cells in plan.cells:
        for row in cells.store.read_table("drops.parquet").group_by("reason").aggregate([("count", "sum")]).to_pylist():
            found[row["reason"]] += row["count_sum"]
    return found
