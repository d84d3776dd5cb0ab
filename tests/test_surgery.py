"""Surgery against NumPy: which positions stay, of which leaves; what is refused, and that it is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.groups import find_groups
from dynhp_jax.surgery import cut, plan, resized

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
    jax.tree.map(np.testing.assert_array_equal, twice, once)
    assert smaller.shrunk(second).shapes == groups.shrunk(at_once).shapes


@pytest.mark.parametrize("name", CUTTABLE)
def test_keeping_all_or_naming_none_changes_nothing(models, name):
    apply, variables, inputs, _, groups = models[name]
    every = {group: np.arange(groups[group].size) for group in groups.prunable}
    for keeps in ({}, every):
        jax.tree.map(np.testing.assert_array_equal, cut(variables, groups, keeps), variables)
        assert plan(groups, keeps) == {}
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
        jax.tree.map(np.testing.assert_array_equal, cut(tree, groups, keeps), inside)


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
@pytest.mark.parametrize("how", ["cut", "plan", "resized", "shrunk"])
def test_keeps_that_are_not_allowed_are_refused_by_all(models, keep, said, how):
    apply, variables, _, _, groups = models["mlp"]
    group = groups.prunable[-1]
    before = jax.tree.map(np.copy, variables)
    keeps = {groups.prunable[0]: np.array([0]), group: np.asarray(keep)}
    actions = {
        "cut": lambda: cut(variables, groups, keeps),
        "plan": lambda: plan(groups, keeps),
        "resized": lambda: resized(apply, variables, groups, keeps),
        "shrunk": lambda: groups.shrunk(keeps),
    }
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        actions[how]()
    assert repr(group) in str(error.value) and "\n" not in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


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
