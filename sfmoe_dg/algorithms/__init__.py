"""The registry of objectives. One addition is one file here and one line below.

Values are import paths, so that listing names costs no torch. Third parties call
``ALGORITHMS.register("Name", Class)`` in a module given by ``--plugin``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfmoe_dg.hparams import HparamTable, default_values, random_values
from sfmoe_dg.registry import Registry

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm

ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm")
ALGORITHMS.register("ERM", "sfmoe_dg.algorithms.erm:ERM")
ALGORITHMS.register("CORAL", "sfmoe_dg.algorithms.coral:CORAL")
ALGORITHMS.register("SFMoE", "sfmoe_dg.algorithms.sf_moe:SFMoE")
ALGORITHMS.register("HybridSFMoE", "sfmoe_dg.algorithms.hybrid_sf_moe:HybridSFMoE")
ALGORITHMS.register("GMoE", "sfmoe_dg.algorithms.g_moe:GMoE")
ALGORITHMS.register("WideNet", "sfmoe_dg.algorithms.wide_net:WideNet")
ALGORITHMS.register("CondMoE", "sfmoe_dg.algorithms.cond_moe:CondMoE")
ALGORITHMS.register("VMoE", "sfmoe_dg.algorithms.v_moe:VMoE")


def hparam_table(algorithm: str, dataset: str) -> HparamTable:
    """Names, defaults and search ranges of one algorithm on one data set."""
    return ALGORITHMS.load(algorithm).hparam_table(dataset)


def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
    """DomainBed's ``hparams_registry.default_hparams``, and the names that this suite adds."""
    return default_values(hparam_table(algorithm, dataset))


def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
    """DomainBed's ``hparams_registry.random_hparams``: the same draws for the names that both have."""
    return random_values(hparam_table(algorithm, dataset), seed)
