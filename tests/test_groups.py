"""Groups: those of known models, by hand; what every group promises; bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from architectures import Seeded, random_case
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import mlir

from dynhp_jax.groups import (
    alive_positions,
    fan_out,
    find_groups,
    parameter_count,
    parameters_held,
)
from dynhp_jax.jaxprs.trace import InputPath, path_name
from dynhp_jax.surgery import cut, resized

EVERY = sorted(zoo.MODELS)


def members(group):
    return {f"{m.path}[{m.axis}]": m.index for m in group.members}


def leaves(tree):
    return {path_name(p): a for p, a in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def found():
    """name -> (model, its groups), of the whole zoo."""
    models = {name: zoo.build(name) for name in EVERY}
    return {name: (m, find_groups(m[0], m[1], *m[2])) for name, m in models.items()}


# Known models


@pytest.mark.parametrize("name", EVERY)
def test_groups_are_those_written_by_hand(found, name):
    (_, _, _, expected), groups = found[name]
    assert list(groups) == list(expected)
    for group, axes in expected.items():
        assert members(groups[group]).keys() == axes.keys()
        for axis, index in axes.items():
            np.testing.assert_array_equal(members(groups[group])[axis], index, err_msg=axis)


def test_only_norms_and_the_like_are_not_exact(found):
    inexact = {
        (name, group.name): group.reasons
        for name, (_, groups) in found.items()
        for group in groups.values()
        if not group.exact
    }
    assert inexact == {("group_norm", "in:2"): ("reduced by 'reduce_sum'",)}
    _, groups = found["group_norm"]
    assert groups.prunable == ("input", "in:1")


@pytest.mark.parametrize("name", EVERY)
def test_names_and_members_do_not_depend_on_the_batch_size(found, name):
    (apply, variables, inputs, _), groups = found[name]
    for batch in (1, 3, 16):
        shapes = [np.zeros((batch, *x.shape[1:]), x.dtype) for x in inputs]
        again = find_groups(apply, variables, *shapes)
        assert list(again) == list(groups)
        for group in groups:
            assert jax.tree.map(np.array_equal, members(again[group]), members(groups[group]))
            assert again[group].exact == groups[group].exact


# What every group promises


def of_seed(seed):
    case = random_case(Seeded(seed))
    return case.apply, case.variables, case.inputs


CASES = [
    *(pytest.param(lambda name=name: zoo.build(name)[:3], id=name) for name in EVERY),
    *(pytest.param(lambda seed=seed: of_seed(seed), id=f"{seed}") for seed in range(1000, 1012)),
]
# Queries and keys are also read by each other, not by a leaf alone.
READ_BY_DATA = ("attention", "qkv:2")


@pytest.mark.parametrize("build", CASES)
def test_a_unit_is_read_by_its_readers_only(x64, build):
    """With zeros where a unit is read, nothing else that belongs to it matters.

    An oracle that knows nothing of gates, labels or jaxprs: it changes numbers and looks.
    """
    apply, variables, inputs = build()
    groups = find_groups(apply, variables, *inputs)
    rng = np.random.default_rng(0)
    run = jax.jit(lambda leaves: apply(*rebuild(variables, inputs, leaves)))
    arrays = {**leaves(variables), **{f"inputs/{k}": x for k, x in enumerate(inputs)}}
    for group in groups.values():
        readers = {(m.path, m.axis) for m in group.members if m.role == "in"}
        if not group.exact or not readers or group.name.startswith(READ_BY_DATA):
            continue
        unit = int(rng.integers(group.size))
        silent, other = dict(arrays), dict(arrays)
        for m in sorted(group.members, key=lambda m: (m.path, m.axis) in readers):
            at = (slice(None),) * m.axis + (m.index[unit],)
            other[m.path] = other[m.path].copy()
            other[m.path][at] = rng.normal(size=other[m.path][at].shape)
        for path, axis in readers:
            (m,) = [m for m in group.members if (m.path, m.axis) == (path, axis)]
            at = (slice(None),) * axis + (m.index[unit],)
            for tree in (silent, other):
                tree[path] = tree[path].copy()
                tree[path][at] = 0.0
        np.testing.assert_allclose(run(silent), run(other), rtol=1e-10, atol=1e-12)


def rebuild(variables, inputs, arrays):
    changed = jax.tree_util.tree_map_with_path(lambda p, _: arrays[path_name(p)], variables)
    return changed, *(arrays[f"inputs/{k}"] for k in range(len(inputs)))


@pytest.mark.parametrize("build", CASES)
def test_every_position_can_be_cut_or_is_said_to_stay(build):
    apply, variables, inputs = build()
    groups = find_groups(apply, variables, *inputs)
    stays = {}
    for p in groups.pinned:
        stays[p.path, p.axis] = stays.get((p.path, p.axis), 0) + p.positions
    for path, shape in groups.shapes.items():
        for axis, size in enumerate(shape):
            in_groups = [m.index.ravel() for _, m in groups.on_axis(path, axis)]
            free = np.unique(np.concatenate([*in_groups, np.empty(0, int)])).size
            if path == "inputs/0" and axis == 0:
                assert free == 0  # the batch axis, of which nobody wants to hear
            elif not path.startswith("inputs/"):
                assert free + stays.get((path, axis), 0) == size, (path, axis)


@pytest.mark.parametrize("name", EVERY)
def test_the_cost_of_a_unit_is_what_a_cut_saves(found, name):
    (_, variables, _, _), groups = found[name]

    def numbers(tree):
        return sum(a.size for a in jax.tree.leaves(tree))

    for group in groups.values():
        small = cut(variables, groups, {group.name: np.arange(1, group.size)})
        assert numbers(variables) - numbers(small) == pytest.approx(group.parameters)
        assert group.bytes == pytest.approx(4 * group.parameters)


@pytest.mark.parametrize(
    "name",
    ["mlp", "conv_flatten_dense", "residual_block", "concatenated_features", "grouped_convolution",
     "depthwise_separable", "gated_linear_unit", "lstm"],
)  # fmt: skip
def test_costs_after_a_cut_are_those_of_the_cut_model(found, name):
    (apply, variables, inputs, _), groups = found[name]
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


@pytest.mark.parametrize("name", EVERY)
def test_counts_of_what_survives(found, name):
    (_, variables, _, _), groups = found[name]
    rng = np.random.default_rng(3)
    alive = {g: np.append(1.0, rng.integers(0, 2, groups[g].size - 1)) for g in groups}
    alive.pop(next(reversed(alive)))  # one that stays whole
    keeps = {g: np.flatnonzero(a) for g, a in alive.items()}
    small = leaves(cut(variables, groups, keeps))
    count = parameter_count(groups, alive, prefix="")
    assert float(count) == sum(a.size for a in small.values())
    reading = fan_out(groups, alive)
    left = groups.shrunk(keeps)
    for group in groups:
        expected = np.zeros(groups[group].size)
        kept = keeps.get(group, np.arange(groups[group].size))
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
def test_what_a_unit_holds_is_what_its_removal_saves(found, name):
    (_, variables, _, _), groups = found[name]
    rng = np.random.default_rng(4)
    alive = {g: np.append(1.0, rng.integers(0, 2, groups[g].size - 1)) for g in groups}
    for prefix in {"", next(iter(leaves(variables))).rpartition("/")[0]}:  # all, and a part
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


# Views


def test_a_view_of_a_subtree(found):
    (_, variables, _, _), groups = found["mlp"]
    view = groups.at("params")
    keeps = {"a": np.array([0, 3])}
    small = cut(variables["params"], view, keeps)
    jax.tree.map(np.testing.assert_array_equal, small, cut(variables, groups, keeps)["params"])
    places = {m.path.split("/")[0] for g in view.values() for m in g.members}
    assert places == {"a", "b", "c", "inputs"}


def test_other_arrays_can_be_tied_to_a_group(found):
    (_, variables, _, _), groups = found["mlp"]
    tied = groups.tie("gates/a", 0, "a").tie("scores/b", 1, "b", shape=(3, 5))
    tree = {**variables, "gates": {"a": np.arange(4.0)}, "scores": {"b": np.ones((3, 5))}}
    small = cut(tree, tied, {"a": np.array([1, 2]), "b": np.array([4])})
    assert small["gates"]["a"].tolist() == [1.0, 2.0]
    assert small["scores"]["b"].shape == (3, 1)
    assert small["params"]["b"]["kernel"].shape == (2, 1)
    for axis, shape in ((0, (9,)), (1, (4,)), (1, None)):
        with pytest.raises(ValueError, match=f"it needs 4 units on axis {axis}"):
            groups.tie("gates/a", axis, "a", shape)


def test_counts_of_what_is_not_there_are_refused(found):
    (_, variables, _, _), groups = found["mlp"]
    for count in (parameter_count, parameters_held):
        with pytest.raises(ValueError, match="below prefix 'params', .* there is 'a/.*prefix=''"):
            count(groups.at("params"), {})
    for alive, said in (
        ({"z": np.ones(4)}, "no group 'z'"),
        ({"a": np.array([0, 3])}, r"alive\['a'\] has shape \(2,\); allowed: \(4,\)"),
    ):
        for count in (parameter_count, parameters_held, fan_out):
            with pytest.raises(ValueError, match=said):
                count(groups, alive)


def test_selected_groups_alone_are_cut(found):
    (_, _, _, _), groups = found["mlp"]
    only = groups.select(["b"])
    assert list(only) == ["b"]
    with pytest.raises(ValueError, match="no group 'a'; nearest: b"):
        only.check_keeps({"a": np.array([0])})


# Text


def test_the_table_names_members_places_and_reasons(found):
    _, groups = found["conv_flatten_dense"]
    text = groups.describe()
    assert "conv            3        54         216" in text
    assert "    made by    conv[3]\n" in text
    assert "    read by    out[0: 16 places from u, 3 apart]\n" in text
    assert "    along with bn/{bias,mean,scale,var}[0]\n" in text
    assert "    a spatial axis of a convolution: conv[0, 1], inputs/0[1, 2]" in text
    assert "    an output: out[1]" in text
    assert max(map(len, text.splitlines())) <= 100
    _, groups = found["group_norm"]
    assert "not exact: reduced by 'reduce_sum'" in groups.describe()


# What is not known, and bad input

_mystery = Primitive("mystery")
_mystery.def_impl(lambda x: np.roll(np.asarray(x), 1, -1))
_mystery.def_abstract_eval(lambda x: x)
mlir.register_lowering(_mystery, mlir.lower_fun(lambda x: jnp.roll(x, 1, -1), False))


def two_layers(middle):
    def apply(p, x):
        return middle(x @ p["a"]) @ p["b"]

    return apply, {"a": np.ones((3, 4)), "b": np.ones((4, 2))}, np.ones((2, 3))


def test_an_unknown_primitive_pins_what_reaches_it_and_is_named():
    groups = find_groups(*two_layers(_mystery.bind))
    assert list(groups) == ["input"]
    assert groups.unknown == {"mystery": 1}
    pinned = {(p.path, p.axis): p.reason for p in groups.pinned}
    assert pinned["a", 1] == pinned["b", 0] == "reaches 'mystery', which has no rule"
    assert "no rule for primitive 'mystery' (1 equations)" in groups.describe()


def test_a_pure_callback_is_not_looked_into():
    def host(x):
        return jax.pure_callback(np.sin, x, x)

    groups = find_groups(*two_layers(host))
    assert list(groups) == ["input"]
    assert groups.unknown == {"pure_callback": 1}


def printing(x):
    jax.debug.print("{}", x.sum())
    return x


def reporting(x):
    io_callback(lambda y: None, None, x)
    return x


@pytest.mark.parametrize("middle", [printing, reporting])
def test_side_effects_are_refused(middle):
    with pytest.raises(ValueError, match=r"has side effects .* remove callbacks, prints"):
        find_groups(*two_layers(middle))


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * jnp.nonzero(x)[0].size,
        lambda x: x[x > 0].sum() * x,
        lambda x: x * np.asarray(x),
        lambda x: x * [1.0, 2.0][x.astype(int)[0, 0]],
    ],
    ids=["branch", "nonzero", "mask", "numpy", "index"],
)
def test_shapes_and_branches_that_depend_on_data_are_refused(middle):
    with pytest.raises(ValueError, match="needs concrete values .* do not depend on data"):
        find_groups(*two_layers(middle))


def test_leaves_of_one_name_are_refused():
    def apply(v, x):
        return x @ v["a/b"] @ v["a"]["b"]

    with pytest.raises(ValueError, match="two leaves are called 'a/b'"):
        find_groups(apply, {"a/b": np.ones((3, 3)), "a": {"b": np.ones((3, 3))}}, np.ones((2, 3)))


def test_unused_leaves_stay_and_are_named():
    apply, params, x = two_layers(jnp.tanh)
    groups = find_groups(apply, {**params, "c": np.ones((4, 4))}, x)
    assert [p for p in groups.pinned if p.path == "c"] == [
        dataclasses.replace(groups.pinned[0], path="c", axis=axis, positions=4, reason=reason)
        for axis, reason in ((0, "not used by apply"), (1, "not used by apply"))
    ]


def test_unknown_names(found):
    _, groups = found["mlp"]
    with pytest.raises(ValueError, match=r"no group 'inptu'; nearest: input"):
        groups.select(["inptu"])
    with pytest.raises(KeyError, match="no group 'z'"):
        groups["z"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([2, 0], "'a' is not sorted or repeats a unit; sort it"),
        ([0, 0], "'a' is not sorted or repeats a unit; sort it"),
        ([], "'a' is empty; allowed: 1 to 4 of its units"),
        ([1, 4], "'a' holds 4; allowed: 0 to 3"),
        ([-1, 2], "'a' holds -1; allowed: 0 to 3"),
        ([[0, 1]], r"'a' is int64\[1, 2\]; allowed: a sorted vector"),
        ([True, False, True, True], r"'a' is bool\[4\]; .*np.flatnonzero of a mask"),
        ([0.0, 1.0], r"'a' is float64\[2\]; allowed"),
    ],
)
def test_keeps_that_are_not_allowed(found, keep, message):
    (_, variables, _, _), groups = found["mlp"]
    kinds = [np.array(keep)]
    if kinds[0].dtype == np.int64 and kinds[0].min(initial=0) >= 0 and kinds[0].ndim == 1:
        kinds.append(np.array(keep, np.uint32))  # whose differences are never negative
    for each in kinds:
        with pytest.raises(ValueError, match=message):
            cut(variables, groups, {"a": each})
