"""A small vision transformer (2010.11929) for 32x32 images, its heads kept as an axis of their own.

Kernels are shaped [embed, heads, head_dim], so that heads and head dimensions are units. The
attention scale is a field, 1 / sqrt(original head size): with a scale computed from the shapes,
cutting dead head dimensions would change the function. Tokens are averaged before the output, as in
2205.01580, instead of a class token.
"""

import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import check_input, scaled, small_normal
from dynhp_jax.models.spec import LeafShapes, Spec

SMALL_NORMAL = small_normal(0.02)


class TransformerBlock(nn.Module):
    """norm_1, attention (query, key, value, merge), norm_2, MLP (mlp_1, GELU, mlp_2); residual.

    Attributes:
      embed: width of the residual stream.
      heads: attention heads.
      qk_dim: size of a query and of a key of one head.
      v_dim: size of a value of one head.
      hidden: units between the two dense layers.
      scale: what dot products of queries and keys are multiplied by.
      causal: whether a token attends to itself and those before it only.
    """

    embed: int
    heads: int
    qk_dim: int
    v_dim: int
    hidden: int
    scale: float
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, tokens, embed] -> the same."""

        def project(size: int, name: str) -> jax.Array:  # [batch, tokens, heads, size]
            shape = (self.heads, size)
            return nn.DenseGeneral(shape, kernel_init=SMALL_NORMAL, name=name)(y)

        y = nn.LayerNorm(name="norm_1")(x)
        query, key = project(self.qk_dim, "query"), project(self.qk_dim, "key")
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * self.scale, key)
        if self.causal:
            before = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(before, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), project(self.v_dim, "value"))
        merge = nn.DenseGeneral(self.embed, axis=(-2, -1), kernel_init=SMALL_NORMAL, name="merge")
        x = x + merge(mixed)
        y = nn.LayerNorm(name="norm_2")(x)
        y = nn.Dense(self.hidden, kernel_init=SMALL_NORMAL, name="mlp_1")(y)
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(self.embed, kernel_init=SMALL_NORMAL, name="mlp_2")(y)


def block_widths(shapes: LeafShapes, depth: int) -> dict[str, tuple[int, ...]]:
    """The widths of `depth` blocks, `block1` and so on, by the names of a spec's fields."""

    def read(leaf: str, axis: int) -> tuple[int, ...]:
        blocks = range(1, depth + 1)
        return tuple(shapes.width(f"block{i}/{leaf}/kernel", axis) for i in blocks)

    return {
        "heads": read("query", 1),
        "qk_dims": read("query", 2),
        "v_dims": read("value", 2),
        "hidden": read("mlp_1", 1),
    }


class ViT(nn.Module):
    """`patches`, `positions`, `block1` ..., `norm`, mean over tokens, `output`.

    Attributes:
      embed: width of the residual stream.
      heads, qk_dims, v_dims, hidden: as in TransformerBlock, one per block.
      scale: what dot products of queries and keys are multiplied by.
      patch: side of a square patch in pixels.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    embed: int
    heads: tuple[int, ...]
    qk_dims: tuple[int, ...]
    v_dims: tuple[int, ...]
    hidden: tuple[int, ...]
    scale: float
    patch: int
    num_classes: int
    input_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, *input_shape] -> logits [batch, num_classes]."""
        del train  # nothing here differs in training
        check_input(x, self.input_shape, "ViT")
        side = (self.patch, self.patch)
        embedding = nn.Conv(
            self.embed,
            side,
            strides=side,
            padding="VALID",
            kernel_init=SMALL_NORMAL,
            name="patches",
        )
        x = embedding(x)
        x = x.reshape(x.shape[0], -1, self.embed)  # [batch, tokens, embed]
        x = x + self.param("positions", SMALL_NORMAL, (x.shape[1], self.embed))
        widths = zip(self.heads, self.qk_dims, self.v_dims, self.hidden, strict=True)
        for i, block in enumerate(widths, start=1):
            x = TransformerBlock(self.embed, *block, scale=self.scale, name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x).mean(axis=1)  # [batch, embed]
        return nn.Dense(self.num_classes, kernel_init=SMALL_NORMAL, name="output")(x)


@dataclasses.dataclass(frozen=True)
class ViTSpec(Spec):
    """Widths of a vision transformer: one stream, and four widths per block.

    Attributes:
      embed: width of the residual stream.
      heads: attention heads of every block.
      qk_dims: size of a query and of a key of one head, per block.
      v_dims: size of a value of one head, per block.
      hidden: units between the two dense layers of every block.
      scale: what dot products of queries and keys are multiplied by; surgery leaves it alone.
      patch: side of a square patch in pixels.
      num_classes: outputs.
      input_shape: [height, width, channels] of one image.
    """

    model: typing.ClassVar[str] = "vit"
    embed: int
    heads: tuple[int, ...]
    qk_dims: tuple[int, ...]
    v_dims: tuple[int, ...]
    hidden: tuple[int, ...]
    scale: float
    patch: int = 4
    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self):
        super().__post_init__()
        per_block = (self.heads, self.qk_dims, self.v_dims, self.hidden)
        if len(set(map(len, per_block))) > 1 or not self.heads:
            raise UserError(
                f"ViTSpec has {'/'.join(str(len(w)) for w in per_block)} entries in heads/qk_dims/"
                "v_dims/hidden; allowed: one per block in each, of at least one block"
            )
        height, width, _ = self.input_shape
        if height % self.patch or width % self.patch:
            raise UserError(
                f"ViTSpec.patch is {self.patch}; allowed: divisors of the sides {height}, {width}"
            )

    @classmethod
    def cifar(
        cls,
        depth: int = 6,
        width: float = 1.0,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ) -> "ViTSpec":
        """`depth` blocks of 4 x `width` heads of 32 dimensions; embed 128, hidden 512 x `width`.

        At width 1 patches of 4x4 pixels make 64 tokens; 1,205,642 parameters at depth 6.
        """
        head_dim, heads = 32, scaled(4, width)
        return cls(
            embed=heads * head_dim,
            heads=(heads,) * depth,
            qk_dims=(head_dim,) * depth,
            v_dims=(head_dim,) * depth,
            hidden=(4 * heads * head_dim,) * depth,
            scale=1 / math.sqrt(head_dim),
            num_classes=num_classes,
            input_shape=input_shape,
        )

    def module(self) -> ViT:
        return ViT(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def _read(self, shapes: LeafShapes) -> "ViTSpec":
        return dataclasses.replace(
            self,
            embed=shapes.width("patches/kernel"),
            **block_widths(shapes, len(self.heads)),
            input_shape=shapes.image(self.input_shape, "patches/kernel"),
        )
