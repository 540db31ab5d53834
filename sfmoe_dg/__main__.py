"""``python -m sfmoe_dg`` is the ``sfmoe-dg`` command."""

import sys

from sfmoe_dg.cli import main

if __name__ == "__main__":
    sys.exit(main())
