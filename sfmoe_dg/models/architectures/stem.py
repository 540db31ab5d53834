"""A small convolutional stem for 28–32 px pictures, in the place of timm's patch embedding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from sfmoe_dg.foundation.errors import UserError


class ConvStem(PatchEmbed):
    """Three 3×3 convolutions with stride 2: one token for 8×8 pixels (edges are padded, so 28 px gives 4×4 tokens too).

    The convolutions have D/4, D/2 and D channels. Group norm is between them, because batch norm would mix the domains
    of a batch and use other statistics in evaluation.
    """

    def __init__(
        self, img_size: Any = 32, patch_size: Any = 8, in_chans: int = 3, embed_dim: int = 64, **kwargs: Any
    ) -> None:
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        super().__init__(img_size, patch_size, in_chans, embed_dim, **kwargs)
        layers: list[nn.Module] = []
        widths = (in_chans, embed_dim // 4, embed_dim // 2, embed_dim)
        for i, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, **dd))
            if i < 2:
                layers += [nn.GroupNorm(4, after, **dd), nn.GELU()]
        self.proj = nn.Sequential(*layers)  # type: ignore[assignment]

    def _init_img_size(self, img_size: Any) -> Any:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 8:
            raise UserError(f"the convolutional stem needs pictures of at least 8×8 pixels, not {height}×{width}")
        grid = (-(-height // 8), -(-width // 8))
        return (height, width), grid, grid[0] * grid[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Tokens per axis; three strides of 2 with padding round up."""
        return -(-img_size[0] // 8), -(-img_size[1] // 8)
