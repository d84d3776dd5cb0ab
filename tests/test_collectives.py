"""Collectives: what the devices of an axis share; vmap with a named axis stands for them here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.probing import probed
from dynhp_jax.surgery import cut, resized

DEVICES, B, UNITS = 3, 4, 5
RING = [(i, (i + 1) % DEVICES) for i in range(DEVICES)]
RNG = np.random.default_rng(0)
PARAMS = {"a": RNG.normal(size=(2, UNITS)), "b": RNG.normal(size=(UNITS, 2))}
X = RNG.normal(size=(DEVICES, B, 2))

# A collective, and the same of all devices' arrays [devices, batch, units] in NumPy.
BY_POSITION = {
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


@pytest.mark.parametrize("name", BY_POSITION)
def test_units_go_through_a_collective(name):
    collective, expected = BY_POSITION[name]
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
    gates = np.linspace(0.2, 1.5, UNITS)
    found = on_devices(gated(apply, groups), PARAMS, {group.name: gates})
    wanted = (np.sin(X @ PARAMS["a"]) * gates).sum((0, 1)) @ PARAMS["b"]
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-5, atol=1e-5)


def test_a_sum_over_units_is_flagged():
    groups = groups_of(lambda p, x: lax.psum(jnp.sin(x @ p["a"]), ("d", 1)))
    (group,) = (group for group, _ in groups.on_axis("a", 1))
    assert not group.exact and "reduced by 'psum'" in str(group.reasons)


def test_units_of_several_devices_that_are_joined_stay():
    groups = groups_of(network(lambda h: lax.all_gather(h, "d", axis=1, tiled=True)[:, :UNITS]))
    assert not list(groups.on_axis("a", 1))
    assert "'all_gather' joins" in groups.describe()


@pytest.mark.parametrize("name", ["psum", "ppermute", "all_gather"])
def test_a_collective_of_examples_mixes_them(name):
    collective, _ = BY_POSITION[name]
    apply = probed(network(collective), "")
    with pytest.raises(ValueError, match=r"mixes the examples of a batch.*of_micro_batches"):
        on_devices(lambda p, x: apply(p, jnp.zeros(B), x), PARAMS)
