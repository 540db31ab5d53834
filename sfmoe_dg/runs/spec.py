"""The specification of a run: its arguments and its id, the name of its folder.

The names, defaults and job hash are DomainBed's (``domainbed.scripts.train`` and ``sweep``), so that folders,
seeds and records can be exchanged with upstream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sfmoe_dg.foundation.checked import check, from_mapping, value
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_hash


@dataclass(frozen=True)
class Options:
    """Options of a run that DomainBed does not have. The defaults reproduce DomainBed's behaviour.

    Only values that differ from the default enter the job hash and the records.

    Examples:
        >>> from sfmoe_dg import Options
        >>> Options(split="identity", precision="bf16").changed()
        {'split': 'identity', 'precision': 'bf16'}
    """

    split: str = value(
        "random",
        choices=("random", "identity"),
        help="random: DomainBed's split of every domain; identity: all images of an object on one side",
    )
    eval_transforms: str = value(
        "train",
        choices=("train", "eval"),
        help="train: training domains are evaluated with augmentation, as in upstream; eval: without",
    )
    precision: str = value(
        "fp32",
        choices=("fp32", "bf16", "fp16"),
        help="precision of autocast in training and evaluation; weights stay fp32",
    )
    on_bad_image: str = value(
        "error",
        choices=("error", "skip"),
        help="error: an image that cannot be decoded ends the run; skip: it is left out, counted and listed",
    )
    images: str = value(
        "files",
        choices=("files", "tensors", "cached"),
        help="files: images are decoded and augmented one at a time, as in upstream; tensors: they are augmented as "
        "tensors; cached: and they are decoded only once; see docs/input_path.md",
    )
    eval: str = value(
        "all",
        choices=("all", "fast"),
        help="all: every evaluation covers every split, as in upstream; fast: the in-splits of training domains, which "
        "no selection method uses, are evaluated only at the last step; see docs/speed.md",
    )
    memory_format: str = value(
        "contiguous",
        choices=("contiguous", "channels_last"),
        help="memory format of four-dimensional weights; it changes the rounding of convolutions",
    )
    compile: str = value("none", choices=("none", "default"), help="default: torch.compile compiles the backbone")
    hparams_per_trial: bool = value(
        True,
        help="true: random search draws new values for every trial, as in upstream; false: all trials share trial 0's",
    )

    def changed(self) -> dict[str, Any]:
        """The options that differ from upstream's behaviour."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run's records: DomainBed's flags and :class:`Options`.

    Examples:
        >>> from sfmoe_dg import RunSpec
        >>> run = RunSpec(dataset="PACS", algorithm="CORAL", test_envs=(2,), hparams='{"lr": 1e-4}')
        >>> run.run_id  # the name of its folder in a sweep
        '2d3ea7c20f8b0c4239d154ea0b3c4e73'
    """

    dataset: str = value("RotatedMNIST", help="a name of sfmoe-dg list datasets")
    algorithm: str = value("ERM", help="a name of sfmoe-dg list algorithms")
    test_envs: tuple[int, ...] = value((0,), metavar="N", help="numbers of the held-out domains")
    data_dir: str | None = value(None, help="the folder that holds the data sets' folders")
    task: str = value(
        "domain_generalization",
        choices=("domain_generalization", "domain_adaptation"),
        help="domain_adaptation: training also uses unlabeled images of the test domains",
    )
    hparams: str | None = value(None, metavar="JSON", help="hyper-parameters that override the defaults or the draw")
    hparams_seed: int = value(0, low=0, help="0: defaults; otherwise the seed of a random draw")
    trial_seed: int = value(0, low=0, help="seed of the splits and of the random draw")
    seed: int = value(
        0,
        help="seed of everything else",
        shape=(lambda seed: 0 <= seed < 2**63, "at least 0 and below 2**63, which is what torch can be seeded with"),
    )
    steps: int | None = value(None, low=1, help="default: the data set's")
    checkpoint_freq: int | None = value(None, low=1, help="steps between evaluations; default: the data set's")
    holdout_fraction: float = value(0.2, above=0, below=1, help="share of a domain's images in its out-split")
    uda_holdout_fraction: float = value(0, low=0, below=1, help="share of a test domain's images used unlabeled")
    skip_model_save: bool = value(False, help="keep the records and no model")
    save_model_every_checkpoint: bool = value(False, help="keep the model of every evaluation")
    options: Options = field(default_factory=Options)

    def check(self) -> None:
        """Refuse values that are not allowed.

        Raises:
            UserError: if a value is not allowed; the message names the field, the value and the allowed values.
        """
        check(self)
        check(self.options)
        if self.task == "domain_adaptation" and self.uda_holdout_fraction == 0:
            raise UserError(
                "task is 'domain_adaptation', which needs unlabeled samples: set uda_holdout_fraction above 0",
                "task",
                "uda_holdout_fraction",
            )

    def args(self, output_dir: str) -> dict[str, Any]:
        """The 16 flags as DomainBed writes them into every record."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        values["test_envs"] = list(self.test_envs)
        values["output_dir"] = output_dir
        return dict(sorted(values.items()))

    def identity(self) -> dict[str, Any]:
        """The values that the job hash covers: DomainBed's keys, and the options that differ from its behaviour."""
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
        # DomainBed leaves unset values out; including them would change the hash.
        values.update({name: value for name, value in optional.items() if value is not None})
        if self.uda_holdout_fraction:
            values["uda_holdout_fraction"] = self.uda_holdout_fraction
        return values | self.options.changed()

    @property
    def run_id(self) -> str:
        """The name of the run's folder: DomainBed's job hash (``sweep.Job``)."""
        return hashlib.md5(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def with_sweep_seed(self) -> RunSpec:
        """The same run with the seed that DomainBed's sweep derives from its other arguments."""
        seed = seed_hash(self.dataset, self.algorithm, list(self.test_envs), self.hparams_seed, self.trial_seed)
        return replace(self, seed=seed)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunSpec:
        """The run that wrote a record.

        Raises:
            UserError: if the record has unknown arguments, as records of modified copies of DomainBed may.
        """
        values = {name: value for name, value in record["args"].items() if name != "output_dir"}
        if more := sorted(set(values) - {f.name for f in fields(cls) if f.name != "options"}):
            raise UserError(
                f"the run's record has arguments that no run of sfmoe-dg has ({', '.join(more)}): a changed DomainBed "
                "wrote it; if they change nothing, take them out of its results.jsonl"
            )
        values["test_envs"] = tuple(values["test_envs"])
        return cls(**values, options=from_mapping(Options, record.get("options", {}), "the run's record"))

    def __str__(self) -> str:
        envs = ",".join(map(str, self.test_envs))
        text = f"{self.dataset} {self.algorithm} test {envs} hparams {self.hparams_seed} trial {self.trial_seed}"
        changed = " ".join(f"{name}={value}" for name, value in self.options.changed().items())
        return f"{text} {changed}".rstrip()
