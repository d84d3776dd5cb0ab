"""Wide residual networks for 32x32 images, pre-activated: WRN-16-4, WRN-28-10 (1605.07146).

The first block of every stage, the first stage included, has a 1x1 projection as its shortcut; it
reads what bn1 and ReLU made of the input, as in the authors' code, so no BatchNorm of its own. The
stem is then a group of its own. (At widening factor 1 the authors leave the first stage's out.)
"""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import batch_norm, check_input, conv1x1, conv3x3, he_normal, scaled
from dynhp_jax.models.resnet import check_stages, read_stages
from dynhp_jax.models.spec import LeafShapes, Spec


class WideBlock(nn.Module):
    """bn1, ReLU, conv1, bn2, ReLU, conv2, plus the shortcut.

    Attributes:
      inner: channels between the two convolutions, this block's own.
      stream: channels of the output, the stage's.
      stride: of the first convolution and of the projection.
      project: whether the shortcut is a projection; fixed by the architecture, never by widths.
    """

    inner: int
    stream: int
    stride: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        active = nn.relu(batch_norm(train, "bn1")(x))
        y = conv3x3(self.inner, "conv1", self.stride)(active)
        y = conv3x3(self.stream, "conv2")(nn.relu(batch_norm(train, "bn2")(y)))
        if self.project:
            x = conv1x1(self.stream, "shortcut", self.stride)(active)
        return x + y


class WideResNet(nn.Module):
    """`stem`, `stage1_block1` ..., `bn`, ReLU, mean over positions, `output`.

    Attributes:
      stem_width: channels of the first convolution.
      streams: channels of every stage's residual stream.
      inner: channels inside every block, by stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    stem_width: int
    streams: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]
    num_classes: int
    input_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        check_input(x, self.input_shape, "WideResNet")
        x = conv3x3(self.stem_width, "stem")(x)
        for s, (stream, stage) in enumerate(zip(self.streams, self.inner, strict=True), start=1):
            for b, inner in enumerate(stage, start=1):
                stride = 2 if s > 1 and b == 1 else 1
                x = WideBlock(inner, stream, stride, b == 1, name=f"stage{s}_block{b}")(x, train)
        x = nn.relu(batch_norm(train, "bn")(x))
        x = x.mean(axis=(1, 2))  # [batch, channels]
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class WideResNetSpec(Spec):
    """Widths of a wide ResNet: the stem, one per residual stream, one inside every block.

    Attributes:
      stem_width: channels of the first convolution.
      streams: channels of every stage's residual stream.
      inner: channels inside every block, by stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "wide_resnet"
    stem_width: int = 16
    streams: tuple[int, ...] = (64, 128, 256)
    inner: tuple[tuple[int, ...], ...] = ((64,) * 2, (128,) * 2, (256,) * 2)
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self):
        super().__post_init__()
        check_stages(self.streams, self.inner, "WideResNetSpec")

    @classmethod
    def cifar(
        cls,
        depth: int = 16,
        width: float = 4.0,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ) -> "WideResNetSpec":
        """WRN-`depth`-`width`, depth = 6 x blocks per stage + 4; the stem keeps its 16 channels.

        `width` is the widening factor k. WRN-16-4 has 2,748,890 parameters, WRN-28-10 36,479,194.
        """
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"the depth of WideResNet is {depth!r}; allowed: 10, 16, 22, 28, ...")
        streams = tuple(scaled(units, width) for units in (16, 32, 64))
        inner = tuple((stream,) * ((depth - 4) // 6) for stream in streams)
        return cls(16, streams, inner, num_classes, input_shape)

    def module(self) -> WideResNet:
        return WideResNet(
            self.stem_width, self.streams, self.inner, self.num_classes, self.input_shape
        )

    def _read(self, shapes: LeafShapes) -> "WideResNetSpec":
        return dataclasses.replace(
            self,
            stem_width=shapes.width("stem/kernel"),
            **read_stages(self.inner, shapes),
            input_shape=shapes.image(self.input_shape, "stem/kernel"),
        )
