"""Layers whose result depends on the whole batch, for processes that hold a part of it each.

The global random generators of all processes are in the same state. Every process draws a mask over the images of the
whole batch and takes its own part; so the mask is the one that a single process draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.drop import DropPath, drop_path
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import GlobalBatch
from sfmoe_dg.models.moe.layers import FFNExperts, MoE
from sfmoe_dg.models.moe.routers import full_precision


class WholeDropout(nn.Dropout):
    """Dropout on ``[B, ...]`` with the mask that one process would draw."""

    batch: GlobalBatch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * self.batch.take(F.dropout(x.new_ones(self.batch.whole_shape(x.shape)), self.p))


class WholeDropPath(DropPath):
    """timm's stochastic depth on ``[B, ...]`` with the mask that one process would draw."""

    batch: GlobalBatch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        images = x.new_ones(self.batch.whole_shape((len(x), *[1] * (x.dim() - 1))))
        return x * self.batch.take(drop_path(images, self.drop_prob, True, self.scale_by_keep))


class RowDropout(nn.Dropout):
    """Dropout on rows sorted by expert, with a mask of this process's own.

    The order of rows differs between one process and several, so the masks differ too; their distribution is the same.
    """

    batch: GlobalBatch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        # One number is taken from the global generator, however many rows there are, so that it stays alike in all
        # processes.
        seed = int(torch.randint(2**62, ())) + self.batch.world.rank
        generator = torch.Generator(x.device).manual_seed(seed)
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=generator) / (1 - self.p)


class WholeBatchNorm(_BatchNorm):
    """Batch norm by the statistics of the whole batch; in evaluation torch's own.

    torch's ``SyncBatchNorm`` does the same on CUDA only.
    """

    batch: GlobalBatch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        count = self.batch.world.size * x.numel() // x.shape[1]
        wide = full_precision(x)
        mean = _Sum.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, input: Tensor) -> None: ...


class _Sum(Function):
    """The sum over processes. Every process uses it for its own rows, so the gradients are summed too."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


_REPLACEMENTS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: WholeDropout,
    DropPath: WholeDropPath,
    nn.BatchNorm1d: WholeBatchNorm,
    nn.BatchNorm2d: WholeBatchNorm,
}


def share_layers(module: nn.Module, batch: GlobalBatch) -> None:
    """Let every layer of ``module`` whose result depends on the batch use all processes' parts of it, in training.

    Weights, names and hooks do not change.

    Raises:
        UserError: for a batch norm that is not one of torch's own.
    """
    for layer in module.modules():
        if isinstance(layer, MoE):
            layer.batch = batch
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            kind = _REPLACEMENTS.get(type(child))
            if isinstance(parent, FFNExperts) and kind is WholeDropout:
                kind = RowDropout
            if kind is not None:
                setattr(parent, name, _turned_into(kind, child, batch))
            elif isinstance(child, _BatchNorm) and not isinstance(child, WholeBatchNorm):
                raise UserError(
                    f"{type(child).__name__} cannot share its statistics between processes; choose another backbone"
                )


def _turned_into(kind: type[nn.Module], layer: nn.Module, batch: GlobalBatch) -> nn.Module:
    """The layer as one of another class, with the same attributes."""
    turned = kind.__new__(kind)
    turned.__dict__.update(layer.__dict__)
    turned.__dict__["batch"] = batch
    return turned
