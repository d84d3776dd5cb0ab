"""Memory meters: how many bytes a training step takes, and what a byte budget leaves room for.

The paper's meter is arithmetic: 4 bytes for every surviving parameter and for every number of the
mini-batch's inputs. It leaves out labels, activations, gradients, gates and optimizer moments, so
it is a yardstick to compare with the paper's tables, not what a machine allocates. That is what
`compiled_bytes` counts for a compiled step: XLA's buffers, and beside them what the libraries of a
CPU take (`cpu_libraries`).

Source: Valerio et al. 2020, Eq. 9 and Tables 2 to 4, as decoded from the tables' numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from dynhp_jax.memory import agreement
from dynhp_jax.memory.cpu_libraries import library_bytes


@dataclasses.dataclass(frozen=True)
class StepBytes:
    """Device memory of a compiled function; the parts sum to `total`.

    All but `libraries` are from XLA's buffer assignment.

    Attributes:
      arguments: label -> bytes of the arguments so labelled, on one device; arguments that the
        function does not use take none.
      padding: bytes that the arguments take beyond their numbers (tiled layouts on a TPU).
      outputs: bytes of the results that do not reuse the buffer of a donated argument.
      temporaries: bytes of activations, gradients and everything else in between, at their peak.
      libraries: bytes that libraries take beside XLA's buffers while it runs.
    """

    arguments: Mapping[str, int]
    padding: int
    outputs: int
    temporaries: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """Bytes in all: arguments + outputs - aliased + temporaries + libraries."""
        return sum(self.arguments.values()) + self.outputs + self.between

    @property
    def between(self) -> int:
        """Bytes beside arguments and results: temporaries, libraries, padding."""
        return self.temporaries + self.libraries + self.padding


def compiled_bytes(compiled: jax.stages.Compiled, labels: tuple, tried: bool = True) -> StepBytes:
    """Counts the bytes that a compiled function allocates, by what they hold.

    >>> import jax.numpy as jnp
    >>> step = jax.jit(lambda params, batch: params * batch.sum(), donate_argnums=0)
    >>> compiled = step.lower(jnp.ones(10), jnp.ones(6)).compile()
    >>> compiled_bytes(compiled, ("params", "batch")).arguments
    {'params': 40, 'batch': 24}

    Args:
      compiled: from `jax.jit(f).lower(*arguments).compile()`, positional arguments only.
      labels: one entry per argument: a string, or a pytree of strings that is a prefix of the
        argument, such as `{"params": "params", "batch_stats": "statistics"}`.
      tried: whether it may be run on zeros, once, to find out what libraries take; see
        `cpu_libraries.library_bytes`.

    Returns:
      The bytes; those of equal labels added up.

    Raises:
      ValueError: labels that do not fit the arguments, or a backend without memory analysis.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise ValueError("this backend reports no memory analysis; use the paper's meter")
    arguments, keywords = compiled.args_info
    if keywords:
        raise ValueError(f"pass {', '.join(keywords)} by position, so that labels can name them")
    shardings, _ = compiled.input_shardings
    sizes: dict[str, int] = {}

    def count(label: str, infos: Any, placed: Any) -> None:
        sizes.setdefault(label, 0)
        # A sharding of None marks an argument that XLA has dropped because nothing reads it.
        flat = jax.tree.structure(infos).flatten_up_to(placed)
        for info, sharding in zip(jax.tree.leaves(infos), flat, strict=True):
            if sharding is not None:
                shape = sharding.shard_shape(info.shape)
                sizes[label] += math.prod(shape) * info.dtype.itemsize

    try:
        jax.tree.map(count, labels, arguments, shardings)
    except ValueError as error:
        raise ValueError(
            f"labels do not fit the {len(arguments)} arguments; give one entry for each: a string, "
            "or strings in the argument's structure"
        ) from error
    libraries = library_bytes(compiled, tried)
    if tried:  # the figure decides something: where machines differ, for all of them
        own = analysis.temp_size_in_bytes + libraries
        libraries += agreement.largest(compiled, own) - own
    return StepBytes(
        arguments=sizes,
        padding=analysis.argument_size_in_bytes - sum(sizes.values()),
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        libraries=libraries,
    )
