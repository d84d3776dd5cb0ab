"""MobileNetV2 (1801.04381, table 2) for 32x32 images.

Like the ImageNet network in every width, but with stride 1 instead of 2 in the stem and in stage 2,
so that a 32x32 image still has 4x4 positions at the end. As there, blocks have a residual
connection unless they change the stream: the first of each stage has none (and no projection).
"""

import dataclasses
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import (
    batch_norm,
    check_input,
    check_multiplier,
    conv1x1,
    conv3x3,
    small_normal,
)
from dynhp_jax.models.spec import LeafShapes, Spec

# Stream channels, blocks, stride of the first block; stage 1 alone does not expand.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
EXPANSION = 6


class InvertedResidual(nn.Module):
    """expand (1x1), depthwise (3x3), project (1x1), each with BatchNorm; ReLU6 after two of them.

    Attributes:
      inner: channels of the depthwise convolution, those of the input if there is no expansion.
      stream: channels of the output, the stage's.
      stride: of the depthwise convolution.
      expands: whether a 1x1 convolution makes the inner channels.
      residual: whether the input is added; both fixed by the architecture, never by widths.
    """

    inner: int
    stream: int
    stride: int
    expands: bool
    residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        if self.expands:
            y = conv1x1(self.inner, "expand")(y)
            y = nn.relu6(batch_norm(train, "expand_bn")(y))
        y = conv3x3(self.inner, "depthwise", self.stride, groups=self.inner)(y)
        y = nn.relu6(batch_norm(train, "depthwise_bn")(y))
        y = batch_norm(train, "project_bn")(conv1x1(self.stream, "project")(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """`stem`, `stem_bn`, `stage1_block1` ..., `head`, `head_bn`, mean over positions, `output`.

    Attributes:
      stem_width: channels of the stem and of stage 1's depthwise convolution.
      streams: channels of every stage's output.
      inner: channels of every expansion from stage 2 on, by stage.
      head_width: channels of the last convolution.
      strides: stride of the first block of every stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    stem_width: int
    streams: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]
    head_width: int
    strides: tuple[int, ...]
    num_classes: int
    input_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        check_input(x, self.input_shape, "MobileNet")
        x = nn.relu6(batch_norm(train, "stem_bn")(conv3x3(self.stem_width, "stem")(x)))
        stages = zip(self.streams, ((self.stem_width,), *self.inner), self.strides, strict=True)
        for s, (stream, stage, stride) in enumerate(stages, start=1):
            for b, inner in enumerate(stage, start=1):
                block = InvertedResidual(
                    inner,
                    stream,
                    stride=stride if b == 1 else 1,
                    expands=s > 1,
                    residual=b > 1,
                    name=f"stage{s}_block{b}",
                )
                x = block(x, train)
        x = nn.relu6(batch_norm(train, "head_bn")(conv1x1(self.head_width, "head")(x)))
        x = x.mean(axis=(1, 2))  # [batch, channels]
        small = small_normal(0.01)
        return nn.Dense(self.num_classes, kernel_init=small, name="output")(x)


@dataclasses.dataclass(frozen=True)
class MobileNetSpec(Spec):
    """Widths of a MobileNetV2: the stem, every stage's stream, every expansion, the head.

    Attributes:
      stem_width: channels of the stem and of stage 1's depthwise convolution.
      streams: channels of every stage's output.
      inner: channels of every expansion from stage 2 on, by stage; the depthwise one follows.
      head_width: channels of the last convolution.
      strides: stride of the first block of every stage.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "mobilenet"
    stem_width: int
    streams: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]
    head_width: int
    strides: tuple[int, ...] = tuple(stride for _, _, stride in STAGES)
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self):
        super().__post_init__()
        if not len(self.streams) == len(self.strides) == len(self.inner) + 1 or () in self.inner:
            raise UserError(
                f"MobileNetSpec has {len(self.streams)} streams, {len(self.strides)} strides and"
                f" inner widths {self.inner}; allowed: as many strides as streams, and at least"
                " one inner width for every stage but the first"
            )

    @classmethod
    def cifar(
        cls,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ) -> "MobileNetSpec":
        """MobileNetV2 with its channels times `width`, rounded to multiples of 8.

        The head keeps its 1280 channels below width 1. At width 1: 2,236,682 parameters.
        """
        stem = rounded(32, width)
        streams = tuple(rounded(units, width) for units, _, _ in STAGES)
        inner = []
        for before, stream, (_, blocks, _) in zip(streams, streams[1:], STAGES[1:], strict=False):
            inner.append((EXPANSION * before, *(EXPANSION * stream,) * (blocks - 1)))
        return cls(
            stem_width=stem,
            streams=streams,
            inner=tuple(inner),
            head_width=rounded(1280, max(1.0, width)),
            num_classes=num_classes,
            input_shape=input_shape,
        )

    def module(self) -> MobileNet:
        return MobileNet(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        )

    def _read(self, shapes: LeafShapes) -> "MobileNetSpec":
        inner = [
            tuple(
                shapes.width(f"stage{s}_block{b}/expand/kernel") for b in range(1, len(stage) + 1)
            )
            for s, stage in enumerate(self.inner, start=2)
        ]
        stages = range(1, len(self.streams) + 1)
        return dataclasses.replace(
            self,
            stem_width=shapes.width("stem/kernel"),
            streams=tuple(shapes.width(f"stage{s}_block1/project/kernel") for s in stages),
            inner=tuple(inner),
            head_width=shapes.width("head/kernel"),
            input_shape=shapes.image(self.input_shape, "stem/kernel"),
        )


def rounded(width: int, multiplier: float) -> int:
    """`width` x `multiplier` as the nearest multiple of 8 that is at least 90% of it.

    >>> rounded(32, 1.0), rounded(24, 0.75), rounded(16, 0.35)
    (32, 24, 8)
    """
    check_multiplier(multiplier)
    wanted = width * multiplier
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest
