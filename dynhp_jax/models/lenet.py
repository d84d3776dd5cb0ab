"""LeNet-5 as pruned by Louizos et al. (1712.01312, section 4.1): 20-50-500 units on 28x28x1."""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import check_input, he_normal, scaled
from dynhp_jax.models.spec import LeafShapes, Spec


class LeNet(nn.Module):
    """`conv_1`, `conv_2` (5x5, no padding, ReLU, 2x2 max pooling), `hidden_i` (ReLU), `output`.

    Attributes:
      convs: channels of the convolutions.
      hidden: units of the dense hidden layers.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    convs: tuple[int, ...]
    hidden: tuple[int, ...]
    num_classes: int
    input_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        del train  # nothing here differs in training
        check_input(x, self.input_shape, "LeNet")
        for i, units in enumerate(self.convs, start=1):
            conv = nn.Conv(units, (5, 5), padding="VALID", kernel_init=he_normal, name=f"conv_{i}")
            x = nn.max_pool(nn.relu(conv(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # [batch, height x width x channels], channels fastest
        for i, units in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(units, kernel_init=he_normal, name=f"hidden_{i}")(x))
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class LeNetSpec(Spec):
    """Widths of a LeNet; the defaults have 431,080 parameters.

    Attributes:
      convs: channels of the convolutions.
      hidden: units of the dense hidden layers.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "lenet"
    convs: tuple[int, ...] = (20, 50)
    hidden: tuple[int, ...] = (500,)
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (28, 28, 1)

    def __post_init__(self):
        super().__post_init__()
        least = 1
        for _ in self.convs:
            least = 2 * least + 4
        if min(self.input_shape[:2]) < least:
            raise UserError(
                f"LeNetSpec.input_shape is {self.input_shape}; allowed: sides of at least {least}"
                f" for {len(self.convs)} convolutions"
            )

    @classmethod
    def lenet5(
        cls,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (28, 28, 1),
        num_classes: int = 10,
    ) -> "LeNetSpec":
        """20-50-500 units, times `width`."""
        return cls(
            convs=(scaled(20, width), scaled(50, width)),
            hidden=(scaled(500, width),),
            num_classes=num_classes,
            input_shape=input_shape,
        )

    def module(self) -> LeNet:
        return LeNet(self.convs, self.hidden, self.num_classes, self.input_shape)

    def _read(self, shapes: LeafShapes) -> "LeNetSpec":
        convs = range(1, len(self.convs) + 1)
        hidden = range(1, len(self.hidden) + 1)
        return dataclasses.replace(
            self,
            convs=tuple(shapes.width(f"conv_{i}/kernel") for i in convs),
            hidden=tuple(shapes.width(f"hidden_{i}/kernel") for i in hidden),
            input_shape=shapes.image(self.input_shape, "conv_1/kernel"),
        )
