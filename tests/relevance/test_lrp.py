"""Relevance: against NumPy, against gradients, and that none of it is lost."""

import dataclasses
import itertools

import criteria_models as models
import criteria_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import oracle_models
import pytest
import zoo
from jax import lax

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import registry
from dynhp_jax.relevance.propagation import relevant

POSITIVE = ("mlp", "conv_flatten_dense", "residual_block", "option_a_shortcut",
            "concatenated_features", "grouped_convolution", "depthwise_separable",
            "gated_linear_unit", "fused_attention", "experts", "lstm", "scanned_mlp")  # fmt: skip


def of_inputs(evidence, rule, epsilon, variables=None):
    """(the predicted logits, what their relevance hands to the inputs), both by example."""
    variables = evidence.variables if variables is None else variables
    function = relevant(evidence.apply, rule, epsilon)

    @jax.jit
    def run(x):
        logits, back = jax.vjp(lambda x: function(variables, x), x)
        chosen = jax.nn.one_hot(logits.argmax(1), logits.shape[1], dtype=logits.dtype)
        return (logits * chosen).sum(1), back(logits * chosen)[0]

    start, relevance = run(*evidence.inputs)
    return np.asarray(start), np.asarray(relevance)


def without_offsets(variables):
    """Biases and stored means of zero; positive scales, which z+ does not see through."""

    def change(path, leaf):
        name = path[-1].key
        return abs(leaf) if name == "scale" else leaf * (name not in ("bias", "mean"))

    return jax.tree_util.tree_map_with_path(change, variables)


@pytest.mark.parametrize("rule", ["z+", "epsilon"])
def test_multilayer_perceptron_equals_numpy(x64, rule):
    evidence = models.evidence("mlp", wide=True)
    x = np.asarray(evidence.inputs[0])
    # Large enough to be seen; the epsilon rule adds it once for the sum and once for the bias.
    epsilon = {"z+": 0.01, "epsilon": 1e-10}[rule]
    expected = reference.relevances(models.layers(evidence), x, rule, epsilon)
    _, found = of_inputs(evidence, rule, epsilon)
    np.testing.assert_allclose(found, expected[0], rtol=1e-6, atol=1e-9)
    scores = jax.jit(registry.get_criterion("relevance", rule=rule, epsilon=epsilon).scores)(
        evidence
    )
    for name, relevance in zip(("input", "hidden_1", "hidden_2"), expected, strict=True):
        np.testing.assert_allclose(scores[name], relevance.mean(0), rtol=1e-5, atol=1e-7)


def lenet_in_loops(net, x, epsilon):
    """z+ on one image of the LeNet: relevance of the image and of what conv_2 reads."""

    def handed_by_dense(a, kernel, relevance):
        parts = np.maximum(a[:, None] * kernel, 0)
        return (parts / (parts.sum(0) + epsilon) * relevance).sum(1)

    def handed_by_conv(a, kernel, relevance):
        found = np.zeros_like(a)
        k = kernel.shape[0]
        for i, j, c in np.ndindex(relevance.shape):
            parts = np.maximum(a[i : i + k, j : j + k] * kernel[..., c], 0)
            found[i : i + k, j : j + k] += parts / (parts.sum() + epsilon) * relevance[i, j, c]
        return found

    def handed_by_pool(a, relevance):
        found = np.zeros_like(a)
        for i, j, c in np.ndindex(relevance.shape):
            window = a[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
            at = np.unravel_index(window.argmax(), (2, 2))
            found[2 * i + at[0], 2 * j + at[1], c] = relevance[i, j, c]
        return found

    active = [oracle_models.relu(net.conv(x[None], "conv_1"))]
    read = [x, oracle_models.pool(active[0])[0]]
    active.append(oracle_models.relu(net.conv(read[1][None], "conv_2")))
    read.append(oracle_models.pool(active[1])[0].ravel())
    read.append(oracle_models.relu(net.dense(read[2], "hidden_1")))
    logits = net.dense(read[3], "output")
    relevance = np.where(logits == logits.max(), logits, 0)
    kernels = [net.leaves(n)["kernel"] for n in ("conv_1", "conv_2", "hidden_1", "output")]
    relevance = handed_by_dense(read[3], kernels[3], relevance)
    relevance = handed_by_dense(read[2], kernels[2], relevance)
    relevance = handed_by_pool(active[1][0], relevance.reshape(2, 2, -1))
    inner = handed_by_conv(read[1], kernels[1], relevance)
    return handed_by_conv(x, kernels[0], handed_by_pool(active[0][0], inner)), inner


def test_convolutions_and_pooling_equal_loops_over_windows(x64):
    evidence = models.evidence("lenet", wide=True)
    net = oracle_models.Net(jax.tree.map(np.asarray, evidence.variables), False)
    images = np.asarray(evidence.inputs[0])
    pairs = [lenet_in_loops(net, image, 1e-3) for image in images]
    _, found = of_inputs(evidence, "z+", 1e-3)
    np.testing.assert_allclose(found, [image for image, _ in pairs], rtol=1e-9, atol=1e-12)
    assert np.abs(found).max() > 1e-3
    scores = jax.jit(registry.get_criterion("relevance", epsilon=1e-3).scores)(evidence)["conv_1"]
    expected = np.mean([inner.sum((0, 1)) for _, inner in pairs], axis=0)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model", models.SPECS)
def test_epsilon_rule_is_gradient_times_input_on_piecewise_linear_networks(x64, model):
    """Ancona et al. 2018 (1711.06104), Proposition 1: biases, normalisation, residuals and all."""
    evidence = models.evidence(model, wide=True)
    (x,) = evidence.inputs

    def chosen(x):
        return evidence.apply(evidence.variables, x).max(1).sum()

    _, found = of_inputs(evidence, "epsilon", 1e-13)
    np.testing.assert_allclose(found, x * jax.jit(jax.grad(chosen))(x), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rule", ["z+", "epsilon"])
@pytest.mark.parametrize("model", models.SPECS)
def test_relevance_is_conserved(x64, model, rule):
    """Of networks without offsets, every image's relevance adds up to the logit."""
    evidence = models.evidence(model, wide=True)
    start, found = of_inputs(evidence, rule, 1e-12, without_offsets(evidence.variables))
    np.testing.assert_allclose(found.reshape(len(start), -1).sum(1), start, rtol=1e-5)


@pytest.mark.parametrize("name", POSITIVE)
def test_relevance_is_conserved_by_every_kind_of_layer(x64, name):
    """Where all contributions are positive, the z+ rule loses nothing, in loops and products."""
    apply, variables, inputs, _ = zoo.build(name)
    variables = jax.tree.map(lambda a: jnp.asarray(abs(a)), variables)
    x = jnp.asarray(abs(inputs[0]) + 0.1)
    function = relevant(apply, "z+", 1e-13)

    @jax.jit
    def run(variables, x):
        outputs, back = jax.vjp(lambda x: function(variables, x), x)
        return outputs, back(outputs)[0]

    outputs, found = run(variables, x)
    wanted = jax.jit(apply)(variables, x)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-12)  # the values are apply's
    np.testing.assert_allclose(found.sum(), outputs.sum(), rtol=1e-8)


def test_signed_sums_are_conserved(x64):
    x = jnp.array([[1.0, -2.0, 3.0], [-1.0, -2.0, -3.0]])
    function = relevant(lambda _, x: (x + 0.5 * x[:, ::-1]).mean(1))
    outputs, back = jax.vjp(lambda x: function({}, x), x)
    (found,) = back(jnp.ones(2))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    # The second row: -2.5 = -1 - 1.5, -3 = -2 - 1 and -3.5 = -3 - 0.5 of -9, shared by size.
    np.testing.assert_allclose(found[1], [1.5 / 9, 3 / 9, 4.5 / 9], rtol=1e-5)


def test_a_constant_keeps_its_share_under_epsilon_and_has_none_under_z_plus(x64):
    x = jnp.array([3.0, -1.0])
    for rule, sign in itertools.product(("z+", "epsilon"), (1, -1)):

        def function(_, x, sign=sign):
            return x + 1.5 if sign == 1 else 1.5 - x

        back = jax.vjp(lambda x, f=function, r=rule: relevant(f, r)({}, x), x)[1]
        (found,), by_hand = back(jnp.ones(2)), sign * x / (sign * x + 1.5)
        np.testing.assert_allclose(found, by_hand if rule == "epsilon" else 1, rtol=1e-5)


def test_epsilon_pushes_totals_away_from_zero_on_either_side(x64):
    x, kernel = jnp.array([[1.0, 1.0]]), jnp.array([[2.0, -3.0], [-1.0, 1.0]])  # totals 1 and -2
    function = relevant(lambda kernel, x: x @ kernel, "epsilon", 0.5)
    (found,) = jax.vjp(lambda x: function(kernel, x), x)[1](jnp.ones((1, 2)))
    np.testing.assert_allclose(found, [[2 / 1.5 - 3 / -2.5, -1 / 1.5 + 1 / -2.5]])


def test_what_a_loop_carries_hands_relevance_to_earlier_steps(x64):
    def apply(_, x):
        return lax.scan(lambda total, row: (total + row, None), jnp.zeros(2), x)[0]

    x = jnp.array([[1.0, 3.0], [2.0, 4.0], [5.0, 1.0]])
    value, back = jax.vjp(lambda x: relevant(apply)({}, x), x)
    np.testing.assert_allclose(back(value)[0], x, rtol=1e-5)


def test_statistics_of_a_normalisation_count_as_constants(x64):
    def apply(_, x):
        return x * lax.rsqrt((x**2).mean(-1, keepdims=True)) * 3.0

    x = jnp.array([[1.0, 2.0, -3.0]])
    (found,) = jax.vjp(lambda x: relevant(apply)({}, x), x)[1](jnp.array([[0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, 1, 0]])


def squeeze_and_excitation(p, x):
    h = jax.nn.relu(x @ p["c"])  # [batch, 5, 5, 4]
    return (h * jax.nn.sigmoid(h.mean((1, 2), keepdims=True) @ p["s"])).mean((1, 2)) @ p["o"]


REPEATED = {  # operands with axes of size one, and scalars, beside whole ones
    "squeeze_and_excitation": squeeze_and_excitation,
    "features_as_tokens": lambda p, x: jax.nn.relu(x[..., None] * p["t"]).mean((1, 2, 3)) @ p["o"],
    "added_mean": lambda p, x: (x + x.mean((1, 2), keepdims=True)).sum((1, 2)) @ p["c"],
    "offsets": lambda p, x: (x[..., None] + 0.0 * p["t"]).sum((1, 2, 3)),
    "scalar": lambda p, x: (x.mean() * x).sum((1, 2)) @ p["c"],
    "divided": lambda p, x: (x.mean((1, 2), keepdims=True) / (1 + x)).sum((1, 2)) @ p["c"],
    "largest": lambda p, x: jnp.maximum(x, x.mean(-1, keepdims=True)).sum((1, 2)) @ p["c"],
}


@pytest.mark.parametrize("rule", ["z+", "epsilon"])
@pytest.mark.parametrize("name", REPEATED)
def test_operands_that_are_repeated_have_the_shares_of_their_repetitions(x64, name, rule):
    rng = np.random.default_rng(0)
    sizes = {"c": (3, 4), "s": (4, 4), "o": (4, 2), "t": (3, 4)}
    params = {name: jnp.asarray(rng.uniform(0.1, 1, size)) for name, size in sizes.items()}
    x = jnp.asarray(rng.uniform(0.1, 1, (2, 5, 5, 3)))
    apply = REPEATED[name]
    value, back = jax.vjp(lambda x: relevant(apply, rule, 1e-13)(params, x), x)
    np.testing.assert_allclose(value, apply(params, x), rtol=1e-12)
    (found,) = back(value)
    np.testing.assert_allclose(found.sum(), value.sum(), rtol=1e-8)
    if name == "features_as_tokens":  # one factor: its products share R_j in proportion
        t, o = np.asarray(params["t"]), np.asarray(params["o"])
        parts = np.asarray(x)[..., None] * (t * (o.sum(1) / 75))
        np.testing.assert_allclose(found, parts.sum(-1), rtol=1e-8)


def by_the_kernel(a, kernel):
    """z+ of `a @ kernel`, a >= 0, from its results."""
    parts = np.maximum(np.asarray(a)[:, :, None] * np.asarray(kernel), 0)
    shares = parts / (parts.sum(1, keepdims=True) + 1e-13)
    return (shares * np.asarray(a @ kernel)[:, None]).sum(2)


def mean_square(x):
    return jnp.mean(x**2, -1, keepdims=True)


NORMALISED = {
    "div": lambda x, s: x / s,
    "reciprocal": lambda x, s: x * (1 / s),
    "reciprocal of a square": lambda x, s: x * jnp.sqrt(1 / s**2),
    "repeated": lambda x, s: jnp.broadcast_to(1 / s, x.shape) * x,
    "reciprocal with a scale": lambda x, s: x * (2.0 * jax.jit(jnp.reciprocal)(s)) / 2.0,
    "integer_pow": lambda x, s: s**-2 * (x * lax.stop_gradient(s)),
    "pow": lambda x, s: x * (s**2) ** -0.5,
    "pow by a number": lambda x, s: x * jnp.power(s, jnp.float64(-1.0)),
    "rsqrt": lambda x, s: x * lax.rsqrt(s**2),
    "bounded": lambda x, s: x * jnp.where(s > 0, jnp.minimum(1 / s, 1e6), 0.0),
    "in a loop": lambda x, s: lax.scan(lambda f, _: (f * (1 / s), None), x, None, 1)[0],
    "in a branch": lambda x, s: x * lax.cond(x[0, 0] > 0, lambda s: 1 / s, lambda s: 2 / s, s),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_a_reciprocal_that_multiplies_is_a_denominator(x64, name):
    rng = np.random.default_rng(1)
    x, kernel = jnp.asarray(rng.uniform(0.1, 1, (3, 4))), jnp.asarray(rng.normal(size=(4, 2)))

    def apply(kernel, x):
        return NORMALISED[name](x, jnp.sqrt(mean_square(x))) @ kernel

    value, back = jax.vjp(lambda x: relevant(apply, "z+", 1e-13)(kernel, x), x)
    normal = np.asarray(x) / np.sqrt((np.asarray(x) ** 2).mean(-1, keepdims=True))
    np.testing.assert_allclose(value, normal @ np.asarray(kernel), rtol=1e-12)
    np.testing.assert_allclose(back(value)[0], by_the_kernel(normal, kernel), rtol=1e-8)


@pytest.mark.parametrize("power", [lambda a: 1 / a, jnp.reciprocal, lambda a: a**-1.0])
def test_a_reciprocal_alone_is_a_function_like_any_other(x64, power):
    """A sigmoid written out; alone, and added to what is no reciprocal."""
    rng = np.random.default_rng(2)
    kernels = [jnp.asarray(rng.uniform(0.1, 1, size)) for size in ((4, 5), (5, 2))]
    x = jnp.asarray(rng.uniform(0.1, 1, (3, 4)))

    def apply(kernels, x):
        h = power(1 + jnp.exp(-(x @ kernels[0])))
        return h @ kernels[1] + 0.1 * x[:, :2]

    value, back = jax.vjp(lambda x: relevant(apply, "z+", 1e-13)(kernels, x), x)
    (found,) = back(value)
    np.testing.assert_allclose(found.sum(1), value.sum(1), rtol=1e-8)
    assert (found > 0).all()


@pytest.mark.parametrize(
    "move",
    [
        lambda x: jnp.stack([x[:, :2], x[:, 2:]], 1).reshape(-1, 4),
        lambda x: jnp.concatenate([row[None] for row in jnp.unstack(x)]),
        lambda x: jnp.tile(x, (1, 3))[:, 4:8],
    ],
)
def test_moves_take_relevance_along(x64, move):
    rng = np.random.default_rng(3)
    x, kernel = jnp.asarray(rng.uniform(0.1, 1, (3, 4))), jnp.asarray(rng.normal(size=(4, 2)))
    function = relevant(lambda kernel, x: move(x) @ kernel, "z+", 1e-13)
    value, back = jax.vjp(lambda x: function(kernel, x), x)
    np.testing.assert_allclose(back(value)[0], by_the_kernel(x, kernel), rtol=1e-8)


def test_each_repetition_of_a_tile_adds_to_its_entry(x64):
    x, kernel = jnp.array([[1.0, 2.0]]), jnp.arange(1.0, 9.0).reshape(4, 2)
    function = relevant(lambda kernel, x: jnp.tile(x, (1, 2)) @ kernel, "z+", 1e-13)
    value, back = jax.vjp(lambda x: function(kernel, x), x)
    wanted = np.asarray(x) * (np.asarray(kernel).reshape(2, 2, 2).sum((0, 2)))
    np.testing.assert_allclose(back(value)[0], wanted, rtol=1e-8)


NARROW = {
    "dense": lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"],
    "sums": lambda p, x: (jax.nn.relu(x @ p["a"]) + 1e-4 * (x @ p["a"])).sum(1, keepdims=True),
    "conv": lambda p, x: lax.conv_general_dilated(
        jax.nn.relu(x @ p["a"])[:, :, None], p["b"][:3, None, :], (1,), "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    ).sum(1),
    "pooled": lambda p, x: lax.reduce_window(
        jax.nn.relu(x @ p["a"]), 0.0, lax.add, (1, 2), (1, 2), "VALID"
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", ["z+", "epsilon"])
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("size", [0.0, 1e-4, 0.5])
def test_float16_is_float32_to_rounding(name, rule, size):
    """Sums of zero, and sums so small that one over them is beyond float16."""
    rng = np.random.default_rng(4)
    params = {"a": -size * rng.uniform(0.2, 1, (5, 6)), "b": rng.uniform(0.2, 1, (6, 2))}
    if size:  # some units are off, the others on
        params["a"][:, :4] *= -1
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.float16), params)
    x = jnp.asarray(rng.uniform(0.2, 1, (3, 5)), jnp.float16)

    def relevance(params, x):
        value, back = jax.vjp(lambda x: relevant(NARROW[name], rule)(params, x), x)
        return np.asarray(back(100 * jnp.ones_like(value))[0], np.float64)

    wanted = relevance(*jax.tree.map(lambda a: a.astype(jnp.float32), (half, x)))
    found = relevance(half, x)
    assert np.isfinite(found).all() and wanted.any() == bool(size)
    np.testing.assert_allclose(found, wanted, rtol=0.03, atol=2e-3 * abs(wanted).max())


def test_functions_with_their_own_derivative_are_walked_into(x64):
    """jax.nn.relu's derivative is zero where it is off; relevance passes element-wise functions."""
    x = jnp.array([-1.0, 2.0])
    (found,) = jax.vjp(lambda x: relevant(lambda _, x: jax.nn.relu(x))({}, x), x)[1](jnp.ones(2))
    np.testing.assert_allclose(found, 1)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sort", lambda _, x: jnp.sort(x)),
        ("cumprod", lambda _, x: jnp.cumprod(x)),
        ("while", lambda _, x: lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x)),
        ("atan2", lambda _, x: jnp.arctan2(x, x + 1)),
    ],
)
def test_a_primitive_without_a_rule_is_named(name, function):
    x = jnp.ones(3)
    with pytest.raises(UserError, match=f"no rule for the primitive '{name}'"):
        out, back = jax.vjp(lambda x: relevant(function)({}, x), x)


def test_loops_and_branches_without_data_are_only_run():
    def apply(params, x):
        factor = lax.while_loop(lambda f: f < params["least"], lambda f: 2 * f, jnp.ones(()))
        return lax.cond(params["least"] > 1, lambda x: factor * x, lambda x: x.sum() + x, x)

    x = jnp.array([1.0, -2.0])
    value, back = jax.vjp(lambda x: relevant(apply)({"least": jnp.array(3.0)}, x), x)
    np.testing.assert_array_equal(value, 4 * x)
    np.testing.assert_array_equal(back(jnp.ones(2))[0], 1)


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(UserError, match="epsilon is 0; allowed: numbers above 0"):
        relevant(lambda _, x: x, epsilon=0)
    with pytest.raises(UserError, match="rule is 'z'; allowed: 'z\\+', 'epsilon'"):
        relevant(lambda _, x: x, "z")
    evidence = models.evidence("mlp")
    flat = dataclasses.replace(evidence, apply=lambda v, x: evidence.apply(v, x).sum(1))
    with pytest.raises(UserError, match=r"\[batch, positions, classes\]; the outputs are \(7,\)"):
        dp.score("relevance", flat)
