"""Collectives: what the devices of an axis share; vmap with a named axis stands for them here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

DEVICES, B, UNITS = 3, 4, 5
RING = [(i, (i + 1) % DEVICES) for i in range(DEVICES)]
RNG = np.random.default_rng(0)
PARAMS = {"a": RNG.normal(size=(2, UNITS)), "b": RNG.normal(size=(UNITS, 2))}
X = RNG.normal(size=(DEVICES, B, 2))

# A collective, and the same of all devices' arrays [devices, batch, units] in NumPy.
COLLECTIVES = {
    "psum": (lambda h: lax.psum(h, "d"), lambda h: h.sum(0, keepdims=True) + 0 * h),
    "pmean": (lambda h: lax.pmean(h, "d"), lambda h: h.mean(0, keepdims=True) + 0 * h),
    "pmax": (lambda h: lax.pmax(h, "d"), lambda h: h.max(0, keepdims=True) + 0 * h),
    "pmin": (lambda h: lax.pmin(h, "d"), lambda h: h.min(0, keepdims=True) + 0 * h),
    "ppermute": (lambda h: lax.ppermute(h, "d", RING), lambda h: np.roll(h, 1, 0)),
    "axis_index": (
        lambda h: h * (1 + lax.axis_index("d")),
        lambda h: h * np.arange(1, DEVICES + 1)[:, None, None],
    ),
    "all_gather": (
        lambda h: lax.all_gather(h, "d").mean(0),
        lambda h: h.mean(0, keepdims=True) + 0 * h,
    ),
    "all_gather of the batch": (
        lambda h: lax.all_gather(h, "d", tiled=True)[-B:],
        lambda h: h[-1:] + 0 * h,
    ),
}


def network(collective):
    return lambda p, x: collective(jnp.sin(x @ p["a"])) @ p["b"]


def on_devices(f, *args, **kwargs):
    """A function of parameters, others and a device's examples, on all devices."""
    in_axes = (*(None for _ in args), 0)
    return jax.vmap(f, in_axes=in_axes, axis_name="d")(*args, X, **kwargs)


def groups_of(apply):
    """The groups as one device sees them."""
    found = []
    on_devices(lambda p, x: found.append(find_groups(apply, p, x)) or x, PARAMS)
    return found[0]


@pytest.mark.parametrize("name", COLLECTIVES)
def test_units_go_through_a_collective(name):
    collective, expected = COLLECTIVES[name]
    apply = network(collective)
    groups = groups_of(apply)
    (group,) = (group for group, _ in groups.on_axis("a", 1))
    assert group.exact
    assert {(member.path, member.axis) for member in group.members} == {("a", 1), ("b", 0)}

    gates = np.linspace(0.2, 1.5, UNITS)
    found = on_devices(gated(apply, groups), PARAMS, {group.name: gates})
    wanted = expected(np.sin(X @ PARAMS["a"]) * gates) @ PARAMS["b"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)

    kept = np.array([0, 3])
    keeps = {group.name: kept}
    small = resized(apply, PARAMS, groups, keeps)
    found = on_devices(small, cut(PARAMS, groups, keeps))
    wanted = expected(np.sin(X @ PARAMS["a"][:, kept])) @ PARAMS["b"][kept]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_sum_over_devices_and_examples():
    apply = network(lambda h: lax.psum(h, ("d", 0)))
    groups = groups_of(apply)
    (group,) = (group for group, _ in groups.on_axis("a", 1))
    kept = np.array([0, 3])
    gates = np.isin(np.arange(UNITS), kept) * 1.5
    keeps = {group.name: kept}
    wanted = np.sin(X @ PARAMS["a"][:, kept]).sum((0, 1)) @ PARAMS["b"][kept]
    for found in (
        on_devices(gated(apply, groups), PARAMS, {group.name: gates}) / 1.5,
        on_devices(resized(apply, PARAMS, groups, keeps), cut(PARAMS, groups, keeps)),
    ):
        np.testing.assert_allclose(found, np.stack([wanted] * DEVICES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "mean",
    [
        lambda h: lax.psum(h.sum(-1, keepdims=True), "d") / (DEVICES * UNITS),
        lambda h: lax.pmean(h.sum(-1, keepdims=True), "d") / UNITS,
        lambda h: lax.psum(h, ("d", 1))[:, None] / (DEVICES * UNITS),
    ],
)
def test_units_stay_if_their_mean_is_taken_over_all_devices(mean):
    groups = groups_of(network(lambda h: h - mean(h)))
    assert not list(groups.on_axis("a", 1))
    assert "'psum' joins sums over it of several devices" in groups.describe()


@pytest.mark.parametrize("name", ["psum", "pmax", "ppermute", "all_gather"])
def test_gates_of_examples_do_not_stand_on_those_of_other_devices(name):
    apply = network(COLLECTIVES[name][0])
    groups = groups_of(apply)
    (group,) = (group for group, _ in groups.on_axis("a", 1))
    with pytest.raises(ValueError, match="no batch axis is; gate it per mini-batch"):
        on_devices(gated(apply, groups), PARAMS, {group.name: np.ones((B, UNITS))})


def test_units_of_several_devices_that_are_joined_stay():
    groups = groups_of(network(lambda h: lax.all_gather(h, "d", axis=1, tiled=True)[:, :UNITS]))
    assert not list(groups.on_axis("a", 1))
    assert "'all_gather' joins" in groups.describe()


@pytest.mark.parametrize("name", ["psum", "ppermute", "all_gather"])
def test_norms_of_examples_are_refused_behind_a_collective(name):
    collective, _ = COLLECTIVES[name]
    apply = probed(network(collective), "")
    with pytest.raises(ValueError, match=f"'{name}' joins what several devices have; use variance"):
        on_devices(lambda p, x: apply(p, jnp.zeros(B), x), PARAMS)
