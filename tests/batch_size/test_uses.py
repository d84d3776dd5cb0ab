"""Which uses of a trained leaf the probe answers for, and which it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.batch_size.variance import of_probe

EXAMPLES = 6


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def weights():
    return {"a": random(4, 5, seed=1), "b": random(5, 3, seed=2)}


def mlp(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def loss(out):
    """Of every example by itself: f[batch]."""
    weight = jnp.asarray([1.0, -2.0, 0.5])
    return jnp.sum(jnp.square(out - 0.3) * weight[: out.shape[-1]], tuple(range(1, out.ndim)))


def by_probe(apply, trained, rest, x, prefix):
    def mean(trained, probe):
        return jnp.mean(loss(probed(apply, prefix)({**rest, **trained}, probe, x)))

    gradient, of_examples = jax.grad(mean, (0, 1))(trained, jnp.zeros(len(x)))
    return of_probe(of_examples, gradient)


def by_example(apply, trained, rest, x):
    """||S||_1 in NumPy from the gradients of one example after the other."""
    rows = []
    for example in x:
        gradient = jax.grad(lambda p, e=example: loss(apply({**rest, **p}, e[None]))[0])(trained)
        rows.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    rows = np.stack(rows)
    return np.sum((rows**2).mean(0) - rows.mean(0) ** 2)


def agree(apply, trained, rest=None, x=None, prefix=""):
    x, rest = random(EXAMPLES, 4) if x is None else x, rest or {}
    want = by_example(apply, trained, rest, x)
    assert want > 1e-3
    np.testing.assert_allclose(by_probe(apply, trained, rest, x, prefix), want, rtol=1e-9)


def refused(apply, variables, why, *inputs, prefix="", probe=None):
    inputs = inputs or (np.ones((EXAMPLES, 4)),)
    probe = jnp.zeros(EXAMPLES) if probe is None else probe
    with pytest.raises(ValueError, match=why) as found:
        probed(apply, prefix)(variables, probe, *inputs)
    assert "\n" not in str(found.value)


@jax.custom_vjp
def straight_through(w):
    return jnp.where(w > 0, 1.0, -1.0)


straight_through.defvjp(lambda w: (straight_through(w), None), lambda _, g: (g,))


@jax.custom_vjp
def with_hidden_gradient(h, w):
    return h * 1.0


with_hidden_gradient.defvjp(
    lambda h, w: (h * 1.0, (h, w)), lambda kept, g: (g, jnp.full_like(kept[1], kept[0].sum()))
)


def looped(p, x):
    h = x @ p["a"]
    return jax.lax.fori_loop(0, 2, lambda _, c: c * jnp.sum(p["a"] ** 2), h)


# A use in a closed form, and another one beside it.
TWICE = {
    "divided by its norm": lambda p, x: x @ p["a"] / jnp.linalg.norm(p["a"], axis=0),
    "its transpose": lambda p, x: jnp.tanh(x @ p["a"]) @ p["a"].T,
    "through a product with another": lambda p, x: (
        (x @ p["a"] + 0.0) @ p["b"] * (p["a"] @ p["b"])[0]
    ),
    "through an input without examples": lambda p, x: x @ p["a"] * (jnp.arange(4.0) @ p["a"]),
    "in a call": lambda p, x: jax.jit(lambda h, w: h * w.sum())(x @ p["a"], p["a"]),
    "two calls of one function": lambda p, x: (
        lambda dense: dense(jnp.tanh(dense(x, p["a"])) @ p["a"].T, p["a"])
    )(jax.jit(jnp.dot)),
    "in a loop": looped,
    "in a carry": lambda p, x: (
        x @ p["a"] * jax.lax.scan(lambda c, _: (jnp.tanh(c), None), p["a"], None, 3)[0][0]
    ),
    "in a branch": lambda p, x: jax.lax.cond(
        x.size > 3, lambda h: h * p["a"][0], lambda h: h, x @ p["a"]
    ),
    "rounded, with a derivative of its own": lambda p, x: (
        x @ p["a"] * straight_through(p["a"]).sum(0)
    ),
    "in a derivative of its own": lambda p, x: with_hidden_gradient(x @ p["a"], p["a"]),
    "in a carried value by step": lambda p, x: (
        x @ p["a"] + jax.lax.scan(lambda c, w: (c, w * 2.0), 0.0, p["a"])[1][0]
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_second_use_is_refused_whatever_it_is(name):
    refused(TWICE[name], weights(), "leaf 'a' is used more than once")


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: (mlp(p, x), p["log_std"]),
        lambda p, x: (mlp(p, x), sum(jnp.sum(w**2) for w in jax.tree.leaves(p))),
        lambda p, x: (mlp(p, x), jax.jit(lambda w: jnp.exp(w) + 1.0)(p["log_std"])),
        lambda p, x: (mlp(p, x), np.ones(3) @ p["log_std"]),
        lambda p, x: (mlp(p, x), jax.lax.fori_loop(0, 2, lambda _, c: c * 2, p["log_std"])),
    ],
)
def test_an_output_without_examples_is_refused(apply):
    variables = {**weights(), "log_std": jnp.ones(3)}
    refused(apply, variables, "leaf '.*' reaches an output without the examples")


def test_what_meets_another_input_is_refused():
    """Only the first input's axis 0 is known to be the batch: the others' may be anything."""
    inputs = (np.ones((EXAMPLES, 4)), np.full((EXAMPLES, 4), 2.0))
    siamese = lambda p, a, b: (a @ p["a"]) @ (b @ p["a"]).T  # noqa: E731
    refused(siamese, weights(), "more than once", *inputs)
    towers = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}
    refused(lambda p, a, b: (a @ p["a"]) @ (b @ p["b"]).T, towers, "leaf 'b' meets", *inputs)
    refused(lambda p, a, b: (a @ p["a"], b @ p["b"]), towers, "leaf 'b' reaches", *inputs)


@pytest.mark.parametrize(
    "pair",
    [
        lambda h: h @ h.T,
        lambda h: jnp.sum((h[:, None] - h[None]) ** 2, -1),
        lambda h: jax.jit(lambda a, b: jnp.einsum("ik,jk->ij", a, b))(h, jnp.sin(h)),
    ],
)
def test_pairs_of_examples_are_refused(pair):
    refused(lambda p, x: pair(x @ p["a"]), weights(), "pairs the examples .*variance='micro'")


def test_a_leaf_that_was_broadcast_is_data():
    """What mixes examples of it is refused as anywhere else."""

    def apply(p, x):
        everywhere = jnp.broadcast_to(p["c"], x.shape)
        return x + everywhere + everywhere.sum(0)

    refused(apply, {"c": np.ones(4)}, "mixes the examples")


def test_two_inputs_that_are_combined_share_their_examples(x64):
    """The second input's axis 0 is the batch as soon as it is added to the first one's."""
    p, a, b = weights(), random(EXAMPLES, 4), random(EXAMPLES, 4, seed=7)
    p["c"] = random(4, 5, seed=3)

    def apply(p, x):
        return jnp.tanh(x[..., :4] @ p["a"] + x[..., 4:] @ p["c"]) @ p["b"]

    def of_two(p, probe):
        towers = lambda p, a, b: jnp.tanh(a @ p["a"] + b @ p["c"]) @ p["b"]  # noqa: E731
        return jnp.mean(loss(probed(towers, "")(p, probe, a, b)))

    gradient, of_examples = jax.grad(of_two, (0, 1))(p, jnp.zeros(EXAMPLES))
    want = by_example(apply, p, {}, jnp.concatenate([a, b], 1))
    np.testing.assert_allclose(of_probe(of_examples, gradient), want, rtol=1e-9)


def sown(p, x):
    jnp.sum(p["a"] ** 2)  # thrown away: a penalty that nobody collects
    return mlp(p, x)


def scanned(p, x):
    """From a state that is learnt, through layers that are."""

    def layer(h, w):
        return jnp.tanh((h + x) @ w), w.sum() > 0

    h, _ = jax.lax.scan(layer, jnp.broadcast_to(p["start"], x.shape), p["layers"])
    return h @ p["out"]


# Uses that have no part in the gradient, or that are one use.
ONCE = {
    "constant for the gradient": lambda p, x: (
        x @ p["a"] / jax.lax.stop_gradient(jnp.linalg.norm(p["a"], axis=0)) @ p["b"]
    ),
    "compared": lambda p, x: x @ p["a"] * (p["a"] > 0).sum(0) @ p["b"],
    "signs": lambda p, x: (x @ p["a"] + jnp.sign(p["a"]).sum(0)) @ p["b"],
    "thrown away": sown,
    "thrown away in a call": lambda p, x: jax.jit(lambda p, x: (mlp(p, x), p["a"] * 2))(p, x)[0],
    "unused": lambda p, x: (x @ p["a"])[:, :3],
    "one jaxpr for two layers": lambda p, x: (lambda dense: dense(dense(x, p["a"]), p["b"]))(
        jax.jit(lambda h, w: jnp.tanh(h @ w))
    ),
    "beside the data": lambda p, x: (lambda held: mlp(held[0], held[1]))(
        jax.lax.optimization_barrier((p, x))
    ),
    "in rematerialised layers": lambda p, x: jax.checkpoint(mlp)(p, x),
}


@pytest.mark.parametrize("name", ONCE)
def test_what_has_no_part_in_the_gradient_is_no_use(name, x64):
    agree(ONCE[name], weights())


def test_layers_of_a_loop_are_one_use_each(x64):
    agree(scanned, {"layers": random(3, 4, 4), "out": random(4, 3), "start": random(4, seed=5)})


@pytest.mark.parametrize("examples", [1, 4])
def test_biases_and_positions(examples, x64):
    """Also for one example, whose axis looks like one that biases are broadcast along."""
    shapes = {"at": (1, 4), "scale": (5,), "bias": (5,), "shift": (2, 3), "last": (3,)}
    p = {name: random(*shape, seed=len(name)) for name, shape in shapes.items()} | weights()

    def apply(p, x):
        h = jnp.tanh((x + p["at"]) @ p["a"] * p["scale"] + p["bias"].reshape(1, -1)) @ p["b"]
        h = h[:, None] + p["shift"]  # two places
        return jnp.sum(jnp.tanh(h + jnp.broadcast_to(p["last"], h.shape)), 1)

    x = random(examples, 4)
    squares = by_example(apply, p, {}, jnp.concatenate([x, jnp.zeros_like(x)])[:examples])

    def mean(p, probe):
        return jnp.mean(loss(probed(apply, "")(p, probe, x)))

    gradient, of_examples = jax.grad(mean, (0, 1))(p, jnp.zeros(examples))
    total = sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(examples * of_examples.sum() - total, squares, atol=1e-9)


def test_places_slower_than_examples(x64):
    """Where places and examples are one axis, a bias is counted if the examples come first."""

    def apply(p, x):
        rows = x.reshape(-1, 2, 2).swapaxes(0, 1).reshape(-1, 2)  # [2 * batch, 2]
        return (rows * p["s"]).reshape(2, -1, 2).sum(0)

    refused(apply, {"s": np.ones(2)}, "'s' meets the data in 'mul', which has no closed form")


# -- what is trained -------------------------------------------------------------------------------


def test_a_prefix_without_leaves_is_refused():
    why = "no leaf is below prefix 'params', .* there is 'a', 'b'; pass one of these, or prefix=''"
    for apply in (mlp, lambda p, x: x @ jnp.tanh(p["a"])):
        refused(apply, weights(), why, prefix="params")


def test_leaves_outside_the_prefix_are_not_counted(x64):
    p = weights()
    trained, frozen = {"params": {"b": p["b"]}}, {"frozen": {"a": p["a"]}}
    agree(
        lambda v, x: jnp.tanh(x @ v["frozen"]["a"]) @ v["params"]["b"],
        trained, frozen, prefix="params",
    )  # fmt: skip

    def standardised(v, x):
        return (
            jnp.tanh((x @ v["params"]["a"] - v["stats"]["mean"]) * v["stats"]["scale"])
            @ v["params"]["b"]
        )

    stats = {"stats": {"mean": random(5), "scale": random(5, seed=4)}}
    agree(standardised, {"params": p}, stats, prefix="params")
    agree(mlp, {"b": p["b"]}, {"a": p["a"]}, prefix="b")  # a leaf is a subtree, too


def test_leaves_outside_the_prefix_may_be_used_in_any_way(x64):
    trained = {"params": {"b": random(5, 3)}}
    frozen = {"frozen": {"a": random(4, 5), "mask": random(5, 3, seed=8)[:, :1]}}

    def apply(v, x):
        a = v["frozen"]["a"]
        h = jnp.tanh(x @ jnp.tanh(a)) @ a.T @ a / jnp.linalg.norm(a)
        return h @ (v["params"]["b"] * v["frozen"]["mask"])

    agree(apply, trained, frozen, prefix="params")
    out = probed(lambda v, x: (apply(v, x), v["frozen"]["a"]), "params")(
        {**trained, **frozen}, jnp.zeros(EXAMPLES), random(EXAMPLES, 4)
    )
    np.testing.assert_array_equal(out[1], frozen["frozen"]["a"])


def test_a_leaf_may_be_called_inputs(x64):
    p = {"inputs": {"w": random(4, 5)}, "b": random(5, 3)}
    agree(lambda p, x: jnp.tanh(x @ p["inputs"]["w"]) @ p["b"], p)


def test_complex_leaves_are_refused():
    p = {"w": jnp.ones((4, 3), jnp.complex64)}
    refused(
        lambda p, x: jnp.abs(x @ p["w"]), p, "no closed form", np.ones((EXAMPLES, 4), np.float32)
    )


@pytest.mark.parametrize(
    "probe",
    [jnp.zeros(3), jnp.zeros((EXAMPLES, 1)), jnp.zeros(()), jnp.zeros(EXAMPLES, jnp.float16)],
)
def test_the_probe_has_one_number_for_each_example(probe):
    why = rf"the probe is .*; give float32 zeros of shape \[{EXAMPLES}\]"
    refused(mlp, weights(), why, probe=probe)


def test_inputs_without_an_axis_are_refused():
    refused(lambda p, x: x * p["a"], weights(), "no batch axis", np.float32(1.0))
