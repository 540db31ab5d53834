"""Domains whose files are listed by a table or a rule instead of lying in one folder per domain (WILDS, Spawrious)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sfmoe_dg.data.sets.image_folder import FolderDomain, decodable


class ListedDomain(FolderDomain):
    """A domain of listed files.

    Args:
        folder: what the files' paths are relative to.
        size: width and height that every image is resized to before any transform; None: as it is.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        files: Sequence[str],
        targets: Sequence[int] | np.ndarray,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(folder, files, targets)
        self.name, self.size = name, size

    def image(self, index: int) -> Image.Image:
        picture = super().image(index)
        return picture if self.size is None else picture.resize(self.size, Image.Resampling.BILINEAR)

    def without_bad_images(self) -> tuple[ListedDomain, list[str]]:
        """The domain without the images that do not decode, and their paths; every image is decoded once."""
        paths = [self.path(index) for index in range(len(self))]
        good = decodable(paths)
        kept = [index for index, is_good in enumerate(good) if is_good]
        bad = [path for path, is_good in zip(paths, good, strict=True) if not is_good]
        files = self.files
        chosen = [files[index] for index in kept]
        return ListedDomain(self.name, self.folder, chosen, self.targets[kept], self.size), bad


def apply_policy(
    domains: Sequence[ListedDomain], on_bad_image: str
) -> tuple[tuple[ListedDomain, ...], tuple[str, ...]]:
    """The domains, and the files that were skipped: none if ``on_bad_image`` is "error"."""
    if on_bad_image != "skip":
        return tuple(domains), ()
    pairs = [domain.without_bad_images() for domain in domains]
    return tuple(domain for domain, _ in pairs), tuple(path for _, bad in pairs for path in bad)
