"""Experts by class and by position, layer by layer.

python analysis/specialisation.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "specialisation"]))
