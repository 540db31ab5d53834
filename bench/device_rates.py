"""Images per second that a device trains and predicts: measured with one thread, or computed for a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from sfmoe_dg.algorithms.registry import hparam_table

PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0}
"""Dense bf16 matrix products, tera-operations per second, from NVIDIA's data sheets of the SXM versions."""


def macs_per_image(algorithm: str) -> float:
    """Multiply-accumulates of predicting one image of 224 × 224 with the algorithm's default backbone."""
    import timm
    import torch

    import sfmoe_dg.models.backbones  # noqa: F401  registers the models
    from sfmoe_dg.models.macs import count_macs

    name = hparam_table(algorithm, "PACS")["backbone"].default
    model = timm.create_model(name, num_classes=0, device="meta").eval()
    return count_macs(model, torch.empty(8, 3, 224, 224, device="meta")).total / 8


def measured(algorithm: str, images: int, steps: int) -> tuple[float, float]:
    """Images per second of CPU time that one thread of this machine trains and predicts, medians of ``steps``."""
    import torch

    from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
    from sfmoe_dg.analysis.efficiency.compute import random_minibatches

    torch.set_num_threads(1)
    hparams = default_hparams(algorithm, "PACS") | {"pretrained": False}
    learner = ALGORITHMS.load(algorithm)((3, 224, 224), 7, 3, hparams)
    minibatches = random_minibatches((3, 224, 224), 7, 3, images // 3)
    trained = _median_seconds(lambda: learner.update(minibatches), steps)
    learner.eval()
    with torch.inference_mode():
        evaluated = _median_seconds(lambda: learner.predict(torch.cat([x for x, _ in minibatches])), steps)
    return 3 * (images // 3) / trained, 3 * (images // 3) / evaluated


def _median_seconds(work: Callable[[], Any], times: int) -> float:
    """CPU time per call, after one call to warm up."""
    seconds = []
    for _ in range(times + 1):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def assumed(algorithm: str, gpu: str, utilisation: float) -> tuple[float, float]:
    """Images per second trained and predicted at a share of a GPU's peak; backward costs two forward passes."""
    forward = 2 * macs_per_image(algorithm)
    achieved = utilisation * PEAK_TFLOPS[gpu] * 1e12
    return achieved / (3 * forward), achieved / forward
