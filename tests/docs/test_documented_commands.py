"""Every code block of the README and the documentation is executed, or at least read; ``shortened.py`` says how."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import ROOT, SHELL, Block, Command, blocks, commands, pages
from readers_folder import STUDY, add_birds, add_study, execute, make_folder, sparse_run
from shortened import ELSEWHERE, ONLY_READ, SHORTENINGS, reason_not_to_run, shortened

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.cli.main import make_parser
from sfmoe_dg.data.builders.script import make_parser as make_builders_parser
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.sweeps.launch.launcher import all_settings, check_launch
from sfmoe_dg.sweeps.study import make_spec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = """Text

    sfmoe-dg list algorithms     # a comment
    # none
    make A=1 \\
        B=2

- a list
    that goes on

Saved as `x.py` or `y.py`:

```python
import this
```

```toml title="z.toml"
a = 1
```

```console
$ sfmoe-dg doctor
```
"""
ENDINGS = {"python": "py", "toml": "toml"}
IS_OURS = re.compile(r"(?:\S*bin/)?sfmoe-dg ")


def blocks_of(page: str) -> list[Block]:
    return list(blocks((ROOT / page).read_text(encoding="utf-8"), page))


def is_run(command: Command) -> bool:
    return command.page not in ELSEWHERE and not reason_not_to_run(command.text)


def all_commands() -> Iterator[Command]:
    for page in pages():
        for block in blocks_of(page):
            if block.language == SHELL:
                yield from commands(block)


WITH_BLOCKS = [page for page in pages() if blocks_of(page)]
WITH_SOMETHING_TO_RUN = [
    page
    for page in WITH_BLOCKS
    if page not in ELSEWHERE
    and any(
        block.language == "python" or (block.language == SHELL and any(map(is_run, commands(block))))
        for block in blocks_of(page)
    )
]


def test_blocks_and_commands_are_found():
    found = list(blocks(PAGE, "a.md"))
    assert [(block.line, block.language, block.title) for block in found] == [
        (3, SHELL, ""),
        (14, "python", "y.py"),
        (18, "toml", "z.toml"),
        (22, SHELL, ""),
    ]
    lines = [(command.line, command.text) for block in (found[0], found[3]) for command in commands(block)]
    assert lines == [
        (3, "sfmoe-dg list algorithms     # a comment"),
        (5, "make A=1     B=2"),
        (22, "sfmoe-dg doctor"),
    ]


def test_commands_are_shortened_and_the_rest_stays():
    assert shortened("sfmoe-dg train --dataset PACS --data_dir DATA", "r") == (
        """sfmoe-dg train --dataset PACS --data_dir DATA --steps 2 --hparams '{"batch_size": 2, "pretrained": false}'"""
    )
    assert shortened("sfmoe-dg analyze results/quickstart/RUN --what parts", "r") == (
        "sfmoe-dg analyze results/quickstart/r --what parts"
    )
    assert shortened("sfmoe-dg list algorithms", "r") == "sfmoe-dg list algorithms"


def test_every_entry_of_the_tables_meets_something():
    texts = [command.text for command in all_commands()]
    texts += [block.text for page in pages() for block in blocks_of(page) if block.language == "python"]
    idle = [entry.pattern for entry in ONLY_READ if not any(re.search(entry.pattern, text) for text in texts)]
    for number, entry in enumerate(SHORTENINGS):
        before = (shortened(text, "r", SHORTENINGS[:number]) for text in texts)
        if not any(re.search(entry.pattern, text) for text in before):
            idle.append(entry.pattern)
    assert not idle, f"no command for: {', '.join(idle)}"
    for page, test in ELSEWHERE.items():
        assert page in pages()
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_can_be_read(page, tmp_path):
    folder = make_folder(tmp_path / "clone")
    for block in blocks_of(page):
        try:
            if block.language == SHELL:
                for command in commands(block):
                    read_command(command.text, folder)
            elif block.language == "python":
                compile(block.text, block.where, "exec")
            elif block.language == "toml":
                read_toml(block.text)
        except (UserError, SyntaxError, ValueError) as error:
            pytest.fail(f"{block.where}: {error}")


def read_command(text: str, folder: Path) -> None:
    """Parse the words of a command with the parser of the program that it starts.

    Raises:
        UserError: if its words are wrong.
        ValueError: if the program is unknown.
    """
    within = re.search(r"\$\((.*?)\)", text)
    words = [word for word in shlex.split(within[1] if within else text, comments=True) if word != "…"]
    words = words[: words.index(">")] if ">" in words else words
    program = Path(words[0]).name
    if program == "torchrun":
        words = words[words.index("sfmoe_dg") :]
        program = "sfmoe-dg"
    if program == "sfmoe-dg":
        make_parser().parse_args(words[1:])
    elif program == "make":
        read_recipe(text, folder)
    elif program == "python" and words[1].startswith("datasets/"):
        read_script(words[1], words[2:])
    elif program == "python" and words[1].startswith("bench/"):
        read_flags(words[1], words[2:])
    elif not reason_not_to_run(text):
        raise ValueError(f"{program} is unknown here: {text}")


def read_recipe(text: str, folder: Path) -> None:
    """Parse the commands that make would start."""
    printed = execute(re.sub(r"^make ", "make -n ", text), folder)
    if printed.returncode:
        raise ValueError(f"{text}: {printed.stderr}")
    for line in printed.stdout.replace("\\\n", " ").split("\n"):
        if IS_OURS.match(line.strip()):
            read_command(line.strip(), folder)


def read_script(script: str, words: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("documented_script", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "RECIPE"):
        make_builders_parser(module.RECIPE).parse_args(words)
    else:
        module.parse(words)


def read_flags(script: str, words: list[str]) -> None:
    """Parse the flags of scripts whose parser is available only by running them."""
    text = (ROOT / script).read_text(encoding="utf-8")
    for word in words:
        if word.startswith("--") and f'"{word}"' not in text:
            raise ValueError(f"{script} has no flag {word}")


def read_toml(text: str) -> None:
    """A study, its [launch] table, or the settings of another program."""
    values = tomllib.loads(text)
    if "algorithms" in values:
        # Plug-ins are for the commands; names and keys that only a plug-in knows are left out.
        own = [name for name in values["algorithms"] if name in ALGORITHMS]
        overrides = {name: hparams for name, hparams in values.get("overrides", {}).items() if name in own}
        known = all_settings({})
        launch = {
            key: value for key, value in values.get("launch", {}).items() if key in known or not values.get("plugins")
        }
        changes = {"plugins": [], "algorithms": own, "overrides": overrides, "launch": launch}
        make_spec({"name": "x"} | values | changes, "the study")
    elif "launch" in values:
        check_launch(values["launch"], "[launch]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A clone in which the README's first command has run, its study shortened."""
    folder = make_folder(tmp_path_factory.mktemp("finished") / "clone")
    result = execute("make sweep", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Averages" in result.stdout
    assert (folder / STUDY / "results.html").is_file()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_SOMETHING_TO_RUN)
def test_every_block_works_in_the_order_of_the_page(page, finished, tmp_path):
    folder = make_folder(tmp_path / "clone")
    text = (ROOT / page).read_text(encoding="utf-8")
    add_study(folder, finished, text)
    if "CUB" in text:
        add_birds(folder, text)
    run = sparse_run(finished)
    for block in blocks_of(page):
        if block.language == SHELL:
            for command in filter(is_run, commands(block)):
                check(shortened(command.text, run), command.where, folder)
        elif block.language in ENDINGS:
            name = block.title or f"line_{block.line}.{ENDINGS[block.language]}"
            (folder / name).write_text(shortened(block.text, run), encoding="utf-8")
            if block.language == "python":
                check(f"python {shlex.quote(name)}", block.where, folder)


def check(command: str, where: str, folder: Path) -> None:
    """Execute a command, which must succeed."""
    result = execute(command, folder)
    if result.returncode:
        pytest.fail(f"{where}: {command}\nended with {result.returncode}: {(result.stdout + result.stderr)[-3000:]}")
