"""The demo world: blocks of a plan, and which of them show in a box."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from pipeline.demo.town.block import Block
from pipeline.demo.town.content import build_block
from pipeline.demo.town.plan import Plan


class World:
    """Blocks of a plan, made on demand; a bounded number of them is kept."""

    def __init__(self, plan: Plan, keep: int = 700) -> None:
        self.plan = plan
        self._keep = keep
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()

    def block(self, i: int, j: int) -> Block:
        key = (i, j)
        block = self._blocks.get(key)
        if block is None:
            block = build_block(self.plan, i, j)
            self._blocks[key] = block
            if len(self._blocks) > self._keep:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block

    def blocks_in(self, bounds: tuple[float, float, float, float]) -> list[Block]:
        """Blocks that may show in a box (xmin, ymin, xmax, ymax), in index order."""
        (i0, i1), (j0, j1) = self.plan.extent
        edge = np.array([(x, y) for x in bounds[::2] for y in bounds[1::2]])
        # The warp moves points by well under 250 m.
        lo, hi = edge.min(axis=0) - 250.0, edge.max(axis=0) + 250.0
        lo, hi = lo + self.plan.shift, hi + self.plan.shift
        found = []
        for j in range(j0, j1):
            if self.plan.line(1, j + 1) < lo[1] or self.plan.line(1, j) > hi[1]:
                continue
            for i in range(i0, i1):
                if self.plan.line(0, i + 1) < lo[0] or self.plan.line(0, i) > hi[0]:
                    continue
                block = self.block(i, j)
                b = block.bounds
                if b[0] <= bounds[2] and b[2] >= bounds[0] and b[1] <= bounds[3] and b[3] >= bounds[1]:
                    found.append(block)
        return found
