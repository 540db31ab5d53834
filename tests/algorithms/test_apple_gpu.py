"""Updates, predictions and measurements use no float64, which Apple's GPUs do not support: torch raises there.

The tests need no such GPU. They record the operations on the CPU. Only ``base.wide`` asks for the kind of device; the
tests make it see Apple's.
"""

import pytest
import torch
from test_waiting import EARLY, small_backbone
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfmoe_dg.algorithms import base
from sfmoe_dg.algorithms.objectives import mldg
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.algorithms.shared import gradient_masks
from sfmoe_dg.training.evaluate import is_correct

CLASSES, DOMAINS, BATCH = 5, 3, 2


class Wide(TorchDispatchMode):
    """Records the operations with float64 inputs or outputs."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves((args, kwargs, result))):
            self.found.add(str(func))
        return result


@pytest.fixture
def told_it_is_apples(monkeypatch):
    for module in (base, gradient_masks, mldg):
        monkeypatch.setattr(module, "wide", torch.Tensor.detach)


def test_this_would_notice():
    with Wide() as wide:
        base.wide(torch.ones(()))
    assert wide.found == {"aten._to_copy.default"}


def test_scalars_stay_narrow_on_an_apple_gpu_only():
    class Apples:
        device = torch.device("mps")

        def detach(self):
            return "as it is"

    assert base.wide(Apples()) == "as it is"
    assert base.wide(torch.ones(())).dtype == torch.float64


@pytest.mark.usefixtures("told_it_is_apples")
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_no_objective_and_no_architecture_needs_float64(name):
    table = default_hparams(name, "StyledDigits")
    hparams = table | {"backbone": small_backbone(name), "pretrained": False, "batch_size": BATCH}
    hparams |= {key: 1 for key in EARLY if key in table}
    torch.manual_seed(0)
    batch = [(torch.randn(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))) for _ in range(DOMAINS)]
    algorithm = ALGORITHMS.load(name)((3, 32, 32), CLASSES, DOMAINS, hparams)
    with Wide() as wide:
        for step in range(3):
            algorithm.schedule(step, 3)
            algorithm.update(batch)
        is_correct(algorithm.eval().predict(batch[0][0]), batch[0][1])
    assert not wide.found
    assert not [key for key, value in nn.Module.state_dict(algorithm).items() if value.dtype == torch.float64]
