"""Compare the accuracy of training from the cache with that of training from the files; print Markdown.

    python bench/cached_accuracy.py --data_dir DATA --dataset PACS

A small convolutional network is trained from scratch at 64×64. Both ways use the same images in the same order; only
the pixels differ. The cache's short side is 73, because 73/64 = 256/224: images are resized twice, as at full size.
Each way is evaluated with its own transform without augmentation, as ``--images`` does.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.loaders import EvalLoader, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import split_domains
from sfmoe_dg.foundation.seeds import seed_everything

SIZE, SHORT_SIDE = 64, 73


def network(num_classes: int) -> nn.Sequential:
    """Four convolutions that halve the picture, mean pooling, a linear layer."""
    layers: list[nn.Module] = []
    widths = (3, 24, 48, 96, 128)
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def accuracies(files: DomainDataset, source: DomainDataset, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Accuracies in percent: the mean over the training domains' held-out splits, and that of the test domain."""
    splits = split_domains(files, [args.test_env], trial_seed=seed)
    train_envs = [env for env in range(len(files)) if env != args.test_env]
    clean = (ImageTransform if source is files else TensorTransform)(size=SIZE)
    loader = TrainLoader(source, splits, train_envs, args.batch_size, replace(clean, augment=True), seed=seed)
    seed_everything(seed)
    model = network(files.num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, args.steps)
    for batch in loader.batches(0, args.steps):
        x, y = (torch.cat(parts) for parts in zip(*batch.minibatches, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    loader.close()
    correct = [np.zeros(len(domain)) for domain in files]
    evaluation = EvalLoader(source, None, [clean] * len(source), seed=seed)
    model.eval()
    with torch.inference_mode():
        for found in evaluation.batches():
            correct[found.env][found.indices] = (model(found.x).argmax(1) == found.y).numpy()
    evaluation.close()
    validation = statistics.mean(correct[env][splits[env].out].mean() for env in train_envs)
    return 100 * float(validation), 100 * float(correct[args.test_env].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="PACS")
    parser.add_argument("--test_env", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=16, help="images per domain")
    args = parser.parse_args()
    files = build_dataset(args.dataset, args.data_dir)
    print("| seed | input | training domains, held out | test domain | seconds |\n|---|---|---|---|---|")
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        small = cached(replace(files, input_shape=(3, SIZE, SIZE)), folder, SHORT_SIDE)
        for seed in range(args.seeds):
            found = {}
            for name, source in (("files", files), ("cached", small)):
                started = time.perf_counter()
                found[name] = np.array(accuracies(files, source, seed, args))
                values = " | ".join(f"{value:.1f}" for value in found[name])
                print(f"| {seed} | {name} | {values} | {time.perf_counter() - started:.0f} |", flush=True)
            differences.append(found["cached"] - found["files"])
    mean, error = np.mean(differences, 0), np.std(differences, 0, ddof=1) / np.sqrt(len(differences))
    shown = " | ".join(f"{m:+.1f} ± {e:.1f}" for m, e in zip(mean, error, strict=True))
    print(f"| mean | cached − files | {shown} | |")


if __name__ == "__main__":
    main()
