"""Models, data and evidence that the tests of importance scores share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import zoo

from dynhp_jax.models.lenet import LeNetSpec
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.resnet import ResNetSpec
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.structure.find import find_groups

SPECS = {
    "mlp": MLPSpec((6, 8, 5, 3)),
    "lenet": LeNetSpec((3, 4), (6,), 3, (20, 20, 1)),  # four places per channel behind the flatten
    "resnet": ResNetSpec((4, 6), ((4,), (5,)), 3, (8, 8, 3)),
}
EXAMPLES = 7


def random_like(tree, rng, dtype):
    """Variables of these shapes; variances positive, scales and biases of either sign."""

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) or 1)
        return jnp.asarray(0.5 + abs(value) if "var" in str(path[-1]) else value, dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


@functools.cache
def evidence(name, wide=False):
    """Everything that any criterion asks for, of a shipped model; in float64 under x64."""
    spec, rng = SPECS[name], np.random.default_rng(3)
    dtype = np.float64 if wide else np.float32
    module = spec.module()

    def apply(variables, x):
        return module.apply(variables, x, train=False)

    variables = random_like(spec.shapes(), rng, dtype)
    x = jnp.asarray(rng.normal(size=(EXAMPLES, *spec.input_shape)), dtype)
    return _complete(apply, variables, (x,), rng, spec.num_classes)


@functools.cache
def zoo_evidence(name):
    """The same of a model of the zoo; its outputs may have several places per example."""
    apply, variables, inputs, _ = zoo.build(name)
    rng = np.random.default_rng(4)

    def logits(variables, *inputs):
        outputs = apply(variables, *inputs)
        return outputs.reshape(outputs.shape[0], -1, outputs.shape[-1]).sum(1)

    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    return _complete(logits, variables, tuple(map(jnp.asarray, inputs)), rng, 2)


def _complete(apply, variables, inputs, rng, classes):
    groups = find_groups(apply, variables, *inputs)
    return Evidence(
        apply,
        groups,
        variables,
        inputs,
        labels=jnp.asarray(rng.integers(0, classes, len(inputs[0]))),
        names=groups.prunable,  # inputs, too
        key=jax.random.key(5),
        gates={name: jnp.asarray(rng.normal(size=groups[name].size)) for name in groups.prunable},
        earlier=tuple(_shaken(variables, rng, size) for size in (0.3, 0.6, 0.9)),
    )


def _shaken(variables, rng, size):
    return jax.tree.map(
        lambda a: jnp.asarray(
            np.asarray(a) * (1 + size * rng.uniform(-1, 1, a.shape)).astype(a.dtype)
        ),
        variables,
    )


def layers(evidence):
    """(kernel, bias) of the MLP's layers in NumPy float64."""
    return layers_of(evidence.variables)


def layers_of(variables):
    params = variables["params"]
    return [
        tuple(np.asarray(params[name][leaf], np.float64) for leaf in ("kernel", "bias"))
        for name in ("hidden_1", "hidden_2", "output")
    ]


def permuted(evidence, orders):
    """The same network, its units numbered in another way: unit u was orders[name][u] before."""

    def move(path, leaf):
        for name, order in orders.items():
            for member in evidence.groups[name].members:
                if member.path == path:
                    at = np.arange(leaf.shape[member.axis])
                    at[member.index] = member.index[order]
                    leaf = jnp.asarray(np.take(np.asarray(leaf), at, axis=member.axis))
        return leaf

    from dynhp_jax.common.tree_paths import path_name

    def tree(variables, start=""):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: move(start + path_name(path), leaf), variables
        )

    return {
        "variables": tree(evidence.variables),
        "inputs": tree(evidence.inputs, "inputs/"),
        "earlier": tuple(tree(variables) for variables in evidence.earlier),
        "gates": {
            name: jnp.asarray(np.asarray(gate)[orders[name]])
            for name, gate in evidence.gates.items()
        },
    }
