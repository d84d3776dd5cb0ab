"""The finished network computes what the gated and pruned one does, its gates in its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import dynhp_jax as dp
from dynhp_jax.export import runs
from dynhp_jax.training.fit import result_of


class Convolutions(nn.Module):
    """Everything that a gate can stand before: BatchNorm, ReLU, pooling, depthwise, flatten."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.tanh(nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x))
        x = nn.Conv(5, (3, 3), strides=2, name="second")(x)
        x = nn.gelu(x).reshape(len(x), -1)
        return nn.Dense(3, name="output")(nn.relu(nn.Dense(7, name="hidden")(x)))


def tied(params, tokens):
    """Words are looked up in the matrix that also reads the hidden units."""
    x = params["words"][tokens]
    x = x + jnp.tanh(x @ params["in"]) @ params["out"]
    return x @ params["words"].T


def attention(params, x):
    q, k, v = (x @ params[name] for name in ("q", "k", "v"))
    return jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k)) @ v @ params["merge"]


def perturbed(variables):
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(3)
    return tree.unflatten(
        [each + jnp.asarray(rng.uniform(0.1, 0.5, each.shape), each.dtype) for each in leaves]
    )


def of_shapes(**shapes):
    return perturbed({name: jnp.zeros(shape) for name, shape in shapes.items()})


IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 9, (3, 5))
ROWS = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
CASES = {  # function, variables, inputs, groups whose gates stay outside of the weights
    "convolutions": (
        Convolutions().apply,
        perturbed(Convolutions().init(jax.random.key(0), IMAGES)),
        IMAGES,
        set(),
    ),
    "tied": (tied, of_shapes(words=(9, 4), **{"in": (4, 6), "out": (6, 4)}), TOKENS, {"words"}),
    "attention": (
        attention,
        of_shapes(q=(4, 3), k=(4, 3), v=(4, 3), merge=(3, 2)),
        ROWS,
        {"q"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gates_are_in_the_weights_where_that_is_exact(case):
    apply, variables, inputs, outside = CASES[case]
    groups = dp.find_groups(apply, variables, inputs)
    rng = np.random.default_rng(1)
    names = groups.computed
    keeps = {
        name: np.sort(rng.permutation(groups[name].size)[: groups[name].size - 1]) for name in names
    }
    gates = {name: rng.uniform(0.3, 1.5, groups[name].size).astype(np.float32) for name in names}
    found = dp.export.finish(apply, variables, groups, keeps, gates)
    masked = {n: np.where(np.isin(np.arange(groups[n].size), keeps[n]), gates[n], 0) for n in names}
    wanted = dp.gated(apply, groups)(variables, masked, inputs)
    np.testing.assert_allclose(found(inputs), wanted, rtol=2e-5, atol=2e-5)
    assert set(found.gates) == outside
    assert found.parameters < sum(map(jnp.size, jax.tree.leaves(variables)))


def test_units_behind_closed_gates_go_and_unread_inputs_are_named():
    params = of_shapes(a=(4, 3), b=(3, 2))
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    x = ROWS[:, 0]
    groups = dp.find_groups(apply, params, x)
    gates = {"input": np.float32([0, 2, 1, 0]), "a": np.float32([1, 0, 0.5])}
    found = dp.export.finish(apply, params, groups, gates=gates)
    assert {at: kept.tolist() for at, kept in found.inputs.items()} == {("inputs/0", 1): [1, 2]}
    assert (found.variables["a"].shape, found.gates) == ((2, 2), {})
    wanted = np.maximum(x * gates["input"] @ np.asarray(params["a"]), 0) * gates["a"]
    np.testing.assert_allclose(found(x), wanted @ np.asarray(params["b"]), rtol=1e-5)


def test_gates_of_another_size_are_refused():
    apply, variables, inputs, _ = CASES["attention"]
    groups = dp.find_groups(apply, variables, inputs)
    with pytest.raises(ValueError, match="group 'v' have shape .*; allowed: .3,., one for each"):
        dp.export.finish(apply, variables, groups, gates={"v": np.ones(7)})


def test_the_network_of_a_run_has_the_sizes_that_its_last_record_says(finished):
    workdir, _ = finished
    found = dp.export.load(workdir)
    trainer, run = runs.reopened(workdir)
    units = runs.Workdir(workdir).records()[-1]["units"]
    assert found.spec.widths == (*units.values(), 10)
    assert found.gates == {}
    result = result_of(trainer, run, [])
    x = np.random.default_rng(0).uniform(size=(9, 64)).astype(np.float32)
    np.testing.assert_allclose(found(x), result.apply(result.variables, x), rtol=1e-5, atol=1e-5)
    # The module itself, on the inputs that are read.
    ((at, kept),) = found.inputs.items()
    assert at == ("inputs/0", 1)
    alone = found.spec.module().apply(found.variables, x[:, kept])
    np.testing.assert_allclose(alone, found(x), rtol=1e-5, atol=1e-5)
    assert dp.export.load(result).parameters == found.parameters


def test_a_directory_without_a_run_is_said_in_a_line(tmp_path):
    with pytest.raises(dp.UserError, match="holds no run"):
        dp.export.load(tmp_path)
