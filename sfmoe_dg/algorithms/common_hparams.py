"""The hyper-parameters that every algorithm has: DomainBed's, bit for bit, then this suite's own."""

from __future__ import annotations

from sfmoe_dg.models.moe.hparams import MODEL_DEFAULT as MODEL_DEFAULT
from sfmoe_dg.models.moe.hparams import MOE_HPARAMS
from sfmoe_dg.runs.hparams import SMALL_IMAGES, Hparam, choice, int_log2_uniform, log10_uniform

POSITIVE = (
    "batch_size",
    "lr",
    "layer_decay",
    "mlp_width",
    "mlp_depth",
    "temperature",
    "eqrm_lr",
    "rdm_lr",
    "urm_discriminator_lr",
)
NOT_NEGATIVE = ("warmup_steps", "grad_clip", "weight_decay", "weight_decay_d", "weight_decay_g", "d_steps_per_g_step")
RANGES = {
    "resnet_dropout": (0, 1),
    "vit_dropout": (0, 1),
    "mlp_dropout": (0, 1),
    "drop_path": (0, 1),
    "rsc_f_drop_factor": (0, 1),
    "rsc_b_drop_factor": (0, 1),
    "beta1": (0, 0.999),
    "mixstyle_p": (0, 1),
    "mtl_ema": (0, 1),
    "urm_discriminator_label_smoothing": (0, 1),
}
"""What the values of hyper-parameters must be, by name, in every algorithm that has one of the name."""

LEARNS_FROM_SCRATCH = (*SMALL_IMAGES, "StyledDigits")
"""Small pictures, no pre-trained weights: the larger learning rate."""


def common_hparams(dataset: str) -> dict[str, Hparam]:
    """Source: DomainBed, ``hparams_registry``, for upstream's names; the rest is this suite's own."""
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
        "linear_steps": Hparam(500),
        "resnet_dropout": Hparam(0.0, dropout),
        "vit_dropout": Hparam(0.0, dropout),
        "class_balanced": Hparam(False),
        "nonlinear_classifier": Hparam(False),
        "lr": _learning_rate(dataset),
        "weight_decay": Hparam(0.0) if dataset in SMALL_IMAGES else Hparam(0.0, log10_uniform(-6, -2)),
        "batch_size": _batch_size(dataset),
    }


def _learning_rate(dataset: str) -> Hparam:
    if dataset in LEARNS_FROM_SCRATCH:
        return Hparam(1e-3, log10_uniform(-4.5, -2.5))
    return Hparam(5e-5, log10_uniform(-5, -3.5))


def _batch_size(dataset: str) -> Hparam:
    """Images per training domain and step."""
    if dataset in SMALL_IMAGES:
        return Hparam(64, int_log2_uniform(3, 9))
    if dataset == "DomainNet":
        return Hparam(32, int_log2_uniform(3, 5))
    return Hparam(32, int_log2_uniform(3, 5.5))


def _optimisation() -> dict[str, Hparam]:
    """Upstream has none of these; the defaults leave its constant learning rate as it is."""
    return {
        "lr_schedule": Hparam("constant", choices=("constant", "cosine")),
        "warmup_steps": Hparam(0),
        "grad_clip": Hparam(0.0),
        "layer_decay": Hparam(1.0),
    }


def _backbone(dataset: str) -> dict[str, Hparam]:
    """Which network, from which weights, and how it routes; random search leaves all of these alone."""
    return {
        "backbone": Hparam("auto"),
        "pretrained": Hparam(dataset not in LEARNS_FROM_SCRATCH, types=(bool, str)),
        **MOE_HPARAMS,
    }
