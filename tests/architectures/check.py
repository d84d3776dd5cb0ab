"""Masked equals cut: one random architecture, gated and smaller, compared over four updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy_eval
import optax

from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized

ADAM = optax.adam(0.01)
FORMS = ("masks", "gates", "gates per example")


def check(case, draw):
    """Cuts at random and compares; returns what was compared.

    The masked model is the original under gates, closed for the units that go; its parameters,
    gradients and Adam moments are then cut. The cut model is the original resized.

    Returns:
      dict: 'error' (largest difference of outputs, gradients, parameters after updates, relative to
      the largest entry of the array or to one), 'units' cut, 'form' of the gates.
    """
    groups = find_groups(case.apply, case.variables, *case.inputs)
    form = draw.pick(FORMS)
    keeps = random_keeps(groups, draw, least=1 if form == "masks" else 2)
    rng = np.random.default_rng(draw.integer(0, 2**16))
    batch = case.inputs[0].shape[0]
    masked, kept, left = {}, {}, groups.check_keeps(keeps)
    for name in groups.prunable:
        size = groups[name].size
        shape = {"masks": (), "gates": (size,), "gates per example": (batch, size)}[form]
        gate = rng.uniform(0.5, 1.5, shape) * np.ones(size) if shape else np.ones(size)
        keep = keeps.get(name, np.arange(size))
        masked[name] = gate * np.isin(np.arange(size), keep)
        kept[name] = gate[..., left.get(name, keep)]
    with_gates = gated(case.apply, groups)
    small = smaller = resized(case.apply, case.variables, groups, keeps)
    if form != "masks":  # the smaller model has gates of its own
        of_small = gated(smaller, groups.shrunk(keeps))
        inputs = cut_inputs(case.inputs, groups, keeps)

        def small(v, *_):
            return of_small(v, kept, *inputs)

    def large(v, *x):
        return with_gates(v, masked, *x)

    try:
        jax.eval_shape(large, case.variables, *case.inputs)
    except ValueError as error:
        if form != "gates per example" or "no batch axis" not in str(error):
            raise
        return {"error": 0.0, "units": 0, "form": "no batch axis"}

    moments = jax.tree.map(lambda p: rng.uniform(0.1, 1.0, np.shape(p)), case.variables)
    adam, *rest = ADAM.init(np.zeros(()))
    state = (adam._replace(mu=jax.tree.map(lambda m: m - 0.5, moments), nu=moments), *rest)
    weights = rng.normal(size=jax.eval_shape(case.apply, case.variables, *case.inputs).shape)

    def cut_all(variables, state):
        return (
            cut(variables, groups, keeps),
            cut_optimizer(ADAM, state, case.variables, groups, keeps),
        )

    one = trained(large, case.inputs, weights, case.variables, state)
    two = trained(small, case.inputs, weights, *cut_all(case.variables, state))
    pairs = [
        (one.outputs, two.outputs),
        (cut(one.gradient, groups, keeps), two.gradient),
        (cut_all(one.variables, one.state), (two.variables, two.state)),
    ]
    error = max(
        np.max(np.abs(a - b), initial=0) / max(1, np.max(np.abs(b), initial=0))
        for pair in pairs
        for a, b in zip(*map(jax.tree.leaves, pair), strict=True)
    )
    units = sum(groups[name].size - keep.size for name, keep in keeps.items())
    return {"error": float(error), "units": units, "form": form}


class Trained(NamedTuple):
    outputs: list
    gradient: Any
    variables: Any
    state: Any


def trained(apply, inputs, weights, variables, state):
    """Outputs before each of four updates, the first gradient, variables and state after them."""

    def loss(v):
        out = apply(v, *inputs)
        return jnp.sum(weights * out) + jnp.sum(out**2) / 2, out

    evaluate = numpy_eval.compiled(jax.grad(loss, has_aux=True), variables)
    outputs, first = [], None
    for _ in range(4):
        gradient, out = evaluate(variables)
        first = first or gradient
        outputs.append(out)
        variables, state = update(variables, state, gradient)
    return Trained(outputs, first, variables, state)


@jax.jit
def _adam(flat, state, gradient):
    updates, state = ADAM.update(gradient, state, flat)
    return optax.apply_updates(flat, updates), state


def update(variables, state, gradient):
    """Adam, which looks at every number by itself, on one vector: compiled for few sizes."""
    tree = jax.tree.structure(variables)

    def flat(leaves):
        vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(leaves)])
        room = 1 << max(12, (vector.size - 1).bit_length())
        return np.pad(vector, (0, room - vector.size))

    def unflat(vector):
        leaves = jax.tree.leaves(variables)
        ends = np.cumsum([np.size(leaf) for leaf in leaves])
        parts = np.split(np.asarray(vector)[: ends[-1]], ends[:-1])
        return jax.tree.unflatten(
            tree, [x.reshape(np.shape(leaf)) for x, leaf in zip(parts, leaves, strict=True)]
        )

    adam, *rest = state
    packed = (adam._replace(mu=flat(adam.mu), nu=flat(adam.nu)), *rest)
    new, (adam, *rest) = _adam(flat(variables), packed, flat(gradient))
    return unflat(new), (adam._replace(mu=unflat(adam.mu), nu=unflat(adam.nu)), *rest)


def random_keeps(groups, draw, least=1):
    """Sorted units for every group that is exact, at least so many of each."""
    keeps = {}
    for name in groups.prunable:
        size = groups[name].size // groups[name].blocks
        count = draw.integer(min(least, size), max(least, size - 1))
        keeps[name] = np.empty(0, int)
        for block in range(groups[name].blocks):  # as many of each
            left = list(range(size))
            while len(left) > count:
                left.pop(draw.integer(0, len(left) - 1))
            keeps[name] = np.append(keeps[name], np.array(left) + block * size)
    return keeps


def cut_inputs(inputs, groups, keeps):
    cut_arrays = []
    for k, array in enumerate(inputs):
        for axis in range(array.ndim):
            array = np.take(array, groups.positions(f"inputs/{k}", axis, keeps), axis)
        cut_arrays.append(array)
    return cut_arrays
