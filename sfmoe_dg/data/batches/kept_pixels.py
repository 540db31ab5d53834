"""Pixels that evaluations need again, kept in memory up to a bound.

Images that are not augmented become the same uint8 pixels at each evaluation, so the first evaluation's pixels can be
used again. They are the workers' results before normalisation: 150 KB per image at 224 pixels.

Legend: B images of a batch, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

KEEP_BYTES = 2**30
"""What one loader keeps: 7,000 images at 224 pixels, every single domain of PACS, VLCS and OfficeHome."""


class KeptPixels:
    """Images by domain and index. Once the bound is reached, nothing is added and nothing is dropped: all evaluations
    read in the same order, so dropping the oldest image would lose each one just before it is needed.
    """

    def __init__(self, limit: int = KEEP_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._images: dict[tuple[int, int], np.ndarray] = {}

    def has(self, env: int, indices: np.ndarray) -> bool:
        """Whether all of these images are here."""
        return all((env, index) in self._images for index in indices.tolist())

    def get(self, env: int, indices: np.ndarray) -> torch.Tensor:
        """uint8 [B, 3, H, W] with the channels last in memory, as ``ImageTransform.read`` made it."""
        images = np.stack([self._images[env, index] for index in indices.tolist()])
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def add(self, env: int, indices: np.ndarray, pixels: torch.Tensor) -> None:
        """Keep as many of these images as the bound allows.

        They are copied, because workers hand over shared memory, which may be small and is needed for other batches.
        """
        images = pixels.permute(0, 2, 3, 1)
        for position, index in enumerate(indices.tolist()):
            image = images[position]
            if (env, index) not in self._images and self._bytes + image.nbytes <= self._limit:
                self._images[env, index] = image.numpy().copy()
                self._bytes += image.nbytes

    def clear(self) -> None:
        self._images.clear()
        self._bytes = 0
