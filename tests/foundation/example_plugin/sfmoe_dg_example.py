"""A package of one file that adds an objective, a backbone, a data set, a launcher and an analysis to sfmoe-dg."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

import torch
from torch import nn

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.foundation.checked import value
from sfmoe_dg.models.backbones import Featurizer
from sfmoe_dg.runs.hparams import Hparam, uniform
from sfmoe_dg.sweeps.launch.settings import LaunchSettings


class HalfERM(ERM):
    """ERM that takes its loss by half."""

    paper = "an example, 2026"

    @classmethod
    def hparam_table(cls, dataset):
        return super().hparam_table(dataset) | {"half": Hparam(0.5, uniform(0.4, 0.6))}

    def objective(self, forward):
        loss, logged = super().objective(forward)
        return self.hparams["half"] * loss, logged | {"whole_loss": loss}


def mean_colour(input_shape, hparams):
    """the mean of every channel, and nothing learned"""
    channels = input_shape[0]
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Featurizer(network, n_outputs=channels, normalization=((0.0,) * channels, (1.0,) * channels))


def read_shades(entry, data_dir, on_bad_image):
    """Dark pictures are of class 0, bright ones of class 1; a domain is how far apart they are."""
    domains = []
    for i, name in enumerate(entry.domains):
        targets = torch.arange(20) % 2
        images = (0.5 + (targets - 0.5) * 0.2 * (i + 1)).reshape(20, 1, 1, 1).expand(20, *entry.input_shape)
        domains.append(InMemoryDomain(name, images.contiguous(), targets.numpy()))
    return DomainDataset(entry.name, tuple(domains), entry.input_shape, ("dark", "bright"), entry.labels)


SHADES = DatasetFacts(
    name="Shades",
    folder="",
    domains=("near", "apart", "far"),
    labels=("N", "A", "F"),
    num_classes=2,
    input_shape=(3, 32, 32),
    steps=10,
    checkpoint_freq=5,
    reader="sfmoe_dg_example:read_shades",
    needs_data_dir=False,
)


@dataclass(frozen=True)
class InTurnSettings(LaunchSettings):
    """The keys of a study's [launch] table that the launcher in_turn reads."""

    pause: float = value(0, low=0, help="seconds between two runs")


class InTurn:
    """Starts one run after another."""

    settings = InTurnSettings

    def launch(self, study, settings, listener):
        for state in study.states():
            if state.is_to_do:
                time.sleep(settings.pause)
                job, started = study.job(state), time.monotonic()
                code = subprocess.run(job.command, stdout=subprocess.DEVNULL).returncode
                listener.ended(job, f"exit code {code}" if code else None, time.monotonic() - started)
        return True

    def queued(self, output_dir):
        return {}

    def cancel(self, output_dir, runs=None):
        return []


def brightness(subject):
    """how bright the pictures of every domain are"""
    import pandas as pd

    from sfmoe_dg.analysis.drawing.saving import Drawing
    from sfmoe_dg.analysis.drawing.style import new_figure

    rows = [(batch.env, float(batch.x.mean())) for batch in subject.run.batches(subject.selection)]
    table = pd.DataFrame(rows, columns=["domain", "brightness"])
    figure, axes = new_figure(1, 1, 3, 2)
    axes[0, 0].plot(table["domain"], table["brightness"], "o")
    yield Drawing("brightness", figure, table, f"Mean of all pixels: {subject.where()}.")
