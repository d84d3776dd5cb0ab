"""Budgets of nodes as a person gives them: bytes, text, or shares of the whole network's."""

import math
from collections.abc import Sequence

from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.pruned.bytes_held import BytesHeld

Budget = int | str | None


def bytes_of_nodes(
    budgets: Sequence[Budget] | Budget, nodes: int, held: BytesHeld, batch: int
) -> tuple[int | None, ...]:
    """The budgets of all nodes in bytes, None for any.

    Args:
      budgets: of every node, or of each alike: a number, text such as '2MiB', '50%' of what the
        whole network takes, or None.
      nodes: how many there are.
      held: the nodes' meter.
      batch: the mini-batch that shares are of.

    Raises:
      UserError: one is no such thing, or there is not one for each node.
    """
    if budgets is None or isinstance(budgets, (str, int)):
        budgets = [budgets] * nodes
    if len(budgets) != nodes:
        raise UserError(
            f"budgets has {len(budgets)} entries; allowed: one for each of {nodes} nodes"
        )
    found = []
    for node, budget in enumerate(budgets):
        if isinstance(budget, str):
            budget = _bytes_of(budget, node, held, batch)
        if budget is not None and (isinstance(budget, bool) or not budget >= 1):
            raise UserError(
                f"the budget of node {node} is {budget!r}; allowed: bytes above 0, None"
            )
        found.append(None if budget is None else int(budget))
    return tuple(found)


def _bytes_of(text: str, node: int, held: BytesHeld, batch: int) -> int:
    if not text.endswith("%"):
        return parse_bytes(text, f"the budget of node {node}")
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise UserError(f"the budget of node {node} is {text!r}; allowed: a share, as '50%'")
    return int(share * held.of({}, batch))
