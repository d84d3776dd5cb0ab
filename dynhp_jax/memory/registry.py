"""The meters that a config may name."""

from dynhp_jax.memory.allocated import Allocated
from dynhp_jax.memory.meter import Meter
from dynhp_jax.memory.paper import Paper

# A new meter: its class, in a file of its own, and its line here.
METERS: dict[str, type[Meter]] = {"paper": Paper, "xla": Allocated}
