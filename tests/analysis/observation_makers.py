"""Make observations by hand or at random, without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfmoe_dg.analysis.subject.annotations import Annotations, no_annotations
from sfmoe_dg.analysis.subject.observations import LayerRouting, Observations

LAYER = "blocks.0.mlp"


def routing(experts, gates=None, num_experts: int = 3) -> LayerRouting:
    """Make a routing from lists of shape [N, S, K]."""
    experts = np.array(experts, dtype=np.uint8)
    gates = np.full(experts.shape, 0.5) if gates is None else np.array(gates)
    return LayerRouting(num_experts, experts, gates.astype(np.float16), gates > 0)


def observations(
    layer: LayerRouting,
    grid=(1, 2),
    domain=None,
    label=None,
    identity=None,
    annotations: Annotations | None = None,
    domain_names=("chalk", "ink"),
    seen=(True, False),
) -> Observations:
    """Observations of one layer. Values that are not given are zeros, and objects are unknown."""
    count = len(layer.experts)
    label = np.zeros(count, np.int64) if label is None else np.array(label)
    return Observations(
        domain_names=tuple(domain_names),
        seen=np.array(seen),
        class_names=tuple("abcdefghij"),
        domain=np.zeros(count, np.int64) if domain is None else np.array(domain),
        index=np.arange(count),
        split=np.full(count, "out"),
        label=label,
        predicted=label,
        identity=np.full(count, -1) if identity is None else np.array(identity),
        grid=grid,
        prefix=layer.experts.shape[1] - grid[0] * grid[1],
        layers={LAYER: layer},
        annotations=no_annotations(count) if annotations is None else annotations,
    )


def attributed(attributes, names=None) -> Annotations:
    attributes = np.array(attributes, dtype=np.float32)
    names = [f"a{i}" for i in range(attributes.shape[1])] if names is None else names
    return replace(no_annotations(len(attributes)), attribute_names=tuple(names), attributes=attributes)


def located(parts, names) -> Annotations:
    return replace(no_annotations(len(parts)), part_names=tuple(names), parts=np.array(parts, dtype=np.float32))


def random_observations(seed: int, count: int = 12, grid=(3, 3), num_experts: int = 4, attributes: int = 3):
    """Random observations: two domains, three classes, a class token, two parts, objects seen in both domains."""
    random = np.random.default_rng(seed)
    tokens = grid[0] * grid[1] + 1
    experts = random.random((count, tokens, num_experts)).argsort(-1)[..., :2]
    gates = random.random((count, tokens, 2))
    parts = random.random((count, 2, 3))
    parts[..., 2] = parts[..., 2] < 0.8
    notes = Annotations(
        ("head", "tail"),
        parts.astype(np.float32),
        tuple(f"a{i}" for i in range(attributes)),
        random.integers(2, size=(count, attributes)).astype(np.float32),
    )
    return observations(
        routing(experts, gates, num_experts),
        grid=grid,
        domain=np.arange(count) % 2,
        label=random.integers(3, size=count),
        identity=np.arange(count) // 2,
        annotations=notes,
    )


def renamed(found: Observations, order) -> Observations:
    """The observations with expert e renamed to ``order[e]``."""
    order = np.array(order, dtype=np.uint8)
    layers = {name: replace(layer, experts=order[layer.experts]) for name, layer in found.layers.items()}
    return replace(found, layers=layers)
