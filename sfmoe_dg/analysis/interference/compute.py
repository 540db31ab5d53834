"""Domain interference: how a step for one domain changes the loss of another, layer by layer.

Source: Uni-Perceiver-MoE (arXiv 2206.04674), task interference, with the training domains as tasks:

    D_j L_i = L_i(θ) - L_i(θ - s · g_j / ‖g_j‖)        how much a step of length s for domain j lowers i's loss
    I_ij    = mean over batches of D_j L_i / D_i L_i    relative to i's own step

Rows i are affected, columns j do the updating. The diagonal is 1; negative values are harm. Only one layer's weights
change, and g_j is the gradient of L_j by these weights. To first order in s, D_j L_i = s · g_i·g_j / ‖g_j‖, so the
gradient form of I_ij is the cosine of two domains' gradients. It is symmetric; the finite-step form is not. Rescaling a
domain's loss changes neither. Gradients are of single batches, whose noise lowers the cosine: compare models at the
same batch size.

Legend: I training domains, J batches, P parameters of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Algorithm, Minibatches
from sfmoe_dg.analysis.subject.predicting import evaluating, predicting_featurizer
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import Featurizer

Loss = Callable[[Algorithm, int, Tensor, Tensor], Tensor]
"""The loss of an algorithm on images ``x`` and classes ``y`` of training domain ``env``, a scalar."""

ALL_LAYERS = "all"
FORMS = ("gradient", "step")


def domain_loss(algorithm: Algorithm, env: int, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the algorithm's prediction.

    Networks that route by domain (conditional MoE) get the domain, as in training. Methods that draw noise when they
    predict (MTL) draw the same noise at every call; different noise would hide the effect of a small step.
    """
    known = {"domains": torch.full((len(x),), env, device=x.device)}
    hooks = [
        module.register_forward_pre_hook(lambda m, args, kwargs: (args, {**kwargs, **known}), with_kwargs=True)
        for module in algorithm.modules()
        if getattr(module, "uses_domains", False) and not isinstance(module, Featurizer)
    ]
    try:
        own = [] if x.device.type == "cpu" else [x.device]
        with torch.random.fork_rng(own, device_type=x.device.type):
            torch.manual_seed(env)
            return F.cross_entropy(algorithm.predict(x), y)
    finally:
        for hook in hooks:
            hook.remove()


def layer_of(name: str) -> str:
    """The layer that a parameter of a backbone belongs to: ``blocks.3``, ``layer2.0``, ``shared.0``, ``cls_token``."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def part_of_layer(name: str) -> str:
    """One level finer: ``blocks.3.attn``, ``blocks.3.mlp.experts``, ``blocks.3.mlp.router``; norms as they are."""
    parts = name.split(".")
    depth = 3 if len(parts) > 2 and parts[1].isdigit() else 1
    return ".".join(parts[: depth + 1] if any(p in ("experts", "router") for p in parts) else parts[:depth])


def layers_of(
    algorithm: Algorithm, x: Tensor, grouping: Callable[[str], str] = layer_of
) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by layer of the backbone that predicts, in its order; the last entry holds all of them.

    Parameters outside that backbone are under ``classifier``, those of networks that do not predict too. ``x`` is any
    batch.
    """
    backbone = predicting_featurizer(algorithm, x).network
    inside = {id(p): grouping(name) for name, p in backbone.named_parameters()}
    layers: dict[str, list[nn.Parameter]] = {}
    for parameter in (p for p in [*backbone.parameters(), *algorithm.parameters()] if p.requires_grad):
        layers.setdefault(inside.get(id(parameter), "classifier"), []).append(parameter)
    unique = {name: list({id(p): p for p in members}.values()) for name, members in layers.items()}
    return {**unique, ALL_LAYERS: [p for members in unique.values() for p in members]}


def domain_interference(
    algorithm: Algorithm,
    batches: Iterable[Minibatches],
    *,
    form: str = "gradient",
    step: float = 1e-3,
    grouping: Callable[[str], str] = layer_of,
    loss: Loss = domain_loss,
) -> pd.DataFrame:
    """The interference matrix of every layer, and of all weights together (``all``), in evaluation mode.

    Args:
        batches: what the training loader yields: per batch one (x, y) for every training domain.
        form: "gradient" needs one backward pass per domain and batch; "step" also domains² · layers forward passes.
        step: length of the finite step of one layer's weights.
        grouping: function from a parameter's name in the backbone to the name of its layer.
        loss: the loss of one domain.

    Returns:
        columns ``layer``, ``affected``, ``updating`` (positions of training domains), ``interference`` (mean over
        batches), ``stderr``, ``batches`` (number that count). A batch does not count for a pair if a domain has no
        gradient in that layer, or, in the step form, if its own step lowers its loss by no more than rounding (in
        float32 a step below 1e-3 is too short for small layers). Layers that no loss depends on, such as a
        discriminator, are left out.

    Raises:
        UserError: on an unknown form, a step that is not above 0, or no batch.
    """
    if form not in FORMS:
        raise UserError(f"form of interference is {form!r}; allowed: {', '.join(FORMS)}")
    if not step > 0:
        raise UserError(f"the step is {step}; it must be above 0")
    matrices: list[dict[str, np.ndarray]] = []
    layers: dict[str, list[nn.Parameter]] = {}
    for minibatches in batches:
        with evaluating(algorithm), _average_differentiable(algorithm, minibatches[0][0]):
            layers = layers or layers_of(algorithm, minibatches[0][0], grouping)
            gradients = _gradients(algorithm, minibatches, layers, loss)
            if form == "gradient":
                matrices.append({layer: cosines(used.rows_IP) for layer, used in gradients.items()})
            else:
                matrices.append(_by_steps(algorithm, minibatches, gradients, loss, step))
    if not matrices:
        raise UserError("there is no batch to measure interference on")
    return _table(matrices)


class _Gradients(NamedTuple):
    """Parameters of a layer that some domain's loss depends on, and every domain's gradient by them, [I, P]."""

    parameters: list[nn.Parameter]
    rows_IP: Tensor


@contextmanager
def _average_differentiable(algorithm: Algorithm, x: Tensor) -> Iterator[None]:
    """Enable gradients of an averaged, frozen network inside this block; other algorithms stay as they are."""
    frozen = [p for p in algorithm.parameters() if not p.requires_grad]
    averaged = not any(p.requires_grad for p in predicting_featurizer(algorithm, x).parameters())
    for parameter in frozen if averaged else ():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _gradients(
    algorithm: Algorithm, minibatches: Minibatches, layers: Mapping[str, list[nn.Parameter]], loss: Loss
) -> dict[str, _Gradients]:
    """Per layer the gradients [I, P] of the domains' losses. Gradients within rounding error are set to zero.

    An example is the router of experts that are still identical: its exact gradient is zero.
    """
    parameters = layers[ALL_LAYERS]
    rows = []
    for env, (x, y) in enumerate(minibatches):
        got = torch.autograd.grad(loss(algorithm, env, x, y), parameters, allow_unused=True)
        rows.append({id(p): g for p, g in zip(parameters, got, strict=True)})
    whole_I = torch.stack([torch.stack([g.norm() for g in row.values() if g is not None]).norm() for row in rows])
    result = {}
    for name, members in layers.items():
        used = [p for p in members if any(row[id(p)] is not None for row in rows)]
        if used:
            g_IP = torch.stack([torch.cat([_flat(row[id(p)], p) for p in used]) for row in rows])
            is_rounding_I = g_IP.norm(dim=1) <= 10 * torch.finfo(g_IP.dtype).eps * whole_I
            result[name] = _Gradients(used, g_IP.masked_fill(is_rounding_I[:, None], 0.0))
    return result


def _flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()


def cosines(gradients_IP: Tensor) -> np.ndarray:
    """The gradient form of interference, float64 [I, I]: cosines of gradients; NaN for a gradient that is zero."""
    g_IP = (gradients_IP.cpu() if gradients_IP.device.type == "mps" else gradients_IP).double()  # MPS has no float64
    norms_I = g_IP.norm(dim=1)
    matrix = (g_IP @ g_IP.T / (norms_I[:, None] * norms_I)).cpu().numpy()
    matrix[np.diag_indices_from(matrix)] = np.where(norms_I.cpu().numpy() > 0, 1.0, np.nan)
    return matrix


@torch.no_grad()
def _by_steps(
    algorithm: Algorithm,
    minibatches: Minibatches,
    gradients: Mapping[str, _Gradients],
    loss: Loss,
    step: float,
) -> dict[str, np.ndarray]:
    """The finite-step form, per layer float64 [I, I]. Every weight is restored bit for bit."""

    def losses() -> np.ndarray:
        return np.array([loss(algorithm, i, x, y).item() for i, (x, y) in enumerate(minibatches)])

    before = losses()
    dtype = next(iter(gradients.values())).rows_IP.dtype
    rounding = 10 * torch.finfo(dtype).eps * np.abs(before)[:, None]
    matrices = {}
    for name, (members, g_IP) in gradients.items():
        kept = [p.clone() for p in members]
        lowered = np.full((len(g_IP), len(g_IP)), np.nan)
        for j, g_P in enumerate(g_IP):
            norm = g_P.norm()
            if norm > 0:
                parts = (g_P * (-step / norm)).split([p.numel() for p in members])
                for parameter, start, part in zip(members, kept, parts, strict=True):
                    parameter.copy_(start + part.view_as(start))
                lowered[:, j] = before - losses()
        for parameter, start in zip(members, kept, strict=True):
            parameter.copy_(start)
        own = np.diag(lowered)[:, None]
        counts = own > rounding
        matrices[name] = np.where(counts, lowered / np.where(counts, own, 1.0), np.nan)
    return matrices


def _table(matrices: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    """The table of :func:`domain_interference` from the matrices of every batch by layer."""
    rows: list[dict[str, Any]] = []
    for layer in dict.fromkeys(name for of_batch in matrices for name in of_batch):
        stack = np.stack([of_batch[layer] for of_batch in matrices if layer in of_batch])
        for i, j in np.ndindex(*stack.shape[1:]):
            values = stack[:, i, j]
            values = values[~np.isnan(values)]
            count = len(values)
            rows.append(
                {
                    "layer": layer,
                    "affected": i,
                    "updating": j,
                    "interference": values.mean() if count else np.nan,
                    "stderr": values.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan,
                    "batches": count,
                }
            )
    return pd.DataFrame(rows)


def matrix(table: pd.DataFrame, layer: str = ALL_LAYERS) -> np.ndarray:
    """One layer's matrix [I, I] of a table that :func:`domain_interference` returned.

    Raises:
        UserError: on an unknown layer.
    """
    rows = table[table["layer"] == layer]
    if rows.empty:
        raise UserError(f"no layer {layer!r}; this table has {', '.join(table['layer'].unique())}")
    return rows.pivot(index="affected", columns="updating", values="interference").to_numpy()


def mean_off_diagonal(table: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, for curves over depth: columns ``layer``, ``interference``, ``harmful``.

    ``interference`` is the mean over ordered pairs of different domains, ``harmful`` the share of pairs below 0.
    """
    others = table[table["affected"] != table["updating"]].dropna(subset="interference")
    grouped = others.groupby("layer", sort=False)["interference"]
    return pd.DataFrame(
        {"interference": grouped.mean(), "harmful": grouped.apply(lambda values: float((values < 0).mean()))}
    ).reset_index()
