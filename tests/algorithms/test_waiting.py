"""No update waits for the device, except for the listed ones that must.

The tests need no GPU. They run on the ``meta`` device, whose tensors have shapes and no values: reading a value raises,
and copies between it and the CPU are recorded. The split of tokens among experts cannot be tested this way, because
``Groups.bounds`` has a substitute on ``meta``. On CUDA, bf16 does not need it (``grouped_linear``).
"""

import sys

import pytest
import torch
from tiny_twins import PRESETS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams

CLASSES, DOMAINS, BATCH = 5, 3, 4

READS = [name for name in ALGORITHMS if ALGORITHMS.load(name).waits_for_device]
"""Objectives that look at numbers of their batch in every update, as upstream's do."""

DRAWS = [name for name in ALGORITHMS if hasattr(sys.modules[ALGORITHMS.load(name).__module__], "from_host")]
"""Objectives that draw on the CPU, like upstream, and send what they drew."""

OWN_BACKBONES = {
    name: default_hparams(name, "StyledDigits")["backbone"]
    for name in ALGORITHMS
    if default_hparams(name, "StyledDigits")["backbone"] != "auto"
}
"""Algorithms that are defined by a backbone, and its small form."""

EARLY = {key for name in ALGORITHMS for key in default_hparams(name, "PACS") if key.endswith("iters")} | {
    "linear_steps"
}
"""Hyper-parameters that give the number of updates before something starts."""


def small_backbone(name):
    """The network for an algorithm: its own, or a small dense ViT, or a ResNet if the algorithm refuses ViTs."""
    refuses_vit = "refuses transformers" in ALGORITHMS.load(name).needs
    return OWN_BACKBONES.get(name, "test_resnet" if refuses_vit else "vit_tiny_32")


class Copies(TorchDispatchMode):
    """Records operations between devices. 0-dimensional CPU tensors do not count: kernels take them as numbers."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors if t.dim() or t.is_meta}) > 1:
            self.found.add(str(func))
        return result


def on_meta(name, backbone, **overrides):
    """An algorithm on ``meta`` whose penalties start with the second update."""
    table = default_hparams(name, "PACS")
    hparams = table | {"backbone": backbone, "pretrained": False, "batch_size": BATCH}
    hparams |= {key: 1 for key in EARLY if key in table} | overrides
    algorithm = ALGORITHMS.load(name)((3, 32, 32), CLASSES, DOMAINS, hparams)
    before = dict(algorithm.named_parameters(remove_duplicate=False))
    algorithm.to("meta")
    moved = {id(before[key]): p for key, p in algorithm.named_parameters(remove_duplicate=False)}
    for optimizer in vars(algorithm).values():
        if isinstance(optimizer, torch.optim.Optimizer):
            for group in optimizer.param_groups:
                # Unlike CUDA, meta makes new parameters.
                group["params"] = [moved[id(p)] for p in group["params"]]
    return algorithm


def three_updates(algorithm):
    batch = [
        (torch.randn(BATCH, 3, 32, 32, device="meta"), torch.zeros(BATCH, dtype=torch.int64, device="meta"))
        for _ in range(DOMAINS)
    ]
    with Copies() as copies:
        for step in range(3):
            algorithm.schedule(step, 3)
            values = algorithm.update(batch)
    return copies.found, values


def test_this_would_notice():
    """Reading a value raises, and a tensor that is sent is seen."""
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros((), device="meta").item()
    with Copies() as copies:
        torch.zeros(3).to("meta")
    assert copies.found


@pytest.mark.parametrize("backbone", ["test_resnet", "vit_tiny_32", "sf_moe_tiny_32"])
def test_erm_leaves_everything_on_the_device(backbone):
    algorithm = on_meta("ERM", backbone)
    copies, values = three_updates(algorithm)
    assert not copies
    assert values
    assert all(value.is_meta and not value.requires_grad for value in values.values())
    assert all(state["exp_avg"].is_meta for state in algorithm.optimizer.state.values())


@pytest.mark.parametrize("name", list(PRESETS))
def test_no_architecture_waits(name):
    limited = {"capacity_ratio": 1.05} if name in ("VMoE", "GMoE") else {}
    assert not three_updates(on_meta(name, PRESETS[name], **limited))[0]


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in READS])
def test_no_objective_waits_but_those_that_must(name):
    # The fewest operations: Python computes the shapes of each.
    copies, _ = three_updates(on_meta(name, OWN_BACKBONES.get(name, "mnist_cnn")))
    assert copies <= ({"aten._to_copy.default"} if name in DRAWS else set())


@pytest.mark.parametrize("name", READS)
def test_those_that_must_are_the_ones_named(name):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)meta"):
        three_updates(on_meta(name, "vit_tiny_32"))


def test_counters_stay_where_looking_is_free():
    for name, path in (("IRM", "update_count"), ("DANN", "update_count"), ("SWAD", "averaged")):
        algorithm = on_meta(name, "vit_tiny_32")
        assert algorithm.get_buffer(path).device.type == "cpu"
        assert path in algorithm.state_dict()
    assert on_meta("SMA", "vit_tiny_32").average.num_updates.device.type == "cpu"
