"""A backbone without its classifier, as objectives see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def compilable(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a featurizer that runs through ``torch.compile`` where the featurizer says ``compiled``."""

    @wraps(method)
    def run(self: Featurizer, *args: Any) -> Any:
        # The function is compiled, not the module: a module would take its compiled self along into copies of it.
        call = _compiled(method) if self.compiled and not torch.compiler.is_compiling() else method
        return call(self, *args)

    return run


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


class Featurizer(nn.Module):
    """A backbone without classifier.

    Attributes:
        n_outputs: width of the features.
        normalization: (mean, std) per input channel that pictures in [0, 1] should be normalised with.
        compiled: run through ``torch.compile``, with torch's default backend. Copies of a compiled one are compiled.

    Examples:
        >>> import torch
        >>> from sfmoe_dg import Featurizer
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
        >>> featurizer = Featurizer(network, n_outputs=3 * 4 * 4, normalization=((0.5,) * 3, (0.5,) * 3))
        >>> featurizer(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 48])
    """

    network: Any
    compiled = False

    def __init__(self, network: nn.Module, n_outputs: int, normalization: Normalization, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.n_outputs = n_outputs
        self.normalization = normalization
        self.dropout = nn.Dropout(dropout)

    @compilable
    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[B, C, H, W]`` (or vectors ``[B, D]``) → features ``[B, n_outputs]``."""
        return self.dropout(self.network(x))

    @property
    def uses_domains(self) -> bool:
        """Whether :meth:`forward_with_losses` wants to know the training domain of every picture."""
        return bool(getattr(self.network, "uses_domains", False))

    @compilable
    def forward_with_losses(self, x: Tensor, domains: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The features, and the weighted scalar routing losses by name; empty for dense networks.

        ``domains`` are indices of training domains, int64 ``[B]``; only networks that use them look at them.
        """
        if hasattr(self.network, "forward_with_losses"):
            known = {"domains": domains} if self.uses_domains else {}
            x, losses = self.network.forward_with_losses(x, **known)
            return self.dropout(x), losses
        return self(x), {}


class FrozenNormFeaturizer(Featurizer):
    """A convolutional featurizer whose batch norms keep their statistics in training (``freeze_bn``)."""

    def train(self, mode: bool = True) -> FrozenNormFeaturizer:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class DinoFeaturizer(Featurizer):
    """Class tokens of DINOv2's last four blocks and the mean patch of the last, as DomainBed uses it."""

    @compilable
    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[B, C, H, W]`` → features ``[B, 5 · width]``."""
        layers = self.network.get_intermediate_layers(x, n=4, return_prefix_tokens=True, norm=True)
        tokens = [prefix[:, 0] for _, prefix in layers]
        return self.dropout(torch.cat([*tokens, layers[-1][0].mean(1)], 1))
