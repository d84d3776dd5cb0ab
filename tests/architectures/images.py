"""Blocks on [batch, height, width, features]."""

import jax
import jax.numpy as jnp
from jax import lax

from architectures.features import dense
from architectures.net import act


def _conv(x, w, stride=1, padding="SAME", dilation=1, groups=1, first=False):
    numbers = ("NCHW", "OIHW", "NCHW") if first else ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


def _conv_shape(shape, k, stride, padding, dilation, n):
    reach = (k - 1) * dilation + 1
    sizes = [
        -(-s // stride) if padding == "SAME" else max(0, (s - reach) // stride + 1)
        for s in shape[1:3]
    ]
    return (shape[0], *sizes, n)


def conv(net, shape):
    n, k = net.width(), net.draw.integer(1, 3)
    stride, dilation = net.draw.integer(1, 2), net.draw.integer(1, 2)
    padding = net.draw.pick(["SAME", "VALID"])
    out = _conv_shape(shape, k, stride, padding, dilation, n)
    if min(out) == 0:
        padding, out = "SAME", _conv_shape(shape, k, stride, "SAME", dilation, n)
    first, f = net.draw.integer(0, 1), act(net)
    w = net.array((n, shape[-1], k, k) if first else (k, k, shape[-1], n), k * k * shape[-1])
    b = net.array((n,), 4)

    def run(p, x):
        if first:
            y = _conv(jnp.moveaxis(x, -1, 1), p[w], stride, padding, dilation, first=True)
            return jnp.moveaxis(f(y + p[b][:, None, None]), 1, -1)
        return f(_conv(x, p[w], stride, padding, dilation) + p[b])

    return run, out


def depthwise(net, shape):
    c, times = shape[-1], net.draw.integer(1, 2)
    w, b = net.array((3, 3, 1, c * times)), net.array((c * times,), 4)
    return (
        lambda p, x: jnp.tanh(_conv(x, p[w], groups=c) + p[b]),
        (*shape[:-1], c * times),
    )


def grouped_conv(net, shape):
    g, k, n = net.draw.integer(2, 3), net.draw.integer(1, 3), net.draw.integer(1, 3)
    widen, _ = dense(net, shape, g * k)
    w = net.array((3, 3, k, g * n))
    shuffle = net.draw.integer(0, 1)

    def run(p, x):
        y = _conv(widen(p, x), p[w], groups=g)
        if shuffle:
            y = jnp.swapaxes(y.reshape(*y.shape[:-1], g, n), -1, -2).reshape(y.shape)
        return jnp.tanh(y)

    return run, (*shape[:-1], g * n)


def conv_transpose(net, shape):
    n = net.width()
    w = net.array((2, 2, shape[-1], n))

    def run(p, x):
        return jnp.tanh(
            lax.conv_transpose(x, p[w], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    return run, (shape[0], 2 * shape[1], 2 * shape[2], n)


def pool(net, shape):
    if min(shape[1:3]) < 2:
        return dense(net, shape)
    kind = net.draw.pick(["max", "average"])

    def run(p, x):
        start, f = (-jnp.inf, lax.max) if kind == "max" else (0.0, lax.add)
        y = lax.reduce_window(x, start, f, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return y if kind == "max" else y / 4

    return run, (shape[0], shape[1] // 2, shape[2] // 2, shape[3])


def squeeze_excite(net, shape):
    n, c = net.width(), shape[-1]
    w, v = net.array((c, n)), net.array((n, c))

    def run(p, x):
        s = jax.nn.relu(x.mean((1, 2), keepdims=True) @ p[w])
        return x * jax.nn.sigmoid(s @ p[v])

    return run, shape


def strided_shortcut(net, shape):
    """ResNet's shortcut A: strided in space, padded in features."""
    n = shape[-1] + 2
    w = net.array((3, 3, shape[-1], n))

    def run(p, x):
        return jax.nn.relu(_conv(x, p[w], 2) + jnp.pad(x[:, ::2, ::2], [(0, 0)] * 3 + [(1, 1)]))

    return run, _conv_shape(shape, 3, 2, "SAME", 1, n)


def dense_block(net, shape):
    n = net.draw.integer(1, 2)
    w = net.array((3, 3, shape[-1], n))
    u = net.array((3, 3, shape[-1] + n, n))

    def run(p, x):
        x = jnp.concatenate([x, jax.nn.relu(_conv(x, p[w]))], -1)
        return jnp.concatenate([x, jax.nn.relu(_conv(x, p[u]))], -1)

    return run, (*shape[:-1], shape[-1] + 2 * n)


def pixel_shuffle(net, shape):
    n = net.draw.integer(1, 2)
    widen, _ = dense(net, shape, 4 * n)

    def run(p, x):
        b, h, w, _ = x.shape
        y = widen(p, x).reshape(b, h, w, 2, 2, n)
        return jnp.transpose(y, (0, 1, 3, 2, 4, 5)).reshape(b, 2 * h, 2 * w, n)

    return run, (shape[0], 2 * shape[1], 2 * shape[2], n)


BLOCKS = (
    conv,
    conv,
    conv,
    depthwise,
    depthwise,
    grouped_conv,
    grouped_conv,
    conv_transpose,
    pool,
    pool,
    squeeze_excite,
    strided_shortcut,
    dense_block,
    pixel_shuffle,
)
