"""Importance scores: one contract for all of them, and each against NumPy in float64."""

import dataclasses
import functools

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

from dynhp_jax import criteria
from dynhp_jax.criteria import coupling, flexrel
from dynhp_jax.criteria.l1 import L1
from dynhp_jax.errors import ConfigError, UserError
from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.pruning import prune_to
from dynhp_jax.targets import Parameters

OTHERS = {  # options besides the defaults
    "l1 of both": criteria.get("l1", members="both", scale="max", reduction="max"),
    "taylor by example": criteria.get("taylor", absolute="example"),
    "nonzero": criteria.get("mean_activation", statistic="nonzero"),
    "velocity as coded": criteria.get("velocity", rule="code"),
    "relevance by epsilon": criteria.get("relevance", rule="epsilon", start="labels"),
}


@dataclasses.dataclass(frozen=True)
class LargestWeight:
    """A user's own."""

    def scores(self, evidence):
        return {
            name: jnp.max(jnp.abs(jnp.concatenate(evidence.kernels(name, "both"), axis=1)), axis=1)
            for name in evidence.scored
        }


OTHERS["a user's own"] = LargestWeight()
EVERY = {name: criteria.get(name) for name in criteria.CRITERIA} | OTHERS
ZOO = ("conv_flatten_dense", "residual_block", "option_a_shortcut", "concatenated_features",
       "grouped_convolution", "depthwise_separable", "gated_linear_unit", "fused_attention",
       "experts", "lstm", "scanned_mlp")  # fmt: skip
LOOPS = ("lstm", "scanned_mlp")


def contract_cases():
    for model in models.SPECS:
        for name in EVERY:
            if name != "batch_norm" or model == "resnet":
                yield pytest.param(models.evidence, model, EVERY[name], id=f"{model}-{name}")


@pytest.mark.parametrize(("make", "model", "criterion"), list(contract_cases()))
def test_contract(make, model, criterion):
    """Shapes, finite, compiled, deterministic, blind to how units are numbered."""
    evidence = make(model)
    scores = criteria.score(criterion, evidence)
    assert set(scores) <= set(evidence.scored) and scores
    if not isinstance(criterion, criteria.CRITERIA["batch_norm"]):
        assert list(scores) == list(evidence.scored)
    for name, score in scores.items():
        assert score.shape == (evidence.groups[name].size,) and score.dtype == np.float32
        assert np.isfinite(score).all()
    again = criteria.score(criterion, evidence)
    for name in scores:
        np.testing.assert_array_equal(scores[name], again[name])
    rng = np.random.default_rng(0)
    orders = {name: rng.permutation(evidence.groups[name].size) for name in evidence.scored}
    other = dataclasses.replace(evidence, **models.permuted(evidence, orders))
    np.testing.assert_allclose(
        evidence.apply(evidence.variables, *evidence.inputs),
        other.apply(other.variables, *other.inputs),
        rtol=1e-4,
        atol=1e-5,
    )
    moved = criteria.score(criterion, other)
    for name, score in scores.items():
        np.testing.assert_allclose(
            moved[name], score[orders[name]], rtol=2e-3, atol=2e-4 * abs(score).max()
        )


@pytest.mark.parametrize("name", [n for n in EVERY if n != "batch_norm"])
def test_scores_tell_units_apart(name):
    """No criterion gives every unit of a hidden layer the same score."""
    scores = criteria.score(EVERY[name], models.evidence("mlp"))
    assert np.ptp(scores["hidden_1"]) > 0


@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("name", ["l1", "taylor", "mean_activation", "relevance"])
def test_models_that_no_criterion_was_written_for(model, name):
    evidence = models.zoo_evidence(model)
    scores = criteria.score(name, evidence)
    assert list(scores) == list(evidence.scored)
    rng = np.random.default_rng(0)
    orders = {group: rng.permutation(evidence.groups[group].size) for group in evidence.scored}
    other = dataclasses.replace(evidence, **models.permuted(evidence, orders))
    moved = criteria.score(name, other)
    for group, score in scores.items():
        np.testing.assert_allclose(
            moved[group], score[orders[group]], rtol=5e-3, atol=1e-3 * abs(score).max()
        )


@pytest.mark.parametrize("model", LOOPS)
def test_velocity_refuses_loops(model):
    with pytest.raises(ValueError, match="read inside 'scan'.*leave it out of names"):
        criteria.score("velocity", models.zoo_evidence(model))


# Against NumPy


def on_mlp(criterion):
    """Scores of the MLP in float64, input first."""
    evidence = models.evidence("mlp", wide=True)
    scores = jax.jit(criterion.scores)(evidence)
    return [np.asarray(scores[name]) for name in ("input", "hidden_1", "hidden_2")]


MLP_REFERENCES = {
    "taylor": (criteria.get("taylor"), reference.taylor),
    "taylor by example": (OTHERS["taylor by example"], reference.taylor_by_example),
    "fisher": (criteria.get("fisher"), reference.fisher),
    "gradient_norm": (criteria.get("gradient_norm"), reference.gradient_norm),
    "mean_absolute": (
        criteria.get("mean_activation"),
        lambda n, x, y: reference.mean_absolute(n, x),
    ),
    "nonzero": (OTHERS["nonzero"], lambda n, x, y: reference.nonzero(n, x)),
    "flexrel": (
        criteria.get("flexrel", delta=0.3),
        lambda n, x, y: reference.flexrel(n, x, 0.3, 1e-6),
    ),
    "flexrel by the table": (
        criteria.get("flexrel", delta=0.3, weights="table"),
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
    found = jax.jit(criteria.get("velocity", rule=rule).scores)(evidence)
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
    scores = criteria.score("velocity", two)
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
    scores = criteria.score("velocity", evidence)
    for name, score in criteria.score("velocity", other).items():
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
        members: jax.jit(criteria.get(name, members=members).scores)(evidence)["stem"]
        for members in ("made", "read", "both")
    }
    expected = {"made": by_made, "read": by_read, "both": by_made + by_read}
    for members, each in expected.items():
        wanted = np.mean([scaled(s) for s in each], axis=0)
        np.testing.assert_allclose(found[members], wanted, rtol=1e-6)
    largest = criteria.get(name, scale="none", reduction="max")
    raw = jax.jit(largest.scores)(evidence)["stem"]
    np.testing.assert_allclose(raw, np.max(by_made, axis=0), rtol=1e-6)
    inputs = jax.jit(criteria.get(name).scores)(evidence)["input"]  # nothing makes them
    np.testing.assert_allclose(inputs, scaled(score(p["stem"]["kernel"], 2)), rtol=1e-6)


def test_a_channel_behind_a_flatten_has_all_of_its_rows():
    evidence = models.evidence("lenet")
    kernel = np.asarray(evidence.variables["params"]["hidden_1"]["kernel"], np.float64)
    rows = abs(kernel.reshape(-1, 4, 6)).sum((0, 2))  # places x channels, channels fastest
    found = criteria.score(L1("read", "none"), evidence)["conv_2"]
    np.testing.assert_allclose(found, rows, rtol=1e-5)


def test_batch_norm_scale_of_a_stream_is_a_mean():
    evidence = models.evidence("resnet")
    p = evidence.variables["params"]
    scores = criteria.score("batch_norm", evidence)
    stream = [p["stem_bn"]["scale"], p["stage1_block1"]["bn2"]["scale"]]
    np.testing.assert_allclose(scores["stem"], np.mean(np.abs(stream), axis=0), rtol=1e-6)
    inner = p["stage2_block1"]["bn1"]["scale"]
    np.testing.assert_allclose(scores["stage2_block1/conv1"], abs(inner), rtol=1e-6)
    assert "input" not in scores  # it passes no normalisation, so it stays whole
    with pytest.raises(UserError, match="no group has a leaf called 'scale'"):
        criteria.score("batch_norm", models.evidence("mlp"))


def test_batch_norm_scale_of_an_nnx_module():
    """NNX keeps every array in a leaf called 'value'."""
    module = nets_nnx.CNN((4, 6, 8), 8, 3, nnx.Rngs(0))
    wanted = {"conv_1": [0.5, -2, 1, 0], "conv_2": [3.0, 1, -1, 2, 0, -4]}
    for norm, scale in zip((module.norm_1, module.norm_2), wanted.values(), strict=True):
        norm.scale[...] = jnp.array(scale)
    apply, state, (x,) = of_nnx(module, jnp.ones((2, 8, 8, 1)))
    evidence = criteria.Evidence(apply, find_groups(apply, state, x), state)
    for criterion in ("batch_norm", criteria.get("batch_norm", leaf="bias")):
        scores = criteria.score(criterion, evidence)
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
    taylor, fisher = (criteria.score(name, evidence) for name in ("taylor", "fisher"))
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
    means = criteria.score("mean_activation", evidence)
    shares = criteria.score(OTHERS["nonzero"], evidence)
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
    found = criteria.score("gradient_norm", evidence)["stem"]
    np.testing.assert_allclose(found, np.sqrt(square) / cost, rtol=1e-4)


def test_activation_rate_is_the_gates_probability_or_a_share_of_draws():
    evidence = models.evidence("mlp")
    scores = criteria.score("activation", evidence)
    drawn = criteria.score(criteria.get("activation", draws=20_000), evidence)
    for name, log_alpha in evidence.gates.items():
        wanted = oracles.prob_open(log_alpha)
        np.testing.assert_allclose(scores[name], wanted, rtol=1e-5)
        np.testing.assert_allclose(drawn[name], wanted, atol=5 * 0.5 / np.sqrt(20_000))


def test_random_scores_follow_the_key_and_nothing_else():
    evidence = models.evidence("mlp")
    scores = criteria.score("random", evidence)
    other = criteria.score("random", dataclasses.replace(evidence, key=jax.random.key(6)))
    assert (scores["hidden_1"] != other["hidden_1"]).all()
    norms = criteria.score("l1", evidence)["input"]
    draws = [
        criteria.score("random", dataclasses.replace(evidence, key=jax.random.key(seed)))["input"]
        for seed in range(300)
    ]
    of_norms = np.mean([reference.rank_correlation(norms, draw) for draw in draws])
    assert abs(of_norms) < 4 / np.sqrt(5 * 300)  # of 6 units: deviation 1 / sqrt(6 - 1) per draw
    assert np.min(draws) >= 0 and np.max(draws) < 1 and abs(np.mean(draws) - 0.5) < 0.03


# What scores are for


@functools.cache
def trained_on_digits():
    """(apply, params, x, y, (x, y) held out): a small MLP after 150 steps on the digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y)
    held_out, x, y = (x[600:900], y[600:900]), x[:600], y[:600]
    spec = models.MLPSpec((64, 24, 10))
    params = spec.init(jax.random.key(1))["params"]

    def apply(params, x):
        return spec.module().apply({"params": params}, x)

    def loss(params):
        return jnp.mean(criteria.cross_entropy(apply(params, x), y))

    @jax.jit
    def train(params):
        def step(_, params):
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))

        return jax.lax.fori_loop(0, 150, step, params)

    return apply, train(params), x, y, held_out


def test_taylor_ranks_units_as_leaving_them_out_does():
    apply, params, x, y, _ = trained_on_digits()
    groups = find_groups(apply, params, x)
    evidence = criteria.Evidence(apply, groups, params, (x,), y)
    with_gates = gated(apply, groups)
    name = "hidden_1"

    def loss(gate):
        return jnp.mean(criteria.cross_entropy(with_gates(params, {name: gate}, x), y))

    size = groups[name].size
    without = jax.jit(jax.vmap(loss))(1 - jnp.eye(size))
    true_change = np.abs(np.asarray(without) - float(loss(jnp.ones(size))))
    correlation = {
        other: reference.rank_correlation(true_change, criteria.score(other, evidence)[name])
        for other in ("taylor", "fisher")
    }
    assert min(correlation.values()) > 0.8, correlation


def test_flexrel_is_its_parts_at_the_ends_and_delta_is_tuned():
    evidence = models.evidence("lenet")
    ends = [criteria.score(criteria.get("flexrel", delta=d), evidence) for d in (0.0, 1.0)]
    parts = [criteria.score(name, evidence) for name in ("l1", "relevance")]
    for end, part in zip(ends, parts, strict=True):
        for name in end:
            np.testing.assert_allclose(
                end[name], reference.to_unit_interval(part[name]), rtol=1e-4, atol=1e-5
            )
    seen = []

    def error(scores):  # smallest where the mean of a group's scores is 0.4 of the way
        seen.append({name: np.asarray(score) for name, score in scores.items()})
        way = np.mean(scores["conv_2"]) - np.mean(ends[0]["conv_2"])
        return abs(way / (np.mean(ends[1]["conv_2"]) - np.mean(ends[0]["conv_2"])) - 0.4)

    best, tried = flexrel.tune(criteria.get("flexrel"), evidence, error, (0.0, 0.4, 1.0))
    assert best.delta == 0.4 and list(tried) == [0.0, 0.4, 1.0] and len(seen) == 3
    assert criteria.get("flexrel").delta == 0.5


def test_delta_is_tuned_on_real_images():
    """The paper's use: prune half of the units, look at the error on examples held out."""
    apply, params, x, y, (images, digits) = trained_on_digits()
    groups = find_groups(apply, params, x)
    evidence = criteria.Evidence(apply, groups, params, (x,), y, names=("hidden_1",))
    with_gates = jax.jit(gated(apply, groups))

    def error(scores):
        half = Parameters(Parameters(1).measure(groups, {}) // 2)
        keep = prune_to(scores, groups, half, scale="none").keeps["hidden_1"]
        gate = {"hidden_1": jnp.zeros(groups["hidden_1"].size).at[keep].set(1.0)}
        return jnp.mean(with_gates(params, gate, images).argmax(1) != digits)

    best, tried = flexrel.tune(criteria.get("flexrel"), evidence, error)
    with_key = dataclasses.replace(evidence, key=jax.random.key(0))
    at_random = float(error(criteria.score("random", with_key)))
    assert tried[best.delta] == min(tried.values()) <= min(tried[0.0], tried[1.0])
    assert len(set(tried.values())) > 1 and tried[best.delta] < at_random


# The edge


def test_options_and_evidence_are_checked():
    with pytest.raises(UserError, match="no criterion 'l3'; allowed: activation, l1"):
        criteria.get("l3")
    with pytest.raises(UserError, match="'l1' has no option 'p'; it has: members, scale"):
        criteria.get("l1", p=2)
    with pytest.raises(ConfigError, match="criterion.members is 'some'; allowed: 'made', 'read'"):
        criteria.get("l1", members="some")
    with pytest.raises(ConfigError, match="criterion.delta is 1.5; allowed: a number from 0 to 1"):
        criteria.get("flexrel", delta=1.5)
    whole = models.evidence("mlp")
    for name, field in [("taylor", "labels"), ("fisher", "inputs"), ("relevance", "inputs"),
                        ("activation", "gates"), ("random", "key")]:  # fmt: skip
        with pytest.raises(UserError, match=rf"'{name}' needs {field}; give Evidence\({field}="):
            criteria.score(name, dataclasses.replace(whole, **{field: None}))
    with pytest.raises(UserError, match="1 earlier epochs; allowed: 2 or more"):
        criteria.score("velocity", dataclasses.replace(whole, earlier=whole.earlier[:1]))
    with pytest.raises(ValueError, match="no group 'hidden'; nearest: hidden_"):
        criteria.score("l1", dataclasses.replace(whole, names=("hidden",)))


def test_scores_that_are_no_scores_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Constant:
        value: float
        size: int

        def scores(self, evidence):
            return {"hidden_1": jnp.full(self.size, self.value)}

    evidence = models.evidence("mlp")
    assert criteria.score(Constant(2.0, 8), evidence)["hidden_1"].tolist() == [2.0] * 8
    with pytest.raises(ValueError, match=r"'hidden_1' have shape \(7,\); allowed: \(8,\)"):
        criteria.score(Constant(2.0, 7), evidence)
    with pytest.raises(UserError, match="criterion Loose cannot be hashed; make it a frozen"):
        criteria.score(dataclasses.make_dataclass("Loose", [])(), evidence)
    with pytest.raises(ValueError, match="unit 0 of group 'hidden_1' is nan"):
        criteria.score(Constant(np.nan, 8), evidence)


def test_only_the_named_groups_are_scored():
    evidence = dataclasses.replace(models.evidence("mlp"), names=("hidden_2",))
    for name, criterion in EVERY.items():
        if name != "batch_norm":  # traced, not compiled
            found = jax.eval_shape(criterion.scores, evidence)
            assert {group: score.shape for group, score in found.items()} == {"hidden_2": (5,)}, (
                name
            )


def test_a_scale_of_zeros_stays_zero():
    np.testing.assert_array_equal(coupling.scaled(jnp.zeros(3), "mean"), [0, 0, 0])
