"""Which attributes of an object go with which experts, beyond chance.

python analysis/attributes.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "attributes"]))
