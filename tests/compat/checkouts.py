"""A checkout of DomainBed in miniature, and where a real one is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ALGORITHMS = """
import torch
from domainbed import networks

ALGORITHMS = ["Plain", "Needy", "OnGpu"]


def get_algorithm_class(name):
    if name not in globals():
        raise NotImplementedError(name)
    return globals()[name]


class Plain(torch.nn.Module):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
        self.network = networks.flat(input_shape, num_classes)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=hparams["lr"])

    def update(self, minibatches, unlabeled=None):
        x, y = (torch.cat(parts) for parts in zip(*minibatches))
        loss = torch.nn.functional.cross_entropy(self.predict(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict(self, x):
        return self.network(x)


class Needy(Plain):
    def __init__(self, *args):
        assert False, "Install something"


class OnGpu(Plain):
    def __init__(self, *args):
        super().__init__(*args)
        self.weight = torch.ones(1).cuda()

    def train(self):
        self.network.train()

    def eval(self):
        self.network.eval()
"""

NETWORKS = """
import math
import torch


def flat(input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(input_shape), num_classes))
"""

HPARAMS = """
import numpy as np


def _hparams(algorithm, dataset, seed):
    lr = 1e-1 if dataset == "Debug28" else 1e-2
    yield "lr", lr, 10 ** np.random.RandomState(seed + len(algorithm)).uniform(-3, -1)
    yield "batch_size", 4, np.random.RandomState(seed).choice([2, 4, 8])
    yield "data_augmentation", True, True
    yield "class_balanced", False, False


def default_hparams(algorithm, dataset):
    return {name: default for name, default, _ in _hparams(algorithm, dataset, 0)}


def random_hparams(algorithm, dataset, seed):
    return {name: drawn for name, _, drawn in _hparams(algorithm, dataset, seed)}
"""

DATASETS = """
DATASETS = ["Theirs"]


class MultipleDomainDataset:
    N_STEPS = 5001
    CHECKPOINT_FREQ = 100
    N_WORKERS = 8
    ENVIRONMENTS = None

    def __getitem__(self, index):
        return self.datasets[index]

    def __len__(self):
        return len(self.datasets)


class Theirs(MultipleDomainDataset):
    ENVIRONMENTS = ["a", "b"]


class ImageFolder:
    pass
"""

# Two updates on the first images of the training domains, and the same again in a process of a launcher's kind.
TRAIN = """
import json
import subprocess
import sys

import torch

from domainbed import algorithms, datasets, hparams_registry

if __name__ == "__main__":
    algorithm, dataset, hparams, *again = sys.argv[1:]
    values = hparams_registry.default_hparams(algorithm, dataset) | json.loads(hparams)
    data = vars(datasets)[dataset](None, [0], values)
    torch.manual_seed(0)
    learner = algorithms.get_algorithm_class(algorithm)(data.input_shape, data.num_classes, len(data) - 1, values)
    pictures = [[env[i] for i in range(values["batch_size"])] for env in list(data)[1:]]
    batches = [(torch.stack([x for x, _ in some]), torch.tensor([y for _, y in some])) for some in pictures]
    losses = [learner.update(batches, None)["loss"] for _ in range(2)]
    facts = {"losses": losses, "algorithms": algorithms.ALGORITHMS, "datasets": datasets.DATASETS}
    print(json.dumps(facts), flush=True)
    if again:
        command = f"python -m domainbed.scripts.train {algorithm} {dataset} '{hparams}'"
        sys.exit(subprocess.call(command, shell=True))
"""

FAIL = """
import sys

sys.exit(7)
"""

FILES = {
    "__init__.py": "",
    "algorithms.py": ALGORITHMS,
    "networks.py": NETWORKS,
    "hparams_registry.py": HPARAMS,
    "datasets.py": DATASETS,
    "scripts/__init__.py": "",
    "scripts/train.py": TRAIN,
    "scripts/fail.py": FAIL,
}


def write_checkout(root: Path) -> Path:
    """A folder that looks like a checkout of DomainBed, with three algorithms, two scripts, and nothing to download."""
    for name, text in FILES.items():
        path = root / "domainbed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def real_checkout() -> str:
    """The checkout that DOMAINBED_DIR names; without it the test is skipped."""
    folder = os.environ.get("DOMAINBED_DIR")
    if not folder:
        pytest.skip("set DOMAINBED_DIR to a checkout of facebookresearch/DomainBed to run this test")
    return folder
