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

from dynhp_jax import criteria
from dynhp_jax.errors import UserError
from dynhp_jax.relevance import relevant

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
    scores = jax.jit(criteria.get("relevance", rule=rule, epsilon=epsilon).scores)(evidence)
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
    scores = jax.jit(criteria.get("relevance", epsilon=1e-3).scores)(evidence)["conv_1"]
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
    with pytest.raises(UserError, match=r"logits \[batch, classes\]; the outputs are \(7,\)"):
        criteria.score("relevance", flat)
