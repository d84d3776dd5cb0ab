"""A fully convolutional network: an image in, outputs for every pixel out.

The 3x3 kernels are dilated by 1, 2, 4, 1, 2, 4, ... (Yu and Koltun, 1511.07122), so that a pixel is
judged by what is far around it while images keep their height and width.
"""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import check_input, he_normal, scaled
from dynhp_jax.models.spec import LeafShapes, Spec

_DILATIONS = (1, 2, 4)


class FCN(nn.Module):
    """Convolutions `conv_1`, `conv_2`, ..., with ReLU, and `output`, which is 1x1.

    Attributes:
      channels: of the image, of each hidden layer, outputs.
      size: (height, width) of an image.
    """

    channels: tuple[int, ...]
    size: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels[0]] -> [batch, height, width, channels[-1]]."""
        del train  # nothing here differs in training
        check_input(x, (*self.size, self.channels[0]), "FCN")
        for i, units in enumerate(self.channels[1:-1]):
            layer = nn.Conv(
                units,
                (3, 3),
                kernel_dilation=_DILATIONS[i % len(_DILATIONS)],
                kernel_init=he_normal,
                name=f"conv_{i + 1}",
            )
            x = nn.relu(layer(x))
        return nn.Conv(self.channels[-1], (1, 1), kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class FCNSpec(Spec):
    """Channels of a fully convolutional network; every one but the last can be pruned.

    Attributes:
      channels: of the image, of each hidden layer, outputs for every pixel.
      size: (height, width) of an image.

    >>> FCNSpec.pixels((16, 16, 1), 11, hidden=(8, 8)).to_dict()
    {'model': 'fcn', 'channels': [1, 8, 8, 11], 'size': [16, 16]}
    """

    model: typing.ClassVar[str] = "fcn"
    channels: tuple[int, ...]
    size: tuple[int, int]

    def __post_init__(self):
        super().__post_init__()
        if len(self.channels) < 2:
            raise UserError(
                f"FCNSpec.channels is {self.channels}; allowed: at least image, outputs"
            )

    @classmethod
    def pixels(
        cls,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        hidden: tuple[int, ...] = (32, 32, 32, 32),
        width: float = 1.0,
    ) -> "FCNSpec":
        """`num_classes` outputs for each pixel of images of this shape."""
        *size, image = input_shape
        return cls((image, *(scaled(units, width) for units in hidden), num_classes), tuple(size))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self.size, self.channels[0])

    @property
    def num_classes(self) -> int:
        return self.channels[-1]

    def module(self) -> FCN:
        return FCN(channels=self.channels, size=self.size)

    def _read(self, shapes: LeafShapes) -> "FCNSpec":
        layers = [f"conv_{i}" for i in range(1, len(self.channels) - 1)] + ["output"]
        read = tuple(shapes.width(f"{layer}/kernel", axis=-2) for layer in layers)
        return dataclasses.replace(self, channels=(*read, self.num_classes))
