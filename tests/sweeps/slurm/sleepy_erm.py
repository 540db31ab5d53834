"""A plug-in for runs that last as long as a test needs, on machines of any speed."""

import os
import time

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.registry import ALGORITHMS


class SleepyERM(ERM):
    """ERM whose steps after the 12th take a while, until a certain file exists."""

    paper = "a test"
    updates = 0

    def update(self, minibatches, unlabeled=None):
        self.updates += 1
        end = time.monotonic() + float(os.environ["NAP"])
        while self.updates > 12 and time.monotonic() < end and not os.path.exists(os.environ["GO"]):
            time.sleep(0.05)
        return super().update(minibatches, unlabeled)


ALGORITHMS.register("SleepyERM", SleepyERM)
