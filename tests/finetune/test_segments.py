"""A model in segments computes what it computed, and keeps what its segments read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import channel_costs, pad_rows, zero_probes
from dynhp_jax.finetune.planning.setting import Setting
from dynhp_jax.finetune.segments import in_segments


def model(params, x):
    first = jax.nn.relu(x @ params["a"])
    second = jax.nn.gelu(first @ params["b"]) + first  # beside the next segment
    return (jnp.tanh(second @ params["c"]) + first).sum(1), 2.0


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_segments_change_nothing_but_what_is_kept(count):
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=(8, 8)) / 3, "f4") for name in "abc"}
    x = jnp.asarray(rng.normal(size=(5, 8)), "f4")
    other = in_segments(model, count)
    np.testing.assert_allclose(other(params, x)[0], model(params, x)[0], rtol=1e-6)
    assert other(params, x)[1] == 2.0
    of = [jax.grad(lambda p, f=f: (f(p, x)[0] ** 2).sum())(params) for f in (other, model)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *of)


def test_less_is_kept():
    def chain(params, x):
        for _ in range(8):
            x = jnp.sin(jnp.cos(x @ params))
        return x.sum()

    def kept(function):
        _, back = jax.vjp(lambda p: function(p, jnp.ones((64, 8))), jnp.ones((8, 8)))
        return sum(leaf.size for leaf in jax.tree.leaves(back))

    assert kept(in_segments(chain, 2)) < kept(chain) / 4
    with pytest.raises(UserError, match="count is 0; allowed: a number of segments"):
        in_segments(chain, 0)


def test_a_planned_step_in_segments_has_the_gradients_of_its_rows():
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.normal(size=(8, 8)) / 3, "f4") for name in "abc"}
    x = jnp.asarray(rng.normal(size=(5, 8)), "f4")
    costs = channel_costs(model, params, x, prefix="")
    rows = pad_rows({"a": [1, 4], "c": [0]}, costs, {"a": 2, "c": 2})

    def gradients(setting):
        f = setting.transformed(model, ["a", "c"], ["a", "c"], {}, "asi")
        of = lambda probes: f(params, {}, rows, probes, x)[0][0].sum()  # noqa: E731
        return jax.grad(of)(zero_probes(params, rows))

    found = [gradients(Setting(segments=count)) for count in (1, 2)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
