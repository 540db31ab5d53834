"""What the class token looks at, head by head, dense beside sparse.

python analysis/attention.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "attention"]))
