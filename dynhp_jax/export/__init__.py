"""Export: the finished network, really cut and with its gates folded in, and files of it.

`load` gives it from the directory of a run or the result of `dp.fit`, `finish` from any function
with its groups; `formats.FORMATS` are the files that it can be written as.
"""

from dynhp_jax.export.network import Finished, finish
from dynhp_jax.export.runs import load

__all__ = ["Finished", "finish", "load"]
