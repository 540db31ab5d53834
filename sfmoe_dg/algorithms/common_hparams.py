"""The hyper-parameters of every algorithm: DomainBed's, with the same draws to the last bit, then this suite's own."""

from __future__ import annotations

from sfmoe_dg.models.moe.hparams import MODEL_DEFAULT as MODEL_DEFAULT
from sfmoe_dg.models.moe.hparams import MOE_HPARAMS
from sfmoe_dg.runs.hparams import Hparam, choice, int_log2_uniform, log10_uniform

SMALL_IMAGES = ("Debug28", "RotatedMNIST", "ColoredMNIST")
"""The data sets for which DomainBed uses other learning rates and batch sizes."""

LEARNS_FROM_SCRATCH = (*SMALL_IMAGES, "StyledDigits")
"""The data sets of small images, for which no pre-trained weights exist: they take the larger learning rate."""


def common_hparams(dataset: str) -> dict[str, Hparam]:
    """The hyper-parameters that every algorithm has on this data set.

    Source: DomainBed, ``hparams_registry``, for the names that it has.
    """
    return _upstream(dataset) | _optimisation() | _backbone(dataset)


def _upstream(dataset: str) -> dict[str, Hparam]:
    dropout = choice(0.0, 0.1, 0.5)
    return {
        "data_augmentation": Hparam(True),
        "resnet18": Hparam(False),
        "resnet50_augmix": Hparam(True),
        "dinov2": Hparam(False),
        "vit": Hparam(False),
        "vit_attn_tune": Hparam(False),
        "freeze_bn": Hparam(False),
        "lars": Hparam(False),
        # ERMPlusPlus trains the classifier alone for linear_steps + 1 updates: with -1 it never does.
        "linear_steps": Hparam(500, low=-1),
        "resnet_dropout": Hparam(0.0, dropout, low=0, high=1),
        "vit_dropout": Hparam(0.0, dropout, low=0, high=1),
        "class_balanced": Hparam(False),
        "nonlinear_classifier": Hparam(False),
        "lr": _learning_rate(dataset),
        "weight_decay": weight_decay(dataset),
        "batch_size": _batch_size(dataset),
    }


def _learning_rate(dataset: str) -> Hparam:
    if dataset in LEARNS_FROM_SCRATCH:
        return Hparam(1e-3, log10_uniform(-4.5, -2.5), above=0)
    return Hparam(5e-5, log10_uniform(-5, -3.5), above=0)


def weight_decay(dataset: str) -> Hparam:
    """A weight decay that random search leaves at 0 on DomainBed's small images."""
    return Hparam(0.0, None if dataset in SMALL_IMAGES else log10_uniform(-6, -2), low=0)


def _batch_size(dataset: str) -> Hparam:
    """Images per training domain and step."""
    if dataset in SMALL_IMAGES:
        return Hparam(64, int_log2_uniform(3, 9), low=1)
    if dataset == "DomainNet":
        return Hparam(32, int_log2_uniform(3, 5), low=1)
    return Hparam(32, int_log2_uniform(3, 5.5), low=1)


def _optimisation() -> dict[str, Hparam]:
    """Upstream has none of these; with the defaults the learning rate is constant, as upstream's."""
    return {
        "lr_schedule": Hparam("constant", choices=("constant", "cosine")),
        "warmup_steps": Hparam(0, low=0),
        "grad_clip": Hparam(0.0, low=0),
        "layer_decay": Hparam(1.0, above=0),
    }


def _backbone(dataset: str) -> dict[str, Hparam]:
    """Which network, from which weights, and how it routes; random search changes none of these."""
    return {
        "backbone": Hparam("auto"),
        "pretrained": Hparam(dataset not in LEARNS_FROM_SCRATCH, types=(bool, str)),
        **MOE_HPARAMS,
    }
