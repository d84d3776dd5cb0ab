"""Blocks on [batch, steps, features]."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def attention(net, shape):
    heads, size, c = net.draw.integer(1, 3), net.draw.integer(2, 3), shape[-1]
    form = net.draw.pick(["reshape", "split", "separate", "grouped", "major"])
    out = net.array((heads * size, c)) if form != "separate" else net.array((heads, size, c), size)
    if form == "separate":
        q, k, v = (net.array((c, heads, size), c) for _ in range(3))
    elif form == "grouped":  # all heads share one key and value
        q, k, v = net.array((c, heads * size)), net.array((c, size)), net.array((c, size))
    else:
        w, b = net.array((c, 3 * heads * size)), net.array((3 * heads * size,), 4)

    def run(p, x):
        bsz, t, _ = x.shape
        if form == "separate":
            a = [jnp.einsum("btc,chd->bthd", x, p[n]) for n in (q, k, v)]
        elif form == "grouped":
            a = [(x @ p[q]).reshape(bsz, t, heads, size)]
            a += [jnp.broadcast_to((x @ p[n])[:, :, None], a[0].shape) for n in (k, v)]
        else:
            y = x @ p[w] + p[b]
            if form == "reshape":  # [3, heads, size]
                y = y.reshape(bsz, t, 3, heads, size)
                a = [y[:, :, i] for i in range(3)]
            elif form == "major":  # [heads, size, 3]
                y = y.reshape(bsz, t, heads, size, 3)
                a = [y[..., i] for i in range(3)]
            else:
                a = [s.reshape(bsz, t, heads, size) for s in jnp.split(y, 3, -1)]
        logits = jnp.einsum("bqhd,bkhd->bhqk", a[0] / np.sqrt(size), a[1])
        mask = jnp.tril(jnp.ones((t, t), bool))
        weights = jax.nn.softmax(jnp.where(mask, logits, -1e9))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, a[2])
        if form == "separate":
            return x + jnp.einsum("bqhd,hdc->bqc", y, p[out])
        return x + y.reshape(bsz, t, heads * size) @ p[out]

    return run, shape


def recurrent(net, shape):
    """A cell scanned over the steps."""
    n, c = net.width(), shape[-1]
    cell = net.draw.pick(["rnn", "gru", "lstm"])
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    w, u = net.array((c, gates * n)), net.array((n, gates * n))
    b = net.array((gates * n,), 4)

    def run(p, x):
        zeros = jnp.zeros((x.shape[0], n))

        def step(state, x):
            h, s = state
            if cell == "rnn":
                h = jnp.tanh(x @ p[w] + h @ p[u] + p[b])
            elif cell == "lstm":
                i, f, g, o = jnp.split(x @ p[w] + h @ p[u] + p[b], 4, -1)
                s = jax.nn.sigmoid(f) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(s)
            else:
                xr, xz, xn = jnp.split(x @ p[w] + p[b], 3, -1)
                hr, hz, hn = jnp.split(h @ p[u], 3, -1)
                z = jax.nn.sigmoid(xz + hz)
                h = (1 - z) * jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn) + z * h
            return (h, s), h

        _, y = lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(y, 0, 1)

    return run, (*shape[:-1], n)


def token_mixing(net, shape):
    t, n = shape[1], net.width()
    w, v = net.array((t, n)), net.array((n, t))

    def run(p, x):
        y = jnp.swapaxes(x, 1, 2)
        return x + jnp.swapaxes(jnp.tanh(y @ p[w]) @ p[v], 1, 2)

    return run, shape


def positions(net, shape):
    table = net.array(shape[1:], 4)
    return lambda p, x: x + p[table][None], shape


def conv_1d(net, shape):
    n = net.width()
    w = net.array((3, shape[-1], n))
    causal = net.draw.integer(0, 1)

    def run(p, x):
        pad = [(2, 0)] if causal else "SAME"
        return jnp.tanh(
            lax.conv_general_dilated(x, p[w], (1,), pad, dimension_numbers=("NWC", "WIO", "NWC"))
        )

    return run, (*shape[:-1], n)


def to_rows(net, shape):
    form = net.draw.pick(["flatten", "mean", "last", "flatten features first"])
    size = int(np.prod(shape[1:])) if form.startswith("flatten") else shape[-1]
    mid = tuple(range(1, len(shape) - 1))

    def run(p, x):
        if form == "mean":
            return x.mean(mid)
        if form == "last":
            return x[:, *(-1,) * len(mid)]
        if form == "flatten features first":
            x = jnp.moveaxis(x, -1, 1)
        return x.reshape(x.shape[0], -1)

    return run, (shape[0], size)


def to_sequence(net, shape):
    return lambda p, x: x.reshape(x.shape[0], -1, x.shape[-1]), (
        shape[0],
        shape[1] * shape[2],
        shape[3],
    )


BLOCKS = (attention, attention, attention, recurrent, recurrent, token_mixing, positions, conv_1d)
