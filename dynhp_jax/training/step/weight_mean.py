"""The running mean of a run's weights and gates: what is evaluated, where `optimizer.ema` is on.

Every step moves the mean by a share of the way to where the weights are now. The share is larger in
the first steps, which makes the mean free of the weights it started with (the correction that Adam
has for its moments), also where the share changes from epoch to epoch.

Source: Polyak and Juditsky 1992; Tarvainen and Valpola 2017 (1703.01780) for the exponential mean.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Averages(NamedTuple):
    """The mean, without the bias of its start.

    Attributes:
      weight: f32[], 1 minus the product of what the steps have kept.
      variables: like the run's; batch statistics, too.
      gates: {group: log_alpha f32[units]}.
      own: of an extension, what `Extension.averaged` names.
    """

    weight: Array
    variables: dict[str, Any]
    gates: dict[str, Array]
    own: Any = ()


def start(variables: dict[str, Any], gates: dict[str, Array], own: Any = ()) -> Averages:
    """Before the first step: where the weights are, of no weight."""
    return Averages(jnp.zeros((), jnp.float32), dict(variables), dict(gates), own or ())


def evaluated(averages: Averages, own: Any) -> Any:
    """What an extension keeps, with the means in their place."""
    return {**own, **averages.own} if averages.own else own


def moved(
    averages: Averages,
    variables: dict[str, Any],
    gates: dict[str, Array],
    forgetting: Array,
    own: Any = (),
) -> Averages:
    """The mean after one more step.

    Args:
      averages: before.
      variables, gates, own: after the step.
      forgetting: f32[], 1 - decay.

    >>> after = moved(start({}, {"h": jnp.zeros(1)}), {}, {"h": jnp.full(1, 4.0)}, 0.5)
    >>> after = moved(after, {}, {"h": jnp.full(1, 1.0)}, 0.5)  # (4 / 4 + 1 / 2) / (3 / 4)
    >>> after.gates["h"].tolist(), float(after.weight)
    ([2.0], 0.75)
    """
    weight = averages.weight + forgetting * (1 - averages.weight)
    share = forgetting / weight

    def towards(old, new):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        return (old + share * (new - old)).astype(old.dtype)

    before = (averages.variables, averages.gates, averages.own)
    found = jax.tree.map(towards, before, (variables, gates, own or ()))
    return Averages(weight.astype(averages.weight.dtype), *found)
