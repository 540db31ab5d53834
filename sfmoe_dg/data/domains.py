"""A domain is a list of labelled images; a data set is a list of domains that share their classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfmoe_dg.foundation.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


class Domain(ABC):
    """Labelled images from one source. Labels are known without decoding an image.

    Attributes:
        name: the domain's name, for people.
        targets: int64 [N], the class of every image.
        identities: int64 [N] or None, which object an image shows. The same number in several domains is the same
            bird or handwritten digit in another style.
    """

    def __init__(self, name: str, targets: Sequence[int] | np.ndarray, identities: np.ndarray | None = None) -> None:
        self.name = name
        self.targets = np.asarray(targets, dtype=np.int64)
        self.identities = None if identities is None else np.asarray(identities, dtype=np.int64)
        assert self.identities is None or len(self.identities) == len(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def image(self, index: int) -> Image.Image | torch.Tensor:
        """One image: an RGB picture, or for domains in memory a tensor [C, H, W], uint8 or float.

        Raises:
            UserError: if the image cannot be read; the file is named.
        """

    @abstractmethod
    def path(self, index: int) -> str:
        """The place of an image, for messages."""


class InMemoryDomain(Domain):
    """A domain whose images lie in one tensor, so that a batch is made without work per image.

    Args:
        images: [N, C, H, W], uint8 (scaled to [0, 1] on the way out, as torchvision's ``ToTensor`` does) or float.
        mean, std: every value becomes (value - mean) / std, after that scaling.
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor,
        targets: Sequence[int] | np.ndarray,
        identities: np.ndarray | None = None,
        *,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__(name, targets, identities)
        assert len(images) == len(self)
        self.images, self.mean, self.std = images, mean, std

    def image(self, index: int) -> torch.Tensor:
        return self.images[index]

    def path(self, index: int) -> str:
        return f"image {index} of domain {self.name}"

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """The model's input for these images: float [B, C, H, W]."""
        x = self.images[torch.from_numpy(np.asarray(indices, dtype=np.int64))]
        if x.dtype == torch.uint8:
            x = x.float().div_(255.0)
        return x if (self.mean, self.std) == (0.0, 1.0) else x.sub(self.mean).div_(self.std)


@dataclass(frozen=True, eq=False)
class DomainDataset:
    """Domains that share their classes.

    Attributes:
        name: the catalog's name.
        domains: at least one; test domains are named by their position here.
        input_shape: channels, height and width of the model's input.
        class_names: in the order of the targets.
        labels: the domains' column titles in tables.
        identity_names: the names of the identities, if they have names.
        test_identities: int64, the identities that the data set's authors set apart for testing; None if they did not.
        skipped: files that do not decode and were left out, because ``on_bad_image`` is "skip".
        ignored: files among the images whose extension is not an image's.
    """

    name: str
    domains: tuple[Domain, ...]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    labels: tuple[str, ...]
    identity_names: tuple[str, ...] = ()
    test_identities: np.ndarray | None = None
    skipped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(domain.name for domain in self.domains)

    @property
    def in_memory(self) -> bool:
        return all(isinstance(domain, InMemoryDomain) for domain in self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __getitem__(self, env: int) -> Domain:
        return self.domains[env]

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains)

    def check_envs(self, envs: Sequence[int], what: str = "test domain") -> None:
        """Refuse domain numbers that do not exist or are given twice.

        Raises:
            UserError: naming the domains with their numbers.
        """
        known = ", ".join(f"{number} {name}" for number, name in enumerate(self.domain_names))
        for position, env in enumerate(envs):
            if not 0 <= env < len(self):
                raise UserError(f"{what} {env} of {self.name} does not exist; the domains are {known}")
            if env in envs[:position]:
                raise UserError(f"{what} {env} of {self.name} is given twice; the domains are {known}")
