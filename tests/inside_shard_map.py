"""What `on_eight_devices` finds of the transforms inside `shard_map`, with its defaults."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.finetune import bit_activations, channel_costs, pad_rows, selected, zero_probes
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

SHARE, SAME = PartitionSpec("d"), PartitionSpec()
SPECS = {"in_specs": (SAME, SHARE, SHARE), "out_specs": (SHARE, SAME)}
RNG = np.random.default_rng(0)
SHAPES = {"a": (4, 6), "b": (6,), "c": (6, 2)}
PARAMS = {name: RNG.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
X, GATES = RNG.normal(size=(16, 4)).astype("f4"), RNG.uniform(size=(16, 6)).astype("f4")
KEPT = np.array([0, 2, 5])


@jax.custom_vjp
def squared(h):
    return h * h


squared.defvjp(lambda h: (h * h, h), lambda h, cotangent: (2 * h * cotangent,))


def layers(p, x):
    """What is bound in many ways: a gather, a loop, a derivative of its own."""
    h = lax.fori_loop(0, 2, lambda _, h: jnp.tanh(2 * h), x @ p["a"] + p["b"])
    return squared(h[:, np.array([3, 1, 2, 0, 5, 4])]) @ p["c"]


def normalised(mean):
    """Batch normalisation in between, of a batch whose mean the function gives."""

    def apply(p, x):
        h = x @ p["a"] + p["b"]
        h = h - mean(h)
        return jax.nn.relu(h * lax.rsqrt(mean(h**2) + 1e-3)) @ p["c"]

    return apply


# Between a layer that makes units and one that reads them.
COLLECTIVES = {
    "psum": lambda h: h + lax.psum(h, "d"),
    "pmax": lambda h: h - lax.pmax(lax.stop_gradient(h), "d"),  # which has no derivative
    "ppermute": lambda h: lax.ppermute(h, "d", [(i, (i + 1) % 8) for i in range(8)]),
    "all_gather": lambda h: lax.all_gather(h, "d").max(0),
    "all_gather of examples": lambda h: lax.all_gather(h, "d", tiled=True)[-2:],
    "axis_index": lambda h: h * (1 + lax.axis_index("d")),
    "loop": lambda h: lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h - lax.pmean(h, "d")), h),
    "own derivative": lambda h: squared(h - lax.pmean(h, "d")),
}


def between(function):
    return lambda p, x: function(jnp.sin(x @ p["a"] + p["b"])) @ p["c"]


def derived(f):
    """f(p, x, z) and the derivative of its squares."""
    return lambda p, x, z: (f(p, x, z), jax.grad(lambda p: jnp.sum(f(p, x, z) ** 2))(p))


def with_gates(apply, groups):
    (name,) = (group.name for group, _ in groups.on_axis("a", 1))
    f = gated(apply, groups)
    return derived(lambda p, x, z: f(p, {name: z}, x)), PARAMS


def small(apply, groups):
    (name,) = (group.name for group, _ in groups.on_axis("a", 1))
    f = resized(apply, PARAMS, groups, {name: KEPT})
    return derived(lambda p, x, _: f(p, x)), cut(PARAMS, groups, {name: KEPT})


def of_rows(apply):
    """Two rows of each kernel; one probe for all devices gets the sum of their gradients."""
    costs = channel_costs(apply, PARAMS, X, prefix="")
    rows = pad_rows({"a": [0, 2], "c": [1, 5]}, costs, {"a": 3, "c": 2})
    f = selected(bit_activations(apply), rows)

    def function(p, x, _):
        probes = zero_probes(p, rows)
        gradient = jax.grad(lambda probes: jnp.sum(f(p, rows, probes, x) ** 2))(probes)
        return f(p, rows, probes, x), gradient

    return function, PARAMS


def shared(f, **specs):
    return jax.shard_map(f, mesh=Mesh(jax.devices(), "d"), **(SPECS | specs))


def numbers(f, *args):
    return [np.asarray(a).tolist() for a in jax.tree.leaves(jax.jit(f)(*args))]


def transforms() -> dict:
    """{transform: what it gives inside shard_map, and without it}."""
    with_probe = probed(layers, "")

    def norms(p, x, probe):
        return jax.grad(lambda probe: jnp.sum(with_probe(p, probe, x) ** 2))(probe), ()

    synchronised = normalised(lambda h: lax.pmean(jnp.mean(h, 0), "d"))
    whole = normalised(lambda h: jnp.mean(h, 0))
    of = {apply: find_groups(apply, PARAMS, X) for apply in (layers, whole)}
    cases = {
        "gated": (with_gates(layers, of[layers]),) * 2,
        "resized": (small(layers, of[layers]),) * 2,
        "probed": ((norms, PARAMS),) * 2,
        "selected": (of_rows(between(jax.nn.relu)),) * 2,
        "gated, synchronised": [with_gates(f, of[whole]) for f in (synchronised, whole)],
        "resized, synchronised": [small(f, of[whole]) for f in (synchronised, whole)],
    }
    found = {}
    for case, ((inside, p), (alone, _)) in cases.items():
        z = np.zeros(16, "f4") if case == "probed" else GATES
        found[case] = [numbers(f, p, X, z) for f in (shared(inside), alone)]
    try:
        specs = {"in_specs": (SAME, SHARE, SAME), "out_specs": SAME}
        jax.eval_shape(shared(norms, **specs), PARAMS, X, np.zeros(2, "f4"))
    except ValueError as error:
        found["one probe"] = str(error)
    return found


def collectives() -> dict:
    """{collective: {transform: what it gives inside shard_map, and what is written by hand}}."""
    groups, found, gates = find_groups(between(jnp.tanh), PARAMS, X), {}, GATES[0]
    specs = {"in_specs": (SAME, SHARE, SAME)}
    for name, function in COLLECTIVES.items():
        apply = between(function)

        def by_hand(p, x, z, function=function):
            return (function(jnp.sin(x @ p["a"] + p["b"])) * z) @ p["c"]

        f, p = small(apply, groups)
        found[name] = {
            "gated": [
                numbers(shared(each, **specs), PARAMS, X, gates)
                for each in (with_gates(apply, groups)[0], derived(by_hand))
            ],
            "resized": [
                numbers(shared(each, **specs), p, X, z)
                for each, z in ((f, gates), (derived(by_hand), np.ones(KEPT.size, "f4")))
            ],
        }
    apply = with_gates(between(lambda h: lax.psum(h, "d")), groups)[0]
    try:
        jax.eval_shape(shared(apply, out_specs=SAME), PARAMS, X, np.ones(48, "f4"))
    except ValueError as error:
        found["other gates"] = str(error)
    return found
