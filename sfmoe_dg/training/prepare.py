"""A run made ready: everything is checked, and nothing of the run is on disk yet.

Preparing is a chain, and each link takes what the one before gives: ``open_data`` (``data.build``) →
:func:`build_learner` → :func:`make_loaders`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.kept_pixels import KEEP_BYTES
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.build import RunData, open_data
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit, check_batch_size
from sfmoe_dg.foundation.devices import pick_device
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_everything
from sfmoe_dg.foundation.version import __version__
from sfmoe_dg.runs.execution import Execution as Execution
from sfmoe_dg.runs.hparams import parse_overrides, resolve
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.fast_options import speed_up


@dataclass(frozen=True)
class Setup:
    """A run made ready: all that training needs."""

    spec: RunSpec
    execution: Execution
    device: torch.device
    hparams: dict[str, Any]
    dataset: DomainDataset
    splits: list[DomainSplit]
    algorithm: Algorithm
    train_loader: TrainLoader
    eval_loader: EvalLoader
    validation_loader: EvalLoader | None
    """Reads the training domains' out-splits without augmentation, for algorithms that need their loss there."""
    steps: int
    checkpoint_freq: int
    num_parameters: int
    """Of the whole algorithm, also where each process holds a part of it."""

    @property
    def steps_per_epoch(self) -> float:
        """Upstream's epoch: that of the smallest domain, test domains included."""
        return min(len(split.in_) / self.hparams["batch_size"] for split in self.splits)

    def measured_on_out_only(self, step: int) -> list[int]:
        """The domains of which the evaluation after this step measures the out-split alone."""
        if self.spec.options.eval == "all" or step == self.steps - 1:
            return []
        return [env for env in range(len(self.splits)) if env not in self.spec.test_envs]

    def close(self) -> None:
        """End the loaders' worker processes."""
        self.train_loader.close()
        self.eval_loader.close()
        if self.validation_loader is not None:
            self.validation_loader.close()


def prepare(spec: RunSpec, execution: Execution | None = None, *, validate: bool = False) -> Setup:
    """Check everything that can be wrong with a run, and build it.

    Args:
        validate: make the validation loader for algorithms that do not need it too.

    Raises:
        UserError: for whatever is wrong; nothing of the run has been written then.
    """
    execution = execution or Execution()
    spec.check()
    facts = CATALOG.load(spec.dataset)
    algorithm_class = ALGORITHMS.load(spec.algorithm)
    hparams = resolve_hparams(spec, algorithm_class)
    device = pick_device(execution.device)
    seed_everything(spec.seed)
    data = open_data(facts, spec, execution.cache_dir)
    check_batch_size(data.dataset, data.splits, data.train_envs, hparams["batch_size"])
    algorithm = build_learner(spec, algorithm_class, hparams, data, device, execution.world.shared)
    num_parameters = sum(p.numel() for p in algorithm.parameters())
    train, evaluation, validation = make_loaders(spec, execution, data, algorithm, device, validate)
    if execution.world.shared:
        # Imported here: a process on its own has no use for torch's distributed tensors.
        from sfmoe_dg.training.sharing.shared_updates import share_updates

        share_updates(algorithm, execution.world, execution.parallel)
    return Setup(
        spec=spec,
        execution=execution,
        device=device,
        hparams=hparams,
        dataset=data.dataset,
        splits=data.splits,
        algorithm=algorithm,
        train_loader=train,
        eval_loader=evaluation,
        validation_loader=validation,
        steps=spec.steps or facts.steps,
        checkpoint_freq=spec.checkpoint_freq or facts.checkpoint_freq,
        num_parameters=num_parameters,
    )


def resolve_hparams(spec: RunSpec, algorithm_class: type[Algorithm]) -> dict[str, Any]:
    """The run's hyper-parameters: the defaults or a random draw, then the overrides.

    Raises:
        UserError: on an override that does not fit.
    """
    try:
        hparams = resolve(
            algorithm_class.hparam_table(spec.dataset),
            spec.hparams_seed,
            spec.trial_seed,
            parse_overrides(spec.hparams),
            per_trial=spec.options.hparams_per_trial,
        )
        algorithm_class.check_hparams(hparams, "hparams")
    except UserError as error:
        raise UserError(str(error), *error.fields, "hparams") from None  # all of them are about this field
    return hparams


def build_learner(
    spec: RunSpec,
    algorithm_class: type[Algorithm],
    hparams: dict[str, Any],
    data: RunData,
    device: torch.device,
    shared: bool,
) -> Algorithm:
    """The run's algorithm on its device, with the run's options.

    Raises:
        UserError: if there are too few training domains, or an option does not fit the algorithm.
    """
    dataset, num_domains = data.dataset, len(data.train_envs)
    if num_domains < algorithm_class.min_domains:
        raise UserError(
            f"{spec.algorithm} needs at least {algorithm_class.min_domains} training domains; {spec.dataset} without "
            f"test domains {list(spec.test_envs)} has {num_domains}"
        )
    algorithm = algorithm_class(dataset.input_shape, dataset.num_classes, num_domains, hparams)
    algorithm.precision = Precision(spec.options.precision, device.type)
    algorithm.to(device)
    speed_up(algorithm, spec.options, device, shared)
    attributes = data.facts.domain_attributes
    algorithm.describe_domains([attributes[env] for env in data.train_envs] if attributes else [])
    return algorithm


def make_loaders(
    spec: RunSpec,
    execution: Execution,
    data: RunData,
    algorithm: Algorithm,
    device: torch.device,
    validate: bool = False,
) -> tuple[TrainLoader, EvalLoader, EvalLoader | None]:
    """What reads the run's images: for training, for evaluation, and for the validation loss if that is needed."""
    dataset, splits, train_envs = data.dataset, data.splits, data.train_envs
    clean = clean_transform(spec.options.images, dataset, algorithm)
    augmented = replace(clean, augment=bool(algorithm.hparams["data_augmentation"]), crop=data.facts.crops)
    reading = Reading(execution.num_workers, device, world=execution.world)
    train = TrainLoader(
        dataset,
        splits,
        train_envs,
        algorithm.hparams["batch_size"],
        augmented,
        seed=spec.seed,
        class_balanced=algorithm.hparams["class_balanced"],
        unlabeled_envs=spec.test_envs if spec.task == "domain_adaptation" else (),
        reading=reading,
    )
    eval_loader = partial(
        EvalLoader,
        dataset,
        seed=spec.seed,
        batch_size=execution.eval_batch_size,
        shuffled=algorithm.predicts_in_context,
        in_step=execution.parallel != "ddp",
        keep_bytes=KEEP_BYTES,
        reading=reading,
    )
    through_augmentation = train_envs if spec.options.eval_transforms == "train" else []
    transforms = [augmented if env in through_augmentation else clean for env in range(len(dataset))]
    evaluation = eval_loader([split.used for split in splits], transforms)
    if not (validate or algorithm.needs_validation_loss):
        return train, evaluation, None
    outs = [split.out if env in train_envs else split.out[:0] for env, split in enumerate(splits)]
    return train, evaluation, eval_loader(outs, [clean] * len(dataset))


def clean_transform(images: str, dataset: DomainDataset, algorithm: Algorithm) -> ImageTransform:
    """Pictures to the algorithm's input without augmentation; ``images`` is the run's option."""
    mean, std = algorithm.normalization
    transform = ImageTransform if images == "files" else TensorTransform
    return transform(size=dataset.input_shape[-1], mean=mean, std=std)


def describe(setup: Setup) -> dict[str, Any]:
    """The content of run.json: what DomainBed's records have no place for."""
    dataset = setup.dataset
    sizes = {
        name: {"in": len(split.in_), "out": len(split.out), "uda": len(split.uda)}
        for name, split in zip(dataset.domain_names, setup.splits, strict=True)
    }
    return {
        "dataset": setup.spec.dataset,
        "domains": list(dataset.domain_names),
        "classes": list(dataset.class_names),
        "test_domains": [dataset.domain_names[i] for i in setup.spec.test_envs],
        "images": sizes,
        "skipped_images": list(dataset.skipped),
        "options": setup.spec.options.changed(),
        "num_parameters": setup.num_parameters,
        "normalization": [list(values) for values in setup.algorithm.normalization],
        "device": str(setup.device),
        "versions": {"sfmoe_dg": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
