"""Models that know nothing of the library: analysed, cut to half, compared with masked ones.

The masked model is made here from the definition and not by the library's gates: every number that
belongs to a dead unit is set to zero in the original variables, and the original function runs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign.cases import CASES

from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.jaxprs.trace import path_name
from dynhp_jax.surgery import cut, resized


def fill(variables, seed=0):
    """Random float64 arrays of these shapes; other leaves as they are."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        name = path_name(path).split("/")
        if {"var", "scale"} & set(name):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 10
        return rng.normal(size=leaf.shape) / np.sqrt(fan_in)

    return jax.tree_util.tree_map_with_path(draw, variables)


def half(groups, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: np.sort(rng.choice(groups[name].size, groups[name].size // 2, replace=False))
        for name in groups.prunable
    }


def masks(groups, keeps):
    return {name: np.isin(np.arange(groups[name].size), keep) * 1.0 for name, keep in keeps.items()}


def silenced(variables, groups, keeps):
    """The variables with every number of a dead unit set to zero."""

    def wipe(path, leaf):
        for axis in range(np.ndim(leaf)):
            alive = groups.positions(path_name(path), axis, keeps)
            dead = np.setdiff1d(np.arange(leaf.shape[axis]), alive)
            if dead.size:
                leaf = leaf * np.isin(np.arange(leaf.shape[axis]), alive).reshape(
                    [-1 if d == axis else 1 for d in range(leaf.ndim)]
                )
        return leaf

    return jax.tree_util.tree_map_with_path(wipe, variables)


# Small arrays: what takes time is compiling.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def forward(functions, variables, inputs):
    """Outputs of several functions of the same variables."""
    return jit(lambda v: [f(v, *inputs) for f in functions])(variables)


def backward(apply, variables, inputs, cotangent):
    """(outputs, gradients of every float leaf for this cotangent)."""
    leaves, tree = jax.tree.flatten(variables)
    floats = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    @jit
    def compiled(values, cotangent):
        def of(values):
            full = list(leaves)
            for k, value in zip(floats, values, strict=True):
                full[k] = value
            return apply(jax.tree.unflatten(tree, full), *inputs)

        out, pull = jax.vjp(of, values)
        return out, pull(cotangent)[0]

    out, values = compiled([leaves[k] for k in floats], cotangent)
    grads = [np.zeros(leaf.shape) for leaf in leaves]
    for k, value in zip(floats, values, strict=True):
        grads[k] = np.asarray(value)
    return out, jax.tree.unflatten(tree, grads)


def agree(found, wanted, tolerance=1e-10):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=path_name(path))


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_exact_group(name, x64):
    apply, shapes, inputs = CASES[name]()
    variables = fill(shapes)
    groups = find_groups(apply, shapes, *inputs)
    keeps = half(groups)
    assert len(keeps) >= 2
    assert not groups.unknown
    small = cut(variables, groups, keeps)
    assert sum(map(jnp.size, jax.tree.leaves(small))) < 0.8 * sum(
        map(jnp.size, jax.tree.leaves(variables))
    )

    shape = jax.eval_shape(apply, shapes, *inputs).shape
    cotangent = np.random.default_rng(2).normal(size=shape)
    dead, gates = silenced(variables, groups, keeps), masks(groups, keeps)
    wanted, wanted_grads = backward(apply, dead, inputs, cotangent)
    small_apply = resized(apply, shapes, groups, keeps)
    found, found_grads = backward(small_apply, small, inputs, cotangent)
    agree(found, wanted)
    agree(found_grads, cut(wanted_grads, groups, keeps))
    with_gates = gated(apply, groups)
    whole, masked = forward((apply, lambda v, *x: with_gates(v, gates, *x)), variables, inputs)
    agree(masked, wanted)
    assert np.abs(whole - wanted).max() > 1e-3  # something was cut


@pytest.mark.parametrize("name", CASES)
def test_gates_per_example(name, x64):
    """Row i of a batch with gates of its own is example i with those gates for a batch of one."""
    apply, shapes, (x,) = CASES[name]()
    variables, x = fill(shapes), x[:2]
    groups = find_groups(apply, shapes, x)
    rng = np.random.default_rng(3)
    gates = {n: rng.uniform(size=(2, groups[n].size)).round(1) for n in groups.prunable}
    with_gates = gated(apply, groups)
    both, first, second = forward(
        [
            lambda v, x: with_gates(v, gates, x),
            lambda v, x: with_gates(v, {n: z[0] for n, z in gates.items()}, x[:1]),
            lambda v, x: with_gates(v, {n: z[1] for n, z in gates.items()}, x[1:]),
        ],
        variables,
        (x,),
    )
    agree(both, np.concatenate([first, second]))
    assert np.abs(both - apply(variables, x)).max() > 1e-3
