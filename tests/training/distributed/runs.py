"""Short trainings on StyledDigits by one process or several, for comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.data.batches.loaders import ALONE, Reading, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import split_domains
from sfmoe_dg.foundation.processes import World, gather_all
from sfmoe_dg.foundation.seeds import seed_everything
from sfmoe_dg.training.sharing.shared_updates import share_updates

DATASET = "StyledDigits"
TRAIN_ENVS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """What is trained, and how the processes share it."""

    algorithm: str = "ERM"
    mode: str = "ddp"
    hparams: dict[str, Any] = field(default_factory=dict)
    steps: int = 10
    dtype: torch.dtype = torch.float32
    record_gradients: bool = False


@dataclass
class Outcome:
    """What every update returned, logits of some images after the last, and the gradients of the last."""

    values: list[dict[str, float]]
    logits: Tensor
    gradients: dict[str, Tensor]


@cache
def pictures() -> DomainDataset:
    """The data set, made once per process."""
    return build_dataset(DATASET, None)


def build(case: Case, world: World) -> tuple[Any, TrainLoader]:
    """The algorithm and the loader of this process's share."""
    seed_everything(3)
    dataset = pictures()
    hparams = default_hparams(case.algorithm, DATASET) | {"batch_size": 8} | case.hparams
    splits = split_domains(dataset, [3], trial_seed=0, holdout_fraction=0.2)
    algorithm = ALGORITHMS.load(case.algorithm)(dataset.input_shape, dataset.num_classes, len(TRAIN_ENVS), hparams)
    algorithm = algorithm.to(case.dtype)
    transform = ImageTransform(size=dataset.input_shape[-1], mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = TrainLoader(
        dataset, splits, TRAIN_ENVS, hparams["batch_size"], transform, seed=3, reading=Reading(world=world)
    )
    if world.shared:
        share_updates(algorithm, world, case.mode)
    return algorithm, loader


def train(world: World, case: Case) -> Outcome:
    """One training."""
    algorithm, loader = build(case, world)
    algorithm.train()
    values = []
    for batch in loader.batches(0, case.steps):
        algorithm.schedule(batch.step, case.steps)
        values.append(algorithm.update([(x.to(case.dtype), y) for x, y in batch.minibatches]))
    return Outcome(values, probe(algorithm, case.dtype), gradients(algorithm) if case.record_gradients else {})


def train_all(world: World, cases: list[Case]) -> list[Outcome]:
    """Several trainings one after the other."""
    return [train(world, case) for case in cases]


@torch.no_grad()
def probe(algorithm: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits of 12 images of the held-out domain."""
    domain: Any = pictures()[3]
    return algorithm.eval().predict(domain.batch(range(12)).to(dtype))


def gradients(algorithm: Any) -> dict[str, Tensor]:
    """The full gradient of every weight, gathered from its parts."""
    return {name: _whole(parameter) for name, parameter in algorithm.named_parameters()}


def _whole(parameter: Any) -> Tensor:
    gradient = parameter.grad
    if isinstance(gradient, DTensor):
        return gradient.full_tensor()
    return torch.cat(gather_all(gradient)) if hasattr(parameter, "part_of") else gradient


def assert_same(several: Outcome, one: Outcome, tolerance: float) -> None:
    """All numbers agree, relative to their size where that is above 1."""
    for here, there in zip(several.values, one.values, strict=True):
        assert here.keys() == there.keys()
        for name, value in there.items():
            assert abs(here[name] - value) <= tolerance * max(1, abs(value)), name
    torch.testing.assert_close(several.logits, one.logits, rtol=10 * tolerance, atol=10 * tolerance)
    assert several.gradients.keys() == one.gradients.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(several.gradients[name], gradient, rtol=tolerance, atol=tolerance)


def alone(case: Case) -> Outcome:
    """The same training by one process."""
    return train(ALONE, case)
