"""SFMoE: ERM on a sparse-fusion mixture-of-experts ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class SFMoE(ERM):
    """Cross-entropy plus the balance losses of its experts.

    ``settings`` are the learning rates and weight decays of the experiments in the authors' code of June 2022.
    """

    paper = "Li et al., Sparse Fusion Mixture-of-Experts are Domain Generalizable Learners, 2022"
    backbones: ClassVar[tuple[str, str]] = ("sf_moe_small_patch16_224", "sf_moe_tiny_32")
    settings: ClassVar[Mapping[str, tuple[float, float]]] = {
        "PACS": (3e-5, 0.0),
        "VLCS": (1e-5, 1e-6),
        "OfficeHome": (3e-5, 1e-6),
        "TerraIncognita": (3e-5, 1e-4),
        "DomainNet": (3e-5, 0.0),
        "CUBDG": (5e-5, 0.0),
    }

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table["backbone"] = Hparam(backbone_for(dataset, *cls.backbones))
        if dataset in cls.settings:
            lr, weight_decay = cls.settings[dataset]
            table["lr"] = replace(table["lr"], default=lr, draw=log10_uniform(-5, -3.5))
            table["weight_decay"] = replace(table["weight_decay"], default=weight_decay, draw=log10_uniform(-6, -2))
        return table


def backbone_for(dataset: str, large: str, tiny: str) -> str:
    """The 224 px model, or its tiny twin where the data set's pictures are small."""
    small = dataset in CATALOG and CATALOG.load(dataset).input_shape[-1] < 64
    return tiny if small else large
