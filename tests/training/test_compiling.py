"""Compiled programs that are counted, and what tells them apart."""

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.training.compiled import programs


def test_where_an_array_is_makes_no_other_program():
    """A restored array is bound to its device, and a cached program must serve it, too."""
    new = {"x": jnp.arange(3.0), "key": jax.random.key(0), "weak": jnp.asarray(2.0)}
    bound = jax.device_put(new, jax.devices()[0])
    lowered = []

    class Noted:
        def __init__(self, function):
            self.function = jax.jit(function)

        def lower(self, *arguments):
            lowered.append(self.function.lower(*arguments))
            return lowered[-1]

    results = []
    for tree in (new, bound):
        program = programs.Programs().get(
            "sum", (), lambda: Noted(lambda t: t["x"] * t["weak"] + jax.random.uniform(t["key"])),
            tree,
        )  # fmt: skip
        results += [program(new), program(bound)]
    assert lowered[0].as_text() == lowered[1].as_text()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
