"""Small ImageNet networks whose BatchNorm is folded into the convolutions: MobileNetV2, MCUNet.

They are the networks that Sparse Update, TraDy and MeDyate fine-tune: inverted residuals, a mean
over positions and a classifier on the last block's channels (no 1x1 convolution before the mean).
`load` reads their 8-bit weights from an archive and gives them as float32. They take images of any
size.

Source: Lin et al. 2022 (On-Device Training Under 256KB Memory, 2206.15472), their repository
tiny-training.
"""

import dataclasses
import functools
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import he_normal
from dynhp_jax.models.spec import LeafShapes, Spec

STEM = "first"
CLASSIFIER = "classifier"
ROLES = ("pointwise1", "depthwise", "pointwise2")


class Block(NamedTuple):
    """An inverted residual: 1x1 to `inner` channels, depthwise, 1x1 to `out` channels.

    Attributes:
      inner: channels of the depthwise convolution.
      kernel: size of the depthwise kernel, along both axes.
      stride: of the depthwise convolution.
      out: channels of the result.
      residual: whether the block's input is added to it.
    """

    inner: int
    kernel: int
    stride: int
    out: int
    residual: bool


class Layer(NamedTuple):
    """One convolution. Its number is its place in `FoldedNet.layers`, as in the papers' policies.

    Attributes:
      name: path of its parameters: `block3/depthwise`.
      read, made: input and output channels.
      kernel, stride: along both axes; the padding is `kernel // 2` on every side.
      groups: of the convolution.
      relu6: whether a ReLU6 follows.
    """

    name: str
    read: int
    made: int
    kernel: int
    stride: int
    groups: int
    relu6: bool


@dataclasses.dataclass(frozen=True)
class FoldedNet(Spec):
    """A network without BatchNorm, as a function of `{"params": ...}` and images.

    It is its own module: `apply` and `init` read and make the parameters.

    Attributes:
      blocks: inverted residuals; the first one has no 1x1 convolution before its depthwise one.
      stem: channels of the first convolution (3x3, stride 2).
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: ClassVar[str] = "folded"
    head: ClassVar[str] = CLASSIFIER
    blocks: tuple[tuple[int, ...], ...]  # of `Block`
    stem: int = 16
    num_classes: int = 1000
    input_shape: tuple[int, int, int] = (128, 128, 3)

    def __post_init__(self):
        given = self.blocks
        whole = isinstance(given, list | tuple) and all(
            isinstance(each, list | tuple) and len(each) == len(Block._fields) for each in given
        )
        if not whole:
            raise UserError(
                f"FoldedNet.blocks is {given!r}; allowed: a list of {', '.join(Block._fields)} each"
            )
        object.__setattr__(self, "blocks", tuple(tuple(each[:-1]) for each in given))
        super().__post_init__()  # of sizes
        pairs = zip(self.blocks, given, strict=True)
        blocks = tuple(Block(*sizes, bool(each[-1])) for sizes, each in pairs)
        object.__setattr__(self, "blocks", blocks)

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions in the order of execution, without the classifier."""
        found, read = [Layer(STEM, 3, self.stem, 3, 2, 1, True)], self.stem
        for b, block in enumerate(self.blocks):
            inner = block.inner
            if b:
                found.append(Layer(f"block{b}/{ROLES[0]}", read, inner, 1, 1, 1, True))
            depthwise = (inner, inner, block.kernel, block.stride, inner, True)
            found.append(Layer(f"block{b}/{ROLES[1]}", *depthwise))
            found.append(Layer(f"block{b}/{ROLES[2]}", inner, block.out, 1, 1, 1, False))
            read = block.out
        return tuple(found)

    @property
    def features(self) -> int:
        """Numbers that the classifier reads."""
        return self.blocks[-1].out

    @classmethod
    def named(
        cls,
        input_shape: tuple[int, int, int] = (128, 128, 3),
        num_classes: int = 1000,
    ) -> "FoldedNet":
        """The network of the class's own name, for images of some size."""
        found = NETWORKS[cls.model]
        return cls(found.blocks, found.stem, num_classes, input_shape)

    def apply(
        self,
        variables: Mapping[str, Any],
        images: jax.Array,
        train: bool = False,
        mutable: Any = False,
    ) -> Any:
        """Logits f32[batch, classes] of RGB images f32[batch, height, width, 3] in [0, 1].

        With `mutable`, as of a Linen module, also the collections that change: none.
        """
        del train  # nothing here differs in training
        params, x = variables["params"], (images - 0.5) / 0.5
        x = _convolved(params[STEM], self.layers[0], x)
        layers = iter(self.layers[1:])
        for b, block in enumerate(self.blocks):
            start = x
            for role in ROLES if b else ROLES[1:]:
                x = _convolved(params[f"block{b}"][role], next(layers), x)
            x = x + start if block.residual else x
        last = params[CLASSIFIER]
        logits = x.mean((1, 2)) @ last["kernel"] + last["bias"]
        return logits if mutable is False else (logits, {})

    def init(self, key: jax.Array, *_: Any) -> dict[str, Any]:
        """Random variables: He normal kernels, biases of zero, a classifier of zeros."""
        params: dict[str, Any] = {}
        for layer, each in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            shape = (layer.kernel, layer.kernel, layer.read // layer.groups, layer.made)
            leaf = {"kernel": he_normal(each, shape), "bias": jnp.zeros(layer.made)}
            _put(params, layer.name, leaf)
        return {"params": params | {CLASSIFIER: self.new_classifier()}}

    def module(self) -> "FoldedNet":
        """The network itself."""
        return self

    def _read(self, shapes: LeafShapes) -> "FoldedNet":
        blocks = []
        for b, block in enumerate(self.blocks):
            inner, made = (shapes.width(f"block{b}/{role}/kernel") for role in ROLES[1:])
            blocks.append(block._replace(inner=inner, out=made))
        stem = shapes.width(f"{STEM}/kernel")
        return dataclasses.replace(
            self,
            blocks=tuple(blocks),
            stem=stem,
            input_shape=shapes.image(self.input_shape, f"{STEM}/kernel"),
        )

    def new_classifier(self) -> dict[str, jax.Array]:
        """The parameters of a classifier that has learned nothing: zeros."""
        kernel = jnp.zeros((self.features, self.num_classes))
        return {"kernel": kernel, "bias": jnp.zeros(self.num_classes)}


def load(path: str | Path, num_classes: int | None = None) -> tuple[FoldedNet, dict[str, Any]]:
    """A network and its pretrained variables, from an archive of 8-bit weights.

    Args:
      path: an `.npz` file: for each layer `<name>/weight` int8[kernel, kernel, in / groups, out],
        `<name>/scale` f32[out] and `<name>/bias` i32[out] in units of `scale * x_scale`; and
        `description`, JSON with `layers` and `blocks`.
      num_classes: outputs of a new classifier of zeros in place of ImageNet's.

    Returns:
      (network, {"params": ...}), float32.

    Raises:
      UserError: the file is missing or holds no such network.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = json.loads(str(arrays["description"]))
        net = _described(description)
        params: dict[str, Any] = {}
        for layer in description["layers"]:
            _put(params, layer["name"], _dequantised(arrays, layer["name"], layer["x_scale"]))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {str(path)!r}; give the path of the weights") from error
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{str(path)!r} is no archive of a folded network ({type(error).__name__}: {error});"
            " allowed: an .npz with a description and each layer's weight, scale and bias"
        ) from error
    last = params[CLASSIFIER]
    params[CLASSIFIER] = {"kernel": last["kernel"][0, 0], "bias": last["bias"]}
    if num_classes is not None:
        net = dataclasses.replace(net, num_classes=num_classes)
        params[CLASSIFIER] = net.new_classifier()
    return net, {"params": params}


def _described(description: Mapping[str, Any]) -> FoldedNet:
    layers = {layer["name"]: layer for layer in description["layers"]}
    blocks = []
    for block in description["blocks"]:
        depthwise, last = (layers[name] for name in block["layers"][-2:])
        inner, made = depthwise["out_channels"], last["out_channels"]
        residual = bool(block["residual"])
        blocks.append(Block(inner, depthwise["kernel"], depthwise["stride"], made, residual))
    classes = layers[CLASSIFIER]["out_channels"]
    return FoldedNet(tuple(blocks), layers[STEM]["out_channels"], classes)


def _dequantised(arrays: Mapping[str, Any], name: str, x_scale: float) -> dict[str, jax.Array]:
    scale = arrays[f"{name}/scale"].astype(np.float32)
    kernel = arrays[f"{name}/weight"].astype(np.float32) * scale
    bias = arrays[f"{name}/bias"].astype(np.float32) * scale * np.float32(x_scale)
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def _convolved(params: Mapping[str, Any], layer: Layer, x: jax.Array) -> jax.Array:
    around = (layer.kernel // 2,) * 2
    y = lax.conv_general_dilated(
        x,
        params["kernel"],
        (layer.stride, layer.stride),
        (around, around),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=layer.groups,
    )
    y = y + params["bias"]
    return jax.nn.relu6(y) if layer.relu6 else y


def _put(params: dict[str, Any], path: str, leaf: Any) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        params = params.setdefault(folder, {})
    params[name] = leaf


def _blocks(*rows: tuple) -> tuple[Block, ...]:
    return tuple(Block(*row) for row in rows)


# Inner channels, kernel, stride, output channels, residual.
MOBILENETV2 = FoldedNet(
    _blocks(
        (16, 3, 1, 8, False),
        (48, 3, 2, 8, False),
        (48, 3, 1, 8, True),
        (48, 3, 2, 16, False),
        (96, 3, 1, 16, True),
        (96, 3, 1, 16, True),
        (96, 3, 2, 24, False),
        (144, 3, 1, 24, True),
        (144, 3, 1, 24, True),
        (144, 3, 1, 24, True),
        (144, 3, 1, 32, False),
        (192, 3, 1, 32, True),
        (192, 3, 1, 32, True),
        (192, 3, 2, 56, False),
        (336, 3, 1, 56, True),
        (336, 3, 1, 56, True),
        (336, 3, 1, 112, False),
    )
)
MCUNET = FoldedNet(
    _blocks(
        (16, 3, 1, 8, False),
        (32, 3, 2, 16, False),
        (48, 3, 1, 16, True),
        (48, 7, 2, 24, False),
        (120, 3, 1, 24, True),
        (120, 3, 2, 40, False),
        (160, 7, 1, 40, True),
        (160, 5, 1, 48, False),
        (144, 3, 1, 48, True),
        (192, 3, 1, 48, True),
        (240, 7, 2, 96, False),
        (384, 5, 1, 96, True),
        (384, 5, 1, 96, True),
        (576, 3, 1, 160, False),
    )
)
# By the names of the papers and of the archives.
NETWORKS = {"mbv2-w0.35": MOBILENETV2, "mcunet-5fps": MCUNET}


class MobileNetV2(FoldedNet):
    """MobileNetV2 of width 0.35, as a model by name."""

    model = "mbv2-w0.35"


class MCUNet(FoldedNet):
    """MCUNet for five images a second, as a model by name."""

    model = "mcunet-5fps"
