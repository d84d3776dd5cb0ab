"""Methods of fine-tuning on the engine: extensions that say which parameters are trained, and how.

A method is a file with a class that derives from `leaves.WholeLeaves` (some leaves of the
variables), from `selection.Selection` (chosen rows of kernels) or from `leaves.Leaves` (anything
else beside the head), and a line in `training/extensions.py` for its name.
"""

from dynhp_jax.finetune.methods.asi import ASI
from dynhp_jax.finetune.methods.bias_only import BiasOnly
from dynhp_jax.finetune.methods.compact import CompAct
from dynhp_jax.finetune.methods.cyclic import Cyclic
from dynhp_jax.finetune.methods.drawn import Drawn
from dynhp_jax.finetune.methods.fixed import Fixed
from dynhp_jax.finetune.methods.full import Full
from dynhp_jax.finetune.methods.head import Head
from dynhp_jax.finetune.methods.hosvd import HOSVD
from dynhp_jax.finetune.methods.largest import Largest
from dynhp_jax.finetune.methods.last_k import LastK
from dynhp_jax.finetune.methods.leaves import Leaves, WholeLeaves
from dynhp_jax.finetune.methods.lora import LoRA
from dynhp_jax.finetune.methods.medyate import MeDyate
from dynhp_jax.finetune.methods.random import Random
from dynhp_jax.finetune.methods.selection import Selection
from dynhp_jax.finetune.methods.sparse_update import SparseUpdate
from dynhp_jax.finetune.methods.static import Static
from dynhp_jax.finetune.methods.trady import TraDy
from dynhp_jax.finetune.methods.velocity import Velocity

__all__ = [
    "ASI",
    "BiasOnly",
    "CompAct",
    "Cyclic",
    "Drawn",
    "Fixed",
    "Full",
    "HOSVD",
    "Head",
    "Largest",
    "LastK",
    "Leaves",
    "LoRA",
    "MeDyate",
    "Random",
    "Selection",
    "SparseUpdate",
    "Static",
    "TraDy",
    "Velocity",
    "WholeLeaves",
]
