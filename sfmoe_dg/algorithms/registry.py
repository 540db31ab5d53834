"""The registry of algorithms. A new objective is one file in ``objectives/`` and one line below; presets are declared
beside their architectures (``sfmoe_dg/models/architectures/registry.py``).

Values are import paths, so that listing the names does not import torch. Other packages call
``ALGORITHMS.register("Name", Class)`` in a plug-in module, or offer the class as an entry point of the group
``sfmoe_dg.algorithms``. A :class:`sfmoe_dg.models.architectures.preset.Preset` may stand in the class's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfmoe_dg.foundation.registry import Registry
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.models.architectures.registry import presets
from sfmoe_dg.runs.hparams import HparamTable, default_values, random_values

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm


def _complaint(name: str, registered: object) -> str:
    from sfmoe_dg.algorithms.base import Algorithm

    is_one = isinstance(registered, Preset) or (isinstance(registered, type) and issubclass(registered, Algorithm))
    return "" if is_one else "something else than a class derived from sfmoe_dg.algorithms.base.Algorithm"


def _as_class(name: str, found: Any) -> type[Algorithm]:
    if not isinstance(found, Preset):
        return found
    from sfmoe_dg.algorithms.presets import algorithm_of

    return algorithm_of(name, found)


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "sfmoe_dg.algorithms", _complaint, _as_class)
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
for _name, _place in presets().items():
    ALGORITHMS.register(_name, _place)


def hparam_table(algorithm: str, dataset: str) -> HparamTable:
    """The hyper-parameters of an algorithm on a data set, by name."""
    return ALGORITHMS.load(algorithm).hparam_table(dataset)


def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
    """The default hyper-parameters: those of DomainBed's ``default_hparams``, and the names that this suite adds.

    Examples:
        >>> from sfmoe_dg import default_hparams
        >>> default_hparams("CORAL", "PACS")["mmd_gamma"]
        1.0
    """
    return default_values(hparam_table(algorithm, dataset))


def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
    """One random draw: the same values as DomainBed's ``random_hparams`` for the names that both have.

    Examples:
        >>> from sfmoe_dg import random_hparams
        >>> random_hparams("CORAL", "PACS", seed=1) == random_hparams("CORAL", "PACS", seed=1)
        True
    """
    return random_values(hparam_table(algorithm, dataset), seed)
