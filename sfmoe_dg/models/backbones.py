"""From hyper-parameters to a featurizer: our architectures, DomainBed's, or any timm model, under one interface."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry, nearest
from sfmoe_dg.models.architectures.mnist_cnn import MLP, MnistCNN
from sfmoe_dg.models.architectures.registry import ARCHITECTURES
from sfmoe_dg.models.featurizer import DinoFeaturizer, FrozenNormFeaturizer, Normalization
from sfmoe_dg.models.featurizer import Featurizer as Featurizer
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.weights.pretrained import has_weights, load_pretrained

TIMM_NAMES: Mapping[str, tuple[str, str]] = {
    "resnet18": ("resnet18.tv_in1k", "ResNet-18, torchvision's ImageNet weights, as in DomainBed"),
    "resnet50": ("resnet50.tv_in1k", "ResNet-50, torchvision's ImageNet weights, as in DomainBed"),
    "resnet50_augmix": ("resnet50.ram_in1k", "ResNet-50, AugMix weights, as in DomainBed"),
    "vit_small_patch16_224": ("deit_small_patch16_224.fb_in1k", "ViT-S/16 with DeiT weights, SF-MoE's dense baseline"),
    "deit_small_patch16_224": ("deit_small_patch16_224.fb_in1k", "DeiT-S/16, SF-MoE's dense baseline"),
    "deit_base_patch16_224": ("deit_base_patch16_224.fb_in1k", "DeiT-B/16, the dense twin of SF-MoE-B/16"),
    "dinov2": ("vit_base_patch14_dinov2.lvd142m", "DINOv2 ViT-B/14, class tokens of four blocks, as in DomainBed"),
}
"""Names that mean a timm model with given weights. Any other timm name is taken as it is, tag included."""

OWN_NAMES: Mapping[str, str] = {
    "auto": "by input shape, as in DomainBed: vectors mlp, 28 px mnist_cnn, 32 px vit_tiny_32, 224 px ResNet or DINOv2",
    "mlp": "multi-layer perceptron for vectors (mlp_width, mlp_depth, mlp_dropout)",
    "mnist_cnn": "DomainBed's four-layer CNN for 28 px pictures",
}

BACKBONES: Registry[Callable[[tuple[int, ...], Mapping[str, Any]], Featurizer]] = Registry(
    "backbone", "sfmoe_dg.backbones"
)
"""Third parties' backbones: functions of the input shape and the hyper-parameters that return a :class:`Featurizer`;
the first lines of their docstrings say what it is. They are entry points of the group ``sfmoe_dg.backbones``, or
registered by a ``--plugin``. What ``pretrained`` means is theirs to say. Ours go into timm's registry.

Examples:
    >>> import torch
    >>> from sfmoe_dg import BACKBONES, Featurizer
    >>> def grid_of_means(input_shape, hparams):
    ...     network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    ...     return Featurizer(network, input_shape[0] * 4 * 4, ((0.5,) * 3, (0.5,) * 3))
    >>> BACKBONES.register("grid_of_means", grid_of_means)
    >>> "grid_of_means" in BACKBONES
    True
    >>> del BACKBONES["grid_of_means"]
"""

MOE_HPARAMS: Mapping[str, str] = {
    "num_experts": "num_experts",
    "top_k": "top_k",
    "moe_layers": "moe_layers",
    "capacity_ratio": "capacity_ratio",
    "allocation": "allocation",
    "router": "router",
    "routing_loss_weight": "routing_loss_weight",
    "drop_path": "drop_path_rate",
    "routing_level": "routing_level",
    "unknown_domain": "unknown_domain",
}
"""Hyper-parameters of mixtures of experts and the argument each becomes; "default" leaves it to the model."""


def known_backbones() -> dict[str, str]:
    """Names and one-line descriptions, without timm's thousand others."""
    ours = {}
    for module in ARCHITECTURES:
        for name in timm.list_models(module=module.__name__.rpartition(".")[2]):
            ours[name] = (timm.model_entrypoint(name).__doc__ or "").strip().splitlines()[0]
    timms = {name: text for name, (_, text) in TIMM_NAMES.items()}
    return {**OWN_NAMES, **dict(sorted(ours.items())), **timms, **{name: _what_it_is(name) for name in BACKBONES}}


def _what_it_is(name: str) -> str:
    """A registered backbone in one line, or why it cannot be had."""
    try:
        return (BACKBONES.load(name).__doc__ or "no description").strip().splitlines()[0]
    except UserError as error:
        return str(error)


def build_backbone(
    input_shape: tuple[int, ...], hparams: Mapping[str, Any], *, num_domains: int | None = None
) -> Featurizer:
    """The featurizer that ``hparams["backbone"]`` names.

    ``hparams["pretrained"]``: True for the published weights (networks that have none, such as the tiny ones, start
    from scratch), False for none, or the path of a file. Hyper-parameters that the backbone does not use are ignored,
    except those in :data:`MOE_HPARAMS`.

    Args:
        input_shape: (C, H, W), or (D,) for vectors.
        num_domains: of training, for networks whose files say ``TAKES_NUM_DOMAINS``.

    Raises:
        UserError: on an unknown name, a mixture-of-experts hyper-parameter for a dense backbone, a value that is not
            allowed, an input shape that does not fit, or weights that cannot be had.
    """
    name = hparams.get("backbone", "auto")
    if name == "auto":
        name = _auto(input_shape, hparams)
    moe_kwargs = _moe_arguments(hparams)
    if name in ("mlp", "mnist_cnn"):
        _refuse_moe(name, moe_kwargs)
        if isinstance(hparams.get("pretrained"), str):
            raise UserError(f"backbone {name!r} takes no pretrained weights, and so not {hparams['pretrained']!r}")
        return _small_network(name, input_shape, hparams)
    if name in BACKBONES:
        return _registered_network(name, input_shape, hparams, moe_kwargs)
    if len(input_shape) != 3:
        raise UserError(f"backbone {name!r} wants pictures, but the input shape is {tuple(input_shape)}; use 'mlp'")
    network = _timm_network(name, input_shape, hparams, moe_kwargs, num_domains)
    normalization = _normalization(network.pretrained_cfg, input_shape[0])
    return (_dino_featurizer if name == "dinov2" else _featurizer)(network, normalization, hparams)


def _auto(input_shape: tuple[int, ...], hparams: Mapping[str, Any]) -> str:
    """DomainBed's choice, with vit_tiny_32 in the place of its WideResNet for 32 px."""
    if len(input_shape) == 1:
        return "mlp"
    size = tuple(input_shape[1:3])
    if size == (28, 28):
        return "mnist_cnn"
    if size == (32, 32):
        return "vit_tiny_32"
    if size != (224, 224):
        raise UserError(
            f"no default backbone for inputs of shape {tuple(input_shape)}; name one with the 'backbone' hparam"
        )
    if hparams.get("vit", False):
        return "dinov2" if hparams.get("dinov2", False) else "vit_small_patch16_224"
    if hparams.get("resnet50_augmix", True):
        return "resnet50_augmix"
    return "resnet18" if hparams.get("resnet18", False) else "resnet50"


def _moe_arguments(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What :data:`MOE_HPARAMS` hand over to the model."""
    return {
        argument: ("dropless" if key == "capacity_ratio" and hparams[key] is None else hparams[key])
        for key, argument in MOE_HPARAMS.items()
        if hparams.get(key, "default") != "default"
    }


def _refuse_moe(name: str, moe_kwargs: Mapping[str, Any]) -> None:
    if moe_kwargs:
        given = ", ".join(key for key, argument in MOE_HPARAMS.items() if argument in moe_kwargs)
        raise UserError(
            f"backbone {name!r} is dense and has no use for {given}; leave it at 'default' or choose an MoE"
        )


def _small_network(name: str, input_shape: tuple[int, ...], hparams: Mapping[str, Any]) -> Featurizer:
    network: MLP | MnistCNN
    if name == "mlp":
        if len(input_shape) != 1:
            raise UserError(f"backbone 'mlp' wants vectors, but the input shape is {tuple(input_shape)}")
        # Only objectives with a multi-layer perceptron of their own have these; DomainBed's defaults for the others.
        sizes = hparams.get("mlp_width", 256), hparams.get("mlp_depth", 3)
        network = MLP(input_shape[0], *sizes, hparams.get("mlp_dropout", 0.0))
    else:
        if len(input_shape) != 3:
            raise UserError(f"backbone 'mnist_cnn' wants pictures, but the input shape is {tuple(input_shape)}")
        network = MnistCNN(input_shape[0])
    # DomainBed feeds both without normalisation.
    return Featurizer(network, network.num_features, ((0.0,) * input_shape[0], (1.0,) * input_shape[0]))


def _registered_network(
    name: str, input_shape: tuple[int, ...], hparams: Mapping[str, Any], moe_kwargs: Mapping[str, Any]
) -> Featurizer:
    build = BACKBONES.load(name)
    if name in OWN_NAMES or name in TIMM_NAMES or timm.is_model(name):
        raise UserError(f"backbone {name!r} of module {build.__module__} is also one of sfmoe-dg or timm; rename it")
    featurizer = build(input_shape, hparams)
    if not isinstance(featurizer, Featurizer):
        raise UserError(
            f"backbone {name!r} is built as a {type(featurizer).__name__}; {build.__module__} must return a Featurizer"
        )
    if not hasattr(featurizer.network, "forward_with_losses"):
        _refuse_moe(name, moe_kwargs)
    return featurizer


def _timm_network(
    name: str,
    input_shape: tuple[int, ...],
    hparams: Mapping[str, Any],
    moe_kwargs: Mapping[str, Any],
    num_domains: int | None,
) -> Any:
    timm_name = TIMM_NAMES[name][0] if name in TIMM_NAMES else name
    base = timm_name.partition(".")[0] if isinstance(timm_name, str) else ""
    if not timm.is_model(base) or (timm_name != base and timm_name not in timm.list_models(base, include_tags=True)):
        raise _unknown_backbone(str(name))
    ours = any(base in timm.list_models(module=m.__name__.rpartition(".")[2]) for m in ARCHITECTURES)
    config = timm.get_pretrained_cfg(timm_name)
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": input_shape[0]}
    if config is not None and config.fixed_input_size:
        kwargs["img_size"] = tuple(input_shape[1:])
    if num_domains is not None and getattr(
        sys.modules[timm.model_entrypoint(base).__module__], "TAKES_NUM_DOMAINS", False
    ):
        kwargs["num_domains"] = num_domains
    if not ours:
        _refuse_moe(name, moe_kwargs)
    try:
        network: Any = timm.create_model(timm_name, pretrained=False, **kwargs, **moe_kwargs)
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"backbone {name!r} cannot be built for inputs of shape {tuple(input_shape)}: {error}"
        ) from None
    if moe_kwargs and not moe_layers(network):
        _refuse_moe(name, {k: v for k, v in moe_kwargs.items() if k != "moe_layers"})
    source = hparams.get("pretrained", True)
    if source is True and ours and not has_weights(network.pretrained_cfg):
        source = False
    if source:
        load_pretrained(network, source, name)
    return network


def _featurizer(network: Any, normalization: Normalization, hparams: Mapping[str, Any]) -> Featurizer:
    convolutional = any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    dropout = hparams.get("resnet_dropout" if convolutional else "vit_dropout", 0.0)
    kind = FrozenNormFeaturizer if convolutional and hparams.get("freeze_bn", False) else Featurizer
    return kind(network, _n_outputs(network), normalization, dropout).train()


def _dino_featurizer(network: Any, normalization: Normalization, hparams: Mapping[str, Any]) -> Featurizer:
    if hparams.get("vit_attn_tune"):
        for key, parameter in network.named_parameters():
            parameter.requires_grad_("attn" in key)
    return DinoFeaturizer(network, 5 * network.num_features, normalization, hparams.get("vit_dropout", 0.0))


def _unknown_backbone(name: str) -> UserError:
    ours = list(known_backbones())
    close = nearest(name.partition(".")[0], [*ours, *timm.list_models()])
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(ours)}, and any timm model."
    return UserError(f"unknown backbone {name!r}: {hint}")


def _n_outputs(network: Any) -> int:
    """The width of the pooled features; a few timm heads change it after ``num_features``."""
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def _normalization(config: Mapping[str, Any], channels: int) -> Normalization:
    mean = tuple(config.get("mean") or IMAGENET_DEFAULT_MEAN)
    std = tuple(config.get("std") or IMAGENET_DEFAULT_STD)
    if len(mean) == channels:
        return mean, std
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
