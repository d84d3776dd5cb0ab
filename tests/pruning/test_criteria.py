"""Importance scores: one contract for all of them, and what they are for."""

import dataclasses
import functools

import criteria_models as models
import criteria_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.common.errors import ArgumentError, UserError
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria import flexrel, kernels, registry
from dynhp_jax.pruning.criteria.evidence import Evidence, strict_cross_entropy
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut

OTHERS = {  # options besides the defaults
    "l1 of both": registry.get_criterion("l1", members="both", scale="max", reduction="max"),
    "taylor by example": registry.get_criterion("taylor", absolute="example"),
    "nonzero": registry.get_criterion("mean_activation", statistic="nonzero"),
    "velocity as coded": registry.get_criterion("velocity", rule="code"),
    "relevance by epsilon": registry.get_criterion("relevance", rule="epsilon", start="labels"),
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
EVERY = {name: registry.get_criterion(name) for name in registry.CRITERIA} | OTHERS
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
    scores = dp.score(criterion, evidence)
    assert set(scores) <= set(evidence.scored) and scores
    if not isinstance(criterion, registry.CRITERIA["batch_norm"]):
        assert list(scores) == list(evidence.scored)
    for name, score in scores.items():
        assert score.shape == (evidence.groups[name].size,) and score.dtype == np.float32
        assert np.isfinite(score).all()
    again = dp.score(criterion, evidence)
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
    moved = dp.score(criterion, other)
    for name, score in scores.items():
        np.testing.assert_allclose(
            moved[name], score[orders[name]], rtol=2e-3, atol=2e-4 * abs(score).max()
        )


@pytest.mark.parametrize("name", [n for n in EVERY if n != "batch_norm"])
def test_scores_tell_units_apart(name):
    """No criterion gives every unit of a hidden layer the same score."""
    scores = dp.score(EVERY[name], models.evidence("mlp"))
    assert np.ptp(scores["hidden_1"]) > 0


@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("name", ["l1", "taylor", "mean_activation", "relevance"])
def test_models_that_no_criterion_was_written_for(model, name):
    evidence = models.zoo_evidence(model)
    scores = dp.score(name, evidence)
    assert list(scores) == list(evidence.scored)
    rng = np.random.default_rng(0)
    orders = {group: rng.permutation(evidence.groups[group].size) for group in evidence.scored}
    other = dataclasses.replace(evidence, **models.permuted(evidence, orders))
    moved = dp.score(name, other)
    for group, score in scores.items():
        np.testing.assert_allclose(
            moved[group], score[orders[group]], rtol=5e-3, atol=1e-3 * abs(score).max()
        )


@pytest.mark.parametrize("model", LOOPS)
def test_velocity_refuses_loops(model):
    with pytest.raises(ValueError, match="read inside 'scan'.*leave it out of names"):
        dp.score("velocity", models.zoo_evidence(model))


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
        return jnp.mean(strict_cross_entropy(apply(params, x), y))

    @jax.jit
    def train(params):
        def step(_, params):
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))

        return jax.lax.fori_loop(0, 150, step, params)

    return apply, train(params), x, y, held_out


def test_taylor_ranks_units_as_leaving_them_out_does():
    apply, params, x, y, _ = trained_on_digits()
    groups = find_groups(apply, params, x)
    evidence = Evidence(apply, groups, params, (x,), y)
    with_gates = gated(apply, groups)
    name = "hidden_1"

    def loss(gate):
        return jnp.mean(strict_cross_entropy(with_gates(params, {name: gate}, x), y))

    size = groups[name].size
    without = jax.jit(jax.vmap(loss))(1 - jnp.eye(size))
    true_change = np.abs(np.asarray(without) - float(loss(jnp.ones(size))))
    correlation = {
        other: reference.rank_correlation(true_change, dp.score(other, evidence)[name])
        for other in ("taylor", "fisher")
    }
    assert min(correlation.values()) > 0.8, correlation


def test_flexrel_is_its_parts_at_the_ends_and_delta_is_tuned():
    evidence = models.evidence("lenet")
    ends = [dp.score(registry.get_criterion("flexrel", delta=d), evidence) for d in (0.0, 1.0)]
    parts = [dp.score(name, evidence) for name in ("l1", "relevance")]
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

    best, tried = flexrel.tune(registry.get_criterion("flexrel"), evidence, error, (0.0, 0.4, 1.0))
    assert best.delta == 0.4 and list(tried) == [0.0, 0.4, 1.0] and len(seen) == 3
    assert registry.get_criterion("flexrel").delta == 0.5


def test_delta_is_tuned_on_real_images():
    """The paper's use: prune half of the units, look at the error on examples held out."""
    apply, params, x, y, (images, digits) = trained_on_digits()
    groups = find_groups(apply, params, x)
    evidence = Evidence(apply, groups, params, (x,), y, names=("hidden_1",))
    with_gates = jax.jit(gated(apply, groups))

    def error(scores):
        half = Parameters(Parameters(1).measure(groups, {}) // 2)
        keep = prune_to(scores, groups, half, scale="none").keeps["hidden_1"]
        gate = {"hidden_1": jnp.zeros(groups["hidden_1"].size).at[keep].set(1.0)}
        return jnp.mean(with_gates(params, gate, images).argmax(1) != digits)

    best, tried = flexrel.tune(registry.get_criterion("flexrel"), evidence, error)
    with_key = dataclasses.replace(evidence, key=jax.random.key(0))
    at_random = float(error(dp.score("random", with_key)))
    assert tried[best.delta] == min(tried.values()) <= min(tried[0.0], tried[1.0])
    assert len(set(tried.values())) > 1 and tried[best.delta] < at_random


# The edge


def test_options_and_evidence_are_checked():
    with pytest.raises(UserError, match="no criterion 'l3'; allowed: activation, l1"):
        registry.get_criterion("l3")
    with pytest.raises(UserError, match="'l1' has no option 'p'; it has: members, scale"):
        registry.get_criterion("l1", p=2)
    with pytest.raises(
        ArgumentError, match="^criterion.members is 'some'; allowed: 'made', 'read'"
    ):
        registry.get_criterion("l1", members="some")
    with pytest.raises(
        ArgumentError, match="^criterion.delta is 1.5; allowed: a number from 0 to 1"
    ):
        registry.get_criterion("flexrel", delta=1.5)
    whole = models.evidence("mlp")
    for name, field in [("taylor", "labels"), ("fisher", "inputs"), ("relevance", "inputs"),
                        ("activation", "gates"), ("random", "key")]:  # fmt: skip
        with pytest.raises(UserError, match=rf"'{name}' needs {field}; give Evidence\({field}="):
            dp.score(name, dataclasses.replace(whole, **{field: None}))
    with pytest.raises(UserError, match="1 earlier epochs; allowed: 2 or more"):
        dp.score("velocity", dataclasses.replace(whole, earlier=whole.earlier[:1]))
    with pytest.raises(ValueError, match="no group 'hidden'; nearest: hidden_"):
        dp.score("l1", dataclasses.replace(whole, names=("hidden",)))
    keeps = {"hidden_1": np.array([0, 2, 5])}
    small = cut(whole.variables, whole.groups, keeps)
    for stale in (
        dataclasses.replace(whole, variables=small),
        dataclasses.replace(whole, groups=whole.groups.shrunk(keeps)),
        dataclasses.replace(whole, earlier=(whole.variables, small)),
    ):
        with pytest.raises(ValueError, match=r"leaf .*hidden_1.* has shape .*groups.shrunk"):
            dp.score("l1", stale)


def test_scores_that_are_no_scores_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Constant:
        value: float
        size: int

        def scores(self, evidence):
            return {"hidden_1": jnp.full(self.size, self.value)}

    evidence = models.evidence("mlp")
    assert dp.score(Constant(2.0, 8), evidence)["hidden_1"].tolist() == [2.0] * 8
    with pytest.raises(ValueError, match=r"'hidden_1' have shape \(7,\); allowed: \(8,\)"):
        dp.score(Constant(2.0, 7), evidence)
    with pytest.raises(UserError, match="criterion Loose cannot be hashed; make it a frozen"):
        dp.score(dataclasses.make_dataclass("Loose", [])(), evidence)
    with pytest.raises(ValueError, match="unit 0 of group 'hidden_1' is nan"):
        dp.score(Constant(np.nan, 8), evidence)


def test_only_the_named_groups_are_scored():
    evidence = dataclasses.replace(models.evidence("mlp"), names=("hidden_2",))
    for name, criterion in EVERY.items():
        if name != "batch_norm":  # traced, not compiled
            found = jax.eval_shape(criterion.scores, evidence)
            assert {group: score.shape for group, score in found.items()} == {"hidden_2": (5,)}, (
                name
            )


def test_a_scale_of_zeros_stays_zero():
    np.testing.assert_array_equal(kernels.scaled(jnp.zeros(3), "mean"), [0, 0, 0])
