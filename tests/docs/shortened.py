"""Replacements for documented commands that need hours, a download, a cluster or other software.

Commands that the two tables do not match are executed unchanged. A test fails if an entry matches no command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Shortening(NamedTuple):
    """Replaces ``pattern`` in commands and Python blocks."""

    pattern: str
    becomes: str


class OnlyRead(NamedTuple):
    """Commands that match ``pattern`` are not executed. Their words are still parsed.

    Where ``unless`` finds what it needs, it is executed.
    """

    pattern: str
    reason: str
    unless: Callable[[], object] = lambda: None


def domainbed() -> str | None:
    """A checkout of DomainBed."""
    return os.environ.get("DOMAINBED_DIR")


def vmoe_checkpoint() -> Path | None:
    """The small checkpoint among the real sample data, without the endings of its files' names."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    prefix = Path(os.environ.get("SFMOE_DG_TEST_DATA", default)) / "vmoe_checkpoint" / "ckpt_1"
    return prefix if prefix.with_name("ckpt_1.index").is_file() else None


SHORTENINGS = (
    # Places. The folder DATA has a few small pictures per class, and the reader's one trained run has a name.
    Shortening(r"(?<=DATA=)/data\b|/path/to/data\b", "DATA"),
    Shortening(r"(?<=doctor --data_dir )DATA", "ROOT"),  # a data set of a few pictures is a problem that it finds
    Shortening(r"/scratch/cache\b", "cache"),
    Shortening(r"results/quickstart/(RUN|<run>)", "results/quickstart/{run}"),
    Shortening(r"results/table1\b(?=.* (compare|tables)$)", "results/quickstart"),
    Shortening(r"(?<=status --output_dir )results/pacs\b", "results/quickstart"),
    # Steps. Studies are shortened too (STUDY_LINES).
    Shortening(r"--steps \d{2,}", "--steps 2"),
    Shortening(r"--checkpoint_freq \d{2,}", "--checkpoint_freq 2"),
    Shortening(r"((sfmoe-dg|-m sfmoe_dg) train (?!.*--steps ).*)", r"\1 --steps 2"),
    Shortening(
        r"(bench/scaling\.py) --rounds \d+", r"\1 --what experts --experts 2 4 --rounds 1 --batch 1 --figures ."
    ),
    Shortening(
        r"(bench/scaling\.py --what processes)",
        r"\1 --rounds 1 --jobs 1 2 --runs 3 --steps 2 --shared_batch 2 --figures .",
    ),
    Shortening(r"--seconds_per_step S --eval_rate R --cores C\b", "--seconds_per_step 1 --eval_rate 100 --cores 8"),
    # Pictures of 224 pixels on a CPU, and weights that would be downloaded.
    Shortening(r'^(?!.*"batch_size")(.*"pretrained": false)\}', r'\1, "batch_size": 2}'),
    Shortening(r'("backbone": "sf_moe_small_patch16_224")\}', r'\1, "pretrained": false, "batch_size": 2}'),
    Shortening(r"^(?!.*--hparams)(.*--dataset PACS .*)", r"""\1 --hparams '{"batch_size": 2, "pretrained": false}'"""),
    Shortening(r"(make .*SWEEP=sweeps/pacs\.toml.*JOBS=1 sweep)", r"\1 ARGS=--dry_run"),
    # A cluster, which tests/sweeps/slurm starts, and the hours of larger studies: what would be launched.
    Shortening(r"^make (?=.*(LAUNCHER=slurm|SWEEP=sweeps/\w+_mnist\.toml))", "make ARGS=--dry_run "),
    # Two processes on this machine.
    Shortening(r"--nproc-per-node \d+", "--nproc-per-node 2"),
    Shortening(r"--nnodes 2 (.*)HOST:PORT", r"--nnodes 1 \1localhost:0"),
    Shortening(r"train …", "train --dataset StyledDigits --output_dir $(mktemp --directory --tmpdir=.)"),
    # A miniature of CUB-200-2011.
    Shortening(r"(datasets/cub_dg\.py (?!.*--size ).*)", r"\1 --size 64"),
    Shortening(r"--dataset CUBDG", "--dataset CUBDG --holdout_fraction 0.5"),
    Shortening(r"(--dataset CUBDG .*\"batch_size\": )8", r"\g<1>1"),
    Shortening(r"(analyze results/birds .*) stability ", r"\1 "),  # takes more birds
    Shortening(r"(analyze results/birds .*)", r"\1 --images 8"),
    Shortening(r"--algorithms SFMoE ERM MIRO", "--algorithms SFMoE"),
    # Output of one shell is no command of another.
    Shortening(r'^eval (?="\$\(sfmoe-dg completion zsh\)")', "echo "),
    Shortening(
        r"(make OUT=\S+ figures)",
        r"\1 ABLATION= PAPER=analysis/sf_moe_part_histogram.py WHAT='parts compare' ARGS='--images 40'",
    ),
)

ONLY_READ = (
    OnlyRead(r"^D_j L_i = |^hours = ", "a formula"),
    OnlyRead(r"^make test\b", "it would start this test"),
    OnlyRead(r"^make data\b", "downloads; tests/data builds from archives of its own"),
    OnlyRead(r"datasets/pacs\.py", "needs a data set's real archive; tests/data builds from archives of its own"),
    OnlyRead(r"convert-vmoe vmoe_", "needs a checkpoint", vmoe_checkpoint),
    OnlyRead(r"DomainBed\b", "needs a checkout of DomainBed", domainbed),
    OnlyRead(r"\bpip install|bin/tensorboard ", "not this project's program"),
    OnlyRead(
        r"--log tensorboard wandb", "needs both packages", lambda: find_spec("tensorboard") and find_spec("wandb")
    ),
)

STUDY_LINES = (
    Shortening(r"^steps = .*", "steps = 2"),
    Shortening(r"^checkpoint_freq = .*", "checkpoint_freq = 2"),
    Shortening(r"^algorithms = .*", 'algorithms = ["ERM", "SFMoE"]'),
    Shortening(r"^single_test_envs = .*", "test_envs = [[0], [3]]"),
)
"""What is replaced in sweeps/quickstart.toml, which is the study that is trained."""

ELSEWHERE = {"docs/extending.md": "tests/house/test_extending.py"}
"""Pages whose files and commands another test writes and executes; here their words are only read."""


def shortened(text: str, run: str, entries: Sequence[Shortening] = SHORTENINGS) -> str:
    """A command or program as it is executed; ``run`` is the folder's name of the reader's trained SF-MoE."""
    for entry in entries:
        text = re.sub(entry.pattern, entry.becomes.replace("{run}", run), text)
    return text


def reason_not_to_run(command: str) -> str:
    """Why a command is only read; "" if it is executed."""
    return next((entry.reason for entry in ONLY_READ if not entry.unless() and re.search(entry.pattern, command)), "")
