"""Accuracy of one trained model against the capacity of its experts and their number per token.

python analysis/adaptive_compute.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "adaptive-compute"]))
