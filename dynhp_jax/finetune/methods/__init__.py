"""Methods of fine-tuning on the engine: extensions that choose which rows of which kernels train.

A method is a file with a class that derives from `selection.Selection`, and a line in
`training/extensions.py` for its name.
"""

from dynhp_jax.finetune.methods.cyclic import Cyclic
from dynhp_jax.finetune.methods.largest import Largest
from dynhp_jax.finetune.methods.medyate import MeDyate
from dynhp_jax.finetune.methods.selection import Selection
from dynhp_jax.finetune.methods.sparse_update import SparseUpdate
from dynhp_jax.finetune.methods.static import Static
from dynhp_jax.finetune.methods.trady import TraDy

__all__ = [
    "Cyclic",
    "Largest",
    "MeDyate",
    "Selection",
    "SparseUpdate",
    "Static",
    "TraDy",
]
