"""Gates against NumPy, against masked and cut models, and under jax's transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax import lax

from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

PER_EXAMPLE = ("mlp", "conv_flatten_dense", "residual_block", "concatenated_features",
               "grouped_convolution", "depthwise_separable", "gated_linear_unit")  # fmt: skip


def built(name):
    """(apply, variables, inputs, groups) in float64 if that is on."""
    apply, variables, inputs, _ = zoo.build(name)
    return apply, variables, inputs, find_groups(apply, variables, *inputs)


def drawn(groups, batch=None, low=0.2, high=1.5, seed=0):
    """Gates of every group that can be pruned: [units], or [batch, units]."""
    rng = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    return {g: rng.uniform(low, high, (*lead, groups[g].size)) for g in groups.prunable}


def mlp_by_hand(params, gates, x):
    """The zoo's mlp with every unit times its gate, in NumPy."""
    p = jax.tree.map(np.asarray, params["params"])
    h = np.maximum((x * gates["input"]) @ p["a"]["kernel"] + p["a"]["bias"], 0)
    h = np.tanh((h * gates["a"]) @ p["b"]["kernel"] + p["b"]["bias"])
    return (h * gates["b"]) @ p["c"]["kernel"] + p["c"]["bias"]


@pytest.mark.parametrize("batch", [None, 2])
def test_a_multilayer_perceptron_is_what_numpy_computes(x64, batch):
    apply, variables, (x,), groups = built("mlp")
    gates = drawn(groups, batch)
    out = gated(apply, groups)(variables, gates, x)
    np.testing.assert_allclose(out, mlp_by_hand(variables, gates, x), rtol=1e-12)


@pytest.mark.parametrize("batch", [None, 2])
def test_channels_are_gated_at_every_place(x64, batch):
    """conv -> BatchNorm -> relu -> flatten -> dense: a channel is 16 rows of the dense kernel."""
    apply, variables, (x,), groups = built("conv_flatten_dense")
    gates = drawn(groups, batch)

    def hidden(p, x):
        return jax.nn.relu(zoo.batch_norm(zoo.conv(x, p["conv"]), p["bn"]))

    z = gates["input"] if batch is None else gates["input"][:, None, None, :]
    h = np.asarray(hidden(variables, x * z)).reshape(2, 16, 3)  # [batch, places, channels]
    z = gates["conv"] if batch is None else gates["conv"][:, None, :]
    wanted = (h * z).reshape(2, -1) @ variables["out"]
    out = gated(apply, groups)(variables, gates, x)
    np.testing.assert_allclose(out, wanted, rtol=1e-10)


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_gates_of_one_change_nothing(x64, name):
    apply, variables, inputs, groups = built(name)
    for batch in (None, len(inputs[0])):
        ones = drawn(groups, batch, 1.0, 1.0)
        out = gated(apply, groups)(variables, ones, *inputs)
        np.testing.assert_allclose(out, apply(variables, *inputs), rtol=1e-12)
    # As one program each; operation by operation XLA may choose others for a product.
    out = jax.jit(gated(apply, groups))(variables, {}, *inputs)
    np.testing.assert_array_equal(out, jax.jit(apply)(variables, *inputs))


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_closed_gates_are_absent_units(x64, name):
    apply, variables, inputs, groups = built(name)
    gates, keeps = drawn(groups), {}
    for group in groups.prunable:
        keeps[group] = np.arange(0, groups[group].size, 2)
        gates[group][1::2] = 0.0
    out = gated(apply, groups)(variables, gates, *inputs)
    smaller = groups.shrunk(keeps)
    left = {group: gates[group][keep] for group, keep in keeps.items()}
    small = gated(resized(apply, variables, groups, keeps), smaller)
    taken = [
        np.take(x, groups.positions(f"inputs/{k}", x.ndim - 1, keeps), -1)
        for k, x in enumerate(inputs)
    ]
    np.testing.assert_allclose(
        out, small(cut(variables, groups, keeps), left, *taken), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_each_example_has_its_own_gates(x64, name):
    """Example by example with shared gates gives the same as one call with gates for each."""
    apply, variables, inputs, groups = built(name)
    batch = len(inputs[0])
    gates = drawn(groups, batch)
    out = gated(apply, groups)(variables, gates, *inputs)
    for k in range(batch):
        own = {group: gate[k] for group, gate in gates.items()}
        alone = gated(apply, groups)(variables, own, *inputs)[k]
        np.testing.assert_allclose(out[k], alone, rtol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "residual_block"])
@pytest.mark.parametrize("each", [False, True])
def test_gradients_with_respect_to_gates_equal_finite_differences(x64, name, each):
    apply, variables, inputs, groups = built(name)
    gates = drawn(groups, len(inputs[0]) if each else None)

    @jax.jit
    def total(gates):
        return jnp.sum(gated(apply, groups)(variables, gates, *inputs) ** 2)

    gradient, step = jax.grad(total)(gates), 1e-6
    for group, gate in gates.items():
        for place in list(np.ndindex(gate.shape))[:6]:
            moved = [gate.copy(), gate.copy()]
            moved[0][place] += step
            moved[1][place] -= step
            up, down = (float(total({**gates, group: gate})) for gate in moved)
            slope = (up - down) / (2 * step)
            assert float(gradient[group][place]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_it_can_be_jitted_vmapped_and_gated_again(x64):
    apply, variables, (x,), groups = built("mlp")
    with_gates = gated(apply, groups)
    many = [drawn(groups, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *many)
    outs = jax.jit(jax.vmap(with_gates, in_axes=(None, 0, None)))(variables, stacked, x)
    for gates, out in zip(many, outs, strict=True):
        np.testing.assert_allclose(out, mlp_by_hand(variables, gates, x), rtol=1e-10)
    # Two gates on a unit multiply: inputs first, as the batch is theirs.
    inner = {"a": many[0]["a"]}
    twice = gated(lambda v, x: with_gates(v, inner, x), groups)
    out = twice(variables, many[1], x)
    product = {**many[1], "a": many[0]["a"] * many[1]["a"]}
    np.testing.assert_allclose(out, mlp_by_hand(variables, product, x), rtol=1e-10)


def test_the_dtype_of_the_model_stays():
    apply, variables, inputs, groups = built("mlp")
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (variables, inputs))
    gates = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(groups))
    assert gated(apply, groups)(half[0], gates, *half[1]).dtype == jnp.bfloat16


def test_a_python_number_among_the_variables_takes_on_their_dtype():
    apply, variables, inputs, _ = built("mlp")
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (variables, inputs))
    scaled, whole = (lambda v, x: apply(v[0], x) * v[1]), (half[0], 2.0)
    groups = find_groups(scaled, whole, *half[1])
    wanted = scaled(whole, *half[1])
    same = gated(scaled, groups)(whole, {}, *half[1])
    uncut = resized(scaled, whole, groups, {})(whole, *half[1])
    assert wanted.dtype == same.dtype == uncut.dtype == jnp.bfloat16
    np.testing.assert_array_equal(same, wanted)
    np.testing.assert_array_equal(uncut, wanted)


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"hidden": np.ones(4)}, "no group 'hidden'"),
        ({"a": np.ones(3)}, r"gate of group 'a' has shape \(3,\); allowed: \(4,\) or \(batch, 4\)"),
        ({"a": np.ones((2, 2, 4))}, r"gate of group 'a' has shape \(2, 2, 4\)"),
        ({"a": np.ones(())}, r"gate of group 'a' has shape \(\)"),
        ({"a": np.ones((3, 4))}, "gate of group 'a' is for 3 examples; the first input has 2"),
        ({"a": np.ones((1, 4))}, "gate of group 'a' is for 1 examples; the first input has 2"),
    ],
)
def test_gates_that_do_not_fit_are_refused(gates, said):
    apply, variables, inputs, groups = built("mlp")
    with pytest.raises(ValueError, match=said) as error:
        gated(apply, groups)(variables, gates, *inputs)
    assert "\n" not in str(error.value)


# Plain functions of x[16, 4], a[4, 6] and others


X = np.random.default_rng(1).normal(size=(16, 4))
PARAMS = {"a": np.random.default_rng(2).normal(size=(4, 6)),
          "b": np.random.default_rng(3).normal(size=(6, 2)),
          "w": np.random.default_rng(4).normal(size=6)}  # fmt: skip


def two_layers(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def quantised(a):
    return jnp.round(a * 20).astype(jnp.int8)


def in_integers(made):
    def apply(p, x):
        return lax.dot_general(
            quantised(jnp.tanh(x @ p["a"])), quantised(p["b"]), (((1,), (0,)), ((), ())),
            preferred_element_type=made,
        ).astype(jnp.float64)  # fmt: skip

    return apply


def test_gates_are_not_rounded_to_integers(x64):
    apply = in_integers(jnp.int32)
    groups = find_groups(apply, PARAMS, X)
    assert "a" in groups.prunable
    with pytest.raises(ValueError, match="group 'a' is read by 'dot_general' in int8") as error:
        gated(apply, groups)(PARAMS, {"a": np.full(6, 0.9)}, X)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch", [None, 16])
def test_integers_that_are_multiplied_as_floats_are_gated_as_floats(x64, batch):
    apply = in_integers(jnp.float32)
    gate = drawn(groups := find_groups(apply, PARAMS, X), batch)["a"]
    left, right = (np.asarray(quantised(m), float) for m in (np.tanh(X @ PARAMS["a"]), PARAMS["b"]))
    out = gated(apply, groups)(PARAMS, {"a": gate}, X)
    np.testing.assert_allclose(out, (left * gate) @ right, rtol=1e-5, atol=1e-3)


def summed(p, x):  # [batch, 4] -> [batch]; a sum reads the units
    return jnp.sum(jnp.tanh(x @ p["a"]) * p["w"], -1)


def largest(p, x):
    return jnp.max(jnp.tanh(x @ p["a"]) * p["w"], -1)


def hidden(p, x):
    return jnp.tanh(x @ p["a"])


@pytest.mark.parametrize("batch", [None, 16])
def test_a_sum_over_units_is_gated_as_a_product_with_them_is(x64, batch):
    def both(p, x):
        return two_layers(p, x) + summed(p, x)[:, None]

    groups = find_groups(both, PARAMS, X)
    gates = drawn(groups, batch)
    hidden = np.tanh((X * gates["input"]) @ PARAMS["a"]) * gates["a"]
    wanted = hidden @ (PARAMS["b"] + PARAMS["w"][:, None])
    np.testing.assert_allclose(gated(both, groups)(PARAMS, gates, X), wanted, rtol=1e-12)
    alone = gated(summed, find_groups(summed, PARAMS, X))(PARAMS, gates, X)
    np.testing.assert_allclose(alone, hidden @ PARAMS["w"], rtol=1e-12)


@pytest.mark.parametrize(("found_on", "apply"), [(largest, largest), (two_layers, hidden),
                                                 (two_layers, largest)])  # fmt: skip
def test_a_gate_that_would_do_nothing_is_refused(x64, found_on, apply):
    groups = find_groups(found_on, PARAMS, X)
    said = "no matrix product or convolution reads the units of group 'a', and no exact sum.*leave"
    with pytest.raises(ValueError, match=said) as error:
        gated(apply, groups)(PARAMS, {"input": np.ones(4), "a": np.zeros(6)}, X)
    assert "\n" not in str(error.value)
    gated(apply, groups)(PARAMS, {"input": np.ones(4)}, X)


def test_gates_of_units_that_nothing_uses_do_no_harm(x64):
    """Columns that are sliced away, a head that is not returned: cutting them changes nothing."""

    def apply(p, x):
        h = jnp.tanh(x @ p["a"])
        return h[:, :4] @ p["b"][:4]

    def first_layer(p, x):
        return x.sum(1)

    groups = find_groups(apply, PARAMS, X)
    unread = [n for n in groups.prunable if {m.role for m in groups[n].members} == {"out"}]
    assert [groups[name].size for name in unread] == [2]
    closed = {name: np.zeros(2) for name in unread}
    np.testing.assert_array_equal(gated(apply, groups)(PARAMS, closed, X), apply(PARAMS, X))
    groups = find_groups(two_layers, PARAMS, X)
    out = gated(first_layer, groups)(PARAMS, {"a": np.zeros(6)}, X)
    np.testing.assert_array_equal(out, first_layer(PARAMS, X))


def test_variables_of_other_sizes_than_the_groups_are_refused():
    groups, keeps = find_groups(two_layers, PARAMS, X), {"a": np.arange(3)}
    small, smaller = cut(PARAMS, groups, keeps), groups.shrunk(keeps)
    cases = [
        (groups, small, np.ones(6), r"leaf 'a' has shape \(4, 3\); the groups expect \(4, 6\)"),
        (smaller, PARAMS, np.ones(3), r"leaf 'a' has shape \(4, 6\); the groups expect \(4, 3\)"),
    ]
    for known, variables, gate, said in cases:
        with pytest.raises(ValueError, match=said + r" \(after a cut, use groups.shrunk\(keeps"):
            gated(two_layers, known)(variables, {"a": gate}, X)
        with pytest.raises(ValueError, match=said):  # whichever group is gated
            gated(two_layers, known)(variables, {"input": np.ones(4)}, X)


def test_inputs_of_other_sizes_than_the_gated_groups_are_refused(x64):
    """A function that cuts its inputs itself takes them whole, but not with gates on them."""
    groups, keeps = find_groups(two_layers, PARAMS, X), {"input": np.array([1, 3])}
    small, smaller = cut(PARAMS, groups, keeps), groups.shrunk(keeps)
    run = gated(resized(two_layers, PARAMS, groups, keeps), smaller)
    gate = np.linspace(0.5, 1.0, 6)
    wanted = (np.tanh(X[:, [1, 3]] @ small["a"]) * gate) @ small["b"]
    for x in (X, X[:, [1, 3]]):
        np.testing.assert_allclose(run(small, {"a": gate}, x), wanted, rtol=1e-12)
    said = r"leaf 'inputs/0' has shape \(16, 4\); the groups expect \(16, 2\)"
    with pytest.raises(ValueError, match=said):
        run(small, {"input": np.ones(2)}, X)
