"""Hyper-parameters of mixtures of experts, each declared once: the table of every algorithm holds them, and
:func:`sfmoe_dg.models.backbones.build_backbone` hands them to the network as arguments of the same names.

A new one is a line in :data:`MOE_HPARAMS` and its use, a field of
:class:`sfmoe_dg.models.architectures.settings.MoESettings`. One that belongs to a single architecture is declared in
that architecture's file and given to :func:`moe_model` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from timm.models import register_model

from sfmoe_dg.models.moe.capacity import ALLOCATIONS
from sfmoe_dg.models.moe.routers import ROUTERS
from sfmoe_dg.runs.hparams import Hparam

MODEL_DEFAULT = "default"
"""The value that leaves a choice to the network."""

_OR_DEFAULT = (MODEL_DEFAULT,)

MOE_HPARAMS: Mapping[str, Hparam] = {
    "drop_path": Hparam(MODEL_DEFAULT, types=(float,), choices=_OR_DEFAULT, low=0, high=1),
    "num_experts": Hparam(MODEL_DEFAULT, types=(int,), choices=_OR_DEFAULT, low=1),
    "top_k": Hparam(MODEL_DEFAULT, types=(int,), choices=_OR_DEFAULT, low=1),
    "moe_layers": Hparam(MODEL_DEFAULT, types=(str, list)),
    "router": Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *ROUTERS)),
    "capacity_ratio": Hparam(MODEL_DEFAULT, types=(float,), choices=(MODEL_DEFAULT, "dropless", None), above=0),
    "allocation": Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *ALLOCATIONS)),
    "routing_loss_weight": Hparam(MODEL_DEFAULT, types=(float,), choices=_OR_DEFAULT, low=0),
}
"""What every mixture of experts takes. Random search leaves all of them alone."""

MODELS: dict[str, Mapping[str, Hparam]] = {}
"""The hyper-parameters of every model that :func:`moe_model` has registered, by the model's name."""

Create = TypeVar("Create", bound=Callable[..., Any])


def moe_model(own: Mapping[str, Hparam] | None = None) -> Callable[[Create], Create]:
    """Register with timm a function that creates a network, and note which hyper-parameters it takes.

    ``build_backbone`` calls the function with those that a run sets, as keyword arguments, and with ``num_domains``,
    the number of training domains. The first line of its docstring describes it in ``sfmoe-dg list backbones``.

    Args:
        own: hyper-parameters of this architecture alone; :data:`MOE_HPARAMS` come on top. No objective may have one
            of the same name.
    """

    def register(create: Create) -> Create:
        MODELS[create.__name__] = {**MOE_HPARAMS, **(own or {})}
        register_model(create)
        return create

    return register
