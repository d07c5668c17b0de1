"""The demo world: blocks of a plan, and which of them show in a box."""

from __future__ import annotations

from functools import lru_cache, partial

from pipeline.demo.geo import Bounds, grown, overlaps
from pipeline.demo.town.block import Block
from pipeline.demo.town.content import build_block
from pipeline.demo.town.plan import Plan


class World:
    """Blocks of a plan, made on demand; a bounded number of them is kept."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.block = lru_cache(maxsize=700)(partial(build_block, plan))

    def blocks_in(self, bounds: Bounds) -> list[Block]:
        """Blocks that may show in a box, in index order."""
        plan = self.plan
        # The warp moves points by well under 250 m.
        near = grown(bounds, 250.0)
        columns, lines = (
            [
                n
                for n in range(*plan.extent[axis])
                if plan.line(axis, n + 1) >= near[axis] + plan.shift
                and plan.line(axis, n) <= near[axis + 2] + plan.shift
            ]
            for axis in range(2)
        )
        blocks = (self.block(i, j) for j in lines for i in columns)
        return [block for block in blocks if overlaps(block.bounds, bounds)]
