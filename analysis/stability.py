"""Whether an expert means the same in another style, in an unseen domain and in another run.

python analysis/stability.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "stability"]))
