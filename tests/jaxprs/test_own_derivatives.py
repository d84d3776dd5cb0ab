"""Functions with a derivative of their own keep it under gates, scores and cuts, or say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.batch_size.probed import probed
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria.evidence import Evidence, strict_cross_entropy
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized


@jax.custom_vjp
def signed(x, w):
    """A product with binary weights, straight-through."""
    return x @ jnp.sign(w)


signed.defvjp(
    lambda x, w: (x @ jnp.sign(w), (x, w)),
    lambda saved, g: (g @ jnp.sign(saved[1]).T, saved[0].T @ g),
)


@jax.custom_vjp
def turned(w, x):
    """The same with the data on the right, transposed, in a function that is jitted."""
    return jax.jit(lambda w, x: jnp.sign(w).T @ x.T)(w, x).T


turned.defvjp(
    lambda w, x: (x @ jnp.sign(w), (x, w)),
    lambda saved, g: (saved[0].T @ g, g @ jnp.sign(saved[1]).T),
)


@jax.custom_jvp
def convolved(x, w):  # [batch, units], [units, out] -> [batch, out]
    image = jax.lax.conv_general_dilated(
        x[:, None, None, :], w[None, None], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return image[:, 0, 0]


convolved.defjvp(
    lambda p, t: (convolved(*p), 3 * (convolved(t[0], p[1]) + 2 * convolved(p[0], t[1])))
)


@jax.custom_vjp
def rounded(x, w):
    """It reads what it has computed, not its operand."""
    return jnp.round(x) @ w


rounded.defvjp(
    lambda x, w: (jnp.round(x) @ w, (x, w)),
    lambda saved, g: (g @ saved[1].T, jnp.round(saved[0]).T @ g),
)


@jax.custom_vjp
def added_up(x, w):
    """A sum over units reads them like the product does."""
    return x @ w + jnp.sum(x, 1, keepdims=True)


added_up.defvjp(
    lambda x, w: (x @ w + jnp.sum(x, 1, keepdims=True), (x, w)),
    lambda saved, g: (5 * g @ saved[1].T, saved[0].T @ g),
)


@jax.custom_vjp
def twice(x, w):
    """It uses its operand beside the product, too."""
    return x @ w + jnp.max(x, 1, keepdims=True)


twice.defvjp(
    lambda x, w: (x @ w + jnp.max(x, 1, keepdims=True), (x, w)),
    lambda saved, g: (5 * g @ saved[1].T, saved[0].T @ g),
)

STRAIGHT = {
    "signed": signed,
    "turned": lambda x, w: turned(w, x),
    "convolved": convolved,
    "added_up": added_up,
}
INSIDE = {"rounded": rounded, "twice": twice}


def network(function):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 6)), "b": rng.normal(size=(6, 2))}
    x = 3 * rng.normal(size=(16, 4))

    def apply(p, x):
        return function(3 * jnp.tanh(x @ p["a"]), p["b"])

    return apply, params, x, find_groups(apply, params, x)


def written(function, p, gates, x):
    """The network with its gates written into it."""
    return function(3 * jnp.tanh((x * gates["input"]) @ p["a"]) * gates["a"], p["b"])


def loss_of(outputs):
    return jnp.sum(outputs * jnp.array([1.0, -0.5])) + jnp.sum(outputs**2)


def same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, other)


@pytest.mark.parametrize("examples", [(), (16,)])
@pytest.mark.parametrize("name", STRAIGHT)
def test_gates_keep_the_derivative_of_a_function_that_reads_its_operand(x64, name, examples):
    apply, params, x, groups = network(STRAIGHT[name])
    rng = np.random.default_rng(1)
    gates = {"input": rng.uniform(size=(*examples, 4)), "a": rng.uniform(size=(*examples, 6))}
    f = gated(apply, groups)

    def by_hook(p, gates):
        return loss_of(f(p, gates, x))

    def by_hand(p, gates):
        return loss_of(written(STRAIGHT[name], p, gates, x))

    found = jax.value_and_grad(by_hook, (0, 1))(params, gates)
    same(found, jax.value_and_grad(by_hand, (0, 1))(params, gates))
    plain = jax.grad(lambda p: loss_of(apply(p, x)))(params)
    same(jax.grad(by_hook)(params, {}), plain)


@pytest.mark.parametrize("name", STRAIGHT)
def test_masked_and_cut_have_the_same_derivatives(x64, name):
    apply, params, x, groups = network(STRAIGHT[name])
    keep = {"a": np.array([0, 2, 3])}
    mask = {"a": np.isin(np.arange(6), keep["a"]) * 1.0}
    masked = jax.grad(lambda p: loss_of(gated(apply, groups)(p, mask, x)))(params)
    small = resized(apply, params, groups, keep)
    smaller = jax.grad(lambda p: loss_of(small(p, x)))(cut(params, groups, keep))
    same(cut(masked, groups, keep), smaller)


@pytest.mark.parametrize("name", INSIDE)
def test_a_gate_that_has_to_be_inside_is_refused_where_its_derivative_is_asked_for(x64, name):
    apply, params, x, groups = network(INSIDE[name])
    f = gated(apply, groups)
    gate = np.array([1, 0, 0.5, 1, 1, 0])
    h = 3 * np.tanh(x @ params["a"])
    inside = (np.round(h) if name == "rounded" else h) * gate @ params["b"]
    rest = 0 if name == "rounded" else h.max(1, keepdims=True)
    np.testing.assert_allclose(f(params, {"a": gate}, x), inside + rest, rtol=1e-12)
    with pytest.raises(ValueError, match=rf"^'{name}' has a derivative of its own, .* group 'a'"):
        jax.grad(lambda p: loss_of(f(p, {"a": gate}, x)))(params)
    # Without that gate it is the model's own.
    found = jax.grad(lambda p: loss_of(f(p, {"input": np.ones(4)}, x)))(params)
    same(found, jax.grad(lambda p: loss_of(apply(p, x)))(params))


def test_scores_use_the_model_s_own_derivative_and_need_none_for_values(x64):
    apply, params, x, groups = network(signed)
    labels = np.arange(16) % 2
    evidence = Evidence(apply, groups, params, (x,), labels)
    found = dp.score("taylor", evidence)["a"]

    def example(gate, row, label):
        outputs = written(signed, params, {"input": 1.0, "a": gate}, row[None])
        return strict_cross_entropy(outputs, label[None])[0]

    each = jax.vmap(jax.grad(example), (None, 0, 0))(jnp.ones(6), x, labels)
    np.testing.assert_allclose(found, np.abs(np.asarray(each).mean(0)), rtol=1e-6)

    apply, params, x, groups = network(rounded)
    evidence = Evidence(apply, groups, params, (x,), labels, names=("a",))
    values = np.round(3 * np.tanh(x @ params["a"]))
    found = dp.score("mean_activation", evidence)["a"]
    np.testing.assert_allclose(found, np.abs(values).mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="^'rounded' has a derivative of its own"):
        dp.score("taylor", evidence)


def test_a_derivative_that_cannot_be_made_smaller_is_refused_when_it_is_asked_for(x64):
    @jax.custom_vjp
    def scaled(x):
        return jnp.sin(x)

    def forward(x):
        return jnp.sin(x.value), x.value

    scaled.defvjp(forward, lambda x, g: (3 * g * jnp.cos(x),), symbolic_zeros=True)
    params = {"a": np.ones((4, 6)), "b": np.ones((6, 2))}
    x = np.linspace(-1, 1, 64).reshape(16, 4)

    def apply(p, x):
        return scaled(x @ p["a"]) @ p["b"]

    groups = find_groups(apply, params, x)
    keep = {"a": np.array([0, 3])}
    small, smaller = resized(apply, params, groups, keep), cut(params, groups, keep)
    np.testing.assert_allclose(small(smaller, x), np.sin(x @ smaller["a"]) @ smaller["b"])
    with pytest.raises(ValueError, match="^'scaled' has a derivative of its own, .*symbolic_zeros"):
        jax.grad(lambda p: loss_of(small(p, x)))(smaller)
    same(  # uncut it is as it was
        jax.grad(lambda p: loss_of(resized(apply, params, groups, {})(p, x)))(params),
        jax.grad(lambda p: loss_of(apply(p, x)))(params),
    )


def test_norms_behind_a_derivative_of_its_own_are_refused():
    apply, params, x, _ = network(signed)
    with pytest.raises(ValueError, match="leaf 'b' meets the data in 'custom_vjp_call'"):
        probed(apply, prefix="")(params, jnp.zeros(16), x)
