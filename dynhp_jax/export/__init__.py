"""Export: the finished network, really cut and with its gates folded in, and files of it.

`load` gives it from the directory of a run or the result of `dp.fit`, `finish` from any function
with its groups. `write` writes files of it, runs each and compares; a format is one file of
`formats`, and a line of its registry.
"""

from dynhp_jax.export.network import Finished, finish
from dynhp_jax.export.runs import load
from dynhp_jax.export.writing import Written, write

__all__ = ["Finished", "Written", "finish", "load", "write"]
