"""What a criterion needs of a run, found out before anything is trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common import random_keys
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.pruning.criteria import contract, score
from dynhp_jax.pruning.criteria.contract import earlier_epochs
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training.network import Network

_FEW = 8  # examples that a criterion of one's own is tried on


def check_run(
    asked: ScoreOptions,
    criterion: Criterion,
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Whether a run of the method 'scores' can go by a criterion, from when it has to.

    Args:
      asked: the section of the config.
      criterion: that it names.
      network: whole.
      images, labels: f32[examples, ...] and i32[examples]; the first of them are scored on.

    Raises:
      ConfigError: it cannot.
    """
    called, needed = asked.criterion or contract.name_of(criterion), earlier_epochs(criterion)
    if asked.start < needed:
        allowed = f"{needed} or more: {called!r} looks at so many earlier epochs"
        raise ConfigError("scores.start", asked.start, allowed)
    count = asked.examples
    check("scores.criterion", called, criterion, network, images[:count], labels[:count])


def check(
    field: str,
    found: str,
    criterion: Criterion,
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Whether a criterion can score a network without gates.

    It is traced with shapes alone. One of one's own is also run, on a few of the examples and new
    weights: that its scores are finite no shape can say.

    Args:
      field: of the config, that names the criterion.
      found: its value.
      criterion: that it names.
      network: whole.
      images, labels: to score on.

    Raises:
      ConfigError: it cannot.
    """
    try:
        seen = seen_of(network, len(labels), criterion)
        with contract.guarded(criterion, found):
            traced = jax.eval_shape(lambda evidence: contract.scores_of(criterion, evidence), seen)
            if not traced:
                raise UserError("it gives scores of no group")
        if contract.is_own(criterion):
            few = _few(seen, network, images, labels)
            score.score(criterion, few, found, chunk=1)
    except UserError as error:
        allowed = f"one that can score this network, such as 'l1' or 'taylor' ({error})"
        raise ConfigError(field, found, allowed) from error


def seen_of(network: Network, examples: int, criterion: Criterion) -> Evidence:
    """What a criterion looks at in a run, as shapes."""
    variables, Shape = network.spec.shapes(), jax.ShapeDtypeStruct
    return Evidence(
        network.evaluate,
        network.groups,
        variables,
        (Shape((examples, *network.spec.input_shape), jnp.float32),),
        Shape((examples,), jnp.int32),
        names=tuple(network.groups),
        key=jax.eval_shape(lambda: jax.random.key(0)),
        earlier=(variables,) * earlier_epochs(criterion),
    )


def _few(seen: Evidence, network: Network, images: Any, labels: Any) -> Evidence:
    """The same with numbers: a few examples, and weights that differ from epoch to epoch."""
    make = jax.jit(lambda key: network.spec.init(random_keys.fused(key)))
    now, *earlier = (make(jax.random.key(k)) for k in range(1 + len(seen.earlier)))
    inputs = jnp.asarray(np.asarray(images[:_FEW]).reshape(-1, *network.spec.input_shape))
    return dataclasses.replace(
        seen,
        variables=now,
        inputs=(inputs,),
        labels=jnp.asarray(labels[:_FEW]),
        key=jax.random.key(0),
        earlier=tuple(earlier),
    )
