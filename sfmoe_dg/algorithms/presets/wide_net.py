"""WideNet: ERM on a ViT whose blocks share one attention and one set of experts."""

from __future__ import annotations

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.presets.sf_moe import backbone_for
from sfmoe_dg.runs.hparams import Hparam


class WideNet(ERM):
    """Cross-entropy plus 0.01 times the balance loss of every block's routing.

    No weights are published, so it starts from scratch (``pretrained`` is False in its records). The paper's settings
    are for ImageNet (LAMB, batch 4096, 300 epochs); learning rate and weight decay are the suite's common ones.
    """

    paper = "Xue et al., Go Wider Instead of Deeper, 2022"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table["backbone"] = Hparam(backbone_for(dataset, "wide_net_base_patch16_224", "wide_net_tiny_32"))
        table["pretrained"] = Hparam(False, types=(bool, str))
        return table
