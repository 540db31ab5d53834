"""Random images with random labels, for tests that do not look at accuracy (DomainBed, ``datasets.Debug``)."""

from __future__ import annotations

import torch

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain

IMAGES_PER_DOMAIN = 16


def read(entry: DatasetFacts, data_dir: str | None, on_bad_image: str) -> DomainDataset:
    """Draw the images from torch's global generator, domain by domain, pixels before labels, as DomainBed does."""
    domains = []
    for name in entry.domains:
        images = torch.randn(IMAGES_PER_DOMAIN, *entry.input_shape)
        targets = torch.randint(0, entry.num_classes, (IMAGES_PER_DOMAIN,))
        domains.append(InMemoryDomain(name, images, targets.numpy()))
    return DomainDataset(
        name=entry.name,
        domains=tuple(domains),
        input_shape=entry.input_shape,
        class_names=tuple(str(label) for label in range(entry.num_classes)),
        labels=entry.labels,
    )
