"""Random architectures: blocks of plain JAX, chained, nested and looped, at tiny sizes.

`random_case(draw)` makes one. `draw` has `integer(low, high)` and `pick(options)`: hypothesis in
the property test (so that failures shrink), a NumPy generator with a seed in the long run.

A block is made by `block(net, shape) -> (function(params, x), shape of its result)`; it draws its
sizes, registers its parameters, and works on shapes [batch, n], [batch, steps, n] or
[batch, height, width, n].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from architectures import features, images, layers, sequences, sharing
from architectures.net import Net, Seeded

__all__ = ["Case", "Seeded", "random_case", "sharing"]

BATCH = 2


@dataclasses.dataclass
class Case:
    """A model as a function, its float64 variables and inputs, and what it is made of."""

    apply: Callable
    variables: Any
    inputs: tuple
    blocks: list[str]


def residual(net, shape):
    inner, out = chain(net, shape, net.draw.integer(1, 2))
    if out == shape:
        return lambda p, x: x + inner(p, x), shape
    if out[:-1] != shape[:-1]:
        return inner, out
    back = net.array((out[-1], shape[-1]))
    return lambda p, x: x + inner(p, x) @ p[back], shape


def remat(net, shape):
    inner, out = chain(net, shape, net.draw.integer(1, 2))
    return jax.checkpoint(inner), out


def jitted(net, shape):
    inner, out = chain(net, shape, 1)
    return jax.jit(inner), out


ANY = (
    *features.BLOCKS,
    *layers.BLOCKS,
    residual,
    remat,
    jitted,
)
OF_RANK = {2: (), 3: sequences.BLOCKS, 4: images.BLOCKS}


def chain(net, shape, length):
    """`length` blocks, one after the other."""
    functions = []
    for _ in range(length):
        special = OF_RANK[len(shape)]
        options = special if special and net.draw.integer(0, 2) else (*ANY, *net.more)
        if len(shape) == 4 and max(shape[1:3]) > 8:
            options = [images.pool]
        block = net.draw.pick(options)
        net.blocks.append(block.__name__)
        function, shape = block(net, shape)
        functions.append(function)

    def run(p, x):
        for function in functions:
            x = function(p, x)
        return x

    return run, shape


def random_case(draw, more=()):
    """Some blocks on images, sequences, tokens or rows, perhaps down to rows, and a dense head.

    Blocks of `more` are drawn with those of any shape.
    """
    net = Net(draw, more)
    kind = draw.pick(["rows", "sequence", "tokens", "image", "image"])
    parts = []
    if kind == "rows":
        shape = (BATCH, net.width())
    elif kind == "image":
        shape = (BATCH, draw.integer(3, 5), draw.integer(3, 5), draw.integer(1, 3))
    else:
        shape = (BATCH, draw.integer(2, 4), net.width())
    x = net.rng.normal(size=shape)
    if kind == "tokens":
        net.blocks.append("embedding")
        table = net.array((7, shape[-1]), 2)
        x = net.rng.integers(0, 7, shape[:2])
        parts.append(lambda p, x: p[table][x])
    net.blocks.append("stem")
    stem, shape = features.dense(net, shape) if draw.integer(0, 1) else (lambda p, x: x, shape)
    parts.append(stem)
    body, shape = chain(net, shape, draw.integer(1, 3))
    parts.append(body)
    if len(shape) > 2:
        along = len(shape) == 4 and draw.integer(0, 2) == 0
        end = sequences.to_sequence if along else sequences.to_rows
        net.blocks.append(end.__name__)
        end, shape = end(net, shape)
        parts.append(end)
        more, shape = chain(net, shape, draw.integer(0, 2))
        parts.append(more)
    net.blocks.append("head")
    head = net.array((shape[-1], 2))

    def apply(params, x):
        for part in parts:
            x = part(params, x)
        return x @ params[head]

    return Case(apply, net.params, (x,), net.blocks)
