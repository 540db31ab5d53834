"""The registry of objectives. One addition is one file here and one line below.

Values are import paths, so that listing names costs no torch. Third parties call
``ALGORITHMS.register("Name", Class)`` in a module given by ``--plugin``, or offer the class as an entry point of the
group ``sfmoe_dg.algorithms``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfmoe_dg.foundation.registry import Registry
from sfmoe_dg.runs.hparams import HparamTable, default_values, random_values

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm


def _complaint(name: str, found: object) -> str:
    from sfmoe_dg.algorithms.base import Algorithm

    is_one = isinstance(found, type) and issubclass(found, Algorithm)
    return "" if is_one else "something else than a class derived from sfmoe_dg.algorithms.base.Algorithm"


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "sfmoe_dg.algorithms", _complaint)
"""Objectives by name. ``ALGORITHMS.register(name, cls)`` adds one.

Examples:
    >>> from sfmoe_dg import ALGORITHMS, ERM
    >>> class Mine(ERM):
    ...     paper = "nobody, An example, 2026"
    >>> ALGORITHMS.register("Mine", Mine)
    >>> "Mine" in ALGORITHMS
    True
    >>> del ALGORITHMS["Mine"]
"""
ALGORITHMS.register("ERM", "sfmoe_dg.algorithms.erm:ERM")
ALGORITHMS.register("ERMPlusPlus", "sfmoe_dg.algorithms.objectives.erm_plus_plus:ERMPlusPlus")
ALGORITHMS.register("Fish", "sfmoe_dg.algorithms.objectives.fish:Fish")
ALGORITHMS.register("IRM", "sfmoe_dg.algorithms.objectives.irm:IRM")
ALGORITHMS.register("GroupDRO", "sfmoe_dg.algorithms.objectives.group_dro:GroupDRO")
ALGORITHMS.register("Mixup", "sfmoe_dg.algorithms.objectives.mixup:Mixup")
ALGORITHMS.register("MLDG", "sfmoe_dg.algorithms.objectives.mldg:MLDG")
ALGORITHMS.register("CORAL", "sfmoe_dg.algorithms.objectives.coral:CORAL")
ALGORITHMS.register("MMD", "sfmoe_dg.algorithms.objectives.mmd:MMD")
ALGORITHMS.register("DANN", "sfmoe_dg.algorithms.objectives.dann:DANN")
ALGORITHMS.register("CDANN", "sfmoe_dg.algorithms.objectives.cdann:CDANN")
ALGORITHMS.register("MTL", "sfmoe_dg.algorithms.objectives.mtl:MTL")
ALGORITHMS.register("SagNet", "sfmoe_dg.algorithms.objectives.sagnet:SagNet")
ALGORITHMS.register("ARM", "sfmoe_dg.algorithms.objectives.arm:ARM")
ALGORITHMS.register("VREx", "sfmoe_dg.algorithms.objectives.vrex:VREx")
ALGORITHMS.register("RSC", "sfmoe_dg.algorithms.objectives.rsc:RSC")
ALGORITHMS.register("SD", "sfmoe_dg.algorithms.objectives.sd:SD")
ALGORITHMS.register("ANDMask", "sfmoe_dg.algorithms.objectives.and_mask:ANDMask")
ALGORITHMS.register("SANDMask", "sfmoe_dg.algorithms.objectives.sand_mask:SANDMask")
ALGORITHMS.register("IGA", "sfmoe_dg.algorithms.objectives.iga:IGA")
ALGORITHMS.register("SelfReg", "sfmoe_dg.algorithms.objectives.self_reg:SelfReg")
ALGORITHMS.register("Fishr", "sfmoe_dg.algorithms.objectives.fishr:Fishr")
ALGORITHMS.register("TRM", "sfmoe_dg.algorithms.objectives.trm:TRM")
ALGORITHMS.register("IB_ERM", "sfmoe_dg.algorithms.objectives.ib_erm:IB_ERM")
ALGORITHMS.register("IB_IRM", "sfmoe_dg.algorithms.objectives.ib_irm:IB_IRM")
ALGORITHMS.register("CAD", "sfmoe_dg.algorithms.objectives.cad:CAD")
ALGORITHMS.register("CondCAD", "sfmoe_dg.algorithms.objectives.cond_cad:CondCAD")
ALGORITHMS.register("Transfer", "sfmoe_dg.algorithms.objectives.transfer:Transfer")
ALGORITHMS.register("CausIRL_CORAL", "sfmoe_dg.algorithms.objectives.caus_irl_coral:CausIRL_CORAL")
ALGORITHMS.register("CausIRL_MMD", "sfmoe_dg.algorithms.objectives.caus_irl_mmd:CausIRL_MMD")
ALGORITHMS.register("EQRM", "sfmoe_dg.algorithms.objectives.eqrm:EQRM")
ALGORITHMS.register("RDM", "sfmoe_dg.algorithms.objectives.rdm:RDM")
ALGORITHMS.register("ADRMX", "sfmoe_dg.algorithms.objectives.adrmx:ADRMX")
ALGORITHMS.register("URM", "sfmoe_dg.algorithms.objectives.urm:URM")
ALGORITHMS.register("SWAD", "sfmoe_dg.algorithms.objectives.swad:SWAD")
ALGORITHMS.register("SMA", "sfmoe_dg.algorithms.objectives.sma:SMA")
ALGORITHMS.register("MIRO", "sfmoe_dg.algorithms.objectives.miro:MIRO")
ALGORITHMS.register("SAM", "sfmoe_dg.algorithms.objectives.sam:SAM")
ALGORITHMS.register("MixStyle", "sfmoe_dg.algorithms.objectives.mix_style:MixStyle")
ALGORITHMS.register("LPFT", "sfmoe_dg.algorithms.objectives.lpft:LPFT")
ALGORITHMS.register("SFMoE", "sfmoe_dg.algorithms.presets.sf_moe:SFMoE")
ALGORITHMS.register("HybridSFMoE", "sfmoe_dg.algorithms.presets.hybrid_sf_moe:HybridSFMoE")
ALGORITHMS.register("GMoE", "sfmoe_dg.algorithms.presets.g_moe:GMoE")
ALGORITHMS.register("WideNet", "sfmoe_dg.algorithms.presets.wide_net:WideNet")
ALGORITHMS.register("CondMoE", "sfmoe_dg.algorithms.presets.cond_moe:CondMoE")
ALGORITHMS.register("VMoE", "sfmoe_dg.algorithms.presets.v_moe:VMoE")


def hparam_table(algorithm: str, dataset: str) -> HparamTable:
    """Names, defaults and search ranges of one algorithm on one data set."""
    return ALGORITHMS.load(algorithm).hparam_table(dataset)


def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
    """DomainBed's ``hparams_registry.default_hparams``, and the names that this suite adds.

    Examples:
        >>> from sfmoe_dg import default_hparams
        >>> default_hparams("CORAL", "PACS")["mmd_gamma"]
        1.0
    """
    return default_values(hparam_table(algorithm, dataset))


def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
    """DomainBed's ``hparams_registry.random_hparams``: the same draws for the names that both have.

    Examples:
        >>> from sfmoe_dg import random_hparams
        >>> random_hparams("CORAL", "PACS", seed=1) == random_hparams("CORAL", "PACS", seed=1)
        True
    """
    return random_values(hparam_table(algorithm, dataset), seed)
