"""Build a featurizer from hyper-parameters: one of our architectures, one of DomainBed's, or any timm model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry, nearest
from sfmoe_dg.models.architectures.mnist_cnn import MLP, MnistCNN
from sfmoe_dg.models.architectures.registry import import_architectures
from sfmoe_dg.models.featurizer import DinoFeaturizer, FrozenNormFeaturizer, Normalization
from sfmoe_dg.models.featurizer import Featurizer as Featurizer
from sfmoe_dg.models.moe.hparams import MODEL_DEFAULT, MODELS
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.weights.pretrained import has_weights, load_pretrained
from sfmoe_dg.runs.hparams import Hparam

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
registered by a ``--plugin``. They decide what ``pretrained`` means. Ours are in timm's registry.

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

import_architectures()


def known_backbones() -> dict[str, str]:
    """Names and one-line descriptions, without timm's thousand others."""
    ours = {name: _first_line(timm.model_entrypoint(name)) for name in sorted(MODELS)}
    timms = {name: text for name, (_, text) in TIMM_NAMES.items()}
    return {**OWN_NAMES, **ours, **timms, **{name: _what_it_is(name) for name in BACKBONES}}


def _first_line(create: object) -> str:
    return (create.__doc__ or "no description").strip().splitlines()[0]


def _what_it_is(name: str) -> str:
    """A registered backbone in one line, or why it cannot be loaded."""
    try:
        return _first_line(BACKBONES.load(name))
    except UserError as error:
        return str(error)


def build_backbone(
    input_shape: tuple[int, ...], hparams: Mapping[str, Any], *, num_domains: int | None = None
) -> Featurizer:
    """The featurizer that ``hparams["backbone"]`` names.

    ``hparams["pretrained"]``: True for the published weights (networks that have none, such as the tiny ones, start
    from scratch), False for none, or the path of a file. Hyper-parameters that the backbone does not use are ignored,
    except those of mixtures of experts.

    Args:
        input_shape: (C, H, W), or (D,) for vectors.
        num_domains: of training; networks registered with :func:`sfmoe_dg.models.moe.hparams.moe_model` get it.

    Raises:
        UserError: on an unknown name, a mixture-of-experts hyper-parameter for a dense backbone, a value that is not
            allowed, an input shape that does not fit, or weights that cannot be loaded.
    """
    name = hparams.get("backbone", "auto")
    if name == "auto":
        name = _auto(input_shape, hparams)
    given = _moe_hparams(hparams)
    if name in ("mlp", "mnist_cnn"):
        _refuse_moe(name, given)
        if isinstance(hparams.get("pretrained"), str):
            raise UserError(f"backbone {name!r} takes no pretrained weights, and so not {hparams['pretrained']!r}")
        return _small_network(name, input_shape, hparams)
    if name in BACKBONES:
        return _registered_network(name, input_shape, hparams, given)
    if len(input_shape) != 3:
        raise UserError(f"backbone {name!r} wants pictures, but the input shape is {tuple(input_shape)}; use 'mlp'")
    network = _timm_network(name, input_shape, hparams, given, num_domains)
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


def _moe_hparams(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of mixtures of experts, of any architecture, that are set to other than their defaults."""
    declared = {name: hparam for of_model in MODELS.values() for name, hparam in of_model.items()}
    return {name: hparams[name] for name in declared if hparams.get(name, default := declared[name].default) != default}


def _refuse_moe(name: str, given: Iterable[str]) -> None:
    """Raise a UserError if any hyper-parameter of a mixture of experts is given."""
    if given := list(given):
        raise UserError(
            f"backbone {name!r} is dense and has no use for {', '.join(given)}; leave it at 'default' or choose an MoE"
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
    name: str, input_shape: tuple[int, ...], hparams: Mapping[str, Any], given: Mapping[str, Any]
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
        _refuse_moe(name, given)
    return featurizer


def _timm_network(
    name: str,
    input_shape: tuple[int, ...],
    hparams: Mapping[str, Any],
    given: Mapping[str, Any],
    num_domains: int | None,
) -> Any:
    timm_name = TIMM_NAMES[name][0] if name in TIMM_NAMES else name
    base = timm_name.partition(".")[0] if isinstance(timm_name, str) else ""
    if not timm.is_model(base) or (timm_name != base and timm_name not in timm.list_models(base, include_tags=True)):
        raise _unknown_backbone(str(name))
    is_moe = base in MODELS
    if not is_moe:
        _refuse_moe(name, given)
    config = timm.get_pretrained_cfg(timm_name)
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": input_shape[0]}
    if config is not None and config.fixed_input_size:
        kwargs["img_size"] = tuple(input_shape[1:])
    if is_moe:
        kwargs |= {"num_domains": num_domains, **_moe_arguments(name, MODELS[base], hparams, given)}
    try:
        network: Any = timm.create_model(timm_name, pretrained=False, **kwargs)
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"backbone {name!r} cannot be built for inputs of shape {tuple(input_shape)}: {error}"
        ) from None
    if not moe_layers(network):
        _refuse_moe(name, given.keys() - {"moe_layers"})
    source = hparams.get("pretrained", True)
    if source is True and is_moe and not has_weights(network.pretrained_cfg):
        source = False
    if source:
        load_pretrained(network, source, name)
    return network


def _moe_arguments(
    name: str, takes: Mapping[str, Hparam], hparams: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run's hyper-parameters say to a network that takes these: its keyword arguments."""
    if useless := [key for key in given if key not in takes]:
        raise UserError(
            f"backbone {name!r} has no use for {', '.join(useless)}; leave it at 'default' or choose another backbone"
        )
    arguments = {key: hparams[key] for key in takes if hparams.get(key, MODEL_DEFAULT) != MODEL_DEFAULT}
    if "capacity_ratio" in arguments and arguments["capacity_ratio"] is None:
        arguments["capacity_ratio"] = "dropless"  # timm drops arguments that are None
    if "drop_path" in arguments:
        arguments["drop_path_rate"] = arguments.pop("drop_path")  # timm's name for it
    return arguments


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
