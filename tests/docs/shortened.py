"""How the pages' commands are executed where the page's own would take hours, a download, a cluster or other software.

The two tables are all there is of it: what they do not name is executed as it stands. A test fails for an entry that
no longer meets any command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Shortening(NamedTuple):
    """Where ``pattern`` is found in a command or a Python block, it is replaced."""

    pattern: str
    becomes: str


class OnlyRead(NamedTuple):
    """A command in which ``pattern`` is found is not started; its words are still given to its parser."""

    pattern: str
    reason: str


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
    Shortening(r"(sfmoe-dg train (?!.*--steps ).*)", r"\1 --steps 2"),
    Shortening(
        r"(bench/scaling\.py) --rounds \d+", r"\1 --what experts --experts 2 4 --rounds 1 --batch 1 --figures ."
    ),
    Shortening(
        r"(bench/scaling\.py --what processes)",
        r"\1 --rounds 1 --jobs 1 2 --runs 3 --steps 2 --shared_batch 2 --figures .",
    ),
    Shortening(r"--seconds_per_step S --eval_rate R --cores C\b", "--seconds_per_step 1 --eval_rate 100 --cores 8"),
    # Pictures of 224 pixels on a CPU, and weights that would be downloaded.
    Shortening(r'("pretrained": false)\}', r'\1, "batch_size": 1}'),
    Shortening(r'("backbone": "sf_moe_small_patch16_224")\}', r'\1, "pretrained": false, "batch_size": 1}'),
    Shortening(r"^(?!.*--hparams)(.*--dataset PACS .*)", r"""\1 --hparams '{"batch_size": 1, "pretrained": false}'"""),
    Shortening(r"(make .*SWEEP=sweeps/pacs\.toml.*JOBS=1 sweep)", r"\1 ARGS=--dry_run"),
    Shortening(r"(make OUT=\S+ figures)", r"\1 ABLATION= ARGS='--what parts compare --images 40'"),
)

ONLY_READ = (
    OnlyRead(r"^D_j L_i = |^hours = ", "a formula"),
    OnlyRead(r"^make test\b", "it would start this test"),
    OnlyRead(r"LAUNCHER=slurm", "needs a Slurm cluster; tests/slurm starts one"),
    OnlyRead(r"^make data\b", "downloads; tests/data builds from archives of its own"),
    OnlyRead(r"datasets/\w+\.py --out", "needs a data set's real archive; tests/data builds from archives of its own"),
    OnlyRead(r"datasets/cub_dg\.py", "needs CUB-200-2011; tests/data builds CUB-DG from a miniature"),
    OnlyRead(r"--dataset CUBDG|analyze results/birds", "needs CUB-DG"),
    OnlyRead(r"SWEEP=sweeps/(colored|rotated)_mnist\.toml", "needs MNIST"),
    OnlyRead(r"torchrun ", "needs several GPUs or machines; tests/distributed starts processes"),
    OnlyRead(r"DomainBed\b", "needs a checkout of DomainBed; tests/compat runs one where DOMAINBED_DIR names it"),
    OnlyRead(r"convert-vmoe vmoe_", "needs a released checkpoint; tests/models converts one made there"),
    OnlyRead(r"\bpip install|bin/tensorboard ", "not this project's program"),
    OnlyRead(r"completion zsh|> ~/", "needs zsh, or writes into the home folder"),
    OnlyRead(r"--log tensorboard wandb", "needs both packages; tests/test_loggers.py logs to them"),
)

STUDY_LINES = (
    Shortening(r"^steps = .*", "steps = 2"),
    Shortening(r"^checkpoint_freq = .*", "checkpoint_freq = 2"),
    Shortening(r"^algorithms = .*", 'algorithms = ["ERM", "SFMoE"]'),
    Shortening(r"^single_test_envs = .*", "test_envs = [[0], [3]]"),
)
"""What is replaced in sweeps/quickstart.toml, which is the study that is trained."""

ELSEWHERE = {"docs/extending.md": "tests/test_extending.py"}
"""Pages whose files and commands another test writes and executes; here their words are only read."""


def shortened(text: str, run: str, entries: Sequence[Shortening] = SHORTENINGS) -> str:
    """A command or program as it is executed; ``run`` is the folder's name of the reader's trained SF-MoE."""
    for entry in entries:
        text = re.sub(entry.pattern, entry.becomes.replace("{run}", run), text)
    return text


def reason_not_to_run(command: str) -> str:
    """Why a command is only read; "" if it is executed."""
    return next((entry.reason for entry in ONLY_READ if re.search(entry.pattern, command)), "")
