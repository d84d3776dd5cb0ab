"""Gates against NumPy, against masked and cut models, and under jax's transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.surgery import cut, resized

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
    assert wanted.dtype == same.dtype == jnp.bfloat16
    np.testing.assert_array_equal(same, wanted)


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
