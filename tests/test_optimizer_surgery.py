"""Cut optimizer states against the slices of the masked network's, for every family of optimizer.

The network is a small perceptron in float64 whose inputs and hidden units are cut. "Masked" is the
uncut network whose dead slices are multiplied by zero inside the loss, so that their gradients are
zero; it goes on training beside the cut one, and every array of both must stay equal.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optax import contrib

from dynhp_jax import surgery
from dynhp_jax.groups import find_groups
from dynhp_jax.optimizer_surgery import cut_optimizer, map_like_params

WIDTHS = (6, 7, 5, 3)
KEEPS = {"input": np.array([0, 1, 3, 5]), "a": np.array([0, 2, 3, 6]), "b": np.array([1, 2, 4])}


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


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def apply(params, x):  # [batch, 6] -> [batch, 3]
    for name in "ab":
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["c"]["kernel"] + params["c"]["bias"]


def network(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        name: {
            "kernel": jnp.asarray(rng.normal(size=(i, o))),
            "bias": jnp.asarray(rng.normal(size=o)),
        }
        for name, i, o in zip("abc", WIDTHS[:-1], WIDTHS[1:], strict=True)
    }
    x, y = rng.normal(size=(9, WIDTHS[0])), rng.normal(size=(9, WIDTHS[-1]))
    return params, jnp.asarray(x), jnp.asarray(y), find_groups(apply, params, x)


def alive(params, groups):
    """Tree of 0/1: the numbers that survive KEEPS."""
    numbered = jax.tree.map(lambda p: jnp.arange(p.size).reshape(p.shape), params)
    kept = surgery.cut(numbered, groups, KEEPS)
    return jax.tree.map(lambda n, k: jnp.isin(n, k).astype(jnp.float64), numbered, kept)


@jax.jit
def gradient(params, mask, x, y):
    """Of a loss in which the parameters are multiplied by the mask; compiled once per size."""

    def loss(params):
        # tanh(0) = 0, so that a unit without inward weights and bias is silent
        return jnp.mean((apply(jax.tree.map(jnp.multiply, params, mask), x) - y) ** 2)

    return jax.grad(loss)(params)


def stepper(tx, x, y):
    """One update, compiled without optimisation: there are many optimizers and few numbers."""
    update = jax.jit(tx.update, compiler_options={"xla_backend_optimization_level": 0})

    def step(params, state, mask=None):
        fast = getattr(params, "fast", params)
        mask = jax.tree.map(jnp.ones_like, fast) if mask is None else mask
        updates, state = update(gradient(fast, mask, x, y), state, params)
        return optax.apply_updates(params, updates), state

    return step


def cut_params(params, groups):
    if isinstance(params, optax.LookaheadParams):
        return optax.LookaheadParams(*(surgery.cut(tree, groups, KEEPS) for tree in params))
    return surgery.cut(params, groups, KEEPS)


def assert_equal_trees(one, other, rtol):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        assert (jnp.shape(a), jnp.result_type(a)) == (jnp.shape(b), jnp.result_type(b)), path
        if rtol == 0:
            np.testing.assert_array_equal(a, b, err_msg=str(path))
        else:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=str(path))


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
    cuts = surgery.plan(groups, KEEPS)
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
        half_params = surgery.cut(params, groups, first)
        half = cut_optimizer(tx, state, params, groups, first)
        twice = cut_optimizer(tx, half, half_params, groups.shrunk(first), second)
        assert_equal_trees(once, twice, rtol=0)


def test_keeping_everything_changes_nothing():
    params, x, y, groups = network()
    tx = optax.adamw(0.01)
    _, state = stepper(tx, x, y)(params, tx.init(params))
    assert_equal_trees(cut_optimizer(tx, state, params, groups, {}), state, rtol=0)


# States of optimizers that nobody has seen before


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
    assert_equal_trees(small.inside, surgery.cut(params, groups, KEEPS), rtol=0)
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
    assert_equal_trees(surgery.cut(data[0], groups, KEEPS), data[1], rtol=0)


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
    other = tx.init(surgery.cut(params, groups, KEEPS))
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
