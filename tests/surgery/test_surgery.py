"""Surgery against NumPy: which positions stay, of which leaves; what is refused, and that it is."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.counts import parameter_count
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import axis_cuts, cut
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized

CUTTABLE = ("mlp", "conv_flatten_dense", "residual_block", "concatenated_features",
            "grouped_convolution", "depthwise_separable", "gated_linear_unit", "lstm")  # fmt: skip


@pytest.fixture(scope="module")
def models():
    found = {}
    for name in CUTTABLE:
        apply, variables, inputs, by_hand = zoo.build(name)
        found[name] = apply, variables, inputs, by_hand, find_groups(apply, variables, *inputs)
    return found


def drawn(groups, seed, least=1):
    rng = np.random.default_rng(seed)
    sizes = {name: groups[name].size for name in groups.prunable}
    return {
        name: np.sort(rng.choice(size, rng.integers(least, size + 1), replace=False))
        for name, size in sizes.items()
    }


def taken_by_hand(variables, by_hand, keeps):
    """Every leaf without the positions that the hand-written members give to lost units."""
    flat = {"/".join(str(k.key) for k in path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}  # fmt: skip
    lost = {}
    for name, members in by_hand.items():
        for place, index in members.items():
            path, axis = re.fullmatch(r"(.*)\[(\d+)\]", place).groups()
            gone = np.delete(index, keeps.get(name, np.arange(len(index))), axis=0).ravel()
            lost.setdefault((path, int(axis)), set()).update(gone.tolist())
    for (path, axis), gone in lost.items():
        if path in flat:
            flat[path] = np.delete(flat[path], sorted(gone), axis)
    return flat


def flat(tree):
    return {
        "/".join(str(k.key) for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("seed", range(3))
def test_what_stays_is_what_numpy_takes(models, name, seed):
    _, variables, _, by_hand, groups = models[name]
    keeps = drawn(groups, seed)
    small, wanted = cut(variables, groups, keeps), taken_by_hand(variables, by_hand, keeps)
    assert jax.tree.structure(small) == jax.tree.structure(variables)
    for path, leaf in flat(small).items():
        np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
        assert leaf.dtype == flat(variables)[path].dtype


@pytest.mark.parametrize("name", CUTTABLE)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_two_cuts_are_one(models, name, seed):
    _, variables, _, _, groups = models[name]
    first = drawn(groups, seed)
    smaller = groups.shrunk(first)
    second = drawn(smaller, seed + 1)
    at_once = {
        group: first.get(group, np.arange(groups[group].size))[
            second.get(group, np.arange(smaller[group].size))
        ]
        for group in groups.prunable
    }
    twice, once = (
        cut(cut(variables, groups, first), smaller, second),
        cut(variables, groups, at_once),
    )
    chex.assert_trees_all_equal(twice, once)
    assert smaller.shrunk(second).shapes == groups.shrunk(at_once).shapes


@pytest.mark.parametrize("name", CUTTABLE)
def test_keeping_all_or_naming_none_changes_nothing(models, name):
    apply, variables, inputs, _, groups = models[name]
    every = {group: np.arange(groups[group].size) for group in groups.prunable}
    for keeps in ({}, every):
        chex.assert_trees_all_equal(cut(variables, groups, keeps), variables)
        assert axis_cuts(groups, keeps) == {}
        np.testing.assert_allclose(
            resized(apply, variables, groups, keeps)(variables, *inputs),
            apply(variables, *inputs), rtol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int8])
@pytest.mark.parametrize(("kind", "made"), [(np.asarray, np.ndarray), (jnp.asarray, jax.Array)])
def test_arrays_keep_their_kind_and_type(models, dtype, kind, made):
    _, variables, _, _, groups = models["mlp"]
    tree = jax.tree.map(lambda a: kind(a).astype(dtype), variables)
    for leaf in jax.tree.leaves(cut(tree, groups, drawn(groups, 0))):
        assert isinstance(leaf, made)
        assert leaf.dtype == dtype


def test_gradients_averages_and_traced_trees_are_cut_alike(models):
    apply, variables, inputs, _, groups = models["residual_block"]
    keeps = drawn(groups, 4)
    gradient = jax.grad(lambda v: jnp.sum(apply(v, *inputs) ** 2))(variables)
    average = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g, variables, gradient)
    for tree in (gradient, average):
        inside = jax.jit(lambda t: cut(t, groups, keeps))(tree)
        chex.assert_trees_all_equal(cut(tree, groups, keeps), inside)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([2, 0], "not sorted or repeats"),
        ([0, 0, 1], "not sorted or repeats"),
        ([-1, 0], "holds -1; allowed: 0 to"),
        ([0, 99], "holds 99; allowed: 0 to"),
        ([], "is empty; allowed: 1 to"),
        ([0.0, 1.0], "allowed: a sorted vector of unit indices"),
        ([True, False], "np.flatnonzero of a mask"),
        ([[0, 1]], "allowed: a sorted vector of unit indices"),
        (0, "allowed: a sorted vector of unit indices"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "axis_cuts", "resized", "shrunk"])
def test_keeps_that_are_not_allowed_are_refused_by_all(models, keep, said, how):
    apply, variables, _, _, groups = models["mlp"]
    group = groups.prunable[-1]
    before = jax.tree.map(np.copy, variables)
    keeps = {groups.prunable[0]: np.array([0]), group: np.asarray(keep)}
    actions = {
        "cut": lambda: cut(variables, groups, keeps),
        "axis_cuts": lambda: axis_cuts(groups, keeps),
        "resized": lambda: resized(apply, variables, groups, keeps),
        "shrunk": lambda: groups.shrunk(keeps),
    }
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        actions[how]()
    assert repr(group) in str(error.value) and "\n" not in str(error.value)
    chex.assert_trees_all_equal(variables, before)


def test_an_unknown_group_is_told_with_the_nearest_names(models):
    _, variables, _, _, groups = models["mlp"]
    group = groups.prunable[-1]
    with pytest.raises(ValueError, match=f"no group '{group}x'; nearest: .*{group}"):
        cut(variables, groups, {f"{group}x": np.array([0])})


def test_a_tree_that_does_not_match_is_told_by_leaf_and_shape(models):
    apply, variables, inputs, _, groups = models["mlp"]
    keeps = drawn(groups, 1)
    path = next(iter(flat(variables)))
    shape = np.shape(flat(variables)[path])

    def changed(change):
        return jax.tree_util.tree_map_with_path(
            lambda p, leaf: change(leaf) if "/".join(str(k.key) for k in p) == path else leaf,
            variables,
        )

    wrong = changed(lambda leaf: np.concatenate([leaf, leaf]))
    said = f"leaf '{path}' has shape .*; the groups expect {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=said):
        cut(wrong, groups, keeps)
    with pytest.raises(ValueError, match=r"a leaf 'more/.*' that the groups do not know"):
        cut({"more": variables}, groups, keeps)
    with pytest.raises(ValueError, match=f"the tree lacks leaf '{path}'"):
        cut(changed(lambda leaf: None), groups, keeps)
    with pytest.raises(ValueError, match=f"leaf '{path}' has shape"):
        resized(apply, variables, groups, keeps)(variables, *inputs)  # not cut yet
    with pytest.raises(ValueError, match=f"leaf '{path}' has shape"):
        resized(apply, cut(variables, groups, keeps), groups, keeps)  # cut already


# Inputs, and variables that are called like them


def layers(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def test_inputs_come_whole_or_cut_and_in_no_other_size(x64):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(10, 6)), "b": rng.normal(size=(6, 2))}
    x, keep = rng.normal(size=(3, 10)), np.array([1, 3, 8, 9])
    groups = find_groups(layers, params, x)
    small = cut(params, groups, {"input": keep})
    run = resized(layers, params, groups, {"input": keep})
    wanted = np.tanh(x[:, keep] @ params["a"][keep]) @ params["b"]
    np.testing.assert_allclose(run(small, x), wanted, rtol=1e-12)
    np.testing.assert_allclose(run(small, x[:, keep]), wanted, rtol=1e-12)
    below = find_groups(lambda v, x: layers(v["params"], x), {"params": params}, x).at("params")
    of_part = resized(layers, params, below, {"input": keep})
    for data in (x, x[:, keep]):
        np.testing.assert_allclose(of_part(small, data), wanted, rtol=1e-12)
    for wrong in (x[:, :6], x[:, :3], np.tile(x, 2), x[0], x[None]):
        said = f"input 'inputs/0' has shape {wrong.shape}; allowed on axis 1 of 2: 10 (whole) or 4"
        with pytest.raises(ValueError, match=re.escape(said)):
            run(small, wrong)


def test_a_layer_called_inputs_is_a_layer(x64):
    """In a plain tree, where its path begins like that of an input, and below `params`."""

    def apply(params, x):
        return jnp.tanh(x @ params["inputs"]["w"] + params["inputs"]["bias"]) @ params["b"]

    rng = np.random.default_rng(0)
    params = {"inputs": {"w": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)},
              "b": rng.normal(size=(6, 2))}  # fmt: skip
    x, keep, tx = rng.normal(size=(5, 4)), np.array([0, 2, 5]), optax.adam(1e-3)
    groups = find_groups(apply, params, x)
    assert list(groups) == ["input", "inputs"] == list(groups.prunable)
    members = {(m.path, m.axis): m.role for m in groups["input"].members}
    assert members == {("inputs/0", 1): "data", ("inputs/w", 0): "in"}
    assert Parameters(1).measure(groups, {}) == parameter_count(groups, {}, "") == 24 + 6 + 12
    assert "given by   inputs/0[1]" in groups.describe()
    keeps = {"inputs": keep}
    small = cut(params, groups, keeps)
    masked = {**params, "b": params["b"] * np.isin(np.arange(6), keep)[:, None]}
    np.testing.assert_allclose(apply(small, x), apply(masked, x), rtol=1e-12)
    mask = np.isin(np.arange(6), keep) * 1.0
    out = gated(apply, groups)(params, {"inputs": mask}, x)
    np.testing.assert_allclose(out, apply(masked, x), rtol=1e-12)
    np.testing.assert_allclose(
        resized(apply, params, groups, keeps)(small, x), apply(masked, x), rtol=1e-12
    )
    with pytest.raises(ValueError, match="the tree lacks leaf 'inputs/"):
        cut({"b": params["b"]}, groups, keeps)
    tree, below = {"params": params}, find_groups(lambda v, x: apply(v["params"], x),
                                                  {"params": params}, x)  # fmt: skip
    for known, of_tree, part in ((below, tree, "params"), (groups, params, "inputs")):
        less = cut(of_tree[part], known.at(part), keeps)
        chex.assert_trees_all_equal(less, cut(of_tree, known, keeps)[part])
        state = cut_optimizer(tx, tx.init(of_tree[part]), of_tree[part], known.at(part), keeps)
        assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, tx.init(less))


def test_a_linen_module_called_inputs_is_cut_below_params():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(6, name="inputs")(x)))

    net, x = Net(), np.ones((5, 4), np.float32)
    variables = net.init(jax.random.key(0), x)
    groups, keeps = find_groups(net.apply, variables, x), {"inputs": np.arange(3)}
    small = cut(variables["params"], groups.at("params"), keeps)
    chex.assert_trees_all_equal(small, cut(variables, groups, keeps)["params"])
    assert small["inputs"]["bias"].shape == (3,)
