"""Five updates of our objectives end where DomainBed's end.

How the numbers in ``golden_trajectories.json`` were made: DomainBed at commit b93c22a was imported as it is, with
Python 3.11, PyTorch 2.15.0, NumPy 2.4 and, for Fishr, backpack-for-pytorch 1.3.0 (one name that PyTorch has dropped
since was put back for it). Its classes were built with their own defaults for RotatedMNIST,
:data:`trajectories.COMMON` and the ``hparams`` in the file, given weights by :func:`trajectories.set_weights` (TRM's
heads, which are in no module there, came after its parameters), and updated and probed by
:func:`trajectories.predictions_after_updates`, in float32 on one thread of a CPU. ``Tensor.cuda`` did nothing, since
RDM and TRM insist on it.

The overrides make every penalty act within the five updates: without it predictions move by 2e-4 or more. On
``mnist_cnn`` the learning rates are small because that network multiplies rounding errors by a hundred in five updates;
with these, other processors' instruction sets and numbers of threads changed predictions by at most 4e-6. The ten that
first differed by more than 1e-5 in float32 agree with upstream to 1e-9 in float64.
"""

import numpy as np
import pytest
import torch
import trajectories

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams

GOLDEN = trajectories.read_golden("golden_trajectories.json")


@pytest.mark.parametrize("kind", list(trajectories.INPUT_SHAPES))
@pytest.mark.parametrize("name", list(GOLDEN))
def test_five_updates_end_where_upstreams_do(name, kind):
    golden = GOLDEN[name][kind]
    predictions = trajectories.trajectory(name, kind, golden["hparams"])
    np.testing.assert_allclose(predictions, golden["predictions"], rtol=0, atol=1e-5)


def test_without_its_penalty_an_objective_ends_elsewhere():
    """The comparison above can tell: each of these is what the golden run had, less the penalty."""
    for name, off in {"VREx": "vrex_lambda", "Fishr": "lambda", "RDM": "rdm_lambda", "TRM": "cos_lambda"}.items():
        golden = GOLDEN[name]["mlp"]
        predictions = trajectories.trajectory(name, "mlp", golden["hparams"] | {off: 0.0})
        assert np.abs(np.array(predictions) - golden["predictions"]).max() > 1e-3, name


def make(name, num_domains=3, **overrides):
    torch.manual_seed(0)
    hparams = default_hparams(name, "StyledDigits") | {"backbone": "mlp"} | trajectories.COMMON | overrides
    return ALGORITHMS.load(name)(trajectories.INPUT_SHAPES["mlp"], trajectories.NUM_CLASSES, num_domains, hparams)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("IRM", {"irm_penalty_anneal_iters": 2}),
        ("GroupDRO", {"groupdro_eta": 5.0}),
        ("Fishr", {"penalty_anneal_iters": 2}),
        ("TRM", {"iters": 2, "cos_lambda": 1.0}),
    ],
)
def test_what_an_objective_remembers_is_saved_with_the_model(name, overrides):
    """Two updates, saved and loaded into another with other weights: both then make the same third update."""
    first = make(name, **overrides)
    for step in range(2):
        first.update(trajectories.minibatches("mlp", step))
    second = make(name, **overrides)
    second.load_state_dict(first.state_dict())
    # Adam's moments are not part of a saved model; both start afresh.
    first.optimizer = first.adam(first.network.parameters())
    for model in (first, second):
        model.update(trajectories.minibatches("mlp", 2))
    for name_, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name_]), name_


@pytest.mark.parametrize("name", list(GOLDEN))
def test_one_training_domain_works_or_is_refused_beforehand(name):
    """Leave-one-domain-out selection on three domains trains on one."""
    if ALGORITHMS.load(name).min_domains > 1:
        return
    model = make(name, num_domains=1)
    before = [p.clone() for p in model.network.parameters()]
    values = model.update(trajectories.minibatches("mlp", 0, num_domains=1))
    assert np.isfinite(list(values.values())).all()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))
