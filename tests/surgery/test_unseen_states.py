"""Optimizer states that nobody has seen before: cut where they mirror parameters, else refused."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_nets import KEEPS, assert_equal_trees, network

from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.optimizer import cut_optimizer, map_like_params

pytestmark = pytest.mark.usefixtures("x64")


def test_a_state_kept_parameter_by_parameter_is_not_mixed_up():
    """Pairs per parameter, in a list of two parameters of one shape: places and shapes mislead."""

    def init(params):
        return [(jnp.zeros_like(p), jnp.zeros_like(p)) for p in params]

    tx = optax.GradientTransformation(init, None)
    params = [jnp.zeros((4, 3)), jnp.zeros((4, 3))]
    state = [
        tuple(jnp.arange(12.0).reshape(4, 3) + 100 * i + 1000 * j for j in (0, 1)) for i in (0, 1)
    ]
    plan = [lambda leaf: leaf[jnp.array([0, 2])], lambda leaf: leaf[jnp.array([1, 3])]]
    cut = map_like_params(tx, state, params, plan)
    for i in (0, 1):
        for j in (0, 1):
            np.testing.assert_array_equal(cut[i][j], plan[i](state[i][j]))


class FlatState(NamedTuple):
    buffer: jax.Array


def test_a_flattened_state_is_refused_by_name():
    params, _, _, groups = network()
    tx = optax.GradientTransformation(
        lambda p: FlatState(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(p)])), None
    )
    with pytest.raises(ValueError, match=r"^FlatState.buffer has shape \[107\].*cannot be cut"):
        cut_optimizer(tx, tx.init(params), params, groups, KEEPS)


def square_state(array):
    """A state for the square kernel between two hidden layers alone."""
    return optax.GradientTransformation(lambda params: {"b": array(params["b"])}, None)


@pytest.mark.parametrize(
    "array",
    [
        lambda w: jnp.zeros(w.shape[:1] * 2),
        lambda w: jnp.zeros(w.shape[1:] * 2),
        lambda w: w.T,
    ],
    ids=["left Kronecker factor", "right Kronecker factor", "transposed copy"],
)
def test_another_array_of_a_square_kernel_is_not_taken_for_its_mirror(array):
    """Cut on both axes by equally much: every size of these is one of the kernel's own."""
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    groups = find_groups(
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], params, jnp.ones((2, 3))
    )
    keeps = {"a": np.array([0, 1]), "b": np.array([1, 3])}
    tx = square_state(array)
    with pytest.raises(ValueError, match=r"for parameter 'b' has shape \[4, 4\].*cannot be cut"):
        cut_optimizer(tx, tx.init(params), params, groups, keeps)
    mirror = square_state(jnp.zeros_like)
    state = {"b": jnp.arange(16.0).reshape(4, 4)}
    found = cut_optimizer(mirror, state, params, groups, keeps)["b"]
    np.testing.assert_array_equal(found, [[1, 3], [5, 7]])


def test_a_concatenation_is_not_taken_for_a_longer_parameter():
    params = {"one": jnp.zeros(4), "other": jnp.zeros(4), "both": jnp.zeros(8)}
    tx = optax.GradientTransformation(lambda p: jnp.concatenate([p["one"], p["other"]]), None)
    for left in (lambda b: b[::2], lambda b: b[:6]):  # as much less as the two together, as one
        plan = {"one": lambda b: b[:2], "other": lambda b: b[:2], "both": left}
        with pytest.raises(ValueError, match=r"has shape \[8\].*cannot be cut"):
            map_like_params(tx, jnp.arange(8.0), params, plan)


def test_flattened_copies_in_padded_blocks_are_refused():
    """A block holds both the whole and the cut kernel: its shape follows neither."""

    def blocks(leaf):
        return jnp.pad(leaf.ravel(), (0, -leaf.size % 256)).reshape(-1, 256)

    params, _, _, groups = network()
    tx = optax.GradientTransformation(lambda p: FlatState(jax.tree.map(blocks, p)), None)
    message = r"^FlatState.buffer for parameter 'a/bias' has shape \[1, 256\].*cannot be cut"
    with pytest.raises(ValueError, match=message):
        cut_optimizer(tx, tx.init(params), params, groups, KEEPS)


def test_thresholds_that_the_cut_does_not_cross_do_not_matter():
    """Adafactor factors from 128 on: neither 120 nor 100, and whichever parameter it is."""
    params = {f"w{i}": jnp.zeros((120, 120)) for i in range(12)}
    tx = optax.adafactor(0.01)
    for name in ("w0", "w11"):
        plan = dict.fromkeys(params) | {name: lambda w: w[:, :100]}
        state = map_like_params(tx, tx.init(params), params, plan)
        assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.size > 1].count(
            (120, 100)
        ) == 1


@jax.tree_util.register_pytree_node_class
class Opaque:
    """A node that cannot be indexed."""

    def __init__(self, inside):
        self.inside = inside

    def tree_flatten(self):
        return (self.inside,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_nodes_of_any_class_are_cut_or_refused_by_place():
    params, _, _, groups = network()
    tx = optax.GradientTransformation(lambda p: Opaque(jax.tree.map(jnp.copy, p)), None)
    small = cut_optimizer(tx, tx.init(params), params, groups, KEEPS)
    assert_equal_trees(small.inside, cut(params, groups, KEEPS), rtol=0)
    flat = optax.GradientTransformation(
        lambda p: Opaque(FlatState(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(p)]))),
        None,
    )
    with pytest.raises(ValueError, match=r"^FlatState.buffer has shape \[107\]"):
        cut_optimizer(flat, flat.init(params), params, groups, KEEPS)


def test_a_prng_key_for_every_number_is_cut_with_it():
    params, _, _, groups = network()

    def keys(leaf):
        return jax.random.split(jax.random.key(leaf.size), leaf.shape)

    tx = optax.GradientTransformation(lambda p: jax.tree.map(keys, p), None)
    state = tx.init(params)
    small = cut_optimizer(tx, state, params, groups, KEEPS)
    data = jax.tree.map(lambda each: jax.random.key_data(each)[..., 0], (state, small))
    assert_equal_trees(cut(data[0], groups, KEEPS), data[1], rtol=0)


@pytest.mark.parametrize(
    ("tx", "culprit"),
    [
        (optax.adafactor(0.01, min_dim_size_to_factor=2), "FactoredState.v_row for parameter 'a/"),
        (optax.sm3(0.01), "ScaleBySM3State.mu"),
        (optax.lbfgs(), "ScaleByLBFGSState.diff_params_memory for parameter 'a/bias'"),
    ],
)
def test_states_of_other_shapes_are_refused_by_name_with_a_remedy(tx, culprit):
    params, _, _, groups = network()
    with pytest.raises(ValueError) as error:
        cut_optimizer(tx, tx.init(params), params, groups, KEEPS)
    message = str(error.value)
    assert message.startswith(culprit)
    assert "cannot be cut; use an optimizer" in message and "\n" not in message


def test_factored_states_are_refused_when_the_cut_crosses_the_threshold():
    params = {"w": jnp.zeros((140, 140))}
    tx = optax.adafactor(0.01)  # factors from 128 on: 140 x 120 is not factored any more
    with pytest.raises(ValueError, match="^FactoredState.v"):
        map_like_params(tx, tx.init(params), params, {"w": lambda w: w[:, :120]})


def test_structure_that_depends_on_sizes_is_refused():
    params = {"w": jnp.zeros((10, 4)), "v": jnp.zeros(4)}
    tx = optax.masked(optax.adam(0.01), lambda p: {k: v.size >= 20 for k, v in p.items()})
    plan = {"w": lambda w: w[:3], "v": None}
    with pytest.raises(ValueError, match=r"ScaleByAdamState.mu for parameter 'w' is .*sizes"):
        map_like_params(tx, tx.init(params), params, plan)


def test_an_init_that_knows_its_sizes_is_refused():
    params, _, _, groups = network()
    tx = optax.GradientTransformation(lambda p: p["a"]["bias"] + jnp.zeros(7), None)
    with pytest.raises(ValueError, match="tx.init could not be traced for parameters of other"):
        cut_optimizer(tx, tx.init(params), params, groups, KEEPS)


def test_a_state_of_another_optimizer_or_network_is_refused():
    params, _, _, groups = network()
    tx = optax.adam(0.01)
    with pytest.raises(ValueError, match=r"^ScaleByAdamState.count is missing; this is no state"):
        cut_optimizer(tx, optax.sgd(0.1, momentum=0.9).init(params), params, groups, KEEPS)
    other = tx.init(cut(params, groups, KEEPS))
    with pytest.raises(
        ValueError, match=r"^ScaleByAdamState.mu for parameter 'a/bias' is float64\[4\], expected"
    ):
        cut_optimizer(tx, other, params, groups, KEEPS)
    as_lists = jax.tree.unflatten(
        jax.tree.structure(jax.tree.leaves(tx.init(params))), jax.tree.leaves(tx.init(params))
    )
    with pytest.raises(ValueError, match="restored into the structure"):
        cut_optimizer(tx, as_lists, params, groups, KEEPS)


def test_parameters_that_the_groups_do_not_know_and_bad_keeps_are_refused():
    params, _, _, groups = network()
    tx = optax.adam(0.01)
    wrapped = {"params": params}
    with pytest.raises(ValueError, match="'params/a/bias'.*groups.at"):
        cut_optimizer(tx, tx.init(wrapped), wrapped, groups, KEEPS)
    with pytest.raises(ValueError, match="keep of group 'a' is empty"):
        cut_optimizer(tx, tx.init(params), params, groups, {"a": []})
    with pytest.raises(ValueError, match="no group 'z'"):
        cut_optimizer(tx, tx.init(params), params, groups, {"z": [0]})
