"""One update shared by several processes: which weights each process holds, and how gradients are combined.

| mode | weights in a process | gradients |
|---|---|---|
| ddp | all | averaged by torch's ``DistributedDataParallel`` |
| fsdp | a part of every weight, gathered block by block | averaged and divided by torch's ``fully_shard`` (FSDP2) |
| expert | some experts of every MoE layer, all other weights | as ddp; an expert's is complete in its process |

``docs/distributed.md`` says which results are equal to those of one process. Saved states are those of one process in
every mode.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.optimisation import clip_gradients, optimizers
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import GlobalBatch, World
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.expert_parallel import ExpertExchange, held_experts
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.whole_batch import share_layers
from sfmoe_dg.training.sharing.gather_states import Weights, is_part, mark_as_part


@dataclass(frozen=True)
class ParallelUpdate:
    """The value of ``algorithm.parallel`` while several processes share its updates.

    Attributes:
        passes: ``ERM.run_passes`` as a module.
        domains: where this process's rows belong in the minibatches of all domains.
        weights: converts this process's weights to those of a single process.
    """

    world: World
    mode: str
    passes: nn.Module
    domains: GlobalBatch
    weights: Weights

    def run(self, images: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See :class:`sfmoe_dg.algorithms.base.Parallel`."""
        return self.passes(*images)

    def gather_all(self, forward: Forward) -> Forward:
        """See :class:`sfmoe_dg.algorithms.base.Parallel`."""
        return replace(
            forward,
            features=self._gather(forward.features),
            logits=self._gather(forward.logits),
            labels=self._gather(forward.labels),
        )

    def _gather(self, of_domains: list[Tensor]) -> list[Tensor]:
        return list(self.domains.gather(torch.cat(of_domains)).chunk(len(of_domains)))

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`sfmoe_dg.algorithms.base.Parallel`."""
        self.weights.make_optimizer_states_whole(optimizer)

    def clip_gradients(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """See :class:`sfmoe_dg.algorithms.base.Parallel`."""
        if self.mode != "expert":
            return clip_gradients(optimizer, max_norm)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        squares = {True: torch.zeros(()), False: torch.zeros(())}
        for p in parameters:
            norm = torch.linalg.vector_norm(p.grad)
            squares[is_part(p)] = squares[is_part(p)].to(norm.device) + norm.square()
        elsewhere = squares[True].to(parameters[0].device)
        dist.all_reduce(elsewhere)
        total = (squares[False] + elsewhere).sqrt()
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        return None


class _Passes(nn.Module):
    """The forward passes of one update as a module, since torch's data parallelism wraps modules."""

    def __init__(self, algorithm: ERM) -> None:
        super().__init__()
        self.network = algorithm.network
        self._run = algorithm.run_passes

    def forward(self, *images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return self._run(list(images))


def share_updates(algorithm: Any, world: World, mode: str = "ddp") -> None:
    """Let the processes of ``world`` share the updates of an algorithm that each of them has built alike.

    Every process calls ``update`` with its share of the minibatches
    (:func:`~sfmoe_dg.foundation.processes.share_of`). What it returns, and the weights after it, are those of a single
    process with the whole minibatches.

    Raises:
        UserError: if the algorithm or its backbone cannot be shared in this mode.
    """
    _check(algorithm, world, mode)
    share_layers(algorithm.featurizer, GlobalBatch(world, algorithm.num_domains if algorithm.one_pass else 1))
    before = dict(algorithm.named_parameters())
    if mode == "fsdp":
        _shard_weights(algorithm, world)
    elif mode == "expert":
        _keep_own_experts(algorithm, world)
    moved = {id(before[name]): parameter for name, parameter in algorithm.named_parameters()}
    passes: nn.Module = _Passes(algorithm)
    if mode != "fsdp":
        elsewhere = [name for name, parameter in passes.named_parameters() if is_part(parameter)]
        # Their gradients are not to be averaged; torch has no public way to say so.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(passes, elsewhere)
        passes = DistributedDataParallel(passes, gradient_as_bucket_view=True, **_buffers_stay())
    domains, weights = GlobalBatch(world, algorithm.num_domains), Weights(world)
    algorithm.parallel = ParallelUpdate(world, mode, passes, domains, weights)
    weights.make_states_whole(algorithm)
    for optimizer in optimizers(algorithm):
        for group in optimizer.param_groups:
            group["params"] = [moved[id(p)] for p in group["params"]]
        weights.make_optimizer_states_whole(optimizer)


def _buffers_stay() -> dict[str, Any]:
    """An argument against sending buffers, since all processes compute the same ones. torch has renamed it."""
    known = inspect.signature(DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _check(algorithm: Any, world: World, mode: str) -> None:
    if mode not in PARALLEL_MODES:
        raise unknown("way to share a run", mode, PARALLEL_MODES)
    name = type(algorithm).__name__
    if mode not in algorithm.parallel_modes:
        reason = "its update runs the network several times, or draws at random across the images of all processes"
        if algorithm.parallel_modes:
            reason = f"it can be shared with {' or '.join(algorithm.parallel_modes)}"
        raise UserError(
            f"several processes cannot share an update of {name} with parallel {mode}: {reason}", "parallel"
        )
    if mode != "ddp" and algorithm.precision.scaler.is_enabled():
        raise UserError(f"precision fp16 does not go with parallel {mode}; use bf16", "precision", "parallel")
    layers = moe_layers(algorithm)
    for layer_name, layer in layers:
        if reason := layer.why_not_shared(mode):
            raise UserError(f"several processes cannot share {layer_name} with parallel {mode}: {reason}", "parallel")
        if mode == "expert" and layer.options.num_experts < world.size:
            raise UserError(
                f"{layer.options.num_experts} experts cannot be divided among {world.size} processes; start at most "
                f"{layer.options.num_experts}, or set parallel to ddp",
                "parallel",
            )
    if mode == "expert" and not layers:
        raise UserError("parallel expert needs a mixture-of-experts backbone; use ddp", "parallel")


def _shard_weights(algorithm: ERM, world: World) -> None:
    mesh = init_device_mesh(next(algorithm.parameters()).device.type, (world.size,))
    for block in getattr(algorithm.featurizer.network, "blocks", ()):
        fully_shard(block, mesh=mesh)
        if hasattr(block, "forward_routed"):
            register_fsdp_forward_method(block, "forward_routed")
    for module in (algorithm.featurizer, algorithm.classifier):
        # By default a root keeps its gathered weights after a forward pass; states are read after an evaluation, and
        # want this process's part.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(algorithm.featurizer, "forward_with_losses")


def _keep_own_experts(algorithm: ERM, world: World) -> None:
    for _, layer in moe_layers(algorithm):
        mine = held_experts(layer.options.num_experts, world)[world.rank]
        for module in layer.experts.modules():
            for name, stack in list(module.named_parameters(recurse=False)):
                own = nn.Parameter(stack.detach()[mine.start : mine.stop].clone(), stack.requires_grad)
                mark_as_part(own, len(stack), mine)
                setattr(module, name, own)
                if own.requires_grad:
                    # The rows of all processes are here. Their gradients are scaled for an average over processes.
                    own.register_hook(partial(torch.mul, other=1 / world.size))
        layer.exchange = ExpertExchange(world, layer.options.num_experts)
