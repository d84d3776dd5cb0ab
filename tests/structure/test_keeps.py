"""Keeps and masks that know what they are, beside plain dictionaries."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynhp_jax as dp
from dynhp_jax.structure.counts import parameter_count


def apply(params, x):
    return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]


PARAMS = {name: np.random.default_rng(0).normal(size=shape).astype("f")
          for name, shape in {"a": (3, 8), "b": (8, 6), "c": (6, 2)}.items()}  # fmt: skip
X = jnp.ones((4, 3))
GROUPS = dp.find_groups(apply, PARAMS, X)
FIRST = dp.prune_to({"a": np.arange(8.0)}, GROUPS, dp.targets.Units(5 + 9)).keeps
LEFT = GROUPS.shrunk(FIRST)
THEN = dp.prune_to({"a": np.arange(5.0)}, LEFT, dp.targets.Units(3 + 9)).keeps
WHOLE = dp.compose(GROUPS, FIRST, THEN)
SMALL = dp.cut(PARAMS, GROUPS, FIRST)


def test_each_cut_takes_the_keeps_of_its_own_network():
    assert WHOLE["a"].tolist() == [5, 6, 7] and THEN["a"].tolist() == [2, 3, 4]
    twice = dp.cut(SMALL, LEFT, THEN)
    jax.tree.map(np.testing.assert_array_equal, twice, dp.cut(PARAMS, GROUPS, WHOLE))
    jax.tree.map(np.testing.assert_array_equal, twice, dp.cut(SMALL, LEFT, WHOLE.within(FIRST)))
    assert dp.cut(SMALL, LEFT, {"a": [0, 1]})["a"].shape == (3, 2), "plain dictionaries stay"


@pytest.mark.parametrize(
    ("call", "found", "here"),
    [
        (lambda: dp.cut(SMALL, LEFT, WHOLE), 8, 5),
        (lambda: dp.resized(apply, SMALL, LEFT, WHOLE), 8, 5),
        (lambda: dp.cut(PARAMS, GROUPS, THEN), 5, 8),
        (lambda: dp.rewind(PARAMS, GROUPS, THEN), 5, 8),
        (lambda: dp.compose(GROUPS, FIRST, WHOLE), 8, 5),
        (lambda: FIRST.then(WHOLE), 8, 5),
    ],
)
def test_keeps_of_another_network_are_refused_in_a_line(call, found, here):
    said = rf"keeps of group 'a' count among {found} units, here are {here}; pass keeps of these"
    with pytest.raises(ValueError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


INDICES = {"a": np.arange(8)}  # of all units, so that no shape tells


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: dp.cut(PARAMS, GROUPS, FIRST.masks()), "found masks, .* masks.keeps()"),
        (lambda: dp.cut(PARAMS, GROUPS, {"a": np.ones(8)}), "np.flatnonzero of a mask"),
        (lambda: dp.cut(PARAMS, GROUPS, {"a": np.ones(8, int)}), "zeros and ones, as a mask is"),
        (lambda: dp.gated(apply, GROUPS)(PARAMS, FIRST, X), "found keeps, gates .* keeps.masks()"),
        (lambda: parameter_count(GROUPS, FIRST, ""), "found keeps, masks are taken"),
        (lambda: parameter_count(GROUPS, INDICES, ""), "mask of group 'a' holds 7, as indices"),
        (lambda: dp.activity.keep_active({}, FIRST, 0.5), "found keeps, masks are taken"),
        (lambda: dp.prune_to(FIRST, GROUPS, dp.targets.Units(5)), "found keeps, scores are taken"),
    ],
)
def test_masks_and_keeps_are_not_taken_for_each_other(call, said):
    with pytest.raises(ValueError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_masks_are_gates_and_counts():
    masked = dp.gated(apply, GROUPS)(PARAMS, FIRST.masks(), X)
    np.testing.assert_allclose(masked, apply(SMALL, X), rtol=1e-5)
    left = sum(leaf.size for leaf in SMALL.values())
    assert parameter_count(GROUPS, FIRST.masks(), "") == left


@given(st.data())
def test_there_and_back(draw):
    size = draw.draw(st.integers(1, 30))
    alive = np.array(draw.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    first = dp.UnitMasks({"a": alive, "b": np.ones(3)}).keeps()
    np.testing.assert_array_equal(first.masks()["a"], alive)
    count = int(alive.sum())
    again = draw.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    then = dp.UnitMasks({"a": np.array(again, bool)}).keeps()
    both = first.then(then)
    np.testing.assert_array_equal(both["a"], np.arange(size)[alive][np.array(again, bool)])
    np.testing.assert_array_equal(both.within(first)["a"], then["a"])
    assert both.sizes == first.sizes and both["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("given", [WHOLE, WHOLE.masks()])
def test_they_are_pytrees_and_can_be_copied(given):
    for other in (
        jax.tree.map(lambda leaf: leaf, given),
        copy.copy(given),
        copy.deepcopy(given),
        pickle.loads(pickle.dumps(given)),
    ):
        assert type(other) is type(given) and vars(other) == vars(given)
        np.testing.assert_array_equal(other["a"], given["a"])
    paths = jax.tree_util.tree_leaves_with_path(given)
    assert [path for path, _ in paths] == [(jax.tree_util.DictKey("a"),)]
