"""A prefix in parts of the batch: the same outputs and gradients, under other transforms, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import (
    bit_activations,
    channel_costs,
    chunked_prefix,
    compressed,
    pad_rows,
    selected,
    zero_probes,
)
from dynhp_jax.finetune.kernel_products import KernelReads
from dynhp_jax.gates.gated import gated
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.models import folded
from dynhp_jax.structure.find import find_groups


def small():
    """A network of three blocks on 8x8 images, as one call of a compiled function."""
    net = folded.FoldedNet(folded.MOBILENETV2.blocks[:3], num_classes=5)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.3, shapes)
    return jax.jit(net.apply), variables, rng.uniform(size=(6, 8, 8, 3))


BELOW = "params/block2/pointwise1/kernel"


@pytest.mark.parametrize("chunk", [1, 4, 6, 9])
def test_outputs_and_gradients_are_the_same(chunk, x64):
    apply, variables, x = small()
    costs = channel_costs(apply, variables, x)
    rows = pad_rows({BELOW: [0, 5]}, costs, {BELOW: 3})
    probes = zero_probes(variables, rows)
    one = selected(apply, rows)
    two = chunked_prefix(bit_activations(selected(apply, rows)), BELOW, chunk)
    three = selected(bit_activations(chunked_prefix(apply, [BELOW], chunk)), rows)

    def gradients(function):
        def loss(probes, x):
            out = function(variables, rows, probes, x)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(probes, x)

    wanted = gradients(one)
    for function in (two, three):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
            gradients(function),
            wanted,
        )


def test_only_the_part_below_is_in_a_loop(x64):
    apply, variables, x = small()
    function = chunked_prefix(apply, BELOW, 2)
    reads = KernelReads(trace(function, variables, (x,))).reads
    inside = {path: each[0].loop for path, each in reads.items()}
    assert inside["params/first/kernel"] == inside["params/block1/pointwise2/kernel"] == ("scan",)
    assert inside[BELOW] == inside["params/classifier/kernel"] == ()


def test_gates_and_compression_go_with_it(x64):
    apply, variables, x = small()
    groups = find_groups(apply, variables, x)
    rng = np.random.default_rng(1)
    gates = {name: rng.uniform(0.5, 1.5, groups[name].size) for name in groups.prunable}
    wanted = gated(apply, groups)(variables, gates, x)
    found = chunked_prefix(gated(apply, groups), BELOW, 4)(variables, gates, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    both = compressed(chunked_prefix(apply, BELOW, 4), {BELOW: {0: 2}})
    np.testing.assert_allclose(both(variables, {}, x)[0], apply(variables, x), rtol=1e-12)


def test_what_cannot_run_in_parts():
    x = np.ones((6, 3), "f4")
    params = {"a": np.ones((3, 4), "f4"), "b": np.ones((4, 2), "f4")}

    def normalised(p, x):
        h = x @ p["a"]
        return (h - h.mean(0)) @ p["b"]

    def noisy(p, x):
        h = x @ p["a"]
        return (h + jax.random.normal(jax.random.key(0), h.shape)) @ p["b"]

    plain = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    for problem, why in (
        (lambda: chunked_prefix(normalised, "b", 2)(params, x), "cannot run in parts of the batch"),
        (lambda: chunked_prefix(noisy, "b", 2)(params, x), "without reading it"),
        (lambda: chunked_prefix(plain, "c", 2)(params, x), "there is no kernel 'c'"),
        (lambda: chunked_prefix(plain, "b", 0), "chunk is 0; allowed: at least 1"),
    ):
        with pytest.raises(UserError, match=why) as error:
            problem()
        assert "\n" not in str(error.value)
