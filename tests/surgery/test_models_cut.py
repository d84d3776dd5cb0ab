"""Every shipped model, cut to half of the units of every exact group; what the table says of it."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from dynhp_jax.gates.gated import gated
from dynhp_jax.models import registry
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

IMAGE = (32, 32, 3)
# The published depths; narrow, because what takes time here is XLA compiling wide ones.
SPECS = {
    "mlp": partial(registry.build, "mlp", (28, 28, 1), 10),
    "lenet": partial(registry.build, "lenet", (28, 28, 1), 10),
    "vgg-11": partial(registry.build, "vgg", IMAGE, 10, depth=11, width=0.125),
    "vgg-16": partial(registry.build, "vgg", IMAGE, 10, depth=16, width=0.125),
    "resnet-20": partial(registry.build, "resnet", IMAGE, 10, depth=20, width=0.25),
    "resnet-56": partial(registry.build, "resnet", IMAGE, 10, depth=56, width=0.25),
    "wide_resnet-16": partial(registry.build, "wide_resnet", IMAGE, 10, depth=16, width=0.5),
    "wide_resnet-28": partial(registry.build, "wide_resnet", IMAGE, 10, depth=28, width=0.5),
    "mobilenet": partial(registry.build, "mobilenet", IMAGE, 10, width=0.25),
    "vit": partial(registry.build, "vit", IMAGE, 10, depth=2, width=0.5),
}
# Small arrays: what takes time is compiling.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def analysed(name, batch=2):
    """(spec, apply, shapes in float64, inputs, groups)."""
    spec = SPECS[name]()
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float64), spec.shapes())
    module, x = spec.module(), np.random.default_rng(1).normal(size=(batch, *spec.input_shape))
    return spec, module.apply, shapes, x, find_groups(module.apply, shapes, x)


def random_values(shapes):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(size=leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def halves(groups):
    """Every other unit of every exact group."""
    return {name: np.arange(0, groups[name].size, 2) for name in groups.prunable}


@pytest.mark.parametrize("name", SPECS)
def test_half_of_every_exact_group_equals_the_masked_model(name, x64):
    spec, apply, shapes, x, groups = analysed(name)
    variables, keeps = random_values(shapes), halves(groups)
    assert keeps
    assert all(groups[group].size >= 2 for group in keeps)
    masks = {group: np.isin(np.arange(groups[group].size), keep) for group, keep in keeps.items()}
    masks = {group: mask.astype(float) for group, mask in masks.items()}
    small = cut(variables, groups, keeps)
    with_gates, run_small = gated(apply, groups), resized(apply, shapes, groups, keeps)
    whole, masked = jit(lambda v: (apply(v, x), with_gates(v, masks, x)))(variables)
    outputs = [jit(run_small)(small, x)]
    if "input" not in keeps:
        outputs.append(jit(spec.resized(small["params"]).module().apply)(small, x))
    for out in outputs:
        np.testing.assert_allclose(out, masked, rtol=1e-10, atol=1e-10)
    assert np.abs(whole - masked).max() > 1e-3  # something was cut


def flops_of(jaxpr):
    """Of the matrix products and convolutions that a jaxpr runs, two for each multiply-add."""
    total = 0
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            total += flops_of(inner)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            depth = math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        else:
            continue
        total += 2 * depth * math.prod(eqn.outvars[0].aval.shape)
    return total


@pytest.mark.parametrize("name", SPECS)
def test_flops_and_bytes_drop_as_the_table_says(name, x64):
    _, apply, shapes, x, groups = analysed(name)

    def cost(keeps):
        small = jax.eval_shape(lambda v: cut(v, groups, keeps), shapes)
        run = resized(apply, shapes, groups, keeps) if keeps else apply
        numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(small))
        taken = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(small))
        return np.array([numbers, taken, flops_of(jax.make_jaxpr(run)(small, x).jaxpr)])

    whole = cost({})
    chosen = groups.prunable[:3] + groups.prunable[-3:]  # the rest repeats these
    for group in (groups[each] for each in dict.fromkeys(chosen)):
        drop = whole - cost({group.name: np.arange(1, group.size)})
        np.testing.assert_allclose(drop, [group.parameters, group.bytes, group.flops], rtol=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_the_report_names_every_axis_that_stays_whole(name, x64):
    """Each axis of each leaf is in a group, pinned, or of one position; what is pinned is told."""
    _, _, _, _, groups = analysed(name)
    pinned = {(p.path, p.axis): p.reason for p in groups.pinned}
    report = " ".join(groups.describe().split())
    for path, shape in groups.shapes.items():
        for axis, size in enumerate(shape):
            if (path, axis) == ("inputs/0", 0):
                continue  # the batch
            held = groups.on_axis(path, axis)
            assert held or (path, axis) in pinned or size == 1, (path, axis)
    assert not groups.unknown
    assert "an output" in pinned.values()  # the classes
    for reason in set(pinned.values()):
        assert f"{reason}:" in report
    named = set().union(*(paths_in(word.rstrip(",;")) for word in report.split()))
    for reason in (reason for group in groups.values() for reason in group.reasons):
        done, _, module = reason.partition(" in ")
        assert done in report and (not module or module in named), reason


def paths_in(entry):
    """The paths that an entry of the report stands for: `block{1,2}/norm` for two."""
    braces = re.search(r"{([^{}]*)}", entry)
    if braces is None:
        return {entry}
    before, after = entry[: braces.start()], entry[braces.end() :]
    return set().union(*(paths_in(before + each + after) for each in braces[1].split(",")))
