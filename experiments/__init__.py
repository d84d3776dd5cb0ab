"""Command lines, reports and figures; everything that can be imported elsewhere is in dynhp_jax."""

import sys

from experiments import interrupting

if sys.argv[:1] == ["-m"]:  # as it is while `python -m experiments.PROGRAM` finds the program
    interrupting.ending()
