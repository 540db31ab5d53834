"""The package that Python finds under the name ``domainbed`` in commands that ``sfmoe-dg domainbed`` starts.

It replaces itself by the checkout's package, to which our algorithms and data sets are added.
"""

import os
from pathlib import Path

from sfmoe_dg.compat.domainbed.ours_in_domainbed import take_over
from sfmoe_dg.compat.domainbed.runner import CHECKOUT_VARIABLE

take_over(Path(os.environ[CHECKOUT_VARIABLE]))
