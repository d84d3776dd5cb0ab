"""Blocks on any shape: norms, experts, loops and branches."""

import jax
import jax.numpy as jnp
from jax import lax

from architectures.features import dense
from architectures.net import act


def batch_norm(net, shape):
    scale, bias, mean, var = (net.vector(shape[-1]) for _ in range(4))
    return (
        lambda p, x: (x - p[mean]) * lax.rsqrt(p[var] + 1e-5) * p[scale] + p[bias],
        shape,
    )


def norm(net, shape):
    scale = net.vector(shape[-1])
    form = net.draw.pick(["layer", "rms", "softmax", "l2"])

    def run(p, x):
        if form == "layer":
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        elif form == "rms":
            x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
        elif form == "softmax":
            x = jax.nn.softmax(x)
        else:
            x = x / (1 + jnp.linalg.norm(x, axis=-1, keepdims=True))
        return x * p[scale]

    return run, shape


def group_norm(net, shape):
    g, k = net.width(), net.width()
    widen, (*_, _) = dense(net, shape, g * k)
    scale = net.vector(g * k)

    def run(p, x):
        x = widen(p, x)
        y = x.reshape(*x.shape[:-1], g, k)
        y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return y.reshape(x.shape) * p[scale]

    return run, (*shape[:-1], g * k)


def maxout(net, shape):
    n, k = net.width(), net.draw.integer(2, 3)
    w = net.array((shape[-1], n * k))
    return (
        lambda p, x: (x @ p[w]).reshape(*x.shape[:-1], n, k).max(-1),
        (*shape[:-1], n),
    )


def experts(net, shape):
    e, n, c = net.draw.integer(2, 3), net.width(), shape[-1]
    router, w_in, w_out = net.array((c, e)), net.array((e, c, n), c), net.array((e, n, c), n)
    soft = net.draw.integer(0, 1)

    def run(p, x):
        weights = x @ p[router]
        weights = jax.nn.softmax(weights) if soft else jax.nn.sigmoid(weights)
        h = jnp.tanh(jnp.einsum("...c,ecn->...en", x, p[w_in]))
        return jnp.einsum("...en,enc,...e->...c", h, p[w_out], weights)

    return run, shape


def scanned(net, shape):
    """Layers whose parameters are stacked; the features are carried."""
    depth, n, c = net.draw.integer(2, 3), net.width(), shape[-1]
    w, v = net.array((depth, c, n), c), net.array((depth, n, c), n)
    b = net.array((depth, n), 4)
    remat, reverse = net.draw.integer(0, 1), bool(net.draw.integer(0, 1))
    f = act(net)

    def run(p, x):
        def step(x, layer):
            w, v, b = layer
            return x + f(x @ w + b) @ v, x

        body = jax.checkpoint(step) if remat else step
        last, passed = lax.scan(body, x, (p[w], p[v], p[b]), reverse=reverse)
        return last + passed[1]

    return run, shape


def looped(net, shape):
    """The same layer several times."""
    n, c, form = net.width(), shape[-1], net.draw.pick(["fori", "while", "scan"])
    w, v = net.array((c, n)), net.array((n, c))

    def run(p, x):
        def step(_, y):
            return jnp.tanh(jnp.tanh(y @ p[w]) @ p[v] + x)

        if form == "fori":
            return lax.fori_loop(0, 2, step, x)
        if form == "scan":
            return lax.scan(lambda y, _: (step(0, y), None), x, None, length=2)[0]
        # Not differentiable backwards: only where the gradient does not pass.
        y = lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, step(0, s[1])), (0, lax.stop_gradient(x))
        )[1]
        return x + lax.stop_gradient(y)

    return run, shape


def branched(net, shape):
    n, chosen = net.width(), net.vector(1)
    (f, _), (g, _) = dense(net, shape, n), dense(net, shape, n)
    return (
        lambda p, x: lax.cond(p[chosen][0] > 1, f, g, p, x),
        (*shape[:-1], n),
    )


BLOCKS = (batch_norm, norm, group_norm, maxout, experts, scanned, looped, branched)
