"""VGG with batch normalisation for 32x32 images: VGG-11 and VGG-16 (1409.1556) with one dense head.

The two dense layers of 4096 units of the ImageNet network are left out by default, as usual for
CIFAR (Zagoruyko 2015; Li et al. 1608.08710); `hidden` puts dense layers back.
"""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import batch_norm, check_input, conv3x3, he_normal, scaled
from dynhp_jax.models.spec import LeafShapes, Spec

# Channels of the convolutions between two poolings (1409.1556, table 1, columns A and D).
STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGG(nn.Module):
    """`conv_1`, `bn_1`, ..., `hidden_i`, `output`; 2x2 max pooling after every stage.

    Attributes:
      stages: channels of every convolution, by stage.
      hidden: units of dense layers before the output.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]
    num_classes: int
    input_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        check_input(x, self.input_shape, "VGG")
        layer = 0
        for stage in self.stages:
            for units in stage:
                layer += 1
                x = conv3x3(units, f"conv_{layer}")(x)
                x = nn.relu(batch_norm(train, f"bn_{layer}")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # [batch, height x width x channels], channels fastest
        for i, units in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(units, kernel_init=he_normal, name=f"hidden_{i}")(x))
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class VGGSpec(Spec):
    """Widths of a VGG network; every convolution's is independent.

    Attributes:
      stages: channels of every convolution, by stage (a pooling ends each).
      hidden: units of dense layers before the output.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "vgg"
    stages: tuple[tuple[int, ...], ...] = STAGES[16]
    hidden: tuple[int, ...] = ()
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self):
        super().__post_init__()
        if not self.stages or () in self.stages:
            raise UserError(f"VGGSpec.stages is {self.stages}; allowed: no empty stage")
        if min(self.input_shape[:2]) < 2 ** len(self.stages):
            raise UserError(
                f"VGGSpec.input_shape is {self.input_shape}; allowed: sides of at least"
                f" {2 ** len(self.stages)} for {len(self.stages)} poolings"
            )

    @classmethod
    def cifar(
        cls,
        depth: int = 16,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ) -> "VGGSpec":
        """VGG-`depth` (11 or 16) with its channels times `width`."""
        if depth not in STAGES:
            raise UserError(f"the depth of VGG is {depth!r}; allowed: 11 or 16")
        stages = tuple(tuple(scaled(units, width) for units in stage) for stage in STAGES[depth])
        return cls(stages=stages, num_classes=num_classes, input_shape=input_shape)

    @classmethod
    def vgg11(cls, width: float = 1.0, **sizes) -> "VGGSpec":
        """`cifar(depth=11)`: 8 convolutions."""
        return cls.cifar(11, width, **sizes)

    @classmethod
    def vgg16(cls, width: float = 1.0, **sizes) -> "VGGSpec":
        """`cifar(depth=16)`: 13 convolutions; 14,724,042 parameters at width 1."""
        return cls.cifar(16, width, **sizes)

    def module(self) -> VGG:
        return VGG(self.stages, self.hidden, self.num_classes, self.input_shape)

    def _read(self, shapes: LeafShapes) -> "VGGSpec":
        stages, layer = [], 0
        for stage in self.stages:
            layers = range(layer + 1, layer + 1 + len(stage))
            stages.append(tuple(shapes.width(f"conv_{i}/kernel") for i in layers))
            layer += len(stage)
        hidden = range(1, len(self.hidden) + 1)
        return dataclasses.replace(
            self,
            stages=tuple(stages),
            hidden=tuple(shapes.width(f"hidden_{i}/kernel") for i in hidden),
            input_shape=shapes.image(self.input_shape, "conv_1/kernel"),
        )
