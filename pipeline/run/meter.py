"""What the processes of a run have used: each item's share comes back with its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage.owner import mark
from storage.progress import Usage


class Metered(NamedTuple):
    """A result, and what its item has used of which process."""

    result: Any
    process: str  # `storage.owner.mark`
    usage: Usage


def metered(function: Callable[[Any], Any], item: Any) -> Metered:
    """``function(item)`` with its cost. Of a process that does two items at once each would count both."""
    before = Usage.here()
    result = function(item)
    return Metered(result, mark(), Usage.here() - before)


@dataclass
class Meter:
    """What other processes have used so far."""

    usage: Usage = field(default_factory=Usage)
    memory_mb: float = 0.0  # peak of the largest process of the stage that runs now

    def begin(self) -> None:
        """Another stage begins."""
        self.memory_mb = 0.0

    def add(self, found: Metered, memory_mb: float) -> Any:
        """Count an item; its result. What this process has used it knows itself."""
        if found.process != mark():
            self.usage += found.usage
        self.memory_mb = max(self.memory_mb, memory_mb)
        return found.result
