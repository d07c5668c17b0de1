"""Images of a batch as their slots show them, on the device that trains: window, size, turn, colours.

In: decoded images and one row of numbers an image. Out: the pixels that ``decode.resize``, ``Turn.image`` and
``augment.coloured`` make one by one, but for a level here and there. Resampling is Pillow's (bicubic, antialiased,
weights of 22 bits; libImaging/Resample.c): in integers, so that no matrix product is needed, whose precision a training
script may have lowered.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainers.stream.augment import FROM_YIQ, TO_YIQ, Look

#: Numbers of a row: left, top, right, bottom in pixels of the decoded image; its height and width; transpose, flip_x,
#: flip_y; brightness, contrast, saturation, hue, channels. All 0: no image.
LOOK = 14
#: Fraction bits of a weight, so that 255 times the sum of the largest weights fits 32 bits.
_BITS = 22


def look_row(look: Look, height: int, width: int) -> list[float]:
    """The row of an image of ``height`` by ``width`` decoded pixels."""
    left, top, right, bottom = look.window
    turn = look.turn
    return [
        left * width, top * height, min(right * width, width), min(bottom * height, height), height, width,
        turn.transpose, turn.flip_x, turn.flip_y, *look.colours,
    ]  # fmt: skip


def show(images: Tensor, look: Tensor, size: int) -> Tensor:
    """u8[B,C,size,size] of decoded images u8[B,C,H,W] by their rows f64[B,14]; zero where a row is.

    An image lies at the upper left of its slot. Waits for nothing on the device.
    """
    return _colour(place(images, look, size), look[:, 9:])


def place(images: Tensor, look: Tensor, size: int) -> Tensor:
    """As `show`, without the change of colours."""
    left, top, right, bottom, height, width = look[:, :6].unbind(1)
    shown = _resample(images, left, right, width, size)
    shown = _resample(shown.transpose(2, 3), top, bottom, height, size).transpose(2, 3)
    transposed, mirrored, overturned = (look[:, column, None, None, None] > 0 for column in (6, 7, 8))
    shown = torch.where(transposed, shown.transpose(2, 3), shown)
    shown = torch.where(mirrored, shown.flip(3), shown)
    return torch.where(overturned, shown.flip(2), shown)


def _resample(images: Tensor, low: Tensor, high: Tensor, length: Tensor, size: int) -> Tensor:
    """u8[B,C,H,size]: the columns ``low`` to ``high`` f64[B] of images u8[B,C,H,W] of ``length`` columns."""
    # No window is wider than its image: so many taps are enough for all.
    most = 2 * math.ceil(2 * max(1.0, images.shape[3] / size)) + 1
    first, weight = _taps(low, high, length, size, most)
    rows = images.shape[2]
    total = torch.full((*images.shape[:3], size), 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
    for k in range(most):
        column = (first + k).clamp(max=images.shape[3] - 1)[:, None, None].expand(-1, images.shape[1], rows, -1)
        total += images.gather(3, column) * weight[:, None, None, :, k]
    return (total >> _BITS).clamp(0, 255).to(torch.uint8)


def _taps(low: Tensor, high: Tensor, length: Tensor, size: int, most: int) -> tuple[Tensor, Tensor]:
    """First column i64[B,size] that each new one takes, and the weights i32[B,size,most] of it and those after it."""
    low, high = low.float(), high.float()  # Pillow's windows are
    step = ((high - low).double() / size)[:, None]
    widen = step.clamp(min=1.0)
    centre = low.double()[:, None] + (torch.arange(size, device=low.device) + 0.5) * step
    first = (centre - 2 * widen + 0.5).floor().clamp(min=0)
    last = torch.minimum((centre + 2 * widen + 0.5).floor(), length[:, None])
    column = first[..., None] + torch.arange(most, device=low.device)
    x = ((column - centre[..., None] + 0.5) / widen[..., None]).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)  # bicubic, a = -1/2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) * (column < last[..., None])
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)
    fixed = weight * (1 << _BITS)
    return first.long(), (fixed + 0.5 * fixed.sign()).trunc().to(torch.int32)


def _colour(images: Tensor, change: Tensor) -> Tensor:
    """Images u8[B,C,S,S] by rows of Colours f64[B,5]."""
    brightness, contrast, saturation, hue, channels = change.unbind(1)
    bit = torch.arange(images.shape[1], device=images.device)
    chosen = (channels.long()[:, None] >> bit & 1).bool() | (channels == 0)[:, None]  # [B,C]
    means = images.double().mean((2, 3)) * chosen
    mean = (means.sum(1) / chosen.sum(1).clamp(min=1) * brightness)[:, None]
    levels = torch.arange(256, device=images.device) * brightness[:, None]
    levels = ((levels - mean) * contrast[:, None] + mean).round().clamp(0, 255).to(torch.uint8)
    shown = levels.gather(1, images.flatten(1).long()).view(images.shape)
    shown = torch.where(chosen[:, :, None, None] | (brightness == 0)[:, None, None, None], shown, images)
    if images.shape[1] != 3:
        return shown
    c, s = (saturation * f(2 * math.pi * hue) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    middle = torch.stack((one, zero, zero, zero, c, -s, zero, s, c), 1).view(-1, 3, 3)
    back, there = (torch.from_numpy(m).to(images.device, torch.float64, True) for m in (FROM_YIQ, TO_YIQ))
    matrix = (back @ middle @ there).float()
    # A sum of products, no matrix product: those may be rounded to ten bits.
    values = (matrix[:, :, :, None, None] * shown[:, None]).sum(2)
    return values.round().clamp(0, 255).to(torch.uint8)
