"""What a criterion needs of a run, found out before anything is trained."""

from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.criteria.evidence import Criterion, Evidence
from dynhp_jax.errors import ConfigError, UserError
from dynhp_jax.network import Network
from dynhp_jax.scores import Scores


def earlier_epochs(criterion: Criterion | None) -> int:
    """How many earlier epochs' variables a criterion looks at; see `Criterion`."""
    return getattr(criterion, "earlier_epochs", 0)


def check_run(asked: Scores, criterion: Criterion, network: Network, examples: int) -> None:
    """Whether a run of the method 'scores' can go by a criterion, from when it has to.

    Args:
      asked: the section of the config.
      criterion: that it names.
      network: whole.
      examples: that there are to score on.

    Raises:
      ConfigError: it cannot.
    """
    examples = min(asked.examples, examples)
    check("scores.criterion", asked.criterion, criterion, network, examples)
    needed = earlier_epochs(criterion)
    if asked.start < needed:
        allowed = f"{needed} or more: {asked.criterion!r} looks at so many earlier epochs"
        raise ConfigError("scores.start", asked.start, allowed)


def check(field: str, found: Any, criterion: Criterion, network: Network, examples: int) -> None:
    """Whether a criterion can score a network without gates, by tracing it with shapes alone.

    Args:
      field: of the config, that names the criterion.
      found: its value.
      criterion: that it names.
      network: whole.
      examples: to score on.

    Raises:
      ConfigError: it cannot.
    """
    variables, Shape = network.spec.shapes(), jax.ShapeDtypeStruct
    seen = Evidence(
        network.evaluate,
        network.groups,
        variables,
        (Shape((examples, *network.spec.input_shape), jnp.float32),),
        Shape((examples,), jnp.int32),
        names=tuple(network.groups),
        key=jax.eval_shape(lambda: jax.random.key(0)),
        earlier=(variables,) * earlier_epochs(criterion),
    )
    try:
        jax.eval_shape(criterion.scores, seen)
    except UserError as error:
        allowed = f"one that can score this network, such as 'l1' or 'taylor' ({error})"
        raise ConfigError(field, found, allowed) from None
