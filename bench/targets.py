"""Print, as Markdown, the targets of the benchmarks and what their last runs on this machine measured.

    python bench/targets.py

Every benchmark with a target writes what it measured into results/targets.json; ``make bench`` ends with this table.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "results" / "targets.json"
RESNET = "whole run, ResNet-18 on PACS, CPU: time of DomainBed"
TARGETS = {  # what, and what is aimed at
    "a, files": (f"{RESNET} as it is over ours, its transforms", "≥ 4"),
    "a, cached": (f"{RESNET} as it is over ours, from the cache", "≥ 6"),
    "b, files": (f"{RESNET} with 1 worker per loader over ours, its transforms", "≥ 1.5"),
    "b, cached": (f"{RESNET} with 1 worker per loader over ours, from the cache", "≥ 2"),
    "c, ViT-S/16": ("whole run, ViT-S/16 on PACS, CPU: time of DomainBed's loop over ours", "≥ 2"),
    "c, SF-MoE": ("whole run, CPU: time of SF-MoE-S/16 over dense ViT-S/16", "≤ 1.15"),
    "startup": ("fixed cost of a quick-start run, seconds", "≤ 3"),
    "collect, time": ("tables of a sweep: time of DomainBed over ours", "≥ 20"),
    "collect, memory": ("tables of a sweep: our memory, GiB", "≤ 2"),
    "gpu, step": ("GPU, bf16, 96 images: step of SF-MoE-S/16 over dense ViT-S/16", "≤ 1.15"),
    "gpu, memory": ("the same: peak memory", "≤ 1.15"),
    "gpu, utilisation": ("the same: share of the device's peak, SF-MoE and dense", "reported"),
}


def note(key: str, measured: str) -> None:
    """Write what a benchmark measured for a target, replacing an earlier measurement."""
    if key not in TARGETS:
        raise KeyError(key)
    found = read()
    found[key] = measured
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def read() -> dict[str, str]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def table(found: dict[str, str]) -> str:
    rows = [f"| {what} | {aim} | {found.get(key, 'not measured')} |" for key, (what, aim) in TARGETS.items()]
    return "\n".join(["| job | target | measured |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table(read()))
