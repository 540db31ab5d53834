"""CondMoE: ERM on a conditional mixture of experts, whose routes may depend on the training domain."""

from __future__ import annotations

from sfmoe_dg.algorithms.common_hparams import MODEL_DEFAULT
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.presets.sf_moe import backbone_for
from sfmoe_dg.models.moe.conditions import LEVELS, UNKNOWN_DOMAIN
from sfmoe_dg.runs.hparams import Hparam


class CondMoE(ERM):
    """Cross-entropy; training tells the backbone which domain every image is from, prediction does not.

    ``models/architectures/conditional_moe.py`` explains ``routing_level`` and ``unknown_domain``; the default level,
    "token", looks at the picture alone.
    """

    paper = "Zhu et al., Uni-Perceiver-MoE: Learning Sparse Generalist Models with Conditional MoEs, 2022"
    needs = "descriptions of the domains for the routing level 'attribute'"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table["backbone"] = Hparam(backbone_for(dataset, "cond_moe_small_patch16_224", "cond_moe_tiny_32"))
        table["routing_level"] = Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *LEVELS))
        table["unknown_domain"] = Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *UNKNOWN_DOMAIN))
        return table
