"""The gradients' variance of models that look up rows of a table by positions known beforehand.

Every spelling is held against example by example, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.batch_size.variance import of_probe, per_example

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(5)
BATCH, TIME, ROWS, WIDTH = 5, 4, 9, 6
IDS, Y = RNG.integers(0, 7, (BATCH, TIME)), RNG.normal(size=(BATCH, 3))
PARAMS = {
    "words": RNG.normal(size=(7, WIDTH)),
    "table": RNG.normal(size=(ROWS, WIDTH)),
    "out": RNG.normal(size=(WIDTH, 3)),
}
AT = jnp.arange(TIME)


def embedded(table, ids):
    return nn.Embed(ROWS, WIDTH).apply({"params": {"embedding": table}}, AT)


LOOK_UPS = {
    "arange": lambda table, ids: table[AT],
    "of a batch of one": lambda table, ids: table[AT[None]],
    "arange of the ids' length": lambda table, ids: table[jnp.arange(ids.shape[1])],
    "take": lambda table, ids: jnp.take(table, AT, axis=0),
    "take and clip": lambda table, ids: jnp.take(table, AT + 2, axis=0, mode="clip"),
    "of the transposed table": lambda table, ids: table.T[:, AT].T,
    "linen's Embed": embedded,
    "tiled": lambda table, ids: table[jnp.tile(AT, (len(ids), 1))],
    "broadcast": lambda table, ids: table[jnp.broadcast_to(AT, ids.shape)],
    "from the end": lambda table, ids: table[-AT - 1],
    "in another order": lambda table, ids: table[jnp.array([5, 0, 8, 3])],
    "slice": lambda table, ids: table[:TIME],
    "slice from the middle": lambda table, ids: table[3 : TIME + 3],
    "every second": lambda table, ids: table[: 2 * TIME : 2],
    "backwards": lambda table, ids: table[:TIME][::-1],
    "dynamic slice": lambda table, ids: jax.lax.dynamic_slice_in_dim(table, 2, TIME),
    "split": lambda table, ids: jnp.split(table[:8], 2)[1],
    "under jit": lambda table, ids: jax.jit(lambda t: t[jnp.arange(TIME)])(table),
    "rows and columns": lambda table, ids: table[AT[:, None], jnp.arange(WIDTH)[::-1]],
}


def model(look_up, params, ids):
    hidden = jax.nn.relu(params["words"][ids] + look_up(params["table"], ids))
    return hidden.mean(1) @ params["out"]


def loss(outputs, y):
    return jnp.mean(jnp.sum((outputs - y) ** 2, -1))


def variances(look_up):
    """(by the probe, example by example)."""

    def apply(variables, ids):
        return model(look_up, variables["params"], ids)

    def with_probe(params, probe):
        return loss(probed(apply)({"params": params}, probe, IDS), Y)

    grads, probe = jax.grad(with_probe, (0, 1))(PARAMS, jnp.zeros(BATCH))

    def one(params, ids, y):
        return loss(model(look_up, params, ids[None]), y[None])

    return of_probe(probe, grads), per_example(one, PARAMS, IDS, Y)[0]


@pytest.mark.parametrize("name", LOOK_UPS)
def test_rows_at_known_positions_are_counted_exactly(name):
    found, expected = variances(LOOK_UPS[name])
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "look_up",
    [
        lambda table, ids: table[jnp.array([0, 1, 0, 1])],
        lambda table, ids: table[jnp.array([3, 3])].sum(0),
        lambda table, ids: jnp.take(table, jnp.array([0, 1, 2, ROWS]), axis=0, fill_value=0.0),
    ],
    ids=["twice", "twice in a sum", "outside"],
)
def test_rows_that_may_repeat_are_refused_by_name(look_up):
    with pytest.raises(ValueError, match="'params/table' meets the data in .* after a look-up of"):
        variances(look_up)


def test_a_part_of_a_kernel_that_reads_the_data_is_counted_exactly():
    x, y = RNG.normal(size=(BATCH, 3)), RNG.normal(size=(BATCH, 4))
    kernel = {"kernel": RNG.normal(size=(8, 4))}

    def apply(variables, x):
        return jnp.tanh(x @ variables["params"]["kernel"][2:5])

    def with_probe(params, probe):
        return loss(probed(apply)({"params": params}, probe, x), y)

    grads, probe = jax.grad(with_probe, (0, 1))(kernel, jnp.zeros(BATCH))
    slow, _ = per_example(
        lambda p, x, y: loss(apply({"params": p}, x[None]), y[None]), kernel, x, y
    )
    np.testing.assert_allclose(of_probe(probe, grads), slow, rtol=1e-8)
