"""Small Linen networks, each with a way of putting layers together that the others lack."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn


class ConvNeXtLike(nn.Module):
    """Depthwise 7x7, LayerNorm over channels, inverted bottleneck, layer scale; GroupNorm stem."""

    channels: int = 8
    blocks: int = 2
    classes: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.channels, (2, 2), (2, 2), name="stem")(x)
        x = nn.GroupNorm(num_groups=4, name="stem_norm")(x)
        for i in range(self.blocks):
            y = nn.Conv(
                self.channels, (7, 7), feature_group_count=self.channels, name=f"depthwise_{i}"
            )(x)
            y = nn.LayerNorm(name=f"norm_{i}")(y)
            y = nn.gelu(nn.Dense(4 * self.channels, name=f"expand_{i}")(y))
            y = nn.Dense(self.channels, name=f"project_{i}")(y)
            gamma = self.param(f"gamma_{i}", nn.initializers.constant(0.1), (self.channels,))
            x = x + gamma * y
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm")(x.mean((1, 2))))


class UNetLike(nn.Module):
    """Goes down by strided convolutions, up by transposed ones, and joins on the way up."""

    widths: tuple[int, ...] = (4, 6, 8)
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        skips = []
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Conv(width, (3, 3), name=f"down_{i}")(x))
            if i + 1 < len(self.widths):
                skips.append(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        for i, width in reversed(list(enumerate(self.widths[:-1]))):
            x = nn.ConvTranspose(width, (2, 2), strides=(2, 2), name=f"up_{i}")(x)
            x = jnp.concatenate([skips[i], x], axis=-1)
            x = nn.relu(nn.Conv(width, (3, 3), name=f"join_{i}")(x))
        return nn.Conv(self.classes, (1, 1), name="pixels")(x)


class Recurrent(nn.Module):
    """A recurrent cell under `nn.RNN`; the last output is read."""

    cell: Callable[[int], nn.RNNCellBase]
    features: int = 6
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.RNN(self.cell(self.features), name="rnn")(x)
        return nn.Dense(self.classes, name="head")(x[:, -1])


class Layer(nn.Module):
    """One layer of a stack under `nn.scan`: carries [batch, features]."""

    features: int
    hidden: int

    @nn.compact
    def __call__(self, x, _):
        y = nn.silu(nn.Dense(self.hidden, name="inner")(x))
        return x + nn.Dense(self.features, name="outer")(y), None


class Scanned(nn.Module):
    """Layers with stacked parameters, run by `nn.scan`, rematerialised."""

    features: int = 6
    hidden: int = 10
    layers: int = 3
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.features, name="embed")(x)
        stack = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        x, _ = stack(self.features, self.hidden, name="layers")(x, None)
        return nn.Dense(self.classes, name="head")(x)
