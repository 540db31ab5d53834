"""A run made ready: its data, splits, algorithm and loaders, everything checked, nothing of the run on disk yet."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sfmoe_dg.algorithms.base import Algorithm, Precision
from sfmoe_dg.algorithms.registry import ALGORITHMS, hparam_table
from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.kept_pixels import KEEP_BYTES
from sfmoe_dg.data.batches.loaders import ALONE, EvalLoader, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import facts
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit, check_batch_size, split_domains
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import World
from sfmoe_dg.foundation.seeds import seed_everything
from sfmoe_dg.foundation.version import __version__
from sfmoe_dg.runs.hparams import parse_overrides, resolve
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.fast_options import speed_up


@dataclass(frozen=True)
class Execution:
    """How a run is executed; none of it changes what the records mean.

    Examples:
        >>> from sfmoe_dg import Execution
        >>> Execution(device="cpu", num_workers=0).eval_batch_size
        128
    """

    device: str = "auto"
    num_workers: int | None = None
    eval_batch_size: int = 128
    cache_dir: str | None = None
    """The folder of decoded images, for the option images = "cached"."""
    checkpoint_minutes: float = 10
    """A run saves what it needs to go on at every evaluation, and whenever so many minutes have passed."""
    world: World = ALONE
    """Which of how many processes this one is; those of one run share every minibatch and every evaluation."""
    parallel: str = "ddp"
    """How they share it: one of ``PARALLEL_MODES``."""


@dataclass(frozen=True)
class Setup:
    """A run made ready: everything that training needs and nothing of the run on disk yet."""

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
    """The training domains' out-splits without augmentation, for algorithms that want to know their loss there."""
    steps: int
    checkpoint_freq: int
    num_parameters: int
    """Of the algorithm, wherever they are."""

    @property
    def world(self) -> World:
        """The processes that train this run."""
        return self.execution.world

    @property
    def steps_per_epoch(self) -> float:
        """Upstream's epoch: that of the smallest domain, test domains included."""
        return min(len(split.in_) / self.hparams["batch_size"] for split in self.splits)

    def measured_on_out_only(self, step: int) -> list[int]:
        """The domains whose other splits an evaluation after this step leaves out."""
        if self.spec.options.eval == "all" or step == self.steps - 1:
            return []
        return [env for env in range(len(self.splits)) if env not in self.spec.test_envs]

    def close(self) -> None:
        self.train_loader.close()
        self.eval_loader.close()
        if self.validation_loader is not None:
            self.validation_loader.close()


def resolve_hparams(spec: RunSpec) -> dict[str, Any]:
    """The run's hyper-parameters: defaults or random draw, and the overrides.

    Raises:
        UserError: on an unknown algorithm, or an override that does not fit.
    """
    hparams = resolve(
        hparam_table(spec.algorithm, spec.dataset),
        spec.hparams_seed,
        spec.trial_seed,
        parse_overrides(spec.hparams),
        per_trial=spec.options.hparams_per_trial,
    )
    ALGORITHMS.load(spec.algorithm).check_hparams(hparams, "--hparams")
    return hparams


def prepare(spec: RunSpec, execution: Execution | None = None) -> Setup:
    """Check everything that can be wrong with a run, and build it.

    Raises:
        UserError: for whatever is wrong; nothing of the run has been written then.
    """
    execution = execution or Execution()
    spec.check()
    entry = facts(spec.dataset)
    hparams = resolve_hparams(spec)
    device = pick_device(execution.device)
    seed_everything(spec.seed)
    dataset, splits = open_data(spec, execution.cache_dir)
    train_envs = [i for i in range(len(dataset)) if i not in spec.test_envs]
    check_batch_size(dataset, splits, train_envs, hparams["batch_size"])
    algorithm = _build_algorithm(spec, dataset, train_envs, hparams, device, execution.world.shared)
    num_parameters = sum(p.numel() for p in algorithm.parameters())
    train_loader, eval_loader = _make_loaders(spec, execution, dataset, splits, train_envs, algorithm, device)
    if execution.world.shared:
        # Imported here: a process on its own has no use for torch's distributed tensors.
        from sfmoe_dg.training.sharing.shared_updates import share_updates

        share_updates(algorithm, execution.world, execution.parallel)
    setup = Setup(
        spec=spec,
        execution=execution,
        device=device,
        hparams=hparams,
        dataset=dataset,
        splits=splits,
        algorithm=algorithm,
        train_loader=train_loader,
        eval_loader=eval_loader,
        validation_loader=None,
        steps=spec.steps or entry.steps,
        checkpoint_freq=spec.checkpoint_freq or entry.checkpoint_freq,
        num_parameters=num_parameters,
    )
    return replace(setup, validation_loader=open_validation(setup)) if algorithm.needs_validation_loss else setup


def open_data(spec: RunSpec, cache_dir: str | None = None) -> tuple[DomainDataset, list[DomainSplit]]:
    """A run's data set, and its domains split as the run splits them.

    Some data sets draw their images from the global generators: seed those first (``seeds.seed_everything``).

    Args:
        cache_dir: the folder of decoded images, for runs with the option images = "cached".

    Raises:
        UserError: if the data are not there.
    """
    dataset = build_dataset(spec.dataset, spec.data_dir, on_bad_image=spec.options.on_bad_image)
    if spec.options.images == "cached":
        if cache_dir is None:
            raise UserError("--images cached needs --cache_dir, a folder for the decoded images")
        dataset = cached(dataset, cache_dir)
    splits = split_domains(
        dataset,
        spec.test_envs,
        trial_seed=spec.trial_seed,
        holdout_fraction=spec.holdout_fraction,
        uda_fraction=spec.uda_holdout_fraction,
        policy=spec.options.split,
    )
    return dataset, splits


def _build_algorithm(
    spec: RunSpec,
    dataset: DomainDataset,
    train_envs: Sequence[int],
    hparams: dict[str, Any],
    device: torch.device,
    shared: bool,
) -> Algorithm:
    algorithm_class, num_domains = ALGORITHMS.load(spec.algorithm), len(train_envs)
    if num_domains < algorithm_class.min_domains:
        raise UserError(
            f"{spec.algorithm} needs at least {algorithm_class.min_domains} training domains; {spec.dataset} without "
            f"test domains {list(spec.test_envs)} has {num_domains}"
        )
    algorithm = algorithm_class(dataset.input_shape, dataset.num_classes, num_domains, hparams)
    algorithm.precision = Precision(spec.options.precision, device.type)
    algorithm.to(device)
    speed_up(algorithm, spec.options, device, shared)
    attributes = facts(spec.dataset).domain_attributes
    algorithm.describe_domains([attributes[i] for i in train_envs] if attributes else [])
    return algorithm


def _make_loaders(
    spec: RunSpec,
    execution: Execution,
    dataset: DomainDataset,
    splits: list[DomainSplit],
    train_envs: list[int],
    algorithm: Algorithm,
    device: torch.device,
) -> tuple[TrainLoader, EvalLoader]:
    clean, augmented = _make_transforms(spec, dataset.input_shape[-1], algorithm)
    evaluated_augmented = train_envs if spec.options.eval_transforms == "train" else []
    train_loader = TrainLoader(
        dataset,
        splits,
        train_envs,
        algorithm.hparams["batch_size"],
        augmented,
        seed=spec.seed,
        num_workers=execution.num_workers,
        class_balanced=algorithm.hparams["class_balanced"],
        unlabeled_envs=spec.test_envs if spec.task == "domain_adaptation" else (),
        device=device,
        world=execution.world,
    )
    transforms = [augmented if i in evaluated_augmented else clean for i in range(len(dataset))]
    settings = _eval_settings(spec, execution, algorithm, device)
    return train_loader, EvalLoader(dataset, splits, transforms, **settings)


def open_validation(setup: Setup) -> EvalLoader:
    """The training domains' out-splits without augmentation, read as evaluations are."""
    nothing = setup.splits[0].out[:0]
    outs = [nothing if i in setup.spec.test_envs else split.out for i, split in enumerate(setup.splits)]
    only_outs = [DomainSplit(in_=nothing, out=out, uda=nothing) for out in outs]
    clean, _ = _make_transforms(setup.spec, setup.dataset.input_shape[-1], setup.algorithm)
    settings = _eval_settings(setup.spec, setup.execution, setup.algorithm, setup.device)
    return EvalLoader(setup.dataset, only_outs, [clean] * len(outs), **settings)


def _eval_settings(spec: RunSpec, execution: Execution, algorithm: Algorithm, device: torch.device) -> dict[str, Any]:
    return {
        "seed": spec.seed,
        "batch_size": execution.eval_batch_size,
        "shuffled": algorithm.predicts_in_context,
        "num_workers": execution.num_workers,
        "device": device,
        "world": execution.world,
        "in_step": execution.parallel != "ddp",
        "keep_bytes": KEEP_BYTES,
    }


def _make_transforms(spec: RunSpec, size: int, algorithm: Algorithm) -> tuple[ImageTransform, ImageTransform]:
    """What pictures go through as they are, and augmented."""
    mean, std = algorithm.normalization
    transform = ImageTransform if spec.options.images == "files" else TensorTransform
    clean = transform(size=size, mean=mean, std=std)
    return clean, replace(clean, augment=bool(algorithm.hparams["data_augmentation"]), crop=facts(spec.dataset).crops)


def pick_device(name: str) -> torch.device:
    """'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise NotImplementedError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name} is not available here; allowed: auto, cpu, cuda, cuda:N, mps") from None
    return device


def describe(setup: Setup) -> dict[str, Any]:
    """What DomainBed's records have no place for: names, sizes, versions, options, images left out."""
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
