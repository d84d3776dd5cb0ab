"""A small decoder-only transformer that predicts the next token (Radford et al. 2018; pre-norm).

Its blocks are those of the vision transformer, with a causal mask: heads are an axis of their own.
"""

import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import check_input, scaled
from dynhp_jax.models.spec import LeafShapes, Spec
from dynhp_jax.models.vit import SMALL_NORMAL, TransformerBlock, block_widths


class Decoder(nn.Module):
    """`tokens`, `positions`, `block1` ..., `norm`, `output`.

    Attributes:
      vocabulary: how many tokens there are.
      length: tokens of an example.
      embed: width of the residual stream.
      heads, qk_dims, v_dims, hidden: as in TransformerBlock, one per block.
      scale: what dot products of queries and keys are multiplied by.
    """

    vocabulary: int
    length: int
    embed: int
    heads: tuple[int, ...]
    qk_dims: tuple[int, ...]
    v_dims: tuple[int, ...]
    hidden: tuple[int, ...]
    scale: float

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        """int[batch, length] -> logits [batch, length, vocabulary], of the token that follows."""
        del train  # nothing here differs in training
        check_input(tokens, (self.length,), "Decoder")
        x = nn.Embed(self.vocabulary, self.embed, embedding_init=SMALL_NORMAL, name="tokens")(
            tokens
        )
        x = x + self.param("positions", SMALL_NORMAL, (self.length, self.embed))
        widths = zip(self.heads, self.qk_dims, self.v_dims, self.hidden, strict=True)
        for i, block in enumerate(widths, start=1):
            name = f"block{i}"
            x = TransformerBlock(self.embed, *block, scale=self.scale, causal=True, name=name)(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.vocabulary, kernel_init=SMALL_NORMAL, name="output")(x)


@dataclasses.dataclass(frozen=True)
class DecoderSpec(Spec):
    """Widths of a decoder: one stream, and four widths per block.

    Attributes:
      vocabulary, length: as in Decoder; never pruned.
      embed: width of the residual stream.
      heads: attention heads of every block.
      qk_dims: size of a query and of a key of one head, per block.
      v_dims: size of a value of one head, per block.
      hidden: units between the two dense layers of every block.
      scale: what dot products of queries and keys are multiplied by; surgery leaves it alone.
    """

    model: typing.ClassVar[str] = "decoder"
    reads: typing.ClassVar[str] = "tokens"
    vocabulary: int
    length: int
    embed: int
    heads: tuple[int, ...]
    qk_dims: tuple[int, ...]
    v_dims: tuple[int, ...]
    hidden: tuple[int, ...]
    scale: float

    def __post_init__(self):
        super().__post_init__()
        per_block = (self.heads, self.qk_dims, self.v_dims, self.hidden)
        if len(set(map(len, per_block))) > 1 or not self.heads:
            raise UserError(
                f"DecoderSpec has {'/'.join(str(len(w)) for w in per_block)} entries in"
                " heads/qk_dims/v_dims/hidden; allowed: one per block in each, of at least one"
            )

    @classmethod
    def characters(
        cls,
        depth: int = 2,
        width: float = 1.0,
        input_shape: tuple[int] = (64,),
        num_classes: int = 97,
    ) -> "DecoderSpec":
        """`depth` blocks of 4 x `width` heads of 16 dimensions; embed 64, hidden 256 x `width`.

        Args:
          depth, width: of it.
          input_shape: (tokens of an example,).
          num_classes: how many tokens there are.
        """
        head_dim, heads = 16, scaled(4, width)
        return cls(
            vocabulary=num_classes,
            length=input_shape[0],
            embed=heads * head_dim,
            heads=(heads,) * depth,
            qk_dims=(head_dim,) * depth,
            v_dims=(head_dim,) * depth,
            hidden=(4 * heads * head_dim,) * depth,
            scale=1 / math.sqrt(head_dim),
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def num_classes(self) -> int:
        return self.vocabulary

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.input_shape, jnp.int32)

    def module(self) -> Decoder:
        return Decoder(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def _read(self, shapes: LeafShapes) -> "DecoderSpec":
        return dataclasses.replace(
            self,
            embed=shapes.width("tokens/embedding"),
            **block_widths(shapes, len(self.heads)),
        )
