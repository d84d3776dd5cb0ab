"""Blocks on any shape that make, join and move features."""

import jax
import jax.numpy as jnp
import numpy as np

from architectures.net import act


def dense(net, shape, width=None):
    n = width or net.width()
    w, f = net.array((shape[-1], n)), act(net)
    b = net.array((n,), 4) if net.draw.integer(0, 1) else None

    def run(p, x):
        y = x @ p[w]
        return f(y if b is None else y + p[b])

    return run, (*shape[:-1], n)


def dense_einsum(net, shape):
    n = net.width()
    letters = net.draw.pick(["...i,io->...o", "...i,oi->...o", "io,...i->...o", "oi,...i->...o"])
    w = net.array((n, shape[-1]) if "oi" in letters else (shape[-1], n), shape[-1])
    left = letters.startswith("...")
    return (
        lambda p, x: jnp.sin(jnp.einsum(letters, *((x, p[w]) if left else (p[w], x)))),
        (*shape[:-1], n),
    )


def low_rank(net, shape):
    n, r = net.width(), net.width()
    a, b = net.array((shape[-1], r)), net.array((r, n))
    return lambda p, x: jnp.tanh(x @ (p[a] @ p[b])), (*shape[:-1], n)


def tied(net, shape):
    n = net.width()
    w = net.array((shape[-1], n))
    return lambda p, x: jnp.tanh(jnp.tanh(x @ p[w]) @ p[w].T), shape


def glu(net, shape):
    n, c = net.width(), shape[-1]
    form = net.draw.pick(["split", "slices", "two", "reshape"])
    if form == "two":
        u, v = net.array((c, n)), net.array((c, n))
        return lambda p, x: (x @ p[u]) * jax.nn.sigmoid(x @ p[v]), (*shape[:-1], n)
    w = net.array((c, 2 * n))

    def run(p, x):
        y = x @ p[w]
        if form == "split":
            a, b = jnp.split(y, 2, -1)
        elif form == "slices":
            a, b = y[..., :n], y[..., n:]
        else:
            y = y.reshape(*y.shape[:-1], 2, n)
            a, b = y[..., 0, :], y[..., 1, :]
        return a * jax.nn.sigmoid(b)

    return run, (*shape[:-1], n)


def option_a(net, shape):
    """A shortcut without parameters: zeros where the wider result has more features."""
    more = net.draw.integer(1, 3)
    front = net.draw.integer(0, more)
    n = shape[-1] + more
    wide, _ = dense(net, shape, n)
    pad = [(0, 0)] * (len(shape) - 1) + [(front, more - front)]
    return lambda p, x: wide(p, x) + jnp.pad(x, pad), (*shape[:-1], n)


def concat(net, shape):
    n = net.draw.integer(1, 3)
    grow, _ = dense(net, shape, n)
    first = net.draw.integer(0, 1)
    return (
        lambda p, x: jnp.concatenate([grow(p, x), x] if first else [x, grow(p, x)], -1),
        (*shape[:-1], n + shape[-1]),
    )


def rearranged(net, shape):
    """Positions of the last axis taken, reversed, repeated, rolled, by static indices."""
    n = shape[-1]
    index = [net.draw.integer(0, n - 1) for _ in range(net.width())]
    cut = net.draw.integer(1, max(1, n - 1))
    name, f, size = net.draw.pick(
        [
            ("take", lambda x: jnp.take(x, np.array(index), axis=-1), len(index)),
            ("rev", lambda x: x[..., ::-1], n),
            ("stride", lambda x: x[..., ::2], -(-n // 2)),
            ("repeat", lambda x: jnp.repeat(x, 2, -1), 2 * n),
            ("tile", lambda x: jnp.tile(x, (1,) * (len(shape) - 1) + (2,)), 2 * n),
            ("roll", lambda x: jnp.roll(x, cut, -1), n),
            ("one", lambda x: x * (1 + x[..., :1]), n),
            ("scalar", lambda x: x * jnp.sin(x[..., n - 1])[..., None], n),
            ("where", lambda x: jnp.where(np.arange(n) % 2 == 0, x, jnp.cos(x)), n),
            ("sort", lambda x: jnp.sort(x, -1), n),
            ("cumsum", lambda x: jnp.cumsum(x, -1), n),
            ("max", lambda x: jnp.maximum(x, x.max(-1, keepdims=True) / 2), n),
        ]
    )
    net.blocks[-1] += "." + name
    return lambda p, x: f(x), (*shape[:-1], size)


def outer(net, shape):
    """All products of two sets of features, flattened."""
    n, m = net.draw.integer(2, 3), net.draw.integer(2, 3)
    a, b = net.array((shape[-1], n)), net.array((shape[-1], m))

    def run(p, x):
        y = (x @ p[a])[..., :, None] * (x @ p[b])[..., None, :]
        return y.reshape(*x.shape[:-1], n * m)

    return run, (*shape[:-1], n * m)


BLOCKS = (
    dense,
    dense,
    dense_einsum,
    low_rank,
    tied,
    glu,
    option_a,
    concat,
    rearranged,
    rearranged,
    outer,
)
