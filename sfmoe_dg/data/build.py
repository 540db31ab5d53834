"""From the name of a data set to batches on the device.

The public interface, in the order in which a run uses it::

    from sfmoe_dg.data.catalog import CATALOG, DatasetFacts, facts          # no torch
    facts("PACS").labels                                                    # ('A', 'C', 'P', 'S')

    from sfmoe_dg import data                                               # no torch until build() is called
    seed_everything(seed)                                                   # first: see below
    dataset = data.build(name, data_dir, on_bad_image="error")              # "error" | "skip" -> DomainDataset
    dataset = cached(dataset, folder)                                       # data.cache: decoded once, for all runs
    dataset.domains[i].targets                                              # int64 [N], no image decoded
    dataset.domain_names, .labels, .class_names, .num_classes, .input_shape, .skipped, .ignored, .in_memory

    from sfmoe_dg.data.splits import DomainSplit, check_batch_size, count_shared_identities, split_domains
    splits = split_domains(dataset, test_envs, trial_seed=0, holdout_fraction=0.2, uda_fraction=0.0, policy="random")
    splits[i].in_, splits[i].out, splits[i].uda                             # int64 index arrays into domain i
    check_batch_size(dataset, splits, train_envs, batch_size)               # UserError names domain, size and batch

    from sfmoe_dg.data.transforms import ImageTransform
    clean = ImageTransform(size=224, mean=..., std=...)                     # augment=False: evaluation
    augmented = ImageTransform(size=224, mean=..., std=..., augment=True)   # training
    # data.device_augment.TensorTransform has the same attributes; it works on tensors, of files or of cached()'s pixels

    from sfmoe_dg.data.loaders import EvalLoader, TrainLoader
    train = TrainLoader(dataset, splits, train_envs, batch_size, augmented, seed=seed, num_workers=None,
                        class_balanced=False, unlabeled_envs=(), device="cpu")
    for batch in train.batches(start_step, stop_step):                      # one TrainBatch per step
        batch.step, batch.minibatches, batch.unlabeled                      # int, [(x, y)], [x] or None
    evaluation = EvalLoader(dataset, splits, transforms, seed=seed, batch_size=128, num_workers=None, device="cpu")
    for batch in evaluation.batches(step):                                  # every image of every domain once
        batch.env, batch.indices, batch.x, batch.y                          # indices: int64 array into domain env
    train.close(), evaluation.close()                                       # end the worker processes

``x`` is a float tensor [B, C, H, W] ready for the model, ``y`` an int64 tensor [B]; both are on ``device``.
``unlabeled_envs`` draws from those domains' ``uda`` indices. ``transforms`` is one ``ImageTransform`` per domain, so
the caller decides which domains are evaluated through augmentation. Accuracies of the splits follow by indexing::

    correct = np.zeros(len(domain)); correct[batch.indices] = ...;  correct[splits[env].in_].mean()

ColoredMNIST, RotatedMNIST and the Debug sets draw from torch's global generator, as DomainBed does: call ``build``
directly after ``seed_everything(seed)`` to get DomainBed's data bit for bit. Nothing else in this package touches a
global generator: all draws are keyed by (seed, purpose, domain, step).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sfmoe_dg.data.catalog import facts
from sfmoe_dg.foundation.errors import UserError

if TYPE_CHECKING:
    from sfmoe_dg.data.domains import DomainDataset

BAD_IMAGE_POLICIES = ("error", "skip")


def build_dataset(name: str, data_dir: str | None = None, *, on_bad_image: str = "error") -> DomainDataset:
    """Open a data set: list its images and labels, without decoding images that lie in files.

    Args:
        name: a name of the catalog.
        data_dir: the folder that holds the data set's folder (for ``ImageFolder``: the domain folders themselves).
        on_bad_image: "error": an image that does not decode ends the run when it is met. "skip": every image is
            decoded once now, those that do not decode are left out, before any split, and listed in ``skipped``.

    Raises:
        UserError: on an unknown name, missing or inconsistent folders, a missing ``data_dir``.

    Examples:
        >>> from sfmoe_dg import build_dataset
        >>> dataset = build_dataset("StyledDigits")
        >>> dataset.domain_names
        ('chalk', 'ink', 'mosaic', 'neon')
        >>> domain = dataset.domains[0]
        >>> len(domain), domain.image(0).shape, int(domain.targets[0])
        (1797, torch.Size([3, 32, 32]), 0)
    """
    entry = facts(name)
    if on_bad_image not in BAD_IMAGE_POLICIES:
        raise UserError(f"on_bad_image is {on_bad_image!r}; allowed: {', '.join(BAD_IMAGE_POLICIES)}")
    if entry.needs_data_dir and not data_dir:
        what = f"the folder {entry.folder}" if entry.folder else "one folder per domain"
        raise UserError(f"data set {name} needs --data_dir, the folder that holds {what}")
    module_name, _, attribute = entry.reader.partition(":")
    reader = getattr(importlib.import_module(module_name), attribute)
    dataset: DomainDataset = reader(entry, data_dir, on_bad_image)
    return dataset
