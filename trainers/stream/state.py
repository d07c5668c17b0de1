"""Where a stream stands, as a small mapping, and whether another stream may go on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import DatasetError
from trainers.stream.catalog.index import Index, ShardDigests

#: What must be equal, whatever the order: and what the user calls it.
_SAME = ("order", "seed", "weights", "tags", "statistics")
#: Digests of a dataset and of what is read of it.
HASHES = ("content_hash", "layout_hash", "split_hash", "selection_hash")


def source_state(index: Index, along_layout: bool) -> dict[str, Any]:
    """What decides the order of one dataset, and digests by which a changed shard is found."""
    return {
        **{name: getattr(index, name) for name in HASHES},
        "samples": len(index),
        "layout_counts": along_layout,
        "shards": index.digests.shards,
        "digests": list(index.digests.digest),
    }


def check_state(state: Mapping[str, Any], mine: Mapping[str, Any], indexes: Sequence[Index]) -> None:
    """Refuse ``state`` where its order is not ``mine``. Another layout is refused only where the order follows it.

    Raises:
        DatasetError: it belongs to another dataset, split, selection, seed or order; the message names which, and the
            shard.
    """
    try:
        theirs = list(state["sources"])
        shown = [f"{n} was {state.get(n)}, is {mine[n]}" for n in _SAME if state.get(n) != mine[n]]
        if len(theirs) != len(indexes):
            shown.append(f"datasets were {len(theirs)}, are {len(indexes)}")
        else:
            for other, own, index in zip(theirs, mine["sources"], indexes, strict=True):
                shown += [
                    f"{index.root}: {text}" if len(indexes) > 1 else text for text in _differences(other, own, index)
                ]
        int(state["epoch"]), int(state["position"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DatasetError(f"the saved state of the stream cannot be read ({error!r}); start anew") from None
    if shown:
        where = ", ".join(index.root for index in indexes)
        raise DatasetError(
            f"{where}: cannot go on, the saved order does not fit ({'; '.join(shown)}); give the same data, seed and "
            "stream.* settings, or start anew with another out=…"
        )


def _differences(other: Mapping[str, Any], own: Mapping[str, Any], index: Index) -> list[str]:
    differ = [n for n in (*HASHES, "samples") if other[n] != own[n] and (n != "layout_hash" or own["layout_counts"])]
    shown = [f"{n} was {other[n]}, is {own[n]}" for n in differ]
    if "content_hash" in differ or "layout_hash" in differ:
        shown.append(changed_shards(int(other["shards"]), list(other["digests"]), index.digests))
    if "split_hash" in differ:
        shown.append("the catalog deals its samples to train, val and test in another way")
    return shown


def changed_shards(shards: int, digests: Sequence[str], now: ShardDigests) -> str:
    """Which shards are not what they were, as far as the digests of their groups tell."""
    if shards != now.shards or len(digests) != len(now.digest):
        first = now.names[-1][1] if now.names else "none"
        return f"it had {shards} shards, has {now.shards}, the last of them {first}"
    changed = [names for old, new, names in zip(digests, now.digest, now.names, strict=True) if old != new]
    if not changed:
        return "every shard is the same: dataset.json is not"
    text = [a if a == b else f"one of {a} to {b}" for a, b in changed[:3]]
    more = f" and {len(changed) - 3} more groups" if len(changed) > 3 else ""
    return f"changed: {', '.join(text)}{more}"
