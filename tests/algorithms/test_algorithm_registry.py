"""Every objective's file is registered, documented and constructible."""

import pytest

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams

NAMES = list(ALGORITHMS)


def test_every_file_is_registered(request):
    folder = request.config.rootpath / "sfmoe_dg" / "algorithms"
    files = {path.stem for path in (folder / "objectives").glob("*.py")} - {"__init__"} | {"erm", "presets"}
    modules = {ALGORITHMS.load(name).__module__.rsplit(".", 1)[-1] for name in NAMES}
    assert files == modules


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_names_its_paper_and_says_what_it_does(name):
    algorithm = ALGORITHMS.load(name)
    assert algorithm.__name__ == name
    assert algorithm.paper
    assert algorithm.__doc__


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dataset", ["StyledDigits", "RotatedMNIST", "PACS", "ImageFolder"])
def test_defaults_pass_their_own_checks(name, dataset):
    ALGORITHMS.load(name).check_hparams(default_hparams(name, dataset), "test")
