"""The modules that a command imports, and how its process ends. bench/startup.py measures times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from record_makers import make_record, write_run
from study_makers import make_done, make_study

from sfmoe_dg.data.sets import styled_digits

HEAVY = {"torch", "torchvision", "timm", "scipy", "pandas", "matplotlib", "sklearn", "wandb"}

MODULES_OF = """
import json, sys
from sfmoe_dg.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted(sys.modules)]))
"""


def python(code: str, *words: str, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, **settings)


def modules_of(*words: str) -> set[str]:
    """The modules that a process has imported after running a command."""
    result = python(MODULES_OF, *words)
    status, modules = json.loads(result.stdout.splitlines()[-1])
    assert status == 0, result.stderr
    return set(modules)


def test_importing_the_package_imports_nothing_heavy():
    result = python("import sfmoe_dg, sys; print(*sys.modules)")
    assert "sfmoe_dg" in result.stdout.split()
    assert not (HEAVY | {"numpy"}) & set(result.stdout.split())


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["list", "datasets"]], ids=" ".join)
def test_commands_that_only_tell_need_no_torch(words):
    assert not HEAVY & modules_of(*words)


def test_commands_that_only_read_records_need_no_torch(tmp_path):
    for run in make_study(tmp_path):
        make_done(tmp_path, run)
    write_run(tmp_path, "a_run", [make_record()])
    assert not HEAVY & modules_of("status", "--output_dir", str(tmp_path))
    assert not HEAVY & modules_of("collect", "--input_dir", str(tmp_path))


def test_planning_a_sweep_needs_no_torch(tmp_path, request):
    study = str(request.config.rootpath / "sweeps" / "smoke.toml")
    assert not HEAVY & modules_of("sweep", study, "--output_dir", str(tmp_path / "out"), "--dry_run")


def test_a_run_imports_neither_the_compiler_nor_statistics(tmp_path):
    words = ["--dataset", "StyledDigits", "--algorithm", "SFMoE", "--test_envs", "3", "--steps", "1"]
    words += ["--device", "cpu", "--num_workers", "0", "--skip_model_save", "--output_dir", str(tmp_path / "run")]
    modules = modules_of("train", *words)
    assert "timm" in modules
    assert not (HEAVY - {"torch", "torchvision", "timm"}) & modules
    assert not {"torch._dynamo.eval_frame", "torch._inductor", "sympy", "triton", "huggingface_hub.hf_api"} & modules


def test_the_digits_are_those_that_scikit_learn_loads():
    from sklearn.datasets import load_digits

    found, (ink, labels) = load_digits(), styled_digits.digits()
    assert np.array_equal(ink, styled_digits.enlarge(found.images.astype(np.int64)))
    assert np.array_equal(labels, found.target)
    assert labels.dtype == np.int64


def test_digits_drawn_in_parts_are_those_drawn_together():
    ink = styled_digits.digits()[0][:100]  # more than are drawn at a time
    for style in styled_digits.STYLES:
        assert np.array_equal(styled_digits.draw(style, ink), styled_digits._draw(style, ink, 0))


COMPILER = """
import sys, torch
from sfmoe_dg.foundation.deferred_compiler import defer_compiler, is_deferred
defer_compiler()
import timm
weight = torch.nn.Parameter(torch.tensor([1.0]))
optimizer = torch.optim.SGD([weight], lr=0.5)
(3 * weight).sum().backward()
optimizer.step()
assert weight.item() == -0.5  # 1 - 0.5 · 3
leave_alone = torch.compiler.disable(lambda x: x + 1)
assert leave_alone(1) == 2
assert is_deferred()
"""


AFTERWARDS = {
    "an optimizer steps without the compiler": "assert 'torch._dynamo.eval_frame' not in sys.modules",
    "it is there when somebody compiles, and heeds earlier marks": """
double = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
assert double(torch.tensor(3.0)) == 6
assert not is_deferred()
assert torch._dynamo is sys.modules["torch._dynamo"]
assert leave_alone(1) == 2
try:
    torch.compile(lambda x: leave_alone(x), backend="eager", fullgraph=True)(torch.tensor(1.0))
except torch._dynamo.exc.Unsupported:
    pass
else:
    raise AssertionError("a function that was to be left alone was traced")
""",
} | {
    f"{name} is imported once": f"""
import importlib
found = importlib.import_module({name!r})
assert not is_deferred()
assert found is sys.modules[{name!r}] is torch._dynamo.{name.rpartition(".")[2]}
assert found.__spec__.origin == found.__file__
"""
    for name in ("torch._dynamo.config", "torch._dynamo.testing")
}
"""Programs that start where COMPILER has ended."""

FORKS = """
import json, os, traceback
for name, code in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        status = 0
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        os._exit(status)
    if os.wait()[1]:
        print(name)
"""


@pytest.fixture(scope="module")
def compiler_was_deferred() -> subprocess.CompletedProcess[str]:
    """One process for all of AFTERWARDS, which fork from it: importing torch takes longer than they do."""
    return python(COMPILER + FORKS, json.dumps(AFTERWARDS))


@pytest.mark.parametrize("name", AFTERWARDS)
def test_the_compiler_can_wait(name, compiler_was_deferred):
    assert compiler_was_deferred.returncode == 0, compiler_was_deferred.stderr
    assert name not in compiler_was_deferred.stdout.splitlines(), compiler_was_deferred.stderr


def test_quick_imports_leave_the_process_as_it_was():
    code = """
import gc, sys
from sfmoe_dg.foundation.quick_imports import quick_imports
with quick_imports(compiling=True):
    assert not gc.isenabled()
    assert sys.modules["wandb"] is None
assert gc.isenabled()
assert not {"wandb", "torch._dynamo"} & set(sys.modules)
with quick_imports(compiling=True, logging_to=("wandb",)):
    assert "wandb" not in sys.modules
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_the_hub_is_asked_when_timm_downloads_something():
    code = """
import sys
import huggingface_hub
from sfmoe_dg.foundation.quick_imports import quick_imports
with quick_imports(compiling=True):
    import timm
assert "huggingface_hub.hf_api" not in sys.modules
try:
    timm.create_model("hf_hub:a/name/with/too/many/parts", pretrained=True)
except huggingface_hub.errors.HFValidationError as error:
    print(error)
assert huggingface_hub.HfApi is huggingface_hub.hf_api.HfApi
assert huggingface_hub.hf_hub_download is huggingface_hub.file_download.hf_hub_download
"""
    result = python(code)
    assert "a/name/with/too/many/parts" in result.stdout, result.stderr
    assert result.returncode == 0, result.stderr


PLUGIN = """
import atexit
atexit.register(print, "a handler")

class Kept:
    def __del__(self):
        print("taken apart")

kept = [Kept()]
kept.append(kept)
"""


def end_of(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    words = ("-m", "sfmoe_dg", "list", *words, "--plugin", str(tmp_path / "plugin.py"))
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def test_a_process_ends_after_its_handlers_and_without_taking_itself_apart(tmp_path):
    result = end_of(tmp_path, "datasets")
    assert result.returncode == 0, result.stderr
    assert "StyledDigits" in result.stdout
    assert result.stdout.endswith("a handler\n")


def test_a_process_ends_with_the_commands_exit_code(tmp_path):
    assert end_of(tmp_path, "datasets", "--plugin", "no_such_module").returncode == 2


def test_handlers_from_before_the_command_are_not_skipped():
    code = """
import atexit, sys
atexit.register(print, "an older handler")
from sfmoe_dg.__main__ import program
sys.exit(program())
"""
    result = python(code, "list", "datasets")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("an older handler\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "sfmoe_dg", "list", "datasets"], stdout=full, stderr=-1)
    assert result.returncode != 0
    assert b"No space left" in result.stderr
