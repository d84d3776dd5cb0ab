"""Residual networks for 32x32 images: ResNet-20/56 (1512.03385, section 4.2).

Shortcuts are the paper's option B: the identity, and where a stage changes the size (the first
block of every stage but the first) a 1x1 convolution with BatchNorm. Option A (zero padding) would
tie a stage's channels to a part of the next stage's; with projections each stage's stream is a
group of its own. It costs 2,752 parameters more than option A at width 1.

`resnet_folded` is the same network with every BatchNorm folded into the convolution before it,
whose bias is what remains of it (`weights.folded`): for a trained network that is fine-tuned.
"""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import batch_norm, check_input, conv1x1, conv3x3, he_normal, scaled
from dynhp_jax.models.spec import LeafShapes, Spec


class Block(nn.Module):
    """conv1, bn1, ReLU, conv2, bn2, plus the shortcut, ReLU.

    Attributes:
      inner: channels between the two convolutions, this block's own.
      stream: channels of the output, the stage's.
      stride: of the first convolution and of the projection.
      project: whether the shortcut is a projection; fixed by the architecture, never by widths.
      folded: whether convolutions have biases, and no BatchNorm behind them.
    """

    inner: int
    stream: int
    stride: int = 1
    project: bool = False
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        bias = self.folded
        y = conv3x3(self.inner, "conv1", self.stride, bias=bias)(x)
        y = nn.relu(_normalised(y, train, "bn1", bias))
        y = _normalised(conv3x3(self.stream, "conv2", bias=bias)(y), train, "bn2", bias)
        if self.project:
            x = conv1x1(self.stream, "shortcut", self.stride, bias)(x)
            x = _normalised(x, train, "shortcut_bn", bias)
        return nn.relu(x + y)


def _normalised(x: jax.Array, train: bool, name: str, folded: bool) -> jax.Array:
    return x if folded else batch_norm(train, name)(x)


class ResNet(nn.Module):
    """`stem`, `stem_bn`, `stage1_block1` ..., mean over positions, `output`.

    Attributes:
      streams: channels of every stage's residual stream; the stem has the first one's.
      inner: channels inside every block, by stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
      folded: whether convolutions have biases, and no BatchNorm behind them.
    """

    streams: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]
    num_classes: int
    input_shape: tuple[int, int, int]
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        check_input(x, self.input_shape, "ResNet")
        x = conv3x3(self.streams[0], "stem", bias=self.folded)(x)
        x = nn.relu(_normalised(x, train, "stem_bn", self.folded))
        for s, (stream, stage) in enumerate(zip(self.streams, self.inner, strict=True), start=1):
            for b, inner in enumerate(stage, start=1):
                first = s > 1 and b == 1
                stride = 2 if first else 1
                name = f"stage{s}_block{b}"
                x = Block(inner, stream, stride, first, self.folded, name=name)(x, train)
        x = x.mean(axis=(1, 2))  # [batch, channels]
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class ResNetSpec(Spec):
    """Widths of a ResNet: one per residual stream, one inside every block.

    Attributes:
      streams: channels of every stage's residual stream; the stem has the first one's.
      inner: channels inside every block, by stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "resnet"
    streams: tuple[int, ...] = (16, 32, 64)
    inner: tuple[tuple[int, ...], ...] = ((16,) * 3, (32,) * 3, (64,) * 3)
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self):
        super().__post_init__()
        check_stages(self.streams, self.inner, "ResNetSpec")

    @classmethod
    def cifar(
        cls,
        depth: int = 20,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ) -> "ResNetSpec":
        """ResNet-`depth`, depth = 6 x blocks per stage + 2, with its channels times `width`.

        ResNet-20 has 272,474 parameters, ResNet-56 855,770 (option A: 269,722 and 853,018).
        """
        if depth < 8 or depth % 6 != 2:
            raise UserError(f"the depth of ResNet is {depth!r}; allowed: 8, 14, 20, ..., 56, ...")
        streams = tuple(scaled(units, width) for units in (16, 32, 64))
        inner = tuple((stream,) * ((depth - 2) // 6) for stream in streams)
        return cls(streams, inner, num_classes, input_shape)

    def module(self) -> ResNet:
        return ResNet(self.streams, self.inner, self.num_classes, self.input_shape)

    def _read(self, shapes: LeafShapes) -> "ResNetSpec":
        return dataclasses.replace(
            self,
            **read_stages(self.inner, shapes),
            input_shape=shapes.image(self.input_shape, "stem/kernel"),
        )


@dataclasses.dataclass(frozen=True)
class FoldedResNetSpec(ResNetSpec):
    """The same without BatchNorm; ResNet-20 has 271,690 parameters."""

    model: typing.ClassVar[str] = "resnet_folded"

    def module(self) -> ResNet:
        return ResNet(self.streams, self.inner, self.num_classes, self.input_shape, folded=True)


def check_stages(streams: tuple[int, ...], inner: tuple[tuple[int, ...], ...], name: str) -> None:
    """Refuses stages that have no block, or no stream of their own."""
    if len(streams) != len(inner) or not streams or () in inner:
        raise UserError(
            f"{name} has {len(streams)} streams and inner widths {inner};"
            " allowed: one stream and at least one block per stage"
        )


def read_stages(inner: tuple[tuple[int, ...], ...], shapes: LeafShapes) -> dict:
    """The fields `streams` and `inner` of two-convolution blocks, from the leaves."""
    blocks = [
        [f"stage{s}_block{b}" for b in range(1, len(stage) + 1)]
        for s, stage in enumerate(inner, start=1)
    ]
    return {
        "streams": tuple(shapes.width(f"{stage[0]}/conv2/kernel") for stage in blocks),
        "inner": tuple(
            tuple(shapes.width(f"{block}/conv1/kernel") for block in stage) for stage in blocks
        ),
    }
