"""What Python finds under the name ``domainbed`` in commands that ``sfmoe-dg domainbed`` starts.

It puts the checkout's package in its own place and has our algorithms and data sets added to it.
"""

import os
from pathlib import Path

from sfmoe_dg.compat.domainbed.ours_in_domainbed import take_over
from sfmoe_dg.compat.domainbed.runner import CHECKOUT_VARIABLE

take_over(Path(os.environ[CHECKOUT_VARIABLE]))
