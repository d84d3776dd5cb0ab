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


def test_compiling_says_how_far_it_has_come():
    """Of the programs that were announced; of more, as many as there are."""
    told = []
    kept = programs.Programs(tell=told.append)
    number = jax.ShapeDtypeStruct((), "float32")

    def get(name, key=()):
        return kept.get(name, key, lambda: jax.jit(lambda x: x + x), number)

    kept.expect(["order", "epoch", "test"])
    for name in ("order", "order", "epoch"):  # the second one is there
        get(name)
    get("epoch", 2)  # nobody knew of it
    kept.join(kept.ahead(lambda: get("test")))
    get("epoch", 3)
    said = [each and (each.name, each.number, each.of, each.ahead) for each in told]
    assert said == [
        ("order", 1, 3, False), None, ("epoch", 2, 3, False), None, ("epoch", 3, 4, False), None,
        ("test", 4, 4, True), None, ("epoch", 1, 1, False), None,
    ]  # fmt: skip
