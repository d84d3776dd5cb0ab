"""What a criterion needs of a run, found out before anything is trained."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common import random_keys
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.pruning.criteria import contract, score
from dynhp_jax.pruning.criteria.contract import earlier_epochs
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence, strict_cross_entropy
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.tasks import losses
from dynhp_jax.training.network import Network, batch_of

_FEW = 8  # examples that a criterion of one's own is tried on


def check_run(
    asked: ScoreOptions,
    criterion: Criterion,
    network: Network,
    judged_on: Pairs,
) -> None:
    """Whether a run of the method 'scores' can go by a criterion, from when it has to.

    Args:
      asked: the section of the config.
      criterion: that it names.
      network: whole.
      judged_on: the examples that are scored on, in the shape that the network reads.

    Raises:
      ConfigError: it cannot.
    """
    called, needed = asked.criterion or contract.name_of(criterion), earlier_epochs(criterion)
    if asked.start < needed:
        allowed = f"{needed} or more: {called!r} looks at so many earlier epochs"
        raise ConfigError("scores.start", asked.start, allowed)
    check("scores.criterion", called, criterion, network, judged_on)


def check(
    field: str,
    found: str,
    criterion: Criterion,
    network: Network,
    judged_on: Pairs,
) -> None:
    """Whether a criterion can score a network without gates.

    It is traced with shapes alone. One of one's own is also run, on a few of the examples and new
    weights: that its scores are finite no shape can say.

    Args:
      field: of the config, that names the criterion.
      found: its value.
      criterion: that it names.
      network: whole.
      judged_on: the examples that are scored on, in the shape that the network reads.

    Raises:
      ConfigError: it cannot.
    """
    try:
        seen = seen_of(network, len(judged_on), criterion)
        with contract.guarded(criterion, found):
            traced = jax.eval_shape(lambda evidence: contract.scores_of(criterion, evidence), seen)
            if not traced:
                raise UserError("it gives scores of no group")
        if contract.is_own(criterion):
            few = _few(seen, network, judged_on)
            score.score(criterion, few, found, chunk=1)
    except UserError as error:
        allowed = f"one that can score this network, such as 'l1' or 'taylor' ({error})"
        raise ConfigError(field, found, allowed) from error


def seen_of(network: Network, examples: int, criterion: Criterion) -> Evidence:
    """What a criterion looks at in a run, as shapes."""
    variables = network.model.shapes()
    return Evidence(
        network.evaluate,
        network.groups,
        variables,
        (batch_of(network.model.example, examples),),
        batch_of(network.target, examples),
        loss_of(network),
        names=tuple(network.groups),
        key=jax.eval_shape(lambda: jax.random.key(0)),
        earlier=(variables,) * earlier_epochs(criterion),
    )


def loss_of(network: Network) -> Callable[[Any, Any], jax.Array]:
    """The loss that criteria differentiate: the task's; no number where a label is no class."""
    loss = network.task.loss
    return strict_cross_entropy if loss is losses.cross_entropy else loss


def _few(seen: Evidence, network: Network, judged_on: Pairs) -> Evidence:
    """The same with numbers: a few examples, and weights that differ from epoch to epoch."""
    make = jax.jit(lambda key: network.model.init(random_keys.fused(key)))
    given = network.given
    now, *earlier = (
        make(jax.random.key(k)) if given is None else given for k in range(1 + len(seen.earlier))
    )
    few = judged_on.first(_FEW).map(jnp.asarray)
    return dataclasses.replace(
        seen,
        variables=now,
        inputs=(few.inputs,),
        labels=few.targets,
        key=jax.random.key(0),
        earlier=tuple(earlier),
    )
