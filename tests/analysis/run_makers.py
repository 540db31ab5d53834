"""Make runs and subjects of figures in memory, without training."""

from __future__ import annotations

from pathlib import Path

import torch

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.subject.opened import OpenedRun
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.data.build import open_data
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.runs.spec import RunSpec


def opened_run(algorithm: str = "SFMoE", **hparams: object) -> OpenedRun:
    """An untrained model on StyledDigits with neon held out, in the form of an opened run."""
    spec = RunSpec("StyledDigits", algorithm, (3,))
    data = open_data(CATALOG.load(spec.dataset), spec)
    torch.manual_seed(0)
    values = default_hparams(algorithm, spec.dataset) | {"pretrained": False} | hparams
    model = ALGORITHMS.load(algorithm)(data.dataset.input_shape, data.dataset.num_classes, 3, values).eval()
    return OpenedRun(Path("run"), spec, model, data.dataset, data.splits, "cpu")


def subject_of(run: OpenedRun, other: OpenedRun | None = None, **looked_at: object) -> Subject:
    """A subject with this run, another run beside it and by default four images per domain."""
    subject = Subject(Path("run"), **{"images": 4, **looked_at})
    pair = {"sparse": run} if other is None else {"sparse": run, "dense": other}
    # What is expensive is kept where it would be after its first computation.
    vars(subject).update(run=run, pair=pair)
    return subject
