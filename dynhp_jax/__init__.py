"""Structured pruning of any model while it trains, inside a memory budget.

>>> import jax, jax.numpy as jnp
>>> import dynhp_jax as dp
>>> def apply(params, x):  # [batch, 4] -> [batch, 2]
...     return jax.nn.relu(x @ params["in"]) @ params["out"]
>>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((3, 2))}
>>> groups = dp.find_groups(apply, params, jnp.ones((8, 4)))
>>> small = dp.cut(params, groups, {"in": jnp.array([0, 2])})
>>> {name: leaf.shape for name, leaf in small.items()}
{'in': (4, 2), 'out': (2, 2)}

The names in `__all__` are the library's interface. All other names are private by convention and
may move. The transforms need jax and optax; `Config`, `Extension` and `fit` also load what training
needs, when they are first used.
"""

from typing import TYPE_CHECKING, Any

from dynhp_jax import moved
from dynhp_jax.batch_size import rules, variance
from dynhp_jax.batch_size.probed import probed
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.gates import activity, hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.gates.penalty import gate_penalty
from dynhp_jax.pruning import schedules, targets
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence
from dynhp_jax.pruning.criteria.registry import CRITERIA, get_criterion
from dynhp_jax.pruning.criteria.score import score
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.relevance.propagation import relevant
from dynhp_jax.structure.find import find_groups
from dynhp_jax.structure.group import Group, Member
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import Keeps, UnitKeeps, UnitMasks
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.keeps import compose, rewind
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized
from dynhp_jax.tasks import losses, metrics
from dynhp_jax.tasks.metrics import Metric

if TYPE_CHECKING:
    from dynhp_jax import decentralised, export, finetune, planner, writers
    from dynhp_jax.data.mapped import Mapped
    from dynhp_jax.training.config import Config
    from dynhp_jax.training.extension import EpochStart, Extension
    from dynhp_jax.training.fit import fit

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "Config",
    "Criterion",
    "EpochStart",
    "Evidence",
    "Extension",
    "Group",
    "Groups",
    "Keeps",
    "Mapped",
    "Member",
    "Metric",
    "UnitKeeps",
    "UnitMasks",
    "UserError",
    "activity",
    "compose",
    "cut",
    "cut_optimizer",
    "decentralised",
    "export",
    "find_groups",
    "finetune",
    "fit",
    "gate_penalty",
    "gated",
    "get_criterion",
    "hard_concrete",
    "key_for",
    "losses",
    "metrics",
    "planner",
    "probed",
    "prune_to",
    "relevant",
    "resized",
    "rewind",
    "rules",
    "schedules",
    "score",
    "targets",
    "variance",
    "writers",
]

_LATER = {  # name -> module, loaded when it is asked for
    "Config": "dynhp_jax.training.config",
    "EpochStart": "dynhp_jax.training.extension",
    "Extension": "dynhp_jax.training.extension",
    "Mapped": "dynhp_jax.data.mapped",
    "fit": "dynhp_jax.training.fit",
}


moved.install()


_PACKAGES = ("decentralised", "export", "finetune", "planner", "writers")  # likewise, whole


def __getattr__(name: str) -> Any:
    if name not in _LATER and name not in _PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
