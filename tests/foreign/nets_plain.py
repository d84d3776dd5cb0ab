"""Networks as plain functions of dictionaries, lists and named tuples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Linear(NamedTuple):
    w: jax.Array
    b: jax.Array


def linear(key, n, m):
    return Linear(jax.random.normal(key, (n, m)) / n**0.5, jnp.linspace(-0.5, 0.5, m))


def init_gated_mlp(key, features=7, hidden=6, classes=3):
    """Two blocks of a gated linear unit whose two branches sit in one matrix."""
    keys = jax.random.split(key, 4)
    return {
        "embed": linear(keys[0], features, hidden),
        "blocks": [
            {"up": linear(k, hidden, 4 * hidden), "down": linear(k, 2 * hidden, hidden)}
            for k in keys[1:3]
        ],
        "head": linear(keys[3], hidden, classes),
    }


def gated_mlp(params, x):
    x = x @ params["embed"].w + params["embed"].b
    for block in params["blocks"]:
        gate, value = jnp.split(x @ block["up"].w + block["up"].b, 2, axis=-1)
        x = x + (jax.nn.silu(gate) * value) @ block["down"].w + block["down"].b
    return x @ params["head"].w + params["head"].b


def init_attention(key, features=6, heads=4, size=3, classes=2):
    keys = jax.random.split(key, 5)
    shape = (features, heads * size)
    return {
        **{n: jax.random.normal(k, shape) / 2 for n, k in zip("qkv", keys[:3], strict=True)},
        "out": jax.random.normal(keys[3], (heads * size, features)) / 3,
        "head": jax.random.normal(keys[4], (features, classes)),
    }


def attention(params, x, heads=4, turn=lambda q: q):
    """Heads by reshaping `[features, heads * size]` matrices; softmax over the keys."""
    batch, length, _ = x.shape

    def split(name):
        return (x @ params[name]).reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)

    q, k, v = turn(split("q")), turn(split("k")), split("v")
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / 3**0.5
    mixed = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)
    mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    return (x + mixed @ params["out"]).mean(1) @ params["head"]


def rotate(x):
    """Rotary positions: pairs of features of [batch, heads, length, size] turn with the place."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    speeds = 2.0 ** -jnp.arange(pairs.shape[-2])
    angles = jnp.arange(x.shape[-2])[:, None] * speeds
    a, b = pairs[..., 0], pairs[..., 1]
    turned = (a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles))
    return jnp.stack(turned, axis=-1).reshape(x.shape)


def rotary_attention(params, x):
    return attention(params, x, turn=rotate)
