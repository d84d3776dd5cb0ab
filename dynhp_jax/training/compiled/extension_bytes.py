"""An extension that asks for bytes of the training step gets what takes no more of them."""

import dataclasses

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.own_code import guarded
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.extension_check import whose
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.extension import Extension
from dynhp_jax.training.network import batch_of


def within(steps: Steps) -> Steps:
    """The steps of the same run, with the extension that `Extension.within` finds.

    What is metered is what the run executes: the training step of the whole network, at the
    mini-batch that it starts with.

    Raises:
      ConfigError: the run's meter does not count what programs allocate.
      UserError: the bytes are too few.
    """
    whole, asked = steps.whole, steps.asked
    extension = whole.unbound
    if type(extension).within is Extension.within:
        return steps

    def of(other: Extension) -> Steps:
        network = dataclasses.replace(whole, unbound=other)
        return Steps(asked, network, steps.programs, steps.examples, tx=steps.own_tx)

    def measure(other: Extension) -> int:
        if steps.measured is Measured.NOT:
            allowed = "'xla', as the extension asks for bytes of the training step"
            raise ConfigError("memory.meter", asked.memory.meter, allowed)
        found = of(other)
        batch = found.in_shares(asked.batching.size)
        return step_bytes.total(found.training_bytes(found.whole, batch))

    inputs = batch_of(whole.model.example, 2)
    with guarded(whose(extension)):
        found = extension.within(whole.evaluate, whole.model.shapes(), inputs, measure)
    return steps if found is extension else of(found)
