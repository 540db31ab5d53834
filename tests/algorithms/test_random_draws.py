"""Random search draws what DomainBed draws, to the last bit.

``golden_draws.json`` was made by DomainBed at commit b93c22a with NumPy 2.4: for each of its 34 algorithms and three
data sets the result of ``default_hparams``; the MD5 of the JSON text (keys sorted, NumPy scalars as Python's) of the
list of ``random_hparams`` at seeds 0 to 19; and, to read, what seed 1 draws other than the default.
"""

import hashlib
import json

import pytest
import trajectories

from sfmoe_dg.algorithms.registry import default_hparams, random_hparams

GOLDEN = trajectories.read_golden("golden_draws.json")


@pytest.mark.parametrize("dataset", ["RotatedMNIST", "PACS", "DomainNet"])
@pytest.mark.parametrize("name", list(GOLDEN))
def test_defaults_and_draws_equal_upstreams(name, dataset):
    golden = GOLDEN[name][dataset]
    names = golden["defaults"]

    def shared(hparams):
        return {key: hparams[key] for key in names}

    # As text, so that 1 and 1.0 differ: records must not.
    assert json.dumps(shared(default_hparams(name, dataset))) == json.dumps(names)
    draws = [shared(random_hparams(name, dataset, seed)) for seed in range(20)]
    assert {key: draws[1][key] for key in golden["seed 1"]} == golden["seed 1"]
    assert hashlib.md5(json.dumps(draws, sort_keys=True).encode()).hexdigest() == golden["md5"]


def test_the_golden_file_covers_every_algorithm_of_upstream():
    assert len(GOLDEN) == 34
