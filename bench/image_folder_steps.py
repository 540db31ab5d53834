"""Train every architecture from scratch for a few steps at 224 px on an image-folder data set, to see the loss fall.

    python bench/image_folder_steps.py --data_dir DATA --dataset PACS --steps 20

The learning rate is the algorithm's default unless it is given. Prints the mean loss of the first and of the last five
steps, and the seconds per step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from sfmoe_dg.models.architectures.registry import presets
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.prepare import Execution, prepare


def losses(spec: RunSpec, steps: int) -> tuple[list[float], float]:
    """The loss of every step, and the median seconds per step."""
    setup = prepare(spec, Execution(device="cpu", num_workers=1))
    setup.algorithm.train()
    found, seconds = [], []
    for batch in setup.train_loader.batches(0, steps):
        started = time.perf_counter()
        found.append(float(setup.algorithm.update(batch.minibatches)["loss"]))
        seconds.append(time.perf_counter() - started)
    setup.close()
    return found, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="PACS")
    parser.add_argument("--algorithms", nargs="+", default=list(presets()))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"### {args.dataset} at 224 px, {args.steps} steps of {args.batch_size} images per domain, from scratch\n")
    print("| algorithm | first five losses | last five losses | seconds a step |\n|---|---|---|---|")
    hparams = json.dumps({"pretrained": False, "batch_size": args.batch_size})
    for name in args.algorithms:
        spec = RunSpec(dataset=args.dataset, algorithm=name, test_envs=(3,), data_dir=args.data_dir, hparams=hparams)
        values, seconds = losses(spec, args.steps)
        first, last = statistics.mean(values[:5]), statistics.mean(values[-5:])
        print(f"| {name} | {first:.3f} | {last:.3f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
