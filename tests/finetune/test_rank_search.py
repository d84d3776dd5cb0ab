"""One share of energy for each layer: against every choice there is, and on a small network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax.finetune import calibrate
from dynhp_jax.finetune.decomposition import stored_numbers
from dynhp_jax.finetune.rank_search import cheapest, kernel_gradients, search_ranks


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_within_the_limit_costs_less(seed):
    rng = np.random.default_rng(seed)
    choices = [
        [(int(rng.integers(1, 40)), float(rng.random())) for _ in range(4)] for _ in range(4)
    ]
    least = sum(min(size for size, _ in options) for options in choices)
    limit = least + int(rng.integers(0, 60))
    taken = [options[k] for options, k in zip(choices, cheapest(choices, limit), strict=True)]
    within = (
        sum(cost for _, cost in each)
        for each in itertools.product(*choices)
        if sum(size for size, _ in each) <= limit
    )
    assert sum(size for size, _ in taken) <= limit
    assert sum(cost for _, cost in taken) == pytest.approx(min(within))


def test_gradients_are_nearer_in_the_same_numbers():
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = {"a": (24, 20), "b": (20, 16), "c": (16, 5)}
    params = {
        name: jax.random.normal(key, size) / size[0] ** 0.5
        for key, (name, size) in zip(keys, sizes.items(), strict=False)
    }
    x = jax.random.normal(keys[3], (64, 24)) * jnp.linspace(0.2, 2, 24)

    def apply(params, x):
        x = jnp.tanh(x @ params["a"])
        return jnp.tanh(x @ params["b"]) @ params["c"]

    def loss(outputs):
        return jnp.square(outputs - 1).mean()

    paths, shapes = ("a", "b"), {"a": (64, 24), "b": (64, 20)}

    def numbers(ranks):
        return sum(stored_numbers(shapes[path], ranks[path]) for path in paths)

    def error(ranks):
        given = apply, params, (x,), loss, paths, {}
        exact, found = (kernel_gradients(*given, each, "hosvd") for each in ({}, ranks))
        return sum(float(jnp.linalg.norm(found[path] - exact[path])) for path in paths)

    alike, _ = calibrate(apply, params, x, paths=paths, epsilon=0.8)
    found = search_ranks(apply, params, x, loss=loss, paths=paths, epsilon=0.8)
    assert numbers(found) <= numbers(alike)
    assert error(found) <= error(alike)
