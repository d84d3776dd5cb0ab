"""What the blocks share: draws, parameters, activations."""

import jax
import jax.numpy as jnp
import numpy as np


class Seeded:
    """Draws from a seed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]


class Net:
    """Collects the parameters and the names of the blocks while an architecture is drawn."""

    def __init__(self, draw, more=()):
        self.draw, self.params, self.blocks, self.more = draw, {}, [], more
        self.rng = np.random.default_rng(draw.integer(0, 2**16))

    def width(self, low=2):
        return self.draw.integer(low, 5)

    def array(self, shape, fan_in=None):
        scale = 1 / np.sqrt(fan_in or max(1, int(np.prod(shape[:-1]))))
        name = f"{self.blocks[-1]}_{len(self.params)}"
        self.params[name] = self.rng.normal(size=shape) * scale
        return name

    def vector(self, n):
        name = f"{self.blocks[-1]}_{len(self.params)}"
        self.params[name] = self.rng.uniform(0.5, 1.5, n)
        return name


def act(net):
    return net.draw.pick(
        [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.softplus, _twice_back]
    )


@jax.custom_vjp
def _twice_back(x):
    """An activation whose derivative is its own affair."""
    return jnp.sin(x)


_twice_back.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * g * jnp.cos(x),))
