"""One group twice on one axis: outer products of units with themselves, in all that reads groups.

The oracle multiplies the units themselves, before their products are made.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria import evidence
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.counts import alive_positions, fan_out, parameter_count
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

UNITS, BATCH = 6, 16


def outer(h):
    return h[..., :, None] * h[..., None, :]


def squares(h):  # [batch, 6] -> [batch, 36]
    return outer(h).reshape(len(h), -1)


def triangle(h):  # the diagonal included: [batch, 6] -> [batch, 21]
    rows, columns = np.triu_indices(h.shape[1])
    return squares(h)[:, rows * h.shape[1] + columns]


def first_and_second_order(h):  # [batch, 6] -> [batch, 42]
    return jnp.concatenate([h, squares(h)], axis=1)


def cubes(h):  # [batch, 6] -> [batch, 216]
    return (outer(h)[..., None] * h[:, None, None, :]).reshape(len(h), -1)


def pooled(h):  # [batch * 2, 6] -> [batch, 36], as bilinear pooling over two places
    h = h.reshape(BATCH, 2, -1)
    return jnp.einsum("bpc,bpd->bcd", h, h).reshape(BATCH, -1)


FEATURES = {f.__name__: f for f in (squares, triangle, first_and_second_order, cubes, pooled)}


class Model:
    """x -> tanh -> features of second and third order -> linear; `gate` multiplies the units."""

    def __init__(self, features):
        self.features = FEATURES[features]
        rng = np.random.default_rng(0)
        rows = BATCH * (2 if features == "pooled" else 1)
        self.x = rng.normal(size=(rows, 4))
        width = self.features(np.ones((rows, UNITS))).shape[1]
        self.params = {"a": rng.normal(size=(4, UNITS)), "b": rng.normal(size=(width, 2))}
        self.groups = find_groups(self, self.params, self.x)

    def __call__(self, params, x, gate=1.0):
        return self.features(jnp.tanh(x @ params["a"]) * gate) @ params["b"]


@pytest.fixture(params=sorted(FEATURES))
def model(request, x64):
    return Model(request.param)


KEEP = np.array([1, 2, 4, 5])


def masked(model, keep):
    return model(model.params, model.x, np.isin(np.arange(UNITS), keep) * 1.0)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_the_units_can_be_cut_exactly(model):
    assert model.groups.prunable == ("input", "a")
    for keep in (KEEP, np.array([3])):
        small = cut(model.params, model.groups, {"a": keep})
        run = resized(model, model.params, model.groups, {"a": keep})
        close(run(small, model.x), masked(model, keep))
        if model.features is not triangle:  # its indices are written for six units
            close(model(small, model.x), masked(model, keep))


@pytest.mark.parametrize("each", [False, True])
def test_gates_multiply_by_every_unit_of_a_position(model, each):
    rows = len(model.x) if each else 1
    gate = np.random.default_rng(1).uniform(0.2, 1.5, (rows, UNITS))
    if not each:
        gate = gate[0]
    if each and model.features is pooled:
        pytest.skip("its examples are two rows each")
    with_gates = gated(model, model.groups)
    close(with_gates(model.params, {"a": gate}, model.x), model(model.params, model.x, gate))


def test_a_closed_gate_is_an_absent_unit(model):
    mask = np.isin(np.arange(UNITS), KEEP) * 1.0
    out = gated(model, model.groups)(model.params, {"a": mask}, model.x)
    close(out, masked(model, KEEP))


def test_gates_of_the_smaller_model(model):
    gate = np.random.default_rng(1).uniform(0.2, 1.5, UNITS)
    small = cut(model.params, model.groups, {"a": KEEP})
    run = resized(model, model.params, model.groups, {"a": KEEP})
    out = gated(run, model.groups.shrunk({"a": KEEP}))(small, {"a": gate[KEEP]}, model.x)
    close(out, model(model.params, model.x, gate * np.isin(np.arange(UNITS), KEEP)))


def test_the_gate_of_the_last_unit_is_refused(model):
    """Its square (or cube) is on an axis of size one, like the unit itself."""
    small = cut(model.params, model.groups, {"a": KEEP[:1]})
    run = resized(model, model.params, model.groups, {"a": KEEP[:1]})
    smaller = model.groups.shrunk({"a": KEEP[:1]})
    with pytest.raises(ValueError, match="left of group 'a' is multiplied with itself.*leave"):
        gated(run, smaller)(small, {"a": np.ones(1)}, model.x)


def test_taylor_scores_are_slopes_of_the_units_gates(model):
    if model.features is pooled:
        pytest.skip("its examples are two rows each")
    labels = np.arange(BATCH) % 2
    scores = dp.score(
        "taylor", evidence.Evidence(model, model.groups, model.params, (model.x,), labels)
    )

    def loss(gate):
        return evidence.strict_cross_entropy(model(model.params, model.x, gate), labels).mean()

    wanted = np.abs(jax.grad(loss)(np.ones(UNITS)))
    np.testing.assert_allclose(scores["a"], wanted, rtol=1e-6)  # scores are float32


def test_counts_are_those_of_the_cut_arrays(model):
    mask = {"a": np.isin(np.arange(UNITS), KEEP) * 1.0}
    small = cut(model.params, model.groups, {"a": KEEP})
    numbers = sum(leaf.size for leaf in jax.tree.leaves(small))
    for masks in (mask, jax.tree.map(jnp.asarray, mask)):
        assert parameter_count(model.groups, masks, "") == numbers
    assert Parameters(1).measure(model.groups, {"a": KEEP}) == numbers
    rows = np.arange(len(model.params["b"]))
    kept = np.asarray(cut({**model.params, "b": rows[:, None] * np.ones(2)}, model.groups,
                          {"a": KEEP})["b"])[:, 0]  # fmt: skip
    there = alive_positions(model.groups, "b", 0, mask)
    assert np.flatnonzero(there).tolist() == kept.tolist()
    # A surviving unit is read by what a further cut, of itself alone, would take.
    readers = fan_out(model.groups, mask)["a"]
    for unit in range(UNITS):
        fewer = cut(model.params, model.groups, {"a": np.setdiff1d(KEEP, unit)})
        assert readers[unit] == small["b"].size - fewer["b"].size


def test_two_cuts_are_one(model):
    groups, again = model.groups, np.array([0, 3])
    smaller = groups.shrunk({"a": KEEP})
    twice = cut(cut(model.params, groups, {"a": KEEP}), smaller, {"a": again})
    once = cut(model.params, groups, {"a": KEEP[again]})
    jax.tree.map(np.testing.assert_array_equal, twice, once)
    one, other = smaller.shrunk({"a": again}), groups.shrunk({"a": KEEP[again]})
    assert one.shapes == other.shapes
    for group in groups:
        for a, b in zip(one[group].members, other[group].members, strict=True):
            np.testing.assert_array_equal(a.index, b.index)


def test_the_groups_after_a_cut_are_those_of_the_cut_model(x64):
    model = Model("squares")
    small = cut(model.params, model.groups, {"a": KEEP})
    found, told = find_groups(model, small, model.x), model.groups.shrunk({"a": KEEP})
    for group in found:
        for a, b in zip(found[group].members, told[group].members, strict=True):
            np.testing.assert_array_equal(a.index, b.index)
        for cost in ("parameters", "bytes", "flops"):
            close(getattr(told[group], cost), getattr(found[group], cost))
    assert told["a"].members[1].index.shape == (4, 7)


def test_units_left_with_unequal_numbers_of_positions_are_refused(x64):
    """A ring of products h0 h1, h1 h2, h2 h3, h3 h0: without h0 the unit h2 has two, others one."""
    ring = np.array([0 * 4 + 1, 1 * 4 + 2, 2 * 4 + 3, 3 * 4 + 0])

    def apply(params, x):
        return squares(jnp.tanh(x @ params["a"]))[:, ring] @ params["b"]

    rng = np.random.default_rng(0)
    params, x = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(4, 2))}, np.ones((5, 3))
    groups, keeps = find_groups(apply, params, x), {"a": np.array([1, 2, 3])}
    small = cut(params, groups, keeps)
    dead = {**params, "a": params["a"] * [0.0, 1.0, 1.0, 1.0]}
    close(resized(apply, params, groups, keeps)(small, x), apply(dead, x))
    assert parameter_count(groups, {"a": np.array([0.0, 1, 1, 1])}, "") == 3 * 3 + 2 * 2
    said = "group 'a' would hold 1 to 2 positions on axis 0 of 'b'; cut the model .* anew"
    with pytest.raises(ValueError, match=said):
        groups.shrunk(keeps)
