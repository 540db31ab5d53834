"""The expert of every patch over the picture, layer by layer, the same picture in every domain.

python analysis/expert_maps.py RUN [--output_dir DIR] [--images N]
"""

import sys

from sfmoe_dg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:], "--what", "expert-maps"]))
