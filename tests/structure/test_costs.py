"""What units cost and what survives of a model, counted by its groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from dynhp_jax.common.tree_paths import InputPath
from dynhp_jax.structure.counts import alive_positions, fan_out, parameter_count, parameters_held
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

EVERY = sorted(zoo.MODELS)


@pytest.mark.parametrize("name", EVERY)
def test_the_cost_of_a_unit_is_what_a_cut_saves(name):
    (_, variables, _, _), groups = zoo.grouped(name)

    def numbers(tree):
        return sum(a.size for a in jax.tree.leaves(tree))

    for group in groups.values():  # one of each block, if there are blocks
        keep = np.flatnonzero(np.arange(group.size) % (group.size // group.blocks))
        small = cut(variables, groups, {group.name: keep})
        lost = group.blocks * group.parameters
        assert numbers(variables) - numbers(small) == pytest.approx(lost)
        assert group.bytes == pytest.approx(4 * group.parameters)


@pytest.mark.parametrize(
    "name",
    ["mlp", "conv_flatten_dense", "residual_block", "concatenated_features", "grouped_convolution",
     "depthwise_separable", "gated_linear_unit", "lstm"],
)  # fmt: skip
def test_costs_after_a_cut_are_those_of_the_cut_model(name):
    (apply, variables, inputs, _), groups = zoo.grouped(name)
    rng = np.random.default_rng(0)
    sizes = {g: groups[g].size for g in groups.prunable}
    keeps = {g: np.sort(rng.choice(n, max(2, n // 2), replace=False)) for g, n in sizes.items()}
    small = [np.take(x, groups.positions(f"inputs/{k}", x.ndim - 1, keeps), -1)
             for k, x in enumerate(inputs)]  # fmt: skip
    run = resized(apply, variables, groups, keeps)
    left = find_groups(run, cut(variables, groups, keeps), *small)
    told = groups.shrunk(keeps)
    assert list(left) == list(told)
    for group in left:
        for cost in ("parameters", "bytes", "flops"):
            wanted = getattr(left[group], cost)
            assert getattr(told[group], cost) == pytest.approx(wanted, rel=1e-9), (group, cost)


def test_costs_after_a_cut_by_hand():
    apply, variables, (x,), _ = zoo.build("mlp")  # 3-4-5 and outputs
    groups = find_groups(apply, variables, x)
    told = groups.shrunk({"input": np.array([1]), "b": np.array([0, 4])})
    assert (groups["a"].parameters, told["a"].parameters) == (3 + 1 + 5, 1 + 1 + 2)
    assert told["a"].flops == pytest.approx(2 * len(x) * (1 + 2))
    assert told.at("params/a")["a"].parameters == 1 + 1  # of its kernel and bias alone
    assert "a               4         4          16" in told.describe()


def test_flops_of_a_unit():
    apply, variables, (x,), _ = zoo.build("mlp")
    groups = find_groups(apply, variables, x)
    batch = len(x)
    assert groups["input"].flops == pytest.approx(2 * batch * 4)
    assert groups["a"].flops == pytest.approx(2 * batch * (3 + 5))
    apply, variables, (x,), _ = zoo.build("depthwise_separable")
    groups = find_groups(apply, variables, x)
    positions = 4 * 4 * len(x)
    assert groups["expand"].flops == pytest.approx(2 * positions * (2 + 9 + 3))
    apply, variables, (x,), _ = zoo.build("lstm")  # three steps
    groups = find_groups(apply, variables, x)
    one_less = 12 * 3 - 8 * 2  # the recurrent kernel of [3, 12] loses a row and four columns
    assert groups["in"].flops == pytest.approx(2 * len(x) * (3 * (2 * 4 + one_less) + 2))


# Counts


def drawn_mask(group, rng):
    """Some units, the first among them; of several blocks the second of each, or all."""
    if group.blocks == 1:
        return np.append(1.0, rng.integers(0, 2, group.size - 1))
    return np.arange(group.size) % (group.size // group.blocks) == 1.0


@pytest.mark.parametrize("name", EVERY)
def test_counts_of_what_survives(name):
    (_, variables, _, _), groups = zoo.grouped(name)
    rng = np.random.default_rng(3)
    alive = {name: drawn_mask(group, rng) for name, group in groups.items()}
    alive.pop(next(reversed(alive)))  # one that stays whole
    keeps = {g: np.flatnonzero(a) for g, a in alive.items()}
    small = zoo.leaves(cut(variables, groups, keeps))
    count = parameter_count(groups, alive, prefix="")
    assert float(count) == sum(a.size for a in small.values())
    reading = fan_out(groups, alive)
    left = groups.shrunk(keeps)
    for group in groups:
        expected = np.zeros(groups[group].size)
        kept = groups.check_keeps(keeps).get(group, np.arange(groups[group].size))
        for m in left[group].members:
            if m.role == "in":
                expected[kept] += (
                    small[m.path].size / small[m.path].shape[m.axis] * m.index.shape[1]
                )
        np.testing.assert_allclose(reading[group], expected)
    for path, shape in left.shapes.items():
        for axis, size in enumerate(shape):
            assert float(alive_positions(groups, path, axis, alive).sum()) == size


@pytest.mark.parametrize("name", EVERY)
def test_what_a_unit_holds_is_what_its_removal_saves(name):
    (_, variables, _, _), groups = zoo.grouped(name)
    rng = np.random.default_rng(4)
    alive = {g: np.append(1.0, rng.integers(0, 2, groups[g].size - 1)) for g in groups}
    for prefix in {"", next(iter(zoo.leaves(variables))).rpartition("/")[0]}:  # all, and a part
        before = parameter_count(groups, alive, prefix)
        held = parameters_held(groups, alive, prefix)
        for group in groups:
            unit = rng.choice(np.flatnonzero(alive[group]))
            dead = np.arange(groups[group].size) == unit
            less = {**alive, group: np.where(dead, 0.0, alive[group])}
            saved = before - parameter_count(groups, less, prefix)
            below = prefix + "/" if prefix else ""
            paths = [m.path for m in groups[group].members if m.path.startswith(below)]
            paths = [path for path in paths if not isinstance(path, InputPath)]
            if len(set(paths)) == len(paths):
                assert held[group][unit] == saved
            else:  # what lies between two of the unit's own positions counts for both
                assert saved < held[group][unit] <= 2 * saved
            assert (held[group][alive[group] == 0] == 0).all()


def test_fan_out_of_the_paper_s_network():
    """784-300-100-10: a pixel is read by 300 weights, the units by 100 and by 10."""

    def apply(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

    shapes = {"a": (784, 300), "b": (300, 100), "c": (100, 10)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
    groups = find_groups(apply, params, jax.ShapeDtypeStruct((8, 784), jnp.float32))
    counts = fan_out(groups, {})
    assert [float(counts[n][0]) for n in groups] == [300, 100, 10]
    fewer = fan_out(groups, {"b": jnp.arange(100) < 30})
    assert [float(fewer[n][0]) for n in groups] == [300, 30, 10]
    assert float(fewer["b"][99]) == 0


@pytest.mark.parametrize("take", [lambda w, i: w[i], lambda w, i: jnp.take(w, i, axis=0)])
def test_layers_that_a_loop_takes_by_its_counter_are_those_that_a_scan_passes(take):
    params = {"made": jnp.ones((4, 6)), "w": jnp.ones((3, 6, 6)), "read": jnp.ones((6, 2))}

    def counted(p, x):
        return jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ take(p["w"], i)), x @ p["made"])

    def scanned(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p["made"], p["w"])[0]

    def described(body):
        found = find_groups(lambda p, x: body(p, x) @ p["read"], params, jnp.ones((8, 4)))
        group = found["made"]
        roles = sorted((m.path, m.axis, m.role) for m in group.members)
        return roles, float(fan_out(found, {})["made"][0]), group.flops, group.parameters

    assert described(counted) == described(scanned)
    assert described(counted)[:2] == (
        [("made", 1, "out"), ("read", 0, "in"), ("w", 1, "in"), ("w", 2, "out")],
        3 * 6 + 2,
    )
