"""Which source gives the sample at a slot of a mixture: a periodic table with prefix counts, as pure functions.

In: weights. Out: source of a slot and how many slots before it were the same source's, for any slot at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError

Ints = NDArray[np.int64]
#: Longest period of a table: weights that no smaller one expresses are rounded to thousandths.
LONGEST = 1000


def shares(weights: Sequence[float]) -> list[int]:
    """Slots of each source in the shortest period of up to ``LONGEST`` that expresses the weights, else in thousandths.

    Rounded shares keep their sum (largest remainder), and every source at least one slot.

    >>> shares([0.7, 0.3]), shares([1, 1, 1]), shares([1, 1e-9])
    ([7, 3], [1, 1, 1], [999, 1])

    Raises:
        ConfigError: a weight is not a positive number, or there are too many sources.
    """
    total = math.fsum(weights)
    if not weights or len(weights) > LONGEST // 2 or not all(w > 0 and math.isfinite(w) for w in weights):
        raise ConfigError(f"weights of a mixture must be positive, of at most {LONGEST // 2} sources, not {weights}")
    exact = np.array(weights, np.float64) / total
    for period in range(len(weights), LONGEST + 1):
        rounded = np.rint(exact * period)
        if rounded.min() >= 1 and np.abs(exact * period - rounded).max() < 1e-6 and rounded.sum() == period:
            return [int(v) for v in rounded]
    given = np.maximum(np.floor(exact * LONGEST), 1).astype(np.int64)
    for i in np.argsort(given - exact * LONGEST, kind="stable")[: max(0, LONGEST - int(given.sum()))]:
        given[i] += 1
    while given.sum() > LONGEST:  # tiny weights were raised to one slot
        given[int(np.argmax(given))] -= 1
    return given.tolist()


@dataclass(frozen=True, eq=False)
class Mixture:
    """Periodic table of sources. Symbols: D slots a period, k sources."""

    source: Ints  # [D]
    before: Ints  # [D] slots of the same source earlier in the period
    share: Ints  # [k] slots of each source in a period

    @classmethod
    def of(cls, weights: Sequence[float]) -> Mixture:
        """The table of ``weights``: after t slots each source has had its share of them within one, or 1 - 1/(2k-2).

        Tijdeman's chairman assignment (R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980):
        among sources that are owed at least 1/(2k-2) of a slot, the one whose claim runs out first. Any run of slots
        is thus within two of its share, and within one for two sources.
        """
        share = np.array(shares(weights), np.int64)
        period, k = int(share.sum()), len(share)
        if k == 1:
            return cls(np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64))
        slack = 2 * k - 2  # all is counted in 1/(slack * period) of a slot, in integers
        had = np.zeros(k, np.int64)
        source, before = np.zeros(period, np.int64), np.zeros(period, np.int64)
        for t in range(period):
            owed = slack * (share * (t + 1) - had * period)
            ready = owed >= period
            # Slots until the source is owed all but 1/slack of one; ties go to the first.
            left = np.where(ready, (period * (slack - 1) - owed) / share, np.inf)
            chosen = int(np.argmin(left))
            source[t], before[t] = chosen, had[chosen]
            had[chosen] += 1
        return cls(source, before, share)

    def at(self, slots: Ints) -> tuple[Ints, Ints]:
        """(source, slots of that source before it), i64[K] each, of ``slots`` i64[K] >= 0."""
        turn, within = np.divmod(slots, len(self.source))
        source = self.source[within]
        return source, turn * self.share[source] + self.before[within]
