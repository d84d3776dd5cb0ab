"""Where the examples of a batch are among the axes of a model's arrays."""

from dynhp_jax.jaxprs.labels import Axis
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.values import Value


class BatchAxis:
    """The batch axis of a traced function, found again in its arrays.

    Args:
      traced: the function; it has a batch axis.
    """

    def __init__(self, traced: Traced):
        self._labels = traced.labels
        self._atoms = set(traced.labels.find(traced.batch).tolist())

    def on(self, axis: Axis) -> bool:
        """Whether positions of an axis are examples, or parts of one."""
        return any(self._factors(axis))

    def leads(self, axis: Axis) -> bool:
        """Whether they are, and all parts of an example lie side by side."""
        return self._factors(axis)[:1] == [True]

    def alone(self, axis: Axis) -> bool:
        """Whether they are, one by one."""
        return self._factors(axis) == [True]

    def of(self, value: Value) -> int | None:
        """The first axis of a value that they are on."""
        return next((d for d, axis in enumerate(value.axes) if self.on(axis)), None)

    def _factors(self, axis: Axis) -> list[bool]:
        """Whether each factor of an axis is of examples, the slowest first."""
        found = [self._labels.pairs(factor)[1] for factor in self._labels.resolve(axis)]
        return [bool(atoms.size) and int(atoms[0]) in self._atoms for atoms in found]
