"""A new mixture of experts needs one file and one line.

Another package registers its own; this package lists one in the table of architectures. The tests change nothing else.
Each runs in a fresh process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from installed import command

TRAIN = ["train", "--dataset", "Debug28", "--algorithm", "ScaledMoE", "--test_envs", "0", "--steps", "2"]
TRAIN += ["--hparams", json.dumps({"batch_size": 2, "token_scale": 0.5, "top_k": 1}), "--output_dir", "out"]
LINE = 'ALGORITHMS.register("ScaledMoE", ScaledMoE)\n'


@pytest.fixture(scope="module")
def source(request) -> str:
    """The file that docs/extending.md shows: a network, its own hyper-parameter and a preset."""
    page = (request.config.rootpath / "docs" / "extending.md").read_text()
    block = re.search(r"^```python title=\"my_moe.py\"\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block
    return block[1]


def check_records(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 1
    assert records[-1]["balance"] > 0
    expected = {"backbone": "scaled_moe_tiny_32", "token_scale": 0.5, "top_k": 1}
    assert {name: records[-1]["hparams"][name] for name in expected} == expected


def test_a_third_party_writes_one_file_that_ends_in_one_line(source, tmp_path):
    assert source.endswith(LINE)
    (tmp_path / "my_moe.py").write_text(source)
    result = command(*TRAIN, "--plugin", "my_moe.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check_records(tmp_path / "out")
    listed = command("list", "backbones", "--plugin", "my_moe.py", cwd=tmp_path)
    assert re.search(r"^scaled_moe_tiny_32 +a tiny ViT", listed.stdout, re.MULTILINE)


IN_PACKAGE = f"""
import sfmoe_dg.models.architectures as folder
from sfmoe_dg.models.architectures.registry import ARCHITECTURES

folder.__path__.append("architectures")  # as if the file lay in the package's folder
ARCHITECTURES["my_moe"] = ("ScaledMoE",)  # the line

import torch
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, random_hparams
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import build_backbone, known_backbones

assert main({TRAIN!r}) == 0
assert "scaled_moe_tiny_32" in known_backbones()
assert ALGORITHMS.load("ScaledMoE").__name__ == "ScaledMoE"
assert default_hparams("ScaledMoE", "Debug28")["token_scale"] == 1.0
drawn = {{random_hparams("ScaledMoE", "Debug28", seed)["token_scale"] for seed in range(1, 9)}}
assert len(drawn) == 8 and all(0.5 <= value <= 2 for value in drawn)

hparams = {{"backbone": "scaled_moe_tiny_32", "token_scale": 2.0, "num_experts": 3, "drop_path": 0.1}}
network = build_backbone((3, 28, 28), hparams, num_domains=5).network
assert (network.token_scale, network.settings.num_experts, network.settings.num_domains) == (2.0, 3, 5)
try:
    build_backbone((3, 28, 28), hparams | {{"backbone": "sf_moe_tiny_32"}})
except UserError as error:
    assert str(error).startswith("backbone 'sf_moe_tiny_32' has no use for token_scale")
else:
    raise AssertionError("a hyper-parameter of another architecture was ignored")
"""


def test_this_package_gets_one_file_and_one_line(source, tmp_path):
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "my_moe.py").write_text(source.removesuffix(LINE))
    result = subprocess.run([sys.executable, "-c", IN_PACKAGE], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    check_records(tmp_path / "out")
