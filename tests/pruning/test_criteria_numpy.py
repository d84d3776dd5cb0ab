"""Importance scores, each against NumPy in float64 or by hand."""

import dataclasses

import criteria_models as models
import criteria_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import oracle_models
import oracles
import pytest
from flax import nnx
from foreign import nets_nnx
from foreign.cases import of_nnx

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import registry
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.pruning.criteria.l1 import L1
from dynhp_jax.structure.find import find_groups


def on_mlp(criterion):
    """Scores of the MLP in float64, input first."""
    evidence = models.evidence("mlp", wide=True)
    scores = jax.jit(criterion.scores)(evidence)
    return [np.asarray(scores[name]) for name in ("input", "hidden_1", "hidden_2")]


MLP_REFERENCES = {
    "taylor": (registry.get_criterion("taylor"), reference.taylor),
    "taylor by example": (
        registry.get_criterion("taylor", absolute="example"),
        reference.taylor_by_example,
    ),
    "fisher": (registry.get_criterion("fisher"), reference.fisher),
    "gradient_norm": (registry.get_criterion("gradient_norm"), reference.gradient_norm),
    "mean_absolute": (
        registry.get_criterion("mean_activation"),
        lambda n, x, y: reference.mean_absolute(n, x),
    ),
    "nonzero": (
        registry.get_criterion("mean_activation", statistic="nonzero"),
        lambda n, x, y: reference.nonzero(n, x),
    ),
    "flexrel": (
        registry.get_criterion("flexrel", delta=0.3),
        lambda n, x, y: reference.flexrel(n, x, 0.3, 1e-6),
    ),
    "flexrel by the table": (
        registry.get_criterion("flexrel", delta=0.3, weights="table"),
        lambda n, x, y: reference.flexrel(n, x, 0.7, 1e-6),
    ),
}


@pytest.mark.parametrize("name", MLP_REFERENCES)
def test_multilayer_perceptron_equals_numpy(x64, name):
    criterion, wanted = MLP_REFERENCES[name]
    evidence = models.evidence("mlp", wide=True)
    x, labels = np.asarray(evidence.inputs[0]), np.asarray(evidence.labels)
    expected = wanted(models.layers(evidence), x, labels)
    for found, score in zip(on_mlp(criterion), expected, strict=True):
        # Scores are float32 where gates of one were differentiated.
        np.testing.assert_allclose(found, score, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rule", ["paper", "code"])
@pytest.mark.parametrize("epochs", [2, 3])
def test_velocity_equals_numpy(x64, rule, epochs):
    evidence = models.evidence("mlp", wide=True)
    evidence = dataclasses.replace(evidence, earlier=evidence.earlier[:epochs])
    networks = [models.layers_of(v) for v in (evidence.variables, *evidence.earlier)][::-1]
    expected = reference.velocity(networks, np.asarray(evidence.inputs[0]), 0.5, rule)
    found = jax.jit(registry.get_criterion("velocity", rule=rule).scores)(evidence)
    for name, score in zip(("input", "hidden_1", "hidden_2"), expected, strict=True):
        np.testing.assert_allclose(found[name], score, rtol=1e-6, atol=1e-7)
    assert expected[1].max() > 0


def test_velocity_of_channels_is_a_cosine_of_vectors():
    evidence = models.evidence("lenet")
    x = np.asarray(evidence.inputs[0], np.float64)

    def read(variables):  # what conv_2 and hidden_1 read, [batch, places, channels]
        net = oracle_models.Net(jax.tree.map(np.asarray, variables), False)
        first = oracle_models.pool(oracle_models.relu(net.conv(x, "conv_1")))
        second = oracle_models.pool(oracle_models.relu(net.conv(first, "conv_2")))
        return [a.reshape(len(x), -1, a.shape[-1]) for a in (first, second)]

    now, last, before = (read(v) for v in (evidence.variables, *evidence.earlier[:2]))

    def phi(a, b):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        both_zero = ~a.any(1) & ~b.any(1)
        cosine = (a * b).sum(1) / np.where(norms > 0, norms, 1)
        return np.where(both_zero, 1, cosine).mean(0)

    two = dataclasses.replace(evidence, earlier=evidence.earlier[:2])
    scores = dp.score("velocity", two)
    for name, a, b, c in zip(("conv_1", "conv_2"), now, last, before, strict=True):
        np.testing.assert_allclose(scores[name], abs(phi(a, b) - phi(b, c)), rtol=1e-4, atol=1e-5)


def test_velocity_of_a_network_that_keeps_examples_last():
    evidence = models.evidence("mlp")

    def apply(variables, x):
        p, h = variables["params"], x.T
        for name in ("hidden_1", "hidden_2", "output"):
            h = p[name]["kernel"].T @ h + p[name]["bias"][:, None]
            h = h if name == "output" else jax.nn.relu(h)
        return h.T

    groups = find_groups(apply, evidence.variables, *evidence.inputs)
    other = dataclasses.replace(evidence, apply=apply, groups=groups)
    scores = dp.score("velocity", evidence)
    for name, score in dp.score("velocity", other).items():
        np.testing.assert_allclose(score, scores[name], rtol=1e-4, atol=1e-6)


def scaled(score):
    return score / abs(score).mean()


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("l1", lambda k, axis: reference.per_filter(k, axis, lambda f: abs(f).sum())),
        ("l2", lambda k, axis: reference.per_filter(k, axis, lambda f: np.sqrt((f**2).sum()))),
        ("geometric_median", reference.distances),
    ],
)
def test_weights_of_a_coupled_group_equal_numpy(x64, name, score):
    """The first stage's stream of the ResNet: made by two convolutions, read by four layers."""
    evidence = models.evidence("resnet", wide=True)
    p = jax.tree.map(np.asarray, evidence.variables["params"])
    made = [p["stem"]["kernel"], p["stage1_block1"]["conv2"]["kernel"]]
    read = [
        p["stage1_block1"]["conv1"],
        p["stage2_block1"]["conv1"],
        p["stage2_block1"]["shortcut"],
    ]
    by_made = [score(kernel, 3) for kernel in made]
    by_read = [score(conv["kernel"], 2) for conv in read]
    found = {
        members: jax.jit(registry.get_criterion(name, members=members).scores)(evidence)["stem"]
        for members in ("made", "read", "both")
    }
    expected = {"made": by_made, "read": by_read, "both": by_made + by_read}
    for members, each in expected.items():
        wanted = np.mean([scaled(s) for s in each], axis=0)
        np.testing.assert_allclose(found[members], wanted, rtol=1e-6)
    largest = registry.get_criterion(name, scale="none", reduction="max")
    raw = jax.jit(largest.scores)(evidence)["stem"]
    np.testing.assert_allclose(raw, np.max(by_made, axis=0), rtol=1e-6)
    inputs = jax.jit(registry.get_criterion(name).scores)(evidence)["input"]  # nothing makes them
    np.testing.assert_allclose(inputs, scaled(score(p["stem"]["kernel"], 2)), rtol=1e-6)


def test_a_channel_behind_a_flatten_has_all_of_its_rows():
    evidence = models.evidence("lenet")
    kernel = np.asarray(evidence.variables["params"]["hidden_1"]["kernel"], np.float64)
    rows = abs(kernel.reshape(-1, 4, 6)).sum((0, 2))  # places x channels, channels fastest
    found = dp.score(L1("read", "none"), evidence)["conv_2"]
    np.testing.assert_allclose(found, rows, rtol=1e-5)


def test_batch_norm_scale_of_a_stream_is_a_mean():
    evidence = models.evidence("resnet")
    p = evidence.variables["params"]
    scores = dp.score("batch_norm", evidence)
    stream = [p["stem_bn"]["scale"], p["stage1_block1"]["bn2"]["scale"]]
    np.testing.assert_allclose(scores["stem"], np.mean(np.abs(stream), axis=0), rtol=1e-6)
    inner = p["stage2_block1"]["bn1"]["scale"]
    np.testing.assert_allclose(scores["stage2_block1/conv1"], abs(inner), rtol=1e-6)
    assert "input" not in scores  # it passes no normalisation, so it stays whole
    with pytest.raises(UserError, match="no group has a leaf called 'scale'"):
        dp.score("batch_norm", models.evidence("mlp"))


def test_batch_norm_scale_of_an_nnx_module():
    """NNX keeps every array in a leaf called 'value'."""
    module = nets_nnx.CNN((4, 6, 8), 8, 3, nnx.Rngs(0))
    wanted = {"conv_1": [0.5, -2, 1, 0], "conv_2": [3.0, 1, -1, 2, 0, -4]}
    for norm, scale in zip((module.norm_1, module.norm_2), wanted.values(), strict=True):
        norm.scale[...] = jnp.array(scale)
    apply, state, (x,) = of_nnx(module, jnp.ones((2, 8, 8, 1)))
    evidence = Evidence(apply, find_groups(apply, state, x), state)
    for criterion in ("batch_norm", registry.get_criterion("batch_norm", leaf="bias")):
        scores = dp.score(criterion, evidence)
        assert set(scores) >= set(wanted)
        for name, scale in wanted.items():
            expected = np.abs(scale) if criterion == "batch_norm" else np.zeros(len(scale))
            np.testing.assert_array_equal(scores[name], expected)


@pytest.mark.parametrize("model", ["lenet", "resnet"])
def test_gate_derivatives_equal_differences_of_the_loss(model):
    """Taylor and Fisher of coupled groups: in NumPy, all that reads a unit scaled up and down."""
    evidence = models.evidence(model)
    forward = getattr(oracle_models, model)
    variables = jax.tree.map(lambda a: np.asarray(a, np.float64), evidence.variables)
    x, labels = np.asarray(evidence.inputs[0], np.float64), np.asarray(evidence.labels)
    reads = {
        "lenet": {"conv_1": ["conv_2"], "hidden_1": ["output"]},
        "resnet": {
            "stem": ["stage1_block1/conv1", "stage2_block1/conv1", "stage2_block1/shortcut"],
            "stage1_block1/conv1": ["stage1_block1/conv2"],
        },
    }[model]
    taylor, fisher = (dp.score(name, evidence) for name in ("taylor", "fisher"))
    for group, readers in reads.items():
        for unit in range(evidence.groups[group].size):
            sides = []
            for step in (1e-5, -1e-5):
                changed = jax.tree.map(np.copy, variables)
                for reader in readers:
                    kernel = oracle_models.Net(changed, False).leaves(reader)["kernel"]
                    kernel[..., unit, :] *= 1 + step
                logits = forward(models.SPECS[model], changed, x, False)[0]
                sides.append(reference.losses(logits, labels))
            slope = (sides[0] - sides[1]) / 2e-5
            np.testing.assert_allclose(taylor[group][unit], abs(slope.mean()), rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(
                fisher[group][unit], (slope**2).mean() / 2, rtol=1e-3, atol=1e-8
            )


def test_mean_activation_of_channels_equals_numpy():
    evidence = models.evidence("lenet")
    net = oracle_models.Net(jax.tree.map(np.asarray, evidence.variables), False)
    first = oracle_models.pool(oracle_models.relu(net.conv(evidence.inputs[0], "conv_1")))
    second = oracle_models.pool(oracle_models.relu(net.conv(first, "conv_2")))
    means = dp.score("mean_activation", evidence)
    shares = dp.score(registry.get_criterion("mean_activation", statistic="nonzero"), evidence)
    for name, activation in (("conv_1", first), ("conv_2", second)):
        np.testing.assert_allclose(
            means[name], abs(activation).mean((0, 1, 2)), rtol=1e-4, atol=1e-7
        )
        np.testing.assert_allclose(shares[name], (activation != 0).mean((0, 1, 2)), rtol=1e-6)


def test_gradient_norm_counts_positions_and_all_readers():
    """The ResNet's first stream: 8 x 8 positions read three times, weights of three kernels."""
    evidence = models.evidence("resnet")

    @jax.jit
    @jax.grad
    def gradient(variables):
        return evidence.mean_loss(evidence.apply(variables, *evidence.inputs))

    grads = gradient(evidence.variables)["params"]
    kernels = [
        np.asarray(grads[block][conv]["kernel"], np.float64)
        for block, conv in (("stage1_block1", "conv1"), ("stage2_block1", "conv1"),
                            ("stage2_block1", "shortcut"))
    ]  # fmt: skip
    square = sum((k**2).sum((0, 1, 3)) for k in kernels)
    cost = 9 * 4 + 9 * 5 + 1 * 6 + 3 * 8 * 8
    found = dp.score("gradient_norm", evidence)["stem"]
    np.testing.assert_allclose(found, np.sqrt(square) / cost, rtol=1e-4)


def test_activation_rate_is_the_gates_probability_or_a_share_of_draws():
    evidence = models.evidence("mlp")
    scores = dp.score("activation", evidence)
    drawn = dp.score(registry.get_criterion("activation", draws=20_000), evidence)
    for name, log_alpha in evidence.gates.items():
        wanted = oracles.prob_open(log_alpha)
        np.testing.assert_allclose(scores[name], wanted, rtol=1e-5)
        np.testing.assert_allclose(drawn[name], wanted, atol=5 * 0.5 / np.sqrt(20_000))


def test_random_scores_follow_the_key_and_nothing_else():
    evidence = models.evidence("mlp")
    scores = dp.score("random", evidence)
    other = dp.score("random", dataclasses.replace(evidence, key=jax.random.key(6)))
    assert (scores["hidden_1"] != other["hidden_1"]).all()
    norms = dp.score("l1", evidence)["input"]
    draws = [
        dp.score("random", dataclasses.replace(evidence, key=jax.random.key(seed)))["input"]
        for seed in range(300)
    ]
    of_norms = np.mean([reference.rank_correlation(norms, draw) for draw in draws])
    assert abs(of_norms) < 4 / np.sqrt(5 * 300)  # of 6 units: deviation 1 / sqrt(6 - 1) per draw
    assert np.min(draws) >= 0 and np.max(draws) < 1 and abs(np.mean(draws) - 0.5) < 0.03
