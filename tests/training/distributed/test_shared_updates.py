"""Several processes compute the same losses, logits and gradients as one. Other combinations are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import on_processes
from runs import Case, alone, assert_same, build, train_all
from tiny_twins import PRESETS

from sfmoe_dg.algorithms.base import PARALLEL_MODES
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import World
from sfmoe_dg.training.sharing.shared_updates import share_updates

SF_MOE = {"backbone": "sf_moe_tiny_32"}
V_MOE = {"backbone": "v_moe_tiny_32", "allocation": "batch_priority", "capacity_ratio": 1.0}


def compare(size: int, cases: list[Case], tolerance: float) -> None:
    """Compare with one process, up to ``tolerance``; single precision reaches 1e-5 at best."""
    results = on_processes(size, train_all, cases)
    for i, case in enumerate(cases):
        one = alone(case)
        for outcomes in results:
            assert_same(outcomes[i], one, tolerance if case.dtype == torch.float64 else max(tolerance, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_gradients_are_those_of_one_process(size: int):
    """In double precision, so that a wrong factor, which Adam would hide, or a lost term cannot pass as rounding."""
    double: Any = {"steps": 1, "dtype": torch.float64, "record_gradients": True}
    cases = [
        Case(algorithm, mode, hparams, **double)
        for mode in PARALLEL_MODES
        for algorithm, hparams in (("ERM", SF_MOE), ("CORAL", V_MOE))
    ]
    compare(size, cases, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("mode", PARALLEL_MODES)
def test_ten_steps_are_those_of_one_process(size: int, mode: str):
    """In double precision: in single, some processors round a token to another expert, and all after it differs."""
    masks = {"drop_path": 0.2, "vit_dropout": 0.1, "grad_clip": 0.5}
    trained = (("ERM", SF_MOE), ("CORAL", V_MOE), ("ERM", SF_MOE | masks))
    compare(size, [Case(name, mode, hparams, dtype=torch.float64) for name, hparams in trained], 1e-8)


OBJECTIVES = sorted(n for n in ALGORITHMS if n not in PRESETS and ALGORITHMS.load(n).parallel_modes)
"""Every algorithm that says it can be shared; the architectures are ERM."""
ONSETS = (
    "irm_penalty_anneal_iters",
    "vrex_penalty_anneal_iters",
    "ib_penalty_anneal_iters",
    "eqrm_burnin_iters",
    "rdm_penalty_anneal_iters",
    "penalty_anneal_iters",
    "sma_start_iter",
)
"""Hyper-parameters that say when something sets in; in the test it is after three updates."""


def early(name: str) -> dict[str, Any]:
    """Make everything that starts after a number of updates start after three."""
    defaults = default_hparams(name, "StyledDigits")
    return {key: type(value)(3) for key, value in defaults.items() if key.endswith(("_iters", "_iter"))}


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_every_objective_that_says_so_can_be_shared(half: int):
    cases = []
    for i, name in enumerate(OBJECTIVES):
        modes = ALGORITHMS.load(name).parallel_modes
        if i % 2 == half:
            hparams = {"batch_size": 4, **SF_MOE, **early(name)}
            # Fishr takes its variances in single precision, whatever the network computes in.
            dtype = torch.float32 if name == "Fishr" else torch.float64
            cases.append(Case(name, modes[i // 2 % len(modes)], hparams, dtype=dtype))
    assert len(cases) > 5
    compare(2, cases, 1e-7)


@pytest.mark.slow
def test_every_architecture_can_be_shared():
    """Noise, masks over images and batch norm are those of the whole batch."""
    by_token = {"backbone": "cond_moe_tiny_32", "routing_level": "token"}
    wide, hybrid = {"backbone": "wide_net_tiny_32"}, {"backbone": "hybrid_sf_moe_tiny_32", "drop_path": 0.1}
    resnet = {"backbone": "resnet18", "pretrained": False, "freeze_bn": False, "resnet_dropout": 0.2}
    shared = [("ddp", by_token), ("fsdp", by_token), ("ddp", resnet)]
    shared += [(mode, backbone) for mode in PARALLEL_MODES for backbone in (wide, hybrid)]
    cases = [Case("ERM", mode, {"batch_size": 4, **b}, steps=3, dtype=torch.float64) for mode, b in shared]
    compare(2, cases, 1e-7)


def test_a_changed_update_has_to_say_that_it_can_be_shared():
    class Changed(ERM):
        def objective(self, forward: Any) -> Any:
            return super().objective(forward)

    class Told(Changed):
        parallel_modes = ("ddp",)

        def objective(self, forward: Any) -> Any:
            return super().objective(forward)

    class Inherits(Told):
        pass

    assert ERM.parallel_modes == PARALLEL_MODES
    assert (Changed.parallel_modes, Told.parallel_modes, Inherits.parallel_modes) == ((), ("ddp",), ("ddp",))


def refused(case: Case, size: int = 2, precision: str = "fp32") -> str:
    algorithm, _ = build(case, World())
    algorithm.precision = Precision(precision)
    with pytest.raises(UserError) as error:
        share_updates(algorithm, World(0, size), case.mode)
    return str(error.value)


def test_what_cannot_be_shared_is_refused_with_a_reason():
    assert "Fish with parallel ddp: its update runs the network several times" in refused(Case("Fish"))
    assert "can be shared with ddp" in refused(Case("SMA", "fsdp"))
    assert "use bf16" in refused(Case("ERM", "expert", SF_MOE), precision="fp16")
    assert "6 experts cannot be divided among 7 processes" in refused(Case("ERM", "expert", SF_MOE), size=7)
    assert "needs a mixture-of-experts backbone" in refused(Case("ERM", "expert", {"backbone": "vit_tiny_32"}))
    conditional = {"backbone": "cond_moe_tiny_32", "routing_level": "token"}
    assert "conditional mixture of experts" in refused(Case("ERM", "expert", conditional))
    assert "unknown way to share a run 'dpp': did you mean ddp" in refused(Case("ERM", "dpp"))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"8 images per domain .* 3 processes; .* multiple of 3"):
        build(Case(), World(0, 3))
