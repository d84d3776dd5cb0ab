"""Blocks whose layers share what couples nothing, and blocks that write at given places.

They stand beside the others (`random_case(draw, sharing.BLOCKS)`), so that the architectures of old
seeds stay what they were.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from architectures.features import dense


def _tables(net, shape, n):
    """Name -> (parameters, inputs) -> an array that meets [..., n] position by position."""
    held = net.rng.normal(size=n)
    key, at = net.draw.integer(0, 9), net.draw.integer(0, shape[-1] - 1)

    def mask(p, x):
        return jnp.broadcast_to(jnp.where(x[..., at : at + 1] > 0, 1.0, 0.5), (*shape[:-1], n))

    def halves(p, x):
        angle = jnp.arange(-(-n // 2)) * 0.7
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])[:n]

    return {
        "linspace": lambda p, x: jnp.linspace(0.5, 1.5, n),
        "halves": halves,
        "running": lambda p, x: jnp.cumsum(jnp.sort(jnp.sin(jnp.arange(1.0 * n)))),
        "drawn": lambda p, x: jax.random.normal(jax.random.key(key), (n,)),
        "held": lambda p, x: jnp.asarray(held) * jnp.ones(shape[:-1] + (1,)),
        "mask": mask,
    }


def shared(net, shape):
    """Two layers that read one table; in a loop, in a branch, in calls, or as they stand."""
    n, c = net.width(), shape[-1]
    tables = _tables(net, shape, n)
    kind = net.draw.pick(sorted(tables))
    way = net.draw.pick(["plain", "scan", "cond", "calls", "own"])
    net.blocks[-1] += f".{kind}.{way}"
    w, v, u, s = (net.array(size) for size in ((c, n), (n, c), (c, n), (n, c)))

    def layers(p, x, table):
        h = jnp.tanh(jnp.tanh(x @ p[w]) * table) @ p[v]
        return jnp.cos(h @ p[u] + table) @ p[s]

    def run(p, x):
        table = tables[kind](p, x)
        if way == "scan":
            step = lambda y, _: (layers(p, y, table), table)  # noqa: E731
            y, each = lax.scan(step, x, length=2)
            return y + (each[1] * (x @ p[u])) @ p[s]
        if way == "cond":
            back = lambda x, t: x + t @ p[v]  # noqa: E731
            return lax.cond(x.sum() > 0, lambda x, t: layers(p, x, t), back, x, table)
        if way == "calls":
            return jax.checkpoint(jax.jit(layers))(p, x, table)
        if way == "own":
            h = _times(jnp.tanh(x @ p[w]), jnp.broadcast_to(table, (*x.shape[:-1], n))) @ p[v]
            return _times(h @ p[u], jnp.broadcast_to(table, (*x.shape[:-1], n))) @ p[s]
        return layers(p, x, table)

    return run, shape


@jax.custom_vjp
def _times(x, table):
    return jnp.sin(x) * table


def _times_back(saved, g):
    x, table, count = saved
    return g * table * count * jnp.cos(x), jnp.zeros_like(table)


_times.defvjp(
    lambda x, table: (_times(x, table), (x, table, jnp.arange(1.0, 1.0 + x.shape[-1]))),
    _times_back,
)


def written(net, shape):
    """Features that are written into a wider array of zeros, or into themselves."""
    c, n = shape[-1], net.width()
    layer, (*_, n) = dense(net, shape, n)
    front, more = net.draw.integer(0, 2), net.draw.integer(0, 2)
    at = [net.draw.integer(0, c - 1) for _ in range(n)]
    where = net.rng.permutation(n + front + more)[:n]
    form = net.draw.pick(["window", "listed", "added", "slice", "rows", "segments", "one"])
    net.blocks[-1] += "." + form
    wide = (*shape[:-1], n + front + more)

    def run(p, x):
        y = layer(p, x)
        if form == "window":
            return jnp.full(wide, 0.5).at[..., front : front + n].set(y)
        if form == "listed":
            return jnp.zeros(wide).at[..., where].set(y)
        if form == "added":
            return x.at[..., np.array(at)].add(y)
        if form == "slice":
            start = (0,) * (len(shape) - 1)
            return lax.dynamic_update_slice(jnp.zeros(wide), y, (*start, front))
        if form == "rows":
            z = jnp.zeros((*shape[:-1], 2, n)).at[..., 1, :].set(y).at[..., 0, :].add(jnp.sin(y))
            return z.reshape(*shape[:-1], 2 * n)
        if form == "segments":
            place = (jnp.sum(lax.stop_gradient(p[scale]) > 0) + jnp.arange(shape[0])) % 2
            return y + jax.ops.segment_sum(jnp.tanh(y), place, 2)[place]
        return y.at[..., 0].set(y[..., -1] ** 2)

    scale = net.vector(1)
    size = {"window": wide[-1], "listed": wide[-1], "slice": wide[-1], "added": c, "rows": 2 * n}
    return run, (*shape[:-1], size.get(form, n))


BLOCKS = (shared, shared, written, written)
