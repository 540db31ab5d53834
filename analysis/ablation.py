"""Accuracy against block pattern, number of experts, experts per token and router; RUN is an ablation's sweep.

python analysis/ablation.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "ablation"]))
