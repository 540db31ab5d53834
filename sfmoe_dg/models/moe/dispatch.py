"""Sort tokens by expert, multiply every expert's rows by its own matrix, and put the rows back in token order.

Legend: T tokens, K choices, R = T·K rows (one per assignment), E experts, D and F widths.

All functions here can be differentiated any number of times, which gradient penalties need. No backward uses a
scatter-add, whose sum depends on the order: the gradient of a gather along a permutation is a gather along its inverse.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


class Groups:
    """Which rows belong to which expert: rows sorted by expert, ties in token order, dropped assignments last.

    Attributes:
        order_R: row → assignment (token · K + choice).    inverse_R: assignment → row.
        experts_R: row → expert, E for dropped assignments.    ends_E: int32, where each expert's rows end.
        any_dropped: False where nothing can be dropped.
    """

    def __init__(self, experts_TK: Tensor, kept_TK: Tensor | None, num_experts: int) -> None:
        self.num_tokens, self.top_k = experts_TK.shape
        self.num_experts = num_experts
        self.any_dropped = kept_TK is not None
        chosen = experts_TK if kept_TK is None else experts_TK.where(kept_TK, num_experts)
        self.experts_R, self.order_R = torch.sort(chosen.reshape(-1), stable=True)
        rows = torch.arange(len(self.order_R), device=chosen.device)
        self.inverse_R = torch.empty_like(self.order_R).scatter_(0, self.order_R, rows)
        ids_E = torch.arange(num_experts, device=chosen.device)
        self.ends_E = torch.searchsorted(self.experts_R, ids_E, right=True, out_int32=True)
        self._bounds: list[int] | None = None

    def bounds(self) -> list[int]:
        """``ends_E`` on the host (a synchronisation on CUDA). On ``meta``, which has no values, rows are even."""
        if self._bounds is None:
            if self.ends_E.is_meta:
                rows = len(self.order_R)
                self._bounds = [(e + 1) * rows // self.num_experts for e in range(self.num_experts)]
            else:
                self._bounds = self.ends_E.tolist()
        return self._bounds

    def gather(self, x_TD: Tensor) -> Tensor:
        """``[T, D]`` → one row per assignment, sorted by expert, ``[R, D]``; rows of dropped assignments are zero."""
        x_RD = _Take.apply(x_TD, self.order_R, self.inverse_R, self.top_k)
        return self.mask(x_RD)

    def mask(self, x_RF: Tensor) -> Tensor:
        """Zero the rows, and the gradients of rows, that no expert computes."""
        if not self.any_dropped:
            return x_RF
        return torch.where((self.experts_R < self.num_experts)[:, None], x_RF, 0.0)

    def ungather(self, y_RD: Tensor) -> Tensor:
        """Rows back in token order where every token has one, unweighted: K = 1, ``[T, D]``."""
        return _Take.apply(y_RD, self.inverse_R, self.order_R, 1)

    def combine(self, y_RD: Tensor, gates_TK: Tensor) -> Tensor:
        """Rows back in token order, weighted and summed over k in the gates' precision, ``[T, D]``."""
        y_TKD = _Take.apply(y_RD, self.inverse_R, self.order_R, 1).unflatten(0, (self.num_tokens, self.top_k))
        # Multiply and sum: an einsum here is four times slower, and autocast would run it in half precision.
        return (y_TKD * gates_TK.unsqueeze(-1)).sum(1).to(y_RD.dtype)


class _Take(Function):
    """``x[order // k]``; the gradient folds the k rows of a token by gathering along the inverse."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        return x.index_select(0, order if k == 1 else order // k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, order, inverse, ctx.k = inputs
        ctx.save_for_backward(order, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        order, inverse = ctx.saved_tensors
        return _Fold.apply(grad, order, inverse, ctx.k), None, None, None


class _Fold(Function):
    """The transpose of :class:`_Take`."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        rows = x.index_select(0, inverse)
        return rows if k == 1 else rows.unflatten(0, (len(inverse) // k, k)).sum(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, order, inverse, ctx.k = inputs
        ctx.save_for_backward(order, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        order, inverse = ctx.saved_tensors
        return _Take.apply(grad, order, inverse, ctx.k), None, None, None


def grouped_linear(x_RD: Tensor, weight_EDF: Tensor, bias_EF: Tensor | None, groups: Groups) -> Tensor:
    """Every row times its own expert's matrix, plus its bias; rows of dropped assignments are zero, ``[R, F]``.

    bf16 on CUDA runs as one grouped GEMM without waiting for the device; everything else as one GEMM per expert,
    written straight into place.
    """
    if fast_grouped_gemm(x_RD, weight_EDF):
        out_RF = F.grouped_mm(x_RD, weight_EDF, offs=groups.ends_E)
        if bias_EF is not None:
            out_RF = out_RF + _Rows.apply(bias_EF, groups.experts_R)
        return groups.mask(out_RF)  # grouped_mm leaves the rows past its last offset unwritten
    return split_linear(x_RD, weight_EDF, bias_EF, groups)


def fast_grouped_gemm(x_RD: Tensor, weight_EDF: Tensor) -> bool:
    """Whether ``F.grouped_mm`` has a kernel for these; without one it loops over experts and synchronises on CUDA."""
    _, d, f = weight_EDF.shape
    return x_RD.is_cuda and x_RD.dtype == torch.bfloat16 and d % 8 == 0 and f % 8 == 0 and len(x_RD) > 0


@torch.compiler.disable  # type: ignore[untyped-decorator]
def split_linear(x_RD: Tensor, weight_EDF: Tensor, bias_EF: Tensor | None, groups: Groups) -> Tensor:
    """One GEMM per expert on its contiguous rows."""
    return _GroupedMM.apply(x_RD, weight_EDF, bias_EF, groups.bounds())


class _GroupedMM(Function):
    """Rows s..t times matrix e, written in place.

    With torch's own indexing of the stack, the backward would fill a stack of zeros for every expert.
    """

    @staticmethod
    def forward(x_RD: Tensor, w_EDF: Tensor, b_EF: Tensor | None, bounds: list[int]) -> Tensor:
        out_RF = x_RD.new_empty(x_RD.shape[0], w_EDF.shape[2])
        start = 0
        for e, end in enumerate(bounds):
            if end > start and b_EF is None:
                torch.mm(x_RD[start:end], w_EDF[e], out=out_RF[start:end])
            elif end > start and b_EF is not None:
                torch.addmm(b_EF[e], x_RD[start:end], w_EDF[e], out=out_RF[start:end])
            start = end
        out_RF[start:].zero_()
        return out_RF

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x_RD, w_EDF, b_EF, ctx.bounds = inputs
        ctx.has_bias = b_EF is not None
        ctx.save_for_backward(x_RD, w_EDF)

    @staticmethod
    def backward(ctx: Any, grad_RF: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_RD, w_EDF = ctx.saved_tensors
        need_x, need_w, need_b, _ = ctx.needs_input_grad
        grad_x = _GroupedMM.apply(grad_RF, w_EDF.transpose(1, 2), None, ctx.bounds) if need_x else None
        grad_w = _GroupedOuter.apply(x_RD, grad_RF, ctx.bounds) if need_w else None
        starts = [0, *ctx.bounds]
        grad_b = None
        if ctx.has_bias and need_b:
            grad_b = torch.stack([grad_RF[s:t].sum(0) for s, t in zip(starts, ctx.bounds, strict=False)])
        return grad_x, grad_w, grad_b, None


class _GroupedOuter(Function):
    """``a[s:t].T @ b[s:t]`` for every group, ``[E, D, F]``: the weight gradient of :class:`_GroupedMM`."""

    @staticmethod
    def forward(a_RD: Tensor, b_RF: Tensor, bounds: list[int]) -> Tensor:
        out_EDF = a_RD.new_empty(len(bounds), a_RD.shape[1], b_RF.shape[1])
        start = 0
        for e, end in enumerate(bounds):
            if end > start:
                torch.mm(a_RD[start:end].T, b_RF[start:end], out=out_EDF[e])
            else:
                out_EDF[e].zero_()
            start = end
        return out_EDF

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a_RD, b_RF, ctx.bounds = inputs
        ctx.save_for_backward(a_RD, b_RF)

    @staticmethod
    def backward(ctx: Any, grad_EDF: Tensor) -> tuple[Tensor, Tensor, None]:
        a_RD, b_RF = ctx.saved_tensors
        grad_a = _GroupedMM.apply(b_RF, grad_EDF.transpose(1, 2), None, ctx.bounds)
        return grad_a, _GroupedMM.apply(a_RD, grad_EDF, None, ctx.bounds), None


class _Rows(Function):
    """``bias[expert of the row]``; the gradient sums rows by a one-hot product instead of atomics."""

    @staticmethod
    def forward(b_EF: Tensor, experts_R: Tensor) -> Tensor:
        return b_EF.index_select(0, experts_R.clamp(max=b_EF.shape[0] - 1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.num_experts = inputs[0].shape[0]
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad_RF: Tensor) -> tuple[Tensor, None]:
        (experts_R,) = ctx.saved_tensors
        ids_E1 = torch.arange(ctx.num_experts, device=experts_R.device)[:, None]
        return (experts_R == ids_E1).to(grad_RF.dtype) @ grad_RF, None
