"""The transforms as they are called: outside and inside jit, vmapped, on arrays of either kind.

`chex.variants` runs every test once for each way; pmap, which JAX is leaving behind, is not one.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import dynhp_jax as dp

KEYS = jax.random.split(jax.random.key(0), 5)
SHAPES = {"in": (6, 8), "scale": (8,), "out": (8, 3)}
PARAMS = {
    name: jax.random.normal(key, shape)
    for key, (name, shape) in zip(KEYS, SHAPES.items(), strict=False)
}
X, LABELS = jax.random.normal(KEYS[3], (5, 6)), jnp.array([0, 2, 1, 1, 0])
KEEP = np.array([0, 3, 4, 7])
MASK = np.isin(np.arange(8), KEEP).astype("f")


def apply(params, x):
    return jnp.tanh(x @ params["in"]) * params["scale"] @ params["out"]


def loss(params, z, x, labels):
    logits = GATED(params, z, x)
    return jnp.mean(-jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0])


GROUPS = dp.find_groups(apply, PARAMS, X)
(UNITS,) = (name for name in GROUPS.prunable if GROUPS[name].size == 8)
GATED = dp.gated(apply, GROUPS)
SMALL = {"in": PARAMS["in"][:, KEEP], "scale": PARAMS["scale"][KEEP], "out": PARAMS["out"][KEEP]}
EXPECTED = np.tanh(np.asarray(X, "f8") @ PARAMS["in"]) * PARAMS["scale"] * MASK @ PARAMS["out"]

ways = chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)


def close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


class Transforms(chex.TestCase):
    @ways
    def test_gated(self):
        found = self.variant(GATED)(PARAMS, {UNITS: MASK}, X)
        chex.assert_shape(found, (5, 3))
        chex.assert_type(found, jnp.float32)
        close(found, jnp.float32(EXPECTED))

    @ways
    def test_gated_for_several_masks_at_once(self):
        masks = {UNITS: np.stack([MASK, 1 - MASK, np.ones(8, "f")])}
        found = self.variant(jax.vmap(GATED, in_axes=(None, 0, None)))(PARAMS, masks, X)
        chex.assert_shape(found, (3, 5, 3))
        close(found[0], jnp.float32(EXPECTED))
        close(found[0] + found[1], found[2])  # nothing follows the sum over units

    @ways
    def test_cut_and_resized(self):
        keeps = {UNITS: KEEP}
        small = self.variant(lambda params: dp.cut(params, GROUPS, keeps))(PARAMS)
        chex.assert_trees_all_equal(small, SMALL)
        found = self.variant(dp.resized(apply, PARAMS, GROUPS, keeps))(small, X)
        close(found, jnp.float32(EXPECTED))

    @ways
    def test_the_gradients_of_gated_are_those_of_the_smaller_model(self):
        keeps = {UNITS: KEEP}
        whole = self.variant(jax.grad(loss))(PARAMS, {UNITS: MASK}, X, LABELS)
        chex.assert_trees_all_equal_shapes_and_dtypes(whole, PARAMS)
        chex.assert_tree_all_finite(whole)
        ones = {UNITS: np.ones(4, "f")}
        gated = dp.gated(dp.resized(apply, PARAMS, GROUPS, keeps), GROUPS.shrunk(keeps))

        def of_small(params):
            logits = jax.nn.log_softmax(gated(params, ones, X))
            return jnp.mean(-jnp.take_along_axis(logits, LABELS[:, None], 1)[:, 0])

        close(dp.cut(whole, GROUPS, keeps), jax.grad(of_small)(SMALL))

    @ways
    def test_probed(self):
        def mean_loss(params, probe):
            outputs = dp.probed(apply, prefix="")(params, probe, X)
            return jnp.mean(jnp.sum(outputs**2, 1))

        def one(params, x):
            return jnp.sum(apply(params, x[None]) ** 2)

        grads, sizes = self.variant(jax.grad(mean_loss, (0, 1)))(PARAMS, jnp.zeros(5))
        each = jax.vmap(jax.grad(one), in_axes=(None, 0))(PARAMS, X)
        close(grads, jax.tree.map(lambda leaf: leaf.mean(0), each))
        norms = sum(jnp.sum(leaf.reshape(5, -1) ** 2, 1) for leaf in jax.tree.leaves(each))
        close(sizes * 5**2, norms)

    @ways
    def test_gates_are_drawn_by_their_key_alone(self):
        log_alpha = jnp.linspace(-3.0, 3.0, 8)
        draw = self.variant(lambda key, gates: dp.hard_concrete.sample(key, gates, 4))
        found = draw(KEYS[4], log_alpha)
        chex.assert_shape(found, (4, 8))
        close(found, dp.hard_concrete.sample(KEYS[4], log_alpha, 4))
        assert np.all((found >= 0) & (found <= 1))


class Traces(chex.TestCase):
    def setUp(self):
        super().setUp()
        chex.clear_trace_counter()

    def test_another_choice_of_units_traces_nothing_anew(self):
        step = jax.jit(jax.grad(chex.assert_max_traces(loss, n=1)))
        for seed in range(4):
            mask = np.random.default_rng(seed).integers(0, 2, 8).astype("f")
            step(PARAMS, {UNITS: mask}, X, LABELS)

    def test_smaller_arrays_are_traced_once_for_each_size(self):
        def run(keep):
            keeps = {UNITS: keep}
            small = dp.cut(PARAMS, GROUPS, keeps)
            return dp.gated(dp.resized(apply, PARAMS, GROUPS, keeps), GROUPS.shrunk(keeps)), small

        for size in (6, 4):
            function, small = run(np.arange(size))
            chex.clear_trace_counter()
            evaluate = jax.jit(chex.assert_max_traces(function, n=1))
            for z in (np.ones(size, "f"), np.zeros(size, "f")):
                evaluate(small, {UNITS: z}, X)
