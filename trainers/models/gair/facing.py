"""What lies around a photo's place as its camera saw it: ours beside NILI, which knows no direction.

In: tokens [B,h*w,D] of tiles that are encoded once, places in them and the cameras' frames. Out: f32[Q,out], to add to
the embedding of the place. docs/papers/gair.md#nili.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.models.gair.nili import read_between
from trainers.models.vit import init_linear

#: The ground that is read, metres: to the left and right of the camera, behind it and ahead, and places a side.
ACROSS, BEHIND, AHEAD, SIDE = 26.0, 10.0, 42.0, 12


class CameraGround(nn.Module):
    """A square of ground in the camera's frame, read from the patch tokens at places that turn with its heading.

    Args:
        dim: width of a token.
        grid: patches a side.
        out: width of an embedding.
        hidden: width of what is read, and of the layers behind it.
    """

    ground: Tensor

    def __init__(self, dim: int, grid: int, out: int, hidden: int) -> None:
        super().__init__()
        self.grid = grid
        middle = (torch.arange(SIDE) + 0.5) / SIDE
        ahead, right = torch.meshgrid(AHEAD - (AHEAD + BEHIND) * middle, (2 * middle - 1) * ACROSS, indexing="ij")
        self.register_buffer("ground", torch.stack((right, ahead), -1).view(-1, 2), persistent=False)
        self.read = nn.Linear(dim, hidden)
        self.layers = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, hidden, 3, 2, 1), nn.GELU()
        )
        self.head = nn.Linear(hidden * (SIDE // 2) ** 2, out)
        self.apply(init_linear)

    def forward(self, tokens: Tensor, sample: Tensor, xy: Tensor, frame: Tensor) -> Tensor:
        """Embeddings f32[Q,out]; zeros where the frame is unknown.

        Args:
            tokens: [B,grid*grid,D], row-major.
            sample: i64[Q], which tile.
            xy: f32[Q,2], normalised image coordinates.
            frame: f32[Q,2,2], TileBatch.photo_frame; NaN is unknown.
        """
        known = frame.isfinite().all(-1).all(-1)
        frame = torch.where(known[:, None, None], frame.float(), 0.0)
        seen = self.seen(self.read(tokens), sample, xy, frame).permute(0, 3, 1, 2)
        return self.head(self.layers(seen.to(tokens.dtype)).flatten(1)).float() * known[:, None]

    def seen(self, values: Tensor, sample: Tensor, xy: Tensor, frame: Tensor) -> Tensor:
        """Values [B,grid*grid,W] as cameras see them, [Q,SIDE,SIDE,W]: the farthest row first, from left to right."""
        at = (xy.float()[:, None] + self.ground @ frame).flatten(0, 1)
        read = read_between(values, self.grid, sample.repeat_interleave(SIDE * SIDE), at, beyond="nothing")
        return read.view(len(xy), SIDE, SIDE, -1)
