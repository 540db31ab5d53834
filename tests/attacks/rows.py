"""The row type of the tables of wrong inputs, and values that many rows share."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from wrong_things import Maker, finished

DEBUG = "train --dataset Debug28 --device cpu --steps 2 --output_dir new/run"
SMALL = """ --hparams '{"batch_size": 4}'"""
FOLDERS = (
    "train --dataset ImageFolder --data_dir data --device cpu --steps 1 --num_workers 0 --output_dir new/run --hparams "
    """'{"batch_size": 2, "backbone": "test_vit", "pretrained": false}'"""
)
SWEEP = "sweep s.toml --output_dir new"
TOP = "top-hparams --input_dir results --algorithm ERM"
ANALYZE = "analyze runs/x --device cpu --what expert-maps"
TENSORS = "runs/x/model.safetensors"
CNN, MOE = finished("cnn", "runs/x"), finished("moe", "runs/x")
SOUP = "diwa --input_dir runs --dataset Debug28 --algorithm ERM --test_env 0 --device cpu --output_dir new"


@dataclass(frozen=True)
class Row:
    words: str
    culprit: str
    """What the sentence must name."""
    way_out: str
    """What it must say besides: what is allowed, or what to do."""
    makers: tuple[Maker, ...] = ()
    has_begun: bool = False
    """Whether something was told on standard output before the mistake could be found."""

    @property
    def id(self) -> str:
        return f"{self.words} | {self.culprit}"[:120]


def row(words: str, culprit: str, way_out: str, *makers: Maker, has_begun: bool = False) -> Row:
    return Row(words, culprit, way_out, makers, has_begun)


def hparams(json: str, culprit: str, way_out: str, *makers: Maker, algorithm: str = "ERM") -> Row:
    return row(f"{DEBUG} --algorithm {algorithm} --hparams {shlex.quote(json)}", culprit, way_out, *makers)


def small(json: str, *rest: str | Maker) -> Row:
    """The same arguments with a batch size that fits Debug28, so that the error appears after the data are read."""
    return hparams(json.replace("{", '{"batch_size": 4, ', 1), *rest)  # type: ignore[arg-type]
