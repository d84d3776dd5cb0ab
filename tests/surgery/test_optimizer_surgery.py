"""Cut optimizer states against the slices of the masked network's, for every family of optimizer.

The network is a small perceptron in float64 whose inputs and hidden units are cut. "Masked" is the
uncut network whose dead slices are multiplied by zero inside the loss, so that their gradients are
zero; it goes on training beside the cut one, and every array of both must stay equal.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optax import contrib
from optimizer_nets import KEEPS, alive, assert_equal_trees, network, stepper

from dynhp_jax.surgery.cut import axis_cuts, cut
from dynhp_jax.surgery.optimizer import cut_optimizer

pytestmark = pytest.mark.usefixtures("x64")


def is_kernel(params):
    """A mask as flax users write it: from the parameters' paths, dictionaries expected."""
    return {name: {leaf: leaf == "kernel" for leaf in layer} for name, layer in params.items()}


def by_layer(params):
    return {name: dict.fromkeys(layer.keys(), name) for name, layer in params.items()}


FIXED_MASK = {name: {"kernel": True, "bias": name != "b"} for name in "abc"}
WARM = optax.warmup_cosine_decay_schedule(0.0, 0.05, 2, 20)

# Further updates are exact whatever the dead slices of parameters and moments hold.
ELEMENTWISE = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.01),
    "adam with bfloat16 moments": optax.adam(0.01, mu_dtype=jnp.bfloat16),
    "amsgrad": optax.amsgrad(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "adamw, mask of paths": optax.adamw(0.01, weight_decay=0.1, mask=is_kernel),
    "adamw, fixed mask": optax.adamw(0.01, weight_decay=0.1, mask=FIXED_MASK),
    "nadam": optax.nadam(0.01),
    "lion": optax.lion(0.01, weight_decay=0.1),
    "rmsprop": optax.rmsprop(0.01, momentum=0.9),
    "rmsprop, centred": optax.rmsprop(0.01, centered=True),
    "adagrad": optax.adagrad(0.1),
    "adadelta": optax.adadelta(0.1),
    "yogi": optax.yogi(0.01),
    "adan": optax.adan(0.01),
    "schedule": optax.adam(WARM),
    "chain": optax.chain(
        optax.add_decayed_weights(0.01), optax.trace(0.9), optax.scale_by_schedule(WARM)
    ),
    "named chain": optax.named_chain(("adam", optax.scale_by_adam()), ("lr", optax.scale(-0.01))),
    "elementwise clipping": optax.chain(optax.clip(0.05), optax.adam(0.01)),
    "average of updates": optax.chain(optax.adam(0.01), optax.ema(0.9)),
    "masked": optax.masked(optax.adam(0.01), is_kernel),
    "masked, fixed": optax.masked(optax.sgd(0.1, momentum=0.9), FIXED_MASK),
    "partition": optax.partition(
        {"a": optax.adam(0.01), "b": optax.set_to_zero(), "c": optax.sgd(0.1, momentum=0.9)},
        by_layer,
    ),
    "multi-steps": optax.MultiSteps(optax.adam(0.01), every_k_schedule=2),
    "injected": optax.inject_hyperparams(optax.adamw)(learning_rate=WARM, weight_decay=0.1),
    "schedule-free": contrib.schedule_free_adamw(0.01),
    "schedule-free sgd": contrib.schedule_free_sgd(0.1),
    "finite only": optax.apply_if_finite(optax.adam(0.01), 3),
    "lookahead": optax.lookahead(optax.adam(0.01), sync_period=2, slow_step_size=0.5),
    # Norms of gradients alone: dead gradients are zero, so nothing dead enters.
    "clipping by global norm": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01)),
    "novograd": optax.novograd(0.01),
}
# Norms of parameters or updates: exact if the dead slices are zero there too.
NORMS = {
    "lamb": optax.lamb(0.01, weight_decay=0.1),
    "lars": optax.lars(0.1, momentum=0.9),
    "fromage": optax.fromage(0.01),
    "adaptive clipping": optax.chain(optax.adaptive_grad_clip(0.05), optax.adam(0.01)),
    "prodigy": contrib.prodigy(1.0),
}


def cut_params(params, groups):
    if isinstance(params, optax.LookaheadParams):
        return optax.LookaheadParams(*(cut(tree, groups, KEEPS) for tree in params))
    return cut(params, groups, KEEPS)


def largest_gap_after_cut(tx, name, zero_dead):
    """Trains, cuts, goes on with the masked and the cut network; checks states, returns the gap.

    `zero_dead`: the units were dead from the start and their slices are zero everywhere; otherwise
    they have learned first, and parameters and moments still hold what they learned.
    """
    params, x, y, groups = network()
    mask = alive(params, groups)
    if zero_dead:
        params = jax.tree.map(jnp.multiply, params, mask)
    if name == "lookahead":
        params = optax.LookaheadParams.init_synced(params)
    state = tx.init(params)
    step = stepper(tx, x, y)
    for _ in range(3):  # odd: multi-steps is cut in the middle of an accumulation
        params, state = step(params, state, mask if zero_dead else None)

    small, small_state = cut_params(params, groups), cut_optimizer(tx, state, params, groups, KEEPS)
    fresh = jax.eval_shape(tx.init, small)
    assert jax.tree.structure(small_state) == jax.tree.structure(fresh)
    for got, wanted in zip(jax.tree.leaves(small_state), jax.tree.leaves(fresh), strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    exact_slices(state, small_state, groups)

    small_step = stepper(tx, x[:, KEEPS["input"]], y)
    gap = 0.0
    for _ in range(3):
        params, state = step(params, state, mask)
        small, small_state = small_step(small, small_state)
        expected = cut_params(params, groups)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(small), strict=True):
            gap = max(gap, float(jnp.max(jnp.abs(a - b))))
    if gap < 1e-12:
        again = cut_optimizer(tx, state, params, groups, KEEPS)
        assert_equal_trees(again, small_state, rtol=1e-10)
    return gap


def exact_slices(state, small_state, groups):
    """Every array of the cut state is the slice that its parameter's name and shape ask for.

    Read off the paths, in another way than the code does: in all these states the copy of a
    parameter lies under the parameter's own path.
    """
    cuts = axis_cuts(groups, KEEPS)
    checked = 0
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(small_state), strict=True
    ):
        name = "/".join(str(getattr(key, "key", "")) for key in path[-2:])
        if name in cuts and jnp.shape(old) == groups.shapes[name]:
            old = np.asarray(old)
            for axis, positions in cuts[name]:
                old = old.take(positions, axis)
            checked += 1
        np.testing.assert_array_equal(old, new, err_msg=str(path))
    return checked


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_cut_goes_on_as_masked_whatever_the_dead_slices_hold(name):
    tolerance = 2e-4 if "bfloat16" in name else 1e-12
    assert largest_gap_after_cut(ELEMENTWISE[name], name, zero_dead=False) < tolerance


@pytest.mark.parametrize("name", NORMS)
def test_cut_goes_on_as_masked_where_norms_see_only_zeros(name):
    assert largest_gap_after_cut(NORMS[name], name, zero_dead=True) < 1e-12


@pytest.mark.parametrize("name", ["lamb", "lars", "adaptive clipping"])
def test_norms_of_dead_weights_do_make_a_difference(name):
    """The docstring's warning: without zeros in the dead slices these differ."""
    assert largest_gap_after_cut(NORMS[name], name, zero_dead=False) > 1e-6


def test_means_over_elements_are_cut_but_go_on_differently():
    tx = optax.chain(optax.clip_by_block_rms(0.01), optax.adam(0.01))
    assert largest_gap_after_cut(tx, "", zero_dead=True) > 1e-6


def test_moments_are_really_cut():
    params, x, y, groups = network()
    tx = optax.adam(0.01)
    _, state = stepper(tx, x, y)(params, tx.init(params))
    small = cut_optimizer(tx, state, params, groups, KEEPS)
    assert exact_slices(state, small, groups) == 2 * 5  # two moments of all but the last bias
    kernel = np.asarray(state[0].mu["b"]["kernel"])[[0, 2, 3, 6]][:, [1, 2, 4]]
    np.testing.assert_array_equal(small[0].mu["b"]["kernel"], kernel)
    assert small[0].count == 1


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_cutting_twice_is_cutting_once_with_the_composed_keep(data):
    with jax.enable_x64(True):
        params, x, y, groups = network()
        tx = optax.adam(0.01)
        params, state = stepper(tx, x, y)(params, tx.init(params))
        indices = st.integers(2, 5).flatmap(
            lambda n: st.lists(st.integers(0, 4), min_size=n, max_size=n, unique=True)
        )
        first = {"b": np.array(sorted(data.draw(indices)))}
        second = {"b": np.flatnonzero(np.arange(len(first["b"])) % 2 == 0), "a": np.array([1, 4])}
        composed = {"b": first["b"][second["b"]], "a": second["a"]}
        once = cut_optimizer(tx, state, params, groups, composed)
        half_params = cut(params, groups, first)
        half = cut_optimizer(tx, state, params, groups, first)
        twice = cut_optimizer(tx, half, half_params, groups.shrunk(first), second)
        assert_equal_trees(once, twice, rtol=0)


def test_keeping_everything_changes_nothing():
    params, x, y, groups = network()
    tx = optax.adamw(0.01)
    _, state = stepper(tx, x, y)(params, tx.init(params))
    assert_equal_trees(cut_optimizer(tx, state, params, groups, {}), state, rtol=0)
