"""What nodes that prune themselves take of a config, beside what all nodes do."""

from collections.abc import Mapping
from typing import Any

from dynhp_jax import decentralised
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.config import Config
from experiments.nodes.settings import Nodes

ALL = "all"  # of `nodes.units`: nobody prunes


def arguments_of(config: Config, nodes: Nodes, plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `decentralised.train_pruned` takes.

    Args:
      config, nodes: of the run; the gates are those of the sections gates, penalty and pruning.
      plain: what `decentralised.train` takes.

    Raises:
      UserError: a rule that does not know of units, or what only whole nodes can do.
    """
    if not nodes.restart or config.devices not in (0, 1):
        raise UserError(
            f"nodes.restart is {nodes.restart} and devices {config.devices}; nodes that prune"
            " themselves (nodes.units) start their optimizers anew, on one device"
        )
    gates = config.gates
    options = {} if gates.learning_rate == 0 else {"learning_rate": gates.learning_rate}
    gating = decentralised.Gating(
        config.penalty.lam, config.penalty.convention, config.pruning.gamma, gates.open_hidden,
        most_open=gates.most_open, **options,
    )  # fmt: skip
    budgets = [nodes.budgets[node % len(nodes.budgets)] for node in range(nodes.count)]
    found = {name: each for name, each in plain.items()
             if name not in ("restart_optimizer", "devices")}  # fmt: skip
    return found | {
        "choice": decentralised.choice_of(nodes.units, config.origin),
        "gates": gating,
        "budgets": [None if budget == "none" else budget for budget in budgets],
        "meter": nodes.meter,
        "inputs": gates.inputs,
        "start": nodes.prune_from,
        "least_batch": nodes.least_batch or None,
        "classes": nodes.stacks,
    }
