"""Train every tiny mixture of experts on StyledDigits; print accuracy, time, and every expert's share of tokens.

    python bench/tiny_twins.py --steps 400 --algorithms SFMoE VMoE

One run each, with the defaults of the algorithm; style 3 is held out. In-domain accuracy is the mean over the
out-splits of the three training styles. A share is the fraction of first choices that an expert gets on those images;
experts of a collapsed model have shares near zero.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from sfmoe_dg.models.architectures.registry import presets
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.trace import LayerTrace, routing_trace
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.evaluate import evaluate
from sfmoe_dg.training.prepare import Execution, Setup, prepare


def train_steps(setup: Setup) -> float:
    """Train; return the seconds."""
    started = time.perf_counter()
    setup.algorithm.train()
    for batch in setup.train_loader.batches(0, setup.steps):
        setup.algorithm.update(batch.minibatches)
    return time.perf_counter() - started


def expert_shares(setup: Setup) -> dict[str, np.ndarray]:
    """For every MoE layer, every expert's share of first choices, over the training styles."""
    counts = {name: np.zeros(layer.options.num_experts) for name, layer in moe_layers(setup.algorithm)}

    def count(trace: LayerTrace) -> None:
        counts[trace.layer] += np.bincount(trace.experts[..., 0].ravel(), minlength=len(counts[trace.layer]))

    envs = [i for i in range(len(setup.dataset)) if i not in setup.spec.test_envs]
    with torch.no_grad(), routing_trace(setup.algorithm.eval(), count):
        for batch in setup.eval_loader.batches(0, envs):
            setup.algorithm.predict(batch.x)
    return {name: count / count.sum() for name, count in counts.items()}


def in_domain(setup: Setup) -> float:
    """Mean accuracy on the out-splits of the training styles."""
    results = evaluate(setup.algorithm, setup.eval_loader, setup.splits, setup.steps)
    envs = [i for i in range(len(setup.dataset)) if i not in setup.spec.test_envs]
    return sum(results[f"env{i}_out_acc"] for i in envs) / len(envs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=list(presets()))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"### Tiny twins on StyledDigits: {args.steps} steps, {args.threads} threads\n")
    print("| algorithm | in-domain accuracy | training | least used expert | shares of tokens in %, by layer |")
    print("|---|---|---|---|---|")
    for name in args.algorithms:
        spec = RunSpec(dataset="StyledDigits", algorithm=name, test_envs=(3,), steps=args.steps)
        setup = prepare(spec, Execution(device="cpu"))
        seconds = train_steps(setup)
        shares = expert_shares(setup)
        least = min((float(share.min()) for share in shares.values()), default=float("nan"))
        layers = "; ".join(" ".join(f"{100 * s:.0f}" for s in share) for share in shares.values())
        print(
            f"| {name} | {100 * in_domain(setup):.1f} % | {seconds:.0f} s | {100 * least:.1f} % | {layers} |",
            flush=True,
        )
        setup.close()


if __name__ == "__main__":
    main()
