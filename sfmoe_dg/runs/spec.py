"""A run is one frozen value: its arguments, its id, its folder.

The names, defaults and job hash are DomainBed's (``domainbed.scripts.train`` and ``sweep``), so that folders,
seeds and records can be exchanged with upstream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.foundation.seeds import seed_hash

TASKS = ("domain_generalization", "domain_adaptation")
PARALLEL_MODES: tuple[str, ...] = ("ddp", "fsdp", "expert")
"""How several processes share an update: each with all weights, with a part of every weight, with some experts."""


@dataclass(frozen=True)
class Options:
    """What upstream has no flag for. The defaults reproduce upstream's behaviour.

    Only values that differ from the default enter the job hash and the records.

    Examples:
        >>> from sfmoe_dg import Options
        >>> Options(split="identity", precision="bf16").changed()
        {'split': 'identity', 'precision': 'bf16'}
    """

    split: str = "random"
    """'random': DomainBed's split of every domain; 'identity': no identity on two sides, in whatever style."""
    eval_transforms: str = "train"
    """'train': a training domain is evaluated through its training augmentation, as upstream does; 'eval': clean."""
    precision: str = "fp32"
    """'fp32', 'bf16' or 'fp16': the type of autocast in training and evaluation."""
    on_bad_image: str = "error"
    """'error': an image that does not decode ends the run; 'skip': it is left out, counted and listed."""
    images: str = "files"
    """'files': decoded and augmented one at a time, as upstream does; 'tensors': decoded every time, augmented as
    tensors; 'cached': decoded once and kept at a shorter side of at most 256, augmented as tensors
    (``docs/input_path.md`` says what that changes)."""
    eval: str = "all"
    """'all': every split of every domain at every evaluation, as upstream does; 'fast': the in-splits of the training
    domains, which no selection method looks at, only at the last step."""
    memory_format: str = "contiguous"
    """'contiguous' or 'channels_last': how four-dimensional weights lie in memory, and so what convolutions compute."""
    compile: str = "none"
    """'none', or 'default': the backbone through ``torch.compile``."""
    hparams_per_trial: bool = True
    """Upstream draws other hyper-parameters for every trial; False gives all trials those of trial 0."""

    def changed(self) -> dict[str, Any]:
        """The options that differ from upstream's behaviour."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


OPTION_CHOICES: dict[str, tuple[Any, ...]] = {
    "split": ("random", "identity"),
    "eval_transforms": ("train", "eval"),
    "precision": ("fp32", "bf16", "fp16"),
    "on_bad_image": ("error", "skip"),
    "images": ("files", "tensors", "cached"),
    "eval": ("all", "fast"),
    "memory_format": ("contiguous", "channels_last"),
    "compile": ("none", "default"),
    "hparams_per_trial": (True, False),
}


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's records (DomainBed's flags, and :class:`Options`).

    Examples:
        >>> from sfmoe_dg import RunSpec
        >>> run = RunSpec(dataset="PACS", algorithm="CORAL", test_envs=(2,), hparams='{"lr": 1e-4}')
        >>> run.run_id  # the name of its folder in a sweep
        '2d3ea7c20f8b0c4239d154ea0b3c4e73'
    """

    dataset: str = "RotatedMNIST"
    algorithm: str = "ERM"
    test_envs: tuple[int, ...] = (0,)
    data_dir: str | None = None
    task: str = "domain_generalization"
    hparams: str | None = None
    hparams_seed: int = 0
    trial_seed: int = 0
    seed: int = 0
    steps: int | None = None
    checkpoint_freq: int | None = None
    holdout_fraction: float = 0.2
    uda_holdout_fraction: float = 0
    skip_model_save: bool = False
    save_model_every_checkpoint: bool = False
    options: Options = field(default_factory=Options)

    def check(self) -> None:
        """Refuse values that no run can have.

        Raises:
            UserError: naming the flag, its value and what is allowed.
        """
        _one_of("--task", self.task, TASKS)
        for name, allowed in OPTION_CHOICES.items():
            _one_of(f"--{name}", getattr(self.options, name), allowed)
        for name in ("steps", "checkpoint_freq"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1")
        if not 0 < self.holdout_fraction < 1:
            raise UserError(f"--holdout_fraction is {self.holdout_fraction}; it must lie between 0 and 1")
        if not 0 <= self.uda_holdout_fraction < 1:
            raise UserError(f"--uda_holdout_fraction is {self.uda_holdout_fraction}; it must lie in [0, 1)")
        if self.task == "domain_adaptation" and self.uda_holdout_fraction == 0:
            raise UserError("--task domain_adaptation needs unlabeled samples: set --uda_holdout_fraction above 0")
        for name in ("hparams_seed", "trial_seed", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} is {getattr(self, name)}; it must not be negative")
        if self.seed >= 2**63:
            raise UserError(f"--seed is {self.seed}; it must be below 2**63, which is what torch can be seeded with")

    def args(self, output_dir: str) -> dict[str, Any]:
        """The 16 flags as DomainBed writes them into every record."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        values["test_envs"] = list(self.test_envs)
        values["output_dir"] = output_dir
        return dict(sorted(values.items()))

    def identity(self) -> dict[str, Any]:
        """What the job hash is taken of: upstream's keys, and ours where they change the records."""
        values: dict[str, Any] = {
            "dataset": self.dataset,
            "algorithm": self.algorithm,
            "test_envs": list(self.test_envs),
            "holdout_fraction": self.holdout_fraction,
            "hparams_seed": self.hparams_seed,
            "data_dir": self.data_dir,
            "task": self.task,
            "trial_seed": self.trial_seed,
            "seed": self.seed,
        }
        optional = {"steps": self.steps, "hparams": self.hparams, "checkpoint_freq": self.checkpoint_freq}
        values.update({name: value for name, value in optional.items() if value is not None})
        if self.uda_holdout_fraction:
            values["uda_holdout_fraction"] = self.uda_holdout_fraction
        return values | self.options.changed()

    @property
    def run_id(self) -> str:
        """The name of the run's folder: DomainBed's job hash (``sweep.Job``)."""
        return hashlib.md5(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def with_sweep_seed(self) -> RunSpec:
        """The same run with the seed that upstream's sweep gives it."""
        seed = seed_hash(self.dataset, self.algorithm, list(self.test_envs), self.hparams_seed, self.trial_seed)
        return replace(self, seed=seed)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunSpec:
        """The run that wrote a record.

        Raises:
            UserError: if the record says more than a run of ours has, as those of changed copies of DomainBed may.
        """
        values = {name: value for name, value in record["args"].items() if name != "output_dir"}
        if more := sorted(set(values) - {f.name for f in fields(cls) if f.name != "options"}):
            raise UserError(
                f"the run's record has arguments that no run of sfmoe-dg has ({', '.join(more)}): a changed DomainBed "
                "wrote it; if they change nothing, take them out of its results.jsonl"
            )
        values["test_envs"] = tuple(values["test_envs"])
        return cls(**values, options=make_options(record.get("options", {}), "the run's record"))

    def flags(self) -> list[str]:
        """The command line that trains this run, without --output_dir: ``RunSpec`` → flags → ``RunSpec``."""
        default, words = RunSpec(), []
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"} | asdict(self.options)
        defaults = {f.name: getattr(default, f.name) for f in fields(self) if f.name != "options"} | asdict(Options())
        for name, value in values.items():
            if value == defaults[name] and name not in ("dataset", "algorithm", "test_envs"):
                continue
            if isinstance(value, bool):
                words += [f"--{name}"] if not defaults[name] else [f"--{name}", str(value).lower()]
            elif isinstance(value, tuple):
                words += [f"--{name}", *map(str, value)]
            else:
                words += [f"--{name}", str(value)]
        return words

    def __str__(self) -> str:
        envs = ",".join(map(str, self.test_envs))
        text = f"{self.dataset} {self.algorithm} test {envs} hparams {self.hparams_seed} trial {self.trial_seed}"
        changed = " ".join(f"{name}={value}" for name, value in self.options.changed().items())
        return f"{text} {changed}".rstrip()


def make_options(values: Mapping[str, Any], where: str) -> Options:
    """Options from names and values, refusing unknown names and values.

    Raises:
        UserError: naming the key and what is allowed.
    """
    for name, value in values.items():
        if name not in OPTION_CHOICES:
            raise unknown("option", name, OPTION_CHOICES, f" in {where}")
        _one_of(f"{name} in {where}", value, OPTION_CHOICES[name])
    return Options(**values)


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if not any(value is a if isinstance(a, bool) else value == a for a in allowed):
        raise UserError(f"{name} is {value!r}; allowed: {', '.join(str(a) for a in allowed)}")
