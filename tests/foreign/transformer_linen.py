"""The decoder of flax's lm1b example (Linen), written from its description.

Kept as there, because analyses stumble over such things: parameters in boxes that carry logical
axis names, sinusoidal positions as a constant, targets shifted by pad and dynamic slice, dropout
that evaluation switches off, logits that may share the table of the embedding.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import lax


@struct.dataclass
class Config:
    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 8
    num_layers: int = 6
    qkv_dim: int = 512
    mlp_dim: int = 2048
    max_len: int = 2048
    dropout_rate: float = 0.1
    dtype: Any = jnp.float32
    deterministic: bool = True
    logits_via_embedding: bool = False


def boxed(init, *names):
    return nn.with_logical_partitioning(init, names)


def norm(config, name=None):
    return nn.LayerNorm(
        dtype=config.dtype,
        name=name,
        scale_init=boxed(nn.initializers.ones, "embed"),
        bias_init=boxed(nn.initializers.zeros, "embed"),
    )


def shift_right(tokens):
    """[batch, length] with a zero in front and without the last token."""
    padded = jnp.pad(tokens, ((0, 0), (1, 0)))
    return lax.dynamic_slice_in_dim(padded, 0, padded.shape[1] - 1, axis=1)


def sinusoids(length, features):
    """f32[1, length, features]: sines in the first half of the features, cosines in the second."""
    half = features // 2
    rates = np.exp(-np.log(10000.0) * np.arange(half) / (half - 1))
    angles = np.arange(length)[:, None] * rates
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1)[None], jnp.float32)


class MLPBlock(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        c = self.config
        init, small = nn.initializers.xavier_uniform(), nn.initializers.normal(1e-6)
        y = nn.Dense(
            c.mlp_dim,
            dtype=c.dtype,
            kernel_init=boxed(init, "embed", "mlp"),
            bias_init=boxed(small, "mlp"),
        )(x)
        y = nn.Dropout(c.dropout_rate)(nn.relu(y), deterministic=c.deterministic)
        y = nn.Dense(
            x.shape[-1],
            dtype=c.dtype,
            kernel_init=boxed(init, "mlp", "embed"),
            bias_init=boxed(small, "embed"),
        )(y)
        return nn.Dropout(c.dropout_rate)(y, deterministic=c.deterministic)


class DecoderBlock(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, mask):
        c = self.config
        y = nn.MultiHeadDotProductAttention(
            num_heads=c.num_heads,
            dtype=c.dtype,
            qkv_features=c.qkv_dim,
            kernel_init=boxed(nn.initializers.xavier_uniform(), "embed", "kv"),
            use_bias=False,
            broadcast_dropout=False,
            dropout_rate=c.dropout_rate,
            deterministic=c.deterministic,
        )(norm(c)(x), mask=mask)
        x = x + nn.Dropout(c.dropout_rate)(y, deterministic=c.deterministic)
        return x + MLPBlock(c)(norm(c)(x))


class Decoder(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, tokens, mask):
        c = self.config
        embed = nn.Embed(
            c.vocab_size, c.emb_dim, embedding_init=boxed(nn.initializers.normal(1.0), "vocab", "e")
        )
        y = embed(shift_right(tokens.astype("int32")))
        y = y + sinusoids(c.max_len, c.emb_dim)[:, : y.shape[1]]
        y = nn.Dropout(c.dropout_rate)(y, deterministic=c.deterministic).astype(c.dtype)
        for layer in range(c.num_layers):
            y = DecoderBlock(c, name=f"encoderdecoderblock_{layer}")(y, mask)
        y = norm(c, "encoderdecoder_norm")(y)
        if c.logits_via_embedding:
            return embed.attend(y) / jnp.sqrt(y.shape[-1])
        return nn.Dense(
            c.vocab_size,
            dtype=c.dtype,
            kernel_init=boxed(nn.initializers.xavier_uniform(), "embed", "vocab"),
            bias_init=boxed(nn.initializers.normal(1e-6), "vocab"),
            name="logitdense",
        )(y)


class TransformerLM(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, tokens):
        c = self.config
        mask = nn.combine_masks(
            nn.make_attention_mask(tokens > 0, tokens > 0, dtype=c.dtype),
            nn.make_causal_mask(tokens, dtype=c.dtype),
        )
        return Decoder(c, name="decoder")(tokens, mask).astype(c.dtype)
