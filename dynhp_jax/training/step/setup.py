"""All that a compiled step is made from."""

import dataclasses

import optax

from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step.savings import NOTHING, Savings


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """All that a compiled step is made from, but for the mini-batch.

    Attributes:
      network: the model, its groups, and the parts of the step that a method replaces.
      config: the run.
      tx: the optimizer.
      examples: N, the size of the training set, which the penalty is divided by.
      savings: what the step does without, to take less memory.
    """

    network: Network
    config: Config
    tx: optax.GradientTransformation
    examples: int
    savings: Savings = NOTHING
