"""Groups: those of known models, by hand; what every group promises; bad input."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from architectures import Seeded, random_case
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import mlir

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.structure.counts import fan_out, parameter_count, parameters_held
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut

EVERY = sorted(zoo.MODELS)


def members(group):
    return {f"{m.path}[{m.axis}]": m.index for m in group.members}


# Known models


@pytest.mark.parametrize("name", EVERY)
def test_groups_are_those_written_by_hand(name):
    (_, _, _, expected), groups = zoo.grouped(name)
    assert list(groups) == list(expected)
    for group, axes in expected.items():
        assert members(groups[group]).keys() == axes.keys()
        for axis, index in axes.items():
            np.testing.assert_array_equal(members(groups[group])[axis], index, err_msg=axis)


def test_only_norms_and_the_like_are_not_exact():
    inexact = {
        (name, group.name): group.reasons
        for name, (_, groups) in ((name, zoo.grouped(name)) for name in EVERY)
        for group in groups.values()
        if not group.exact
    }
    assert inexact == {("group_norm", "in:2"): ("reduced by 'reduce_sum' in apply",)}
    _, groups = zoo.grouped("group_norm")
    assert groups.prunable == ("input", "in:1")


@pytest.mark.parametrize("name", EVERY)
def test_names_and_members_do_not_depend_on_the_batch_size(name):
    (apply, variables, inputs, _), groups = zoo.grouped(name)
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
    arrays = {**zoo.leaves(variables), **{f"inputs/{k}": x for k, x in enumerate(inputs)}}
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


# Views


def test_a_view_of_a_subtree():
    (_, variables, _, _), groups = zoo.grouped("mlp")
    view = groups.at("params")
    keeps = {"a": np.array([0, 3])}
    small = cut(variables["params"], view, keeps)
    chex.assert_trees_all_equal(small, cut(variables, groups, keeps)["params"])
    places = {m.path.split("/")[0] for g in view.values() for m in g.members}
    assert places == {"a", "b", "c", "inputs"}


def test_other_arrays_can_be_tied_to_a_group():
    (_, variables, _, _), groups = zoo.grouped("mlp")
    tied = groups.tie("gates/a", 0, "a").tie("scores/b", 1, "b", shape=(3, 5))
    tree = {**variables, "gates": {"a": np.arange(4.0)}, "scores": {"b": np.ones((3, 5))}}
    small = cut(tree, tied, {"a": np.array([1, 2]), "b": np.array([4])})
    assert small["gates"]["a"].tolist() == [1.0, 2.0]
    assert small["scores"]["b"].shape == (3, 1)
    assert small["params"]["b"]["kernel"].shape == (2, 1)
    for axis, shape in ((0, (9,)), (1, (4,)), (1, None)):
        with pytest.raises(ValueError, match=f"it needs 4 units on axis {axis}"):
            groups.tie("gates/a", axis, "a", shape)


def test_counts_of_what_is_not_there_are_refused():
    (_, variables, _, _), groups = zoo.grouped("mlp")
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


def test_selected_groups_alone_are_cut():
    (_, _, _, _), groups = zoo.grouped("mlp")
    only = groups.select(["b"])
    assert list(only) == ["b"]
    with pytest.raises(ValueError, match="no group 'a'; nearest: b"):
        only.check_keeps({"a": np.array([0])})


# Text


def test_the_table_names_members_places_and_reasons():
    _, groups = zoo.grouped("conv_flatten_dense")
    text = groups.describe()
    assert "conv            3        54         216" in text
    assert "    made by    conv[3]\n" in text
    assert "    read by    out[0: 16 places from u, 3 apart]\n" in text
    assert "    along with bn/{bias,mean,scale,var}[0]\n" in text
    assert "    a spatial axis of a convolution: conv[0, 1], inputs/0[1, 2]" in text
    assert "    an output: out[1]" in text
    assert max(map(len, text.splitlines())) <= 100
    _, groups = zoo.grouped("group_norm")
    assert "not exact: reduced by 'reduce_sum' in apply\n" in groups.describe()


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


def test_unknown_names():
    _, groups = zoo.grouped("mlp")
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
def test_keeps_that_are_not_allowed(keep, message):
    (_, variables, _, _), groups = zoo.grouped("mlp")
    kinds = [np.array(keep)]
    if kinds[0].dtype == np.int64 and kinds[0].min(initial=0) >= 0 and kinds[0].ndim == 1:
        kinds.append(np.array(keep, np.uint32))  # whose differences are never negative
    for each in kinds:
        with pytest.raises(ValueError, match=message):
            cut(variables, groups, {"a": each})
