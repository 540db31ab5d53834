"""The registry of objectives. One addition is one file here and one line below.

Values are import paths, so that listing names costs no torch. Third parties call
``ALGORITHMS.register("Name", Class)`` in a module given by ``--plugin``, or offer the class as an entry point of the
group ``sfmoe_dg.algorithms``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfmoe_dg.hparams import HparamTable, default_values, random_values
from sfmoe_dg.registry import Registry

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm


def _complaint(name: str, found: object) -> str:
    from sfmoe_dg.algorithms.base import Algorithm

    is_one = isinstance(found, type) and issubclass(found, Algorithm)
    return "" if is_one else "something else than a class derived from sfmoe_dg.algorithms.base.Algorithm"


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "sfmoe_dg.algorithms", _complaint)
ALGORITHMS.register("ERM", "sfmoe_dg.algorithms.erm:ERM")
ALGORITHMS.register("ERMPlusPlus", "sfmoe_dg.algorithms.erm_plus_plus:ERMPlusPlus")
ALGORITHMS.register("Fish", "sfmoe_dg.algorithms.fish:Fish")
ALGORITHMS.register("IRM", "sfmoe_dg.algorithms.irm:IRM")
ALGORITHMS.register("GroupDRO", "sfmoe_dg.algorithms.group_dro:GroupDRO")
ALGORITHMS.register("Mixup", "sfmoe_dg.algorithms.mixup:Mixup")
ALGORITHMS.register("MLDG", "sfmoe_dg.algorithms.mldg:MLDG")
ALGORITHMS.register("CORAL", "sfmoe_dg.algorithms.coral:CORAL")
ALGORITHMS.register("MMD", "sfmoe_dg.algorithms.mmd:MMD")
ALGORITHMS.register("DANN", "sfmoe_dg.algorithms.dann:DANN")
ALGORITHMS.register("CDANN", "sfmoe_dg.algorithms.cdann:CDANN")
ALGORITHMS.register("MTL", "sfmoe_dg.algorithms.mtl:MTL")
ALGORITHMS.register("SagNet", "sfmoe_dg.algorithms.sagnet:SagNet")
ALGORITHMS.register("ARM", "sfmoe_dg.algorithms.arm:ARM")
ALGORITHMS.register("VREx", "sfmoe_dg.algorithms.vrex:VREx")
ALGORITHMS.register("RSC", "sfmoe_dg.algorithms.rsc:RSC")
ALGORITHMS.register("SD", "sfmoe_dg.algorithms.sd:SD")
ALGORITHMS.register("ANDMask", "sfmoe_dg.algorithms.and_mask:ANDMask")
ALGORITHMS.register("SANDMask", "sfmoe_dg.algorithms.sand_mask:SANDMask")
ALGORITHMS.register("IGA", "sfmoe_dg.algorithms.iga:IGA")
ALGORITHMS.register("SelfReg", "sfmoe_dg.algorithms.self_reg:SelfReg")
ALGORITHMS.register("Fishr", "sfmoe_dg.algorithms.fishr:Fishr")
ALGORITHMS.register("TRM", "sfmoe_dg.algorithms.trm:TRM")
ALGORITHMS.register("IB_ERM", "sfmoe_dg.algorithms.ib_erm:IB_ERM")
ALGORITHMS.register("IB_IRM", "sfmoe_dg.algorithms.ib_irm:IB_IRM")
ALGORITHMS.register("CAD", "sfmoe_dg.algorithms.cad:CAD")
ALGORITHMS.register("CondCAD", "sfmoe_dg.algorithms.cond_cad:CondCAD")
ALGORITHMS.register("Transfer", "sfmoe_dg.algorithms.transfer:Transfer")
ALGORITHMS.register("CausIRL_CORAL", "sfmoe_dg.algorithms.caus_irl_coral:CausIRL_CORAL")
ALGORITHMS.register("CausIRL_MMD", "sfmoe_dg.algorithms.caus_irl_mmd:CausIRL_MMD")
ALGORITHMS.register("EQRM", "sfmoe_dg.algorithms.eqrm:EQRM")
ALGORITHMS.register("RDM", "sfmoe_dg.algorithms.rdm:RDM")
ALGORITHMS.register("ADRMX", "sfmoe_dg.algorithms.adrmx:ADRMX")
ALGORITHMS.register("URM", "sfmoe_dg.algorithms.urm:URM")
ALGORITHMS.register("SWAD", "sfmoe_dg.algorithms.swad:SWAD")
ALGORITHMS.register("SMA", "sfmoe_dg.algorithms.sma:SMA")
ALGORITHMS.register("MIRO", "sfmoe_dg.algorithms.miro:MIRO")
ALGORITHMS.register("SAM", "sfmoe_dg.algorithms.sam:SAM")
ALGORITHMS.register("MixStyle", "sfmoe_dg.algorithms.mix_style:MixStyle")
ALGORITHMS.register("LPFT", "sfmoe_dg.algorithms.lpft:LPFT")
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
