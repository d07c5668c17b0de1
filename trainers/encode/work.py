"""A stream of samples through an encoder: rows of embeddings on the host, one batch behind the device."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.encode import Of
from trainers.encode.encoders import Encoder
from trainers.stream.batch import TileBatch


@dataclass(frozen=True, eq=False)
class HostRows:
    """Embeddings of the slots of a batch, or of its photos, on the host."""

    of: Of
    values: NDArray[np.float16]  # [B,D] or [Q,D]
    held: NDArray[np.bool_]


HostFound = dict[str, list[HostRows]]


@dataclass(frozen=True, eq=False)
class _Pending:
    """What the device was told to do for one batch, and when it is done."""

    start: int
    batch: TileBatch
    found: dict[str, list[tuple[Of, Tensor, Tensor]]]
    done: torch.cuda.Event | None

    def wait(self) -> tuple[int, TileBatch, HostFound]:
        if self.done is not None:
            self.done.synchronize()
        rows = {
            kind: [HostRows(of, values.numpy(), held.numpy()) for of, values, held in parts]
            for kind, parts in self.found.items()
        }
        return self.start, self.batch, rows


@dataclass(frozen=True)
class Forward:
    """How batches are encoded."""

    encoder: Encoder
    kinds: Collection[str]
    device: torch.device
    bf16: bool = False  # matrix products in bfloat16
    normalised: bool = False  # embeddings of unit length

    @torch.inference_mode()
    def __call__(self, batch: TileBatch) -> dict[str, list[tuple[Of, Tensor, Tensor]]]:
        """float16 embeddings of a batch, on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = self.encoder(batch.to(self.device), self.kinds)
        return {
            kind: [(p.of, self._finished(p.values.float()).half(), p.held) for p in parts]
            for kind, parts in found.items()
        }

    def _finished(self, values: Tensor) -> Tensor:
        return F.normalize(values, dim=-1) if self.normalised else values

    def run(self, batches: Iterator[tuple[int, TileBatch]]) -> Generator[tuple[int, TileBatch, HostFound]]:
        """Each batch with its embeddings; the device works at the next while the host takes those of the last."""
        before: _Pending | None = None
        for start, batch in batches:
            pending = self._send(start, batch)
            if before is not None:
                yield before.wait()
            before = pending
        if before is not None:
            yield before.wait()

    def _send(self, start: int, batch: TileBatch) -> _Pending:
        found = self(batch)
        if self.device.type == "cpu":
            return _Pending(start, batch, found, None)
        moved = {kind: [(of, _to_host(v), _to_host(h)) for of, v, h in parts] for kind, parts in found.items()}
        done = torch.cuda.Event()
        done.record()
        return _Pending(start, batch, moved, done)


def _to_host(values: Tensor) -> Tensor:
    """A copy in page-locked memory, which is there when the device has come so far."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
