"""How fast a kind of machine is, very roughly."""

import dataclasses

import jax

from dynhp_jax.training.network import Network


@dataclasses.dataclass(frozen=True)
class Costs:
    """How fast a kind of machine is, very roughly.

    Decisions weigh training against compiling. Measured times would make a result depend on what
    else the machine does, so these are constants.

    Attributes:
      flops: per second.
      bytes: per second, that the optimizer reads and writes.
      step: seconds that a step takes however small the network is.
      compilation: seconds to compile an epoch.
    """

    flops: float
    bytes: float
    step: float
    compilation: float

    def epoch(self, network: Network, parameters: int, examples: int, batch: int) -> float:
        """Seconds of an epoch of a network with so many parameters."""
        updates = 28 * parameters / self.bytes + self.step  # Adam reads 4 numbers and writes 3
        return examples * 3 * network.flops / self.flops + examples // batch * updates


COSTS = {
    "cpu": Costs(6e10, 1e10, 1e-4, 4.0),
    "gpu": Costs(2e13, 1e12, 1e-4, 8.0),
    "tpu": Costs(2e13, 8e11, 1e-4, 8.0),
}


def costs() -> Costs:
    """Of the machine's kind."""
    return COSTS.get(jax.default_backend(), COSTS["gpu"])
