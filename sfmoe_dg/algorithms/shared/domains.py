"""Helpers for objectives that treat training domains separately: labels, risks and passes per domain."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches


def domain_labels(minibatches: Minibatches) -> Tensor:
    """The index of every image's training domain, int64 [B of all domains]."""
    return torch.cat([torch.full_like(y, i) for i, (_, y) in enumerate(minibatches)])


def domain_risks(forward: Forward) -> list[Tensor]:
    """The mean cross-entropy of every domain."""
    return [F.cross_entropy(z, y) for z, y in zip(forward.logits, forward.labels, strict=True)]


def mean_risk(forward: Forward) -> Tensor:
    """The mean of :func:`domain_risks`: every domain has the same weight, however many images it has."""
    return torch.stack(domain_risks(forward)).mean()


def run_domain(network: nn.Sequential, x: Tensor, domain: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and routing losses of images ``x`` of one training domain; ``network`` is (featurizer, classifier)."""
    featurizer: Any = network[0]
    features, losses = featurizer.forward_with_losses(x, torch.full((len(x),), domain, device=x.device))
    return network[1](features), losses


def same_length(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Two minibatches, the longer one cut to the length of the shorter."""
    length = min(len(a[0]), len(b[0]))
    return tuple((x[:length], y[:length]) for x, y in (a, b))
