"""Presets: what an algorithm's name stands for that is ERM on the network of a paper. No torch in this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.runs.hparams import Hparam, HparamTable


@dataclass(frozen=True)
class Preset:
    """ERM on a backbone, with the defaults of its paper.

    Registered like an algorithm, ``ALGORITHMS.register("Name", Preset(…))``, it becomes one: a class derived from ERM
    (``algorithms/presets.py``). A variant of a preset is ``dataclasses.replace(preset, …)``.

    Attributes:
        text: the docstring of the class.
        paper: authors, title's short form and year.
        backbones: the names of the network for pictures of 64 px and more, and of its tiny twin for smaller ones.
        defaults: values in the place of the defaults that all algorithms share.
        large_defaults: the same, on pictures of 64 px and more only.
        dataset_defaults: the same, by data set.
        hparams: the network's own hyper-parameters, which no other algorithm has.
        needs: what it needs, in a few words for ``sfmoe-dg list algorithms``.
    """

    text: str
    paper: str
    backbones: tuple[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    large_defaults: Mapping[str, Any] = field(default_factory=dict)
    dataset_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hparams: HparamTable = field(default_factory=dict)
    needs: str = ""

    def hparam_table(self, dataset: str, common: HparamTable) -> dict[str, Hparam]:
        """The hyper-parameters on one data set: ``common``, those of ERM, with the preset's defaults, and its own."""
        small = dataset in CATALOG and CATALOG.load(dataset).input_shape[-1] < 64
        values = {
            "backbone": self.backbones[small],
            **self.defaults,
            **({} if small else self.large_defaults),
            **self.dataset_defaults.get(dataset, {}),
        }
        table = {**common, **self.hparams}
        return table | {name: replace(table[name], default=value) for name, value in values.items()}


def lr_and_weight_decay(by_dataset: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Learning rate and weight decay by data set, as :attr:`Preset.dataset_defaults`."""
    return {name: {"lr": lr, "weight_decay": decay} for name, (lr, decay) in by_dataset.items()}
