"""What `on_eight_devices` finds of arrays that are split among devices outside `shard_map`.

Axes of a mesh may be XLA's to split (auto), or part of the types of arrays (explicit). Models are
split by units, or as parameters that are gathered where they are used.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import (
    AxisType,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
    reshard,
)

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut, cut_leaf
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized

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
GATES = RNG.uniform(size=(8, 16)).astype("f4")


def plain(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def units_split(p, x):
    """The sum over units is one over devices; its result names how it is split."""
    hidden = jnp.tanh(x @ p["a"] + p["b"])
    return jnp.matmul(hidden, p["c"], out_sharding=PartitionSpec("data", None))


def gathering(p, x):
    whole = jax.tree.map(lambda leaf: reshard(leaf, PartitionSpec()), p)
    return plain(whole, x)


def constrained(p, x):
    """As `gathering`, where axes are XLA's."""
    whole = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), p)
    return plain(whole, x)


def convolution(p, x):
    """An image of the four numbers; the derivative of relu fills an array with zeros."""
    image, kernel = x.reshape(8, 2, 2, 1), p["a"].reshape(2, 2, 1, 16)
    numbers = ("NHWC", "HWIO", "NHWC")
    made = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(made + p["b"]).mean((1, 2)) @ p["c"]


def loop(p, x):
    hidden = jnp.tanh(x @ p["a"] + p["b"])
    hidden, _ = lax.scan(lambda h, scale: (jnp.where(h > 0, h * scale, h), None), hidden, X[0] ** 2)
    return jax.checkpoint(lambda h, c: jax.nn.relu(h) @ c)(hidden, p["c"])


def table(p, x, **kwargs):
    rows = jnp.abs(jnp.round(x)).astype(int) % 4
    read = p["a"].at[rows].get(**kwargs)  # [batch, places, units]
    return jax.nn.gelu(read + p["b"]).sum(1) @ p["c"]


def table_split(p, x):
    return table(p, x, out_sharding=PartitionSpec("data", None, None))


def units_moved(p, x):
    """Slices of which a cut leaves nothing, and units in another order."""
    hidden = jnp.tanh(x @ p["a"] + p["b"])
    hidden = jnp.concatenate([hidden[:, ::2], hidden[:, 1::2]], 1)
    return hidden[:, np.roll(np.arange(16), 5)] @ p["c"]


def left_to_xla(p, x):
    return jax.sharding.auto_axes(plain, out_sharding=PartitionSpec("data", None))(p, x)


def scaled(p, x):
    """Numbers for each unit that are no parameters, and are split as the units are."""
    numbers = reshard(jnp.arange(16.0), PartitionSpec("model"))
    hidden = jnp.tanh(x @ p["a"] + p["b"]) * numbers
    return jnp.matmul(hidden, p["c"], out_sharding=PartitionSpec("data", None))


def scaled_alone(p, x):
    return (jnp.tanh(x @ p["a"] + p["b"]) * jnp.arange(16.0)) @ p["c"]


def sent(p, x):
    """`device_put` inside a model."""
    where = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec("data", "model"))
    hidden = jax.device_put(jnp.tanh(x @ p["a"] + p["b"]), where)
    return jnp.matmul(hidden, p["c"], out_sharding=PartitionSpec("data", None))


def uneven(p, x):
    """Six outputs among four devices, which XLA takes."""
    return jax.lax.with_sharding_constraint(plain(p, x), PartitionSpec(None, "model"))


# (axes, how parameters are split, what is tried): (the model, the model without a mesh).
MODELS = {
    ("explicit", "units"): (units_split, plain),
    ("explicit", "gathered"): (gathering, plain),
    ("auto", "units"): (plain, plain),
    ("auto", "gathered"): (constrained, plain),
    ("auto", "whole", "uneven"): (uneven, plain),
    ("explicit", "units", "numbers"): (scaled, scaled_alone),
    ("explicit", "whole", "moved"): (units_moved, units_moved),
    ("explicit", "units", "left to XLA"): (left_to_xla, plain),
    ("explicit", "whole", "sent"): (sent, plain),
    ("explicit", "whole", "convolution"): (convolution, convolution),
    ("explicit", "whole", "loop"): (loop, loop),
    ("explicit", "whole", "table"): (table_split, table),
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
    keys = jax.device_put(jax.random.split(jax.random.key(0), 16), split["b"])
    found["keys"] = {
        name: {"b": _said(jax.random.key_data(cut_leaf(keys, ((0, keep),))))}
        for name, keep in KEEPS.items()
    }
    found["moments"] = {"eight": {leaf: _said(array) for leaf, array in small[0].mu.items()}}
    return found


def partly_manual() -> list:
    """A cut inside a `shard_map` over one of two explicit axes, of what the other one splits."""
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    rows = _split(mesh, PARAMS["c"].T[:4], "data", "model")  # [4, 16]
    with jax.set_mesh(mesh):
        one = jax.shard_map(
            lambda share: cut_leaf(share, ((1, KEEPS["eight"]),)),
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            axis_names={"data"},
        )
        return np.asarray(jax.jit(one)(rows)).tolist()


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
    without = {alone: _results(alone, PARAMS, jnp.asarray) for _, alone in MODELS.values()}
    for (axes, split, *kind), (model, alone) in MODELS.items():
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AXES[axes],) * 2)
        with jax.set_mesh(mesh):
            specs = SPECS.get(split, dict.fromkeys(PARAMS, ()))
            params = {leaf: _split(mesh, PARAMS[leaf], *specs[leaf]) for leaf in PARAMS}
            there = _results(model, params, lambda tree, mesh=mesh: _split(mesh, tree, "data"))
        found[", ".join([axes, split, *kind])] = {
            each: (there[each], here) for each, here in without[alone].items()
        }
    return found


def _split(mesh: jax.sharding.Mesh, array: np.ndarray, *spec: str | None) -> jax.Array:
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def _results(model: Callable, params: dict, place: Callable) -> dict[str, list]:
    """What the transforms give of a model; `place` splits what has the examples on axis 0."""
    x, gates, probe = place(X), {"a": place(GATES)}, place(np.zeros(8, "f4"))
    groups = find_groups(model, params, x)

    def probe_loss(probe, p, x):
        return jnp.sum(jnp.square(probed(model, "")(p, probe, x)))

    def gated_loss(p, gates, x):
        return jnp.sum(jnp.square(gated(model, groups)(p, gates, x)))

    found = {
        "gated": jax.jit(gated(model, groups))(params, gates, x),
        "gated, gradient": jax.jit(jax.grad(gated_loss))(params, gates, x)["a"],
        "probed": jax.jit(jax.grad(probe_loss))(probe, params, x),
    }
    for name, keep in KEEPS.items():
        keeps = {"a": keep}
        small = cut(params, groups, keeps)
        found[f"resized, {name}"] = jax.jit(resized(model, params, groups, keeps))(small, x)
        traced = jax.jit(lambda p, keeps=keeps: cut(p, groups, keeps))(params)
        found[f"cut in jit, {name}"] = traced["c"]
    return {name: np.asarray(array).tolist() for name, array in found.items()}
