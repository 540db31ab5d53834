"""Seeds and random number generators."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np


def seed_hash(*args: Any) -> int:
    """A seed in [0, 2**31) from any printable arguments, equal to DomainBed's ``misc.seed_hash``.

    The hash is taken of ``str(args)``, so lists and tuples differ: ``seed_hash([0]) != seed_hash((0,))``.
    """
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


def generator(*args: Any) -> np.random.Generator:
    """A NumPy generator that its arguments determine.

    A generator of its own for every (seed, purpose, domain, step) needs no saved state: a run that is resumed at any
    step, with any number of loader workers, draws the same numbers.
    """
    return np.random.Generator(np.random.Philox(int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**64))


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, and ask cuDNN for deterministic kernels."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
