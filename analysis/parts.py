"""Which experts look after which parts of an object, per domain and together (SF-MoE's histogram).

python analysis/parts.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "parts"]))
