"""Time and memory of every algorithm on both backbones, and the accuracy that they buy.

python analysis/efficiency.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "efficiency"]))
