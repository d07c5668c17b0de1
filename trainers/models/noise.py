"""Random numbers as a function of a slot's seed, on any device: no generator state, no host synchronisation.

The same seed gives the same numbers whatever the batch, rank or device, so masks survive a resume on other hardware.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def _mix(value: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on i64 values below 2^32."""
    value = value ^ (value >> 16)
    value = (value * 0x85EBCA6B) & _LOW
    value = value ^ (value >> 13)
    value = (value * 0xC2B2AE35) & _LOW
    return value ^ (value >> 16)


def hash32(seed: Tensor, counter: Tensor, stream: int) -> Tensor:
    """Pseudo-random i64 in [0, 2^32) of the broadcast shape of ``seed`` i64 and ``counter`` i64.

    ``stream`` tells independent uses of one seed apart.
    """
    word = _mix((seed & _LOW) ^ (stream * 0x9E3779B1 & _LOW))
    word = _mix(word ^ ((seed >> 32) & _LOW))
    word = _mix(word ^ (counter & _LOW))
    return _mix((word + 0x9E3779B9) & _LOW)


def uniform(seed: Tensor, counter: Tensor, stream: int) -> Tensor:
    """Uniform f32 in [0, 1); arguments as those of :func:`hash32`."""
    return (hash32(seed, counter, stream) >> 8).to(torch.float32) * 2.0**-24
