"""``sfmoe-dg list``: the algorithms, the table of the README, and classes of other packages."""

import re

import pytest

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.cli.list_names import TITLES, algorithm_rows, markdown
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.errors import UserError

NEEDS = {name: needs for name, _, _, needs in algorithm_rows()}


def test_the_readme_has_the_table_that_the_command_prints(request):
    text = (request.config.rootpath / "README.md").read_text()
    block = re.search(r"<!-- algorithms: .*? -->\n(.*?)<!-- end of algorithms -->", text, re.DOTALL)
    assert block
    printed = "".join(f"{line}\n" for line in markdown(TITLES["algorithms"], algorithm_rows()))
    assert block[1] == printed, (
        "put what `sfmoe-dg list algorithms --format markdown` prints between the algorithm markers of README.md"
    )


def test_every_paper_has_a_year():
    for name, paper, year, _ in algorithm_rows():
        assert re.fullmatch(r"(19|20)\d\d", year), name
        assert not paper.endswith((",", " ")), name


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("ERM", ""),
        ("MLDG", "at least 2 training domains"),
        ("SWAD", "validation loss at every evaluation"),
        ("ARM", "predicts in context of the batch; pictures, not vectors"),
        ("DANN", "can use unlabeled minibatches"),
        ("CDANN", ""),
        ("MixStyle", "a CNN (refuses transformers)"),
        ("SFMoE", "backbone sf_moe_small_patch16_224 by default, sf_moe_tiny_32 for small pictures"),
    ],
)
def test_needs(name, needs):
    assert NEEDS[name] == needs


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_minibatches_of_two_are_a_need_where_one_image_is_refused(name):
    hparams = default_hparams(name, "StyledDigits") | {"batch_size": 1}
    try:
        ALGORITHMS.load(name).check_hparams(hparams, "test")
    except UserError:
        refused = True
    else:
        refused = False
    assert ("minibatches of at least 2 images" in NEEDS[name]) == refused


def test_a_third_partys_class_is_listed_by_its_attributes(monkeypatch):
    class Late(ERM):
        paper = "no year, in press"
        min_domains = 3
        needs = "patience | luck"

    monkeypatch.setattr(ALGORITHMS, "load", lambda name: Late)
    row = algorithm_rows()[0]
    assert row[1:] == ("no year, in press", "", "at least 3 training domains; patience | luck")
    assert markdown(("a", "b"), [("x", "y | z")]) == ["| a | b |", "| --- | --- |", "| x | y \\| z |"]


@pytest.mark.parametrize("what", list(TITLES))
def test_both_formats_have_a_line_for_every_name(what, capsys):
    assert main(["list", what]) == 0
    text = capsys.readouterr().out.splitlines()
    assert main(["list", what, "--format", "markdown"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in text] == [line.split()[1] for line in table[2:]]
    assert {line.replace("\\|", "").count("|") for line in table} == {len(TITLES[what]) + 1}
