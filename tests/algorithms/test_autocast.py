"""Penalties that start after some updates, and updates of several passes, under bf16 autocast.

That every objective trains on every backbone under autocast from its first update is in ``test_objectives.py``.
"""

import numpy as np
import pytest
import torch
from objective_makers import make, minibatches

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.algorithms.shared.precision import Precision


def onsets(name):
    """The hyper-parameters that set the update at which a penalty starts."""
    return [key for key in default_hparams(name, "StyledDigits") if key.endswith("iters")]


@pytest.mark.parametrize("backbone", ["mnist_cnn", "sf_moe_tiny_32"])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if onsets(name)])
def test_penalties_at_work_are_finite(name, backbone):
    model = make(name, backbone, **dict.fromkeys(onsets(name), 0))
    model.precision = Precision("bf16", "cpu")
    for _ in range(2):
        with model.precision.autocast():
            values = model.update(minibatches(backbone))
    assert np.isfinite([float(value) for value in values.values()]).all()
    for key, value in model.state_dict().items():
        assert torch.isfinite(value).all(), key
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", ["Fish", "MLDG"])
def test_passes_after_a_step_see_the_new_weights(name):
    """Autocast keeps copies of the weights; with stale ones these updates would end far from full precision's."""
    ends = {}
    for precision in ("fp32", "bf16"):
        overrides = {"meta_lr": 1.0} if name == "Fish" else {"n_meta_test": 1, "mldg_beta": 100.0}
        model = make(name, "mnist_cnn", lr=0.05, **overrides)
        model.precision = Precision(precision, "cpu")
        torch.manual_seed(0)
        with model.precision.autocast():
            # On smaller pictures the rounding of bf16 alone can move Fish's loss by more than 5 %.
            ends[precision] = float(model.update(minibatches("mnist_cnn", pixels=32))["loss"])
    assert ends["bf16"] == pytest.approx(ends["fp32"], rel=0.05)
