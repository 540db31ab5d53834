"""Presets as algorithms: what :class:`sfmoe_dg.models.architectures.preset.Preset` declares beside an architecture."""

from __future__ import annotations

from typing import ClassVar

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.runs.hparams import Hparam


class PresetERM(ERM):
    """ERM on the backbone of a preset."""

    preset: ClassVar[Preset]

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return cls.preset.hparam_table(dataset, super().hparam_table(dataset))


def algorithm_of(name: str, preset: Preset) -> type[ERM]:
    """The class that a preset stands for."""
    values = {"__doc__": preset.text, "paper": preset.paper, "needs": preset.needs, "preset": preset}
    return type(name, (PresetERM,), values)
