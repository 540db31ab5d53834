"""Accuracy on an unseen domain after a few labelled examples of it.

python analysis/few_shot.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "few-shot"]))
