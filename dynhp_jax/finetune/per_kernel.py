"""A hook that has something of its own for each of some kernels, also inside of loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.kernel_products import KernelReads, Read, place
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.values import Analysis, Value


class PerKernel(Hook):
    """What is given for kernels is at hand where a product reads one.

    Args:
      reads: of the traced function.
      given: path -> pytree of arrays; of kernels that are stacked for a loop each has the steps on
        its first axis.

    Attributes:
      reads: as given.
      given: as given; inside of a loop that takes a kernel step by step, the step's slices.
    """

    def __init__(self, reads: KernelReads, given: Mapping[Path, Any]):
        self.reads, self.given = reads, dict(given)

    def read(self, eqn: Any, values: list[Value]) -> Read | None:
        """The read of a kernel for which something is given, if the equation is one."""
        found = self.reads.by_place.get(place(eqn, values))
        return found if found is not None and found.path in self.given else None

    def by_step(self, body: Analysis) -> Sequence[Any]:
        return [self.given[path] for path in self._stacked(body)]

    @contextlib.contextmanager
    def in_step(self, body: Analysis, slices: Sequence[Any]) -> Iterator[None]:
        whole = self.given
        self.given = whole | dict(zip(self._stacked(body), slices, strict=True))
        try:
            yield
        finally:
            self.given = whole

    def _stacked(self, body: Analysis) -> list[Path]:
        paths = self.reads.stacked.get(id(body), {}).values()
        return [path for path in dict.fromkeys(paths) if path in self.given]
