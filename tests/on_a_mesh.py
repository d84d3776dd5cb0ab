"""What `on_eight_devices` finds of arrays that are split among devices outside `shard_map`.

Axes of a mesh may be XLA's to split (auto), or part of the types of arrays (explicit). Models are
split by units, or as parameters that are gathered where they are used.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.optimizer_surgery import cut_optimizer
from dynhp_jax.surgery import cut, resized
from dynhp_jax.variance import probed

AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SPECS = {
    "units": {"a": (None, "model"), "b": ("model",), "c": ("model", None)},
    "gathered": {"a": ("data",), "b": (), "c": ("data", None)},
}
# Four devices share eight units, but not six; two devices share both.
KEEPS = {"eight": np.arange(0, 16, 2), "six": np.array([0, 1, 5, 6, 11, 15])}
RNG = np.random.default_rng(0)
SHAPES = {"a": (4, 16), "b": (16,), "c": (16, 6)}
PARAMS = {name: RNG.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
X = RNG.normal(size=(8, 4)).astype("f4")
GATES = {"a": RNG.uniform(size=(8, 16)).astype("f4")}


def plain(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def units_split(p, x):
    """The sum over units is one over devices; its result names how it is split."""
    hidden = jnp.tanh(x @ p["a"] + p["b"])
    return jnp.matmul(hidden, p["c"], out_sharding=PartitionSpec("data", None))


def gathering(p, x):
    whole = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, PartitionSpec()), p)
    return plain(whole, x)


def constrained(p, x):
    """As `gathering`, where axes are XLA's."""
    whole = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), p)
    return plain(whole, x)


MODELS = {
    ("explicit", "units"): units_split,
    ("explicit", "gathered"): gathering,
    ("auto", "units"): plain,
    ("auto", "gathered"): constrained,
}


def placements() -> dict:
    """{where: {keep: {leaf: what is said of it after the cut}}}."""
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    split = {n: NamedSharding(mesh, PartitionSpec(*s)) for n, s in SPECS["units"].items()}
    placed = {
        "split": jax.device_put(PARAMS, split),
        "host": jax.device_put(
            PARAMS, {n: each.with_memory_kind("pinned_host") for n, each in split.items()}
        ),
        "elsewhere": jax.device_put(PARAMS, SingleDeviceSharding(jax.devices()[5])),
        "anywhere": jax.tree.map(jnp.asarray, PARAMS),
    }
    groups = find_groups(plain, PARAMS, X)
    found = {
        where: {
            name: {leaf: _said(array) for leaf, array in cut(params, groups, {"a": keep}).items()}
            for name, keep in KEEPS.items()
        }
        for where, params in placed.items()
    }
    tx = optax.adam(0.1)
    state = tx.init(placed["split"])
    state = (state[0]._replace(mu=placed["split"]), *state[1:])
    small = cut_optimizer(tx, state, placed["split"], groups, {"a": KEEPS["eight"]})
    found["moments"] = {"eight": {leaf: _said(array) for leaf, array in small[0].mu.items()}}
    return found


def _said(array: jax.Array) -> dict:
    where = array.sharding
    return {
        "numbers": np.asarray(array).tolist(),
        "share": where.shard_shape(array.shape),
        "devices": sorted(each.id for each in where.device_set),
        "memory": where.memory_kind,
        "committed": array.committed,
    }


def transforms() -> dict:
    """{'AXES, MODEL': {transform: (what it gives on the mesh, and without one)}}."""
    found = {}
    for (axes, name), model in MODELS.items():
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AXES[axes],) * 2)
        found[f"{axes}, {name}"] = _on(mesh, SPECS[name], model)
    return found


def _on(mesh: jax.sharding.Mesh, specs: dict, model: Callable) -> dict:
    def place(tree, *spec):
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))

    alone = find_groups(plain, PARAMS, X)
    with jax.set_mesh(mesh):
        params = {name: place(leaf, *specs[name]) for name, leaf in PARAMS.items()}
        x, gates, probe = (place(each, "data") for each in (X, GATES, np.zeros(8, "f4")))
        groups = find_groups(model, params, x)
        found = {
            "gated": jax.jit(gated(model, groups))(params, gates, x),
            "probed": jax.jit(jax.grad(_loss(model)))(probe, params, x),
        }
        for name, keep in KEEPS.items():
            small = cut(params, groups, {"a": keep})
            found[f"resized, {name}"] = jax.jit(resized(model, params, groups, {"a": keep}))(
                small, x
            )
            traced = jax.jit(lambda p, keep=keep: cut(p, groups, {"a": keep}))(params)
            found[f"cut in jit, {name}"] = traced["c"]
    without = {
        "gated": gated(plain, alone)(PARAMS, GATES, X),
        "probed": jax.grad(_loss(plain))(np.zeros(8, "f4"), PARAMS, X),
    }
    for name, keep in KEEPS.items():
        without[f"resized, {name}"] = plain(cut(PARAMS, alone, {"a": keep}), X)
        without[f"cut in jit, {name}"] = PARAMS["c"][keep]
    return {
        each: (np.asarray(found[each]).tolist(), np.asarray(without[each]).tolist())
        for each in without
    }


def _loss(model: Callable) -> Callable:
    return lambda probe, p, x: jnp.sum(jnp.square(probed(model, "")(p, probe, x)))
