"""Where a network's intermediate features are, for objectives that look at them or change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sfmoe_dg.models.architectures.mnist_cnn import MnistCNN

NUM_TRANSFORMER_STAGES = 4


def conv_stages(network: nn.Module) -> list[nn.Module]:
    """The modules that return feature maps [B, C, H, W] after each of four stages, or none.

    Known are timm's ResNets and DomainBed's small CNN, whose four normalised convolutions count as stages.
    """
    names = ("bn0", "bn1", "bn2", "bn3") if isinstance(network, MnistCNN) else ("layer1", "layer2", "layer3", "layer4")
    if not all(isinstance(getattr(network, name, None), nn.Module) for name in names):
        return []
    return [getattr(network, name) for name in names]


def conv_stem(network: nn.Module) -> list[nn.Module]:
    """The module that returns the feature map before the first stage of a network that has such stages, or none."""
    stem = getattr(network, "act1", None)
    return [stem] if isinstance(stem, nn.Module) and conv_stages(network) else []


def transformer_stages(network: nn.Module) -> list[nn.Module]:
    """The norms that read the tokens [B, S, D] after each quarter of a vision transformer's blocks, or none.

    Sparse blocks are not called as modules, so hooks on them would not run. The input of a norm is the output of the
    block before it.
    """
    blocks: Any = getattr(network, "blocks", None)
    last = getattr(network, "norm", None)
    if not isinstance(blocks, nn.Module) or not isinstance(last, nn.Module):
        return []
    readers: list[Any] = [getattr(block, "norm1", None) for block in blocks.children()] + [last]
    if not all(isinstance(reader, nn.Module) for reader in readers):
        return []
    depth = len(readers) - 1
    chosen = sorted({round(depth * (i + 1) / NUM_TRANSFORMER_STAGES) for i in range(NUM_TRANSFORMER_STAGES)} - {0})
    return [readers[i] for i in chosen]


@contextmanager
def recorded_stages(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list that holds, after one forward pass within the context, what every stage returned, in order."""
    features: list[Tensor] = []
    modules = conv_stem(network) + conv_stages(network)
    hooks = [module.register_forward_hook(lambda m, args, output: features.append(output)) for module in modules]
    if not hooks:
        readers = transformer_stages(network)
        hooks = [m.register_forward_pre_hook(lambda m, args: features.append(args[0])) for m in readers]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()
