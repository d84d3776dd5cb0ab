"""An extension that asks for bytes of the training step gets what takes no more of them.

It is asked before a run, of the whole network, and again when units were pruned for good: what they
took is there for it. A checkpoint holds the numbers that were found, as fields of the extension.
"""

import dataclasses
from collections.abc import Mapping

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.own_code import guarded
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.extension_check import whose
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.extension import Extension
from dynhp_jax.training.network import Network, batch_of


def fitted(steps: Steps, asked: Extension, network: Network, batch: int) -> Network:
    """The network with the extension that `Extension.within` finds for it.

    Args:
      steps: of the run, which meters what it executes.
      asked: the extension as it was given.
      network: of any sizes.
      batch: examples of a mini-batch.

    Raises:
      ConfigError: the run's meter does not count what programs allocate, or its mini-batch grows.
      UserError: the bytes are too few.
    """
    if type(asked).within is Extension.within:
        return network

    def of(other: Extension) -> Network:
        return dataclasses.replace(network, unbound=other, decided=())

    def measure(other: Extension) -> int:
        _check(steps)
        return step_bytes.total(steps.training_bytes(of(other), batch))

    inputs = batch_of(network.model.example, 2)
    with guarded(whose(asked)):
        found = asked.within(network.evaluate, network.model.shapes(), inputs, measure)
    return network if found == network.unbound else of(found)


def differing(asked: Extension, found: Extension) -> dict[str, float]:
    """Fields of what was found that are not as asked for."""
    names = [field.name for field in dataclasses.fields(asked) if field.init]
    both = {name: (getattr(asked, name), getattr(found, name)) for name in names}
    return {name: now for name, (before, now) in both.items() if now != before}


def given_again(asked: Extension, fields: Mapping[str, float]) -> Extension:
    """The inverse of `differing`: the extension with what was found.

    Raises:
      TypeError: it has no such field.
    """
    return dataclasses.replace(asked, **fields) if fields else asked


def _check(steps: Steps) -> None:
    asked = steps.asked
    if steps.measured is Measured.NOT:
        allowed = "'xla', as the extension asks for bytes of the training step"
        raise ConfigError("memory.meter", asked.memory.meter, allowed)
    if asked.batching.rule != "fixed":
        allowed = "'fixed', as the extension asks for bytes of a step: its mini-batch cannot grow"
        raise ConfigError("batch.rule", asked.batch.rule, allowed)
