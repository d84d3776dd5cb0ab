"""Networks in flax NNX: modules that hold their own arrays."""

import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    def __init__(self, features: tuple[int, ...], rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(n, m, rngs=rngs) for n, m in zip(features[:-1], features[1:], strict=True)]
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.dropout(nnx.relu(layer(x)))
        return self.layers[-1](x)


class CNN(nnx.Module):
    """Two convolutions with BatchNorm, pooled, flattened, two dense layers."""

    def __init__(self, widths: tuple[int, int, int], size: int, classes: int, rngs: nnx.Rngs):
        a, b, hidden = widths
        self.conv_1 = nnx.Conv(1, a, (3, 3), rngs=rngs)
        self.norm_1 = nnx.BatchNorm(a, rngs=rngs)
        self.conv_2 = nnx.Conv(a, b, (3, 3), rngs=rngs)
        self.norm_2 = nnx.BatchNorm(b, rngs=rngs)
        self.hidden = nnx.Linear((size // 4) ** 2 * b, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm_1(self.conv_1(x))), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.norm_2(self.conv_2(x))), (2, 2), (2, 2))
        x = nnx.relu(self.hidden(jnp.reshape(x, (x.shape[0], -1))))
        return self.head(x)
