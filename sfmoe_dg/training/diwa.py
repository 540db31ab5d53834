"""DiWA: one model from the mean weights of a sweep's runs.

Source: Ramé et al., Diverse Weight Averaging for Out-of-Distribution Generalization, 2022; the restricted selection is
the greedy soup of Wortsman et al., Model Soups, 2022. Averaging assumes that all runs start from the same weights.
Pre-trained backbones do. Classifiers do not: each run's seed draws them, whereas the paper fits one by linear probing
before the sweep; a sweep of LPFT is therefore closer to the paper than one of ERM. Experts are brought into the same
order first, see :func:`sfmoe_dg.models.moe.align_experts.align_experts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.shared.averages import RunningMean, move_towards, tensors
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import make_folder
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.align_experts import align_experts
from sfmoe_dg.results.read import last_record, runs_with_records
from sfmoe_dg.results.record_lines import Record, num_domains, options_label
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.lease import refuse_living_owner
from sfmoe_dg.runs.records import append_record
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.evaluate import evaluate, validation_accuracy
from sfmoe_dg.training.model_file import load_model, save_trained
from sfmoe_dg.training.prepare import Execution, Setup, describe, prepare

SOUPS = ("restricted", "uniform")
SPLIT_ARGS = ("task", "holdout_fraction", "uda_holdout_fraction")
"""Arguments that decide which images a run is trained on, besides those by which runs are selected."""


@dataclass(frozen=True)
class Member:
    """A finished run with its model; ``val_acc`` and ``record`` are of its last step."""

    folder: Path
    val_acc: float
    record: Record


@dataclass(frozen=True)
class Soup:
    """A model of averaged weights, the runs in the average, and the record of its evaluation."""

    algorithm: Algorithm
    members: tuple[Member, ...]
    record: Record


def find_members(
    input_dir: str | Path, dataset: str, algorithm: str, test_env: int, trial_seed: int
) -> tuple[list[Member], list[str]]:
    """The runs to average, best accuracy on the training domains' out-splits first, and sentences on those left out.

    Raises:
        UserError: if there are none, or they differ in what they were trained on or how.
    """
    wanted = {"dataset": dataset, "algorithm": algorithm, "test_envs": [test_env], "trial_seed": trial_seed}
    members, left_out = [], []
    for folder in runs_with_records(Path(input_dir)):
        try:
            record = last_record(folder)
        except UserError as error:
            left_out.append(f"{error}; it is left out")
            continue
        if any(record["args"].get(name) != value for name, value in wanted.items()):
            continue
        if folder.lacks:
            left_out.append(f"{folder} {folder.lacks}; it is left out")
            continue
        accs = [record[f"env{i}_out_acc"] for i in range(num_domains(record)) if i != test_env]
        members.append(Member(folder.path, float(np.mean(accs)), record))
    if not members:
        described = ", ".join(f"{name} {value}" for name, value in wanted.items())
        reason = left_out[0] if left_out else "see sfmoe-dg status"
        raise UserError(f"no finished run with a model in {input_dir} of {described}: {reason}")
    _refuse_mixture(members)
    return sorted(members, key=lambda member: -member.val_acc), left_out


def _refuse_mixture(members: Sequence[Member]) -> None:
    """Refuse runs with other splits, which trained on each other's validation images, or with other options."""
    values = {name: {member.record["args"].get(name) for member in members} for name in SPLIT_ARGS}
    values["options"] = {options_label(member.record) or "none" for member in members}
    differing = [f"{name} ({', '.join(sorted(map(str, v)))})" for name, v in values.items() if len(v) > 1]
    if differing:
        raise UserError(
            f"the runs in {members[0].folder.parent} that could be averaged differ in {' and '.join(differing)}; "
            "put those that belong together into a folder of their own"
        )


def make_soup(
    members: Sequence[Member],
    kind: str,
    output_dir: str | Path,
    execution: Execution | None = None,
    data_dir: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Soup:
    """Average models, evaluate the result and write it as a run's folder.

    Args:
        members: from :func:`find_members`, the best first.
        kind: 'uniform' averages all; 'restricted' tries them in order and keeps each that does not lower the average
            model's accuracy on the training domains' out-splits.
        data_dir: where the images are now, if they are not where the runs found them.
        tell: called with a line for each model that is tried.

    Raises:
        UserError: on an unknown kind; if models have other shapes or values that are not finite; or if the folder
            holds a run.
    """
    if kind not in SOUPS:
        raise unknown("soup", kind, SOUPS)
    folder = RunFolder(Path(output_dir))
    _refuse_taken(folder)
    setup = prepare(_spec(members[0].record, data_dir), execution, validate=kind == "restricted")
    try:
        algorithm, chosen = _restricted(setup, members, tell) if kind == "restricted" else _uniform(setup, members)
        record = _record(setup, algorithm, chosen, kind, str(output_dir))
    finally:
        setup.close()
    make_folder(folder.path)
    about = describe(setup) | {"soup": [str(member.folder) for member in chosen]}
    folder.write_about(about)
    save_trained(folder, algorithm, members[0].record["args"] | {"output_dir": str(output_dir)})
    append_record(folder.results, record)
    folder.finish()
    return Soup(algorithm, tuple(chosen), record)


def _refuse_taken(folder: RunFolder) -> None:
    if folder.is_done:
        raise UserError(f"{folder} holds a finished run; choose another output_dir", "output_dir")
    refuse_living_owner(folder.path)
    if begun := folder.begun_files:
        raise UserError(
            f"{folder} holds a run that is not finished ({begun[0]}); choose another output_dir", "output_dir"
        )


def _spec(record: Record, data_dir: str | None) -> RunSpec:
    """The run's specification with all hyper-parameters given; weights come from its model file."""
    hparams = json.dumps(record["hparams"] | {"pretrained": False})
    spec = replace(RunSpec.from_record(record), hparams=hparams, hparams_seed=0)
    return spec if data_dir is None else replace(spec, data_dir=data_dir)


class _RunningModel:
    """A running mean of models, and an algorithm to which the mean is copied."""

    def __init__(self, setup: Setup, first: Member) -> None:
        self._first, self._reference = first, load_model(first.folder)
        self.algorithm = load_model(first.folder).to(setup.device)
        self.algorithm.precision = setup.algorithm.precision
        self.mean = RunningMean()

    def with_member(self, member: Member) -> RunningMean:
        """The mean with this model in it; ``self.mean`` is not changed."""
        model = load_model(member.folder)
        own, wanted = tensors(model), tensors(self._reference)
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted.items()}:
            raise UserError(
                f"the models of {member.folder} and {self._first.folder} differ in shape: no mean of both; average "
                "runs of one backbone"
            )
        odd = [name for name, value in own.items() if value.is_floating_point() and not value.isfinite().all()]
        if odd:
            raise UserError(
                f"the model in {member.folder} diverged: {odd[0]} holds values that are not finite; move that run's "
                "folder elsewhere"
            )
        align_experts(model, self._reference)
        mean = self.mean.copy()
        mean.add(own)
        return mean

    def copy_in(self, mean: RunningMean) -> Algorithm:
        assert mean.state is not None
        move_towards(tensors(self.algorithm), mean.state, 1.0)
        return self.algorithm


def _uniform(setup: Setup, members: Sequence[Member]) -> tuple[Algorithm, list[Member]]:
    average = _RunningModel(setup, members[0])
    for member in members:
        average.mean = average.with_member(member)
    return average.copy_in(average.mean), list(members)


def _restricted(setup: Setup, members: Sequence[Member], tell: Callable[[str], None]) -> tuple[Algorithm, list[Member]]:
    average, chosen, best = _RunningModel(setup, members[0]), list[Member](), -np.inf
    assert setup.validation_loader is not None
    for member in members:
        mean = average.with_member(member)
        accuracy = validation_accuracy(average.copy_in(mean), setup.validation_loader, 0)
        kept = accuracy >= best
        if kept:
            average.mean, best = mean, accuracy
            chosen.append(member)
        alone = f"{100 * member.val_acc:.2f} alone"
        tell(f"{'kept' if kept else 'left'} {member.folder.name}: {alone}, mean {100 * accuracy:.2f}")
    return average.copy_in(average.mean), chosen


def _record(setup: Setup, algorithm: Algorithm, chosen: Sequence[Member], kind: str, output_dir: str) -> Record:
    best = chosen[0].record
    step = max(member.record["step"] for member in chosen)
    args = best["args"] | {"algorithm": f"DiWA({best['args']['algorithm']})", "output_dir": output_dir}
    args |= {"hparams_seed": 0, "hparams": None}
    record: Record = {"step": step, "epoch": step / setup.steps_per_epoch, "soup_size": len(chosen)}
    record |= evaluate(algorithm.eval(), setup.eval_loader, setup.splits, step)
    record |= {"args": args, "hparams": {"soup": kind, "num_runs": len(chosen)}}
    return record | ({"options": best["options"]} if best.get("options") else {})
