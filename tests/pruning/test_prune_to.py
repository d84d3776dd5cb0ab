"""Pruning to a target: against brute force, and against what smaller networks really take."""

import dataclasses
import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from criteria_models import random_like
from hypothesis import given, settings
from hypothesis import strategies as st

import dynhp_jax as dp
from dynhp_jax.common.errors import ArgumentError, UserError
from dynhp_jax.gates.gated import gated
from dynhp_jax.models.lenet import LeNetSpec
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.resnet import ResNetSpec
from dynhp_jax.pruning import schedules, targets
from dynhp_jax.pruning.criteria import evidence
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Flops, ModelBytes, Parameters, StepBytes
from dynhp_jax.structure.counts import parameter_count
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.keeps import compose, rewind
from dynhp_jax.surgery.resized import resized
from dynhp_jax.training import config
from dynhp_jax.training.compiled import budget, programs
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.network import whole_network

RESNET = ResNetSpec((4, 6), ((4,), (5,)), 3, (8, 8, 3))
LENET = LeNetSpec((3, 4), (6,), 3, (16, 16, 1))
MLP = MLPSpec((6, 8, 5, 3))


def built(spec, seed=0):
    """(apply, variables, inputs, groups, random scores)."""
    module, rng = spec.module(), np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(4, *spec.input_shape)), jnp.float32)

    def apply(variables, x):
        return module.apply(variables, x, train=False)

    # By NumPy: every shape that jax.random draws is compiled, here in every worker.
    variables = random_like(spec.shapes(), np.random.default_rng(seed + 1), np.float32)
    groups = find_groups(apply, variables, x)
    scores = {name: rng.uniform(0.1, 1, groups[name].size) for name in groups.prunable}
    return apply, variables, x, groups, scores


def by_hand(widths):
    """Parameters of an MLP."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def removed_one_by_one(scores, measure, most, minimum):
    """Brute force: the unit with the lowest score of all goes, until the target is met."""
    scaled = {name: score / score.mean() for name, score in scores.items()}
    left = {name: set(range(score.size)) for name, score in scores.items()}
    while measure(left) > most:
        units = [
            (scaled[name][u], name, u)
            for name in left
            for u in left[name]
            if len(left[name]) > minimum
        ]
        if not units:
            return None
        _, name, unit = min(units)
        left[name].remove(unit)
    return {name: sorted(units) for name, units in left.items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 130), st.integers(1, 3))
def test_the_lowest_scores_go_until_the_target_is_met(seed, most, minimum):
    _, _, _, groups, _ = ON_MLP
    rng = np.random.default_rng(seed)
    scores = {name: rng.uniform(0.1, 1, groups[name].size) for name in groups.prunable}
    scores = {name: score.astype(np.float32).astype(float) for name, score in scores.items()}

    def measure(left):
        return by_hand([*(len(left[name]) for name in ("input", "hidden_1", "hidden_2")), 3])

    wanted = removed_one_by_one(scores, measure, most, minimum)
    if wanted is None:
        with pytest.raises(UserError, match="cannot be reached"):
            prune_to(scores, groups, Parameters(most), minimum=minimum)
        return
    found = prune_to(scores, groups, Parameters(most), minimum=minimum)
    assert {name: keep.tolist() for name, keep in found.keeps.items()} == wanted
    assert found.reached == measure(wanted) <= most and found.before == by_hand((6, 8, 5, 3))


ON_MLP = built(MLP)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["global", "group"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0.0, 1.0),
)
def test_widths_are_multiples_with_at_least_the_minimum(seed, scope, minimum, multiple, part):
    _, _, _, groups, _ = ON_RESNET
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(size=groups[name].size) for name in groups.prunable}
    options = {"scope": scope, "minimum": minimum, "multiple": multiple}
    with pytest.raises(UserError, match="cannot be reached") as error:
        prune_to(scores, groups, Parameters(1), **options)
    least = str(error.value).split("smallest that can is ")[1].split(", with")[0]
    least = int(least.replace(",", ""))
    whole = Parameters(1).measure(groups, {})
    most = int(least + part * (whole - least))
    found = prune_to(scores, groups, Parameters(most), **options)
    assert found.reached <= most
    for name, keep in found.keeps.items():
        size = groups[name].size
        assert keep.size == size or (keep.size % multiple == 0 and keep.size >= min(minimum, size))
        lost = np.setdiff1d(np.arange(size), keep)
        score = scores[name].astype(np.float32)
        assert not lost.size or score[lost].max() <= score[keep].min()
    # What was reached is itself a target, and is met by the same units.
    again = prune_to(scores, groups, Parameters(found.reached), **options)
    assert again.widths == found.widths


ON_RESNET = built(RESNET)


def test_the_group_scope_takes_the_same_share_of_every_group():
    _, _, _, groups, scores = built(MLPSpec((40, 60, 20, 3)))
    found = prune_to(scores, groups, Parameters(1500), scope="group")
    shares = [keep.size / groups[name].size for name, keep in found.keeps.items()]
    assert np.ptp(shares) < 1 / 20 + 1e-9 and 0.4 < min(shares) < 0.8


def test_scale_decides_what_is_compared():
    _, _, _, groups, _ = ON_MLP
    scores = {"hidden_1": np.arange(1, 9) * 100.0, "hidden_2": np.arange(1, 6) * 1.0}
    raw = prune_to(scores, groups, Parameters(80), scale="none")
    assert raw.widths["hidden_1"] == 8 and raw.widths["hidden_2"] < 5
    fair = prune_to(scores, groups, Parameters(80))
    assert fair.widths["hidden_1"] < 8
    assert "input" not in fair.keeps  # no scores, so it stays whole


def test_ties_keep_the_first_and_minimum_can_be_given_by_group():
    _, _, _, groups, _ = ON_MLP
    scores = {name: np.ones(groups[name].size) for name in groups.prunable}
    with pytest.warns(UserWarning, match="units of 'hidden_1', 'hidden_2' have the same"):
        found = prune_to(scores, groups, Parameters(60), minimum={"hidden_1": 6})
    assert found.widths["hidden_1"] >= 6
    assert all(keep.tolist() == list(range(keep.size)) for keep in found.keeps.values())


def test_equal_scores_are_worth_a_warning_where_units_go_by_them():
    _, _, _, groups, scores = ON_MLP
    with pytest.warns(UserWarning, match="all units of 'hidden_1' have the same score.*highest"):
        found = prune_to({**scores, "hidden_1": np.zeros(8)}, groups, Parameters(60))
    assert found.keeps["hidden_1"].tolist() == [0, 1, 2]  # nothing else is as low
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune_to(scores, groups, Parameters(60))
        equal = {**scores, "hidden_1": np.ones(8)}
        whole = prune_to(equal, groups, Parameters(90), minimum={"hidden_1": 8})
        assert whole.widths["hidden_1"] == 8 and sum(whole.widths.values()) < 6 + 8 + 5
        one = built(MLPSpec((6, 1, 5, 3)))[3]  # a group of one unit has no order
        prune_to({"hidden_1": np.ones(1), "hidden_2": scores["hidden_2"]}, one, Parameters(24))


# Targets, against the smaller network itself


@pytest.mark.parametrize("spec", [MLP, LENET, RESNET], ids=["mlp", "lenet", "resnet"])
def test_what_is_reached_is_what_the_smaller_network_has(spec):
    apply, variables, x, groups, scores = built(spec)
    for target, part in itertools.product(
        (Parameters(1), ModelBytes(1), Flops(1, apply, variables, (x,))), (0.4, 0.7)
    ):
        most = int(part * target.measure(groups, {}))
        found = prune_to(scores, groups, dataclasses.replace(target, most=most))
        small = cut(variables, groups, found.keeps)
        smaller = spec.resized(small["params"])
        leaves = jax.tree.leaves(small)
        if isinstance(target, Parameters):
            taken = sum(leaf.size for leaf in jax.tree.leaves(small["params"]))
            masks = {n: np.isin(np.arange(groups[n].size), k) for n, k in found.keeps.items()}
            assert taken == parameter_count(groups, masks)
        elif isinstance(target, ModelBytes):
            taken = sum(leaf.nbytes for leaf in leaves)
        else:  # of the rebuilt module, traced anew

            def apply_small(variables, x, smaller=smaller):
                return smaller.module().apply(variables, x, train=False)

            shape = jax.ShapeDtypeStruct((4, *smaller.input_shape), jnp.float32)
            fresh = find_groups(apply_small, small, shape)
            taken = Flops(1, apply_small, small, (shape,)).measure(fresh, {})
        assert found.reached == taken <= most


def test_flops_of_a_multilayer_perceptron_by_hand():
    apply, variables, x, groups, _ = ON_MLP
    target = Flops(1, apply, variables, (x,))
    assert target.measure(groups, {}) == 2 * 4 * (6 * 8 + 8 * 5 + 5 * 3)
    keeps = {"hidden_1": np.array([0, 3]), "input": np.array([1])}
    assert target.measure(groups, keeps) == 2 * 4 * (1 * 2 + 2 * 5 + 5 * 3)
    with pytest.raises(ValueError, match="after a cut make a new Flops of the smaller model"):
        target.measure(groups.shrunk(keeps), {})


def test_a_step_of_your_own_is_metered_by_the_compiler():
    apply, variables, _, groups, scores = built(MLPSpec((20, 64, 32, 3)))
    x, y = jnp.ones((8, 20)), jnp.zeros(8, int)
    looks = []

    def make(keeps):
        looks.append(keeps)
        run = resized(apply, variables, groups, keeps)

        def step(variables, x, y):
            def loss(variables):
                return evidence.strict_cross_entropy(run(variables, x), y).mean()

            return jax.tree.map(lambda p, g: p - 0.1 * g, variables, jax.grad(loss)(variables))

        small = jax.eval_shape(lambda tree: cut(tree, groups, keeps), variables)
        return jax.jit(step, donate_argnums=0).lower(small, x, y).compile()

    meter = targets.of_step(make)
    whole = meter({})
    found = prune_to(scores, groups, StepBytes(whole // 2, meter))
    assert found.before == whole and whole // 4 < found.reached <= whole // 2
    assert meter(found.keeps) == found.reached
    assert len(looks) < 14  # each one is a compilation
    assert f"{found.reached:,} bytes of the training step of at most" in found.describe()


def test_a_runs_own_steps_are_metered_by_its_budget():
    settings = config.Config(
        name="test",
        model=config.Model(hidden=(24, 12)),
        memory=config.Memory("xla", "none", sp_batch=32),
    )
    network = whole_network(MLPSpec((16, 24, 12, 4)), ())
    examples = {"train": 64, "test": 32}
    run = budget.Budget(Steps(settings, network, programs.Programs(), examples))
    meter = budget.bytes_of_run(run, network, 8)
    assert meter({}) == run.step_bytes(network, 8)
    rng = np.random.default_rng(0)
    scores = {name: rng.uniform(size=group.size) for name, group in network.groups.items()}
    found = prune_to(scores, network.groups, StepBytes(int(meter({}) * 0.6), meter))
    params = cut(network.model.init(jax.random.key(0)), network.groups, found.keeps)["params"]
    assert run.step_bytes(network.shrunk(params, found.keeps), 8) == found.reached
    assert found.reached <= 0.6 * meter({})


def test_what_cannot_be_is_said():
    _, _, _, groups, scores = ON_MLP
    smallest = by_hand((2, 2, 2, 3))
    with pytest.raises(
        UserError,
        match=f"at most 10 parameters cannot be reached.*smallest that can is {smallest}, "
        "with the widths {'input': 2, 'hidden_1': 2, 'hidden_2': 2}",
    ):
        prune_to(scores, groups, Parameters(10), minimum=2)
    assert prune_to(scores, groups, Parameters(smallest), minimum=2).reached == smallest
    enough = prune_to(scores, groups, Parameters(10**6))  # nothing to do
    assert enough.reached == enough.before and enough.widths == enough.sizes
    for options, message in [
        ({"scope": "layer"}, "scope is 'layer'; allowed: 'global', 'group'"),
        ({"scale": "sum"}, "scale is 'sum'; allowed: 'mean', 'max', 'none'"),
        ({"minimum": 0}, "minimum is 0; allowed: whole numbers from 1"),
        ({"multiple": 2.5}, "multiple is 2.5; allowed"),
    ]:
        with pytest.raises(UserError, match=message):
            prune_to(scores, groups, Parameters(50), **options)
    with pytest.raises(ValueError, match="no group 'hiden_1'; nearest: hidden_1"):
        prune_to(scores, groups, Parameters(50), minimum={"hiden_1": 2})
    with pytest.raises(ValueError, match="score of unit 1 of group 'hidden_2' is nan"):
        prune_to({"hidden_2": [1, np.nan, 1, 1, 1]}, groups, Parameters(50))
    with pytest.raises(UserError, match="at most 0 parameters; allowed: 1 or more"):
        Parameters(0)
    assert ModelBytes("1KiB").most == 1024


# Schedules and rewinding


def test_cubic_is_zhu_and_guptas_polynomial():
    schedule = schedules.Cubic(start=2, end=12, every=2)
    for epoch in range(16):
        found = schedule.limit(epoch, whole=10_000, final=1_000)
        if epoch < 2 or epoch > 12 or epoch % 2:
            assert found is None
            continue
        sparsity = 0.9 + (0.0 - 0.9) * (1 - (epoch - 2) / 10) ** 3
        assert found == pytest.approx(10_000 * (1 - sparsity), abs=1)
    assert schedules.Cubic(0, 5, every=2).limit(5, 100, 10) == 10  # the end is never left out


def test_each_epoch_takes_a_share_of_what_is_left():
    schedule = schedules.EachEpoch(share=0.5, start=1, every=2)
    found = [schedule.limit(epoch, 1000, 200) for epoch in range(9)]
    assert found == [None, 500, None, 250, None, 200, None, None, None]
    assert [schedules.OneShot(at=3).limit(epoch, 9, 5) for epoch in (2, 3, 4)] == [None, 5, None]
    with pytest.raises(ArgumentError, match="^schedule.share is 1.5; allowed: a number between"):
        schedules.EachEpoch(share=1.5)
    with pytest.raises(UserError, match="ends at 3; allowed: after 3"):
        schedules.Cubic(start=3, end=3)


def test_rounds_of_pruning_and_rewinding_restore_the_first_weights():
    """Two rounds: train a little, prune, go back to the initial weights of what survives."""
    spec = LENET
    apply, initial, x, groups, _ = built(spec)
    labels, tx = jnp.array([0, 1, 2, 0]), optax.sgd(0.1)
    whole = Parameters(1).measure(groups, {})
    schedule = schedules.EachEpoch(share=0.4, start=0)
    variables, now, done = initial, groups, {}
    for number in range(2):

        def run(variables, x, done=done):
            return resized(apply, initial, groups, done)(variables, x)

        def loss(variables, run=run):
            return evidence.strict_cross_entropy(run(variables, x), labels).mean()

        state = tx.init(variables)
        for _ in range(3):
            updates, state = tx.update(jax.jit(jax.grad(loss))(variables), state)
            variables = optax.apply_updates(variables, updates)
        scores = dp.score("l1", evidence.Evidence(run, now, variables))
        limit = schedule.limit(number, whole, whole // 4)
        found = prune_to(scores, now, Parameters(limit))
        assert found.reached <= limit
        done = compose(groups, done, found.keeps)
        now = groups.shrunk(done)
        variables = rewind(initial, groups, done)
        mine = {id(leaf) for leaf in jax.tree.leaves(initial)}
        assert not mine & {id(leaf) for leaf in jax.tree.leaves(variables)}  # it may be donated
    assert Parameters(1).measure(groups, done) <= 0.36 * whole + 1
    masks = {n: np.isin(np.arange(groups[n].size), k).astype("f") for n, k in done.items()}
    np.testing.assert_allclose(
        resized(apply, initial, groups, done)(variables, x),
        gated(apply, groups)(initial, masks, x),
        rtol=1e-4,
        atol=1e-5,
    )
    kernel = np.asarray(initial["params"]["conv_2"]["kernel"])
    kept = kernel[:, :, done["conv_1"]][..., done["conv_2"]]
    np.testing.assert_array_equal(variables["params"]["conv_2"]["kernel"], kept)


def test_composed_cuts_are_one_cut():
    _, variables, _, groups, _ = ON_MLP
    first = {"hidden_1": np.array([0, 2, 3, 7]), "input": np.array([1, 4, 5])}
    then = {"hidden_1": np.array([1, 3]), "hidden_2": np.array([0, 4])}
    both = compose(groups, first, then)
    assert both["hidden_1"].tolist() == [2, 7] and both["input"].tolist() == [1, 4, 5]
    twice = cut(cut(variables, groups, first), groups.shrunk(first), then)
    chex.assert_trees_all_equal(twice, cut(variables, groups, both))
