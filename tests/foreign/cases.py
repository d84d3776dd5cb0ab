"""name -> a network of tests/foreign at a small size: (apply, variables, inputs)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from foreign import nets_linen, nets_nnx, nets_plain, resnet_linen, transformer_linen

F64 = jnp.float64


def linen(module, *inputs, **options):
    """(apply, variables, inputs) of a Linen module."""
    variables = jax.eval_shape(partial(module.init, **options), jax.random.key(0), *inputs)
    return (lambda v, *x: module.apply(v, *x, **options)), variables, inputs


def of_nnx(module, *inputs):
    """(apply, state, inputs) of an NNX module in evaluation mode."""
    module.eval()
    graph, state = nnx.split(module)
    return (lambda s, *x: nnx.merge(graph, s)(*x)), state, inputs


def image(channels, size=16, batch=3):
    return np.random.default_rng(5).normal(size=(batch, size, size, channels))


def rows(features, batch=3):
    return np.random.default_rng(6).normal(size=(batch, features))


def sequence(features, length=5, batch=3):
    return np.random.default_rng(7).normal(size=(batch, length, features))


def tokens(vocabulary, length=6, batch=3):
    return np.random.default_rng(8).integers(0, vocabulary, (batch, length))


def resnet(block, stages):
    module = resnet_linen.ResNet(stages, block, num_classes=3, num_filters=4, dtype=F64)
    return linen(module, image(3), train=False)


def transformer(**options):
    config = transformer_linen.Config(
        vocab_size=11,
        emb_dim=8,
        num_heads=4,
        num_layers=2,
        qkv_dim=12,
        mlp_dim=10,
        max_len=16,
        dtype=F64,
        **options,
    )
    return linen(transformer_linen.TransformerLM(config), tokens(11))


def plain(init, apply, inputs):
    return apply, jax.eval_shape(init, jax.random.key(0)), (inputs,)


CASES = {
    "resnet_basic": partial(resnet, resnet_linen.BasicBlock, (1, 1)),
    "resnet_bottleneck": partial(resnet, resnet_linen.Bottleneck, (2, 1)),
    "transformer": transformer,
    "transformer_tied": partial(transformer, logits_via_embedding=True),
    "convnext": lambda: linen(nets_linen.ConvNeXtLike(), image(3, 8)),
    "unet": lambda: linen(nets_linen.UNetLike(), image(2, 8)),
    "lstm": lambda: linen(
        nets_linen.Recurrent(partial(nn.OptimizedLSTMCell, param_dtype=F64)), sequence(4)
    ),
    "lstm_by_gate": lambda: linen(
        nets_linen.Recurrent(partial(nn.LSTMCell, param_dtype=F64)), sequence(4)
    ),
    "gru": lambda: linen(nets_linen.Recurrent(partial(nn.GRUCell, param_dtype=F64)), sequence(4)),
    "scanned": lambda: linen(nets_linen.Scanned(), rows(5)),
    "nnx_mlp": lambda: of_nnx(nets_nnx.MLP((7, 6, 5, 3), nnx.Rngs(0)), rows(7)),
    "nnx_cnn": lambda: of_nnx(nets_nnx.CNN((4, 6, 8), 8, 3, nnx.Rngs(0)), image(1, 8)),
    "plain_glu": lambda: plain(nets_plain.init_gated_mlp, nets_plain.gated_mlp, rows(7)),
    "plain_attention": lambda: plain(nets_plain.init_attention, nets_plain.attention, sequence(6)),
    "plain_rotary": lambda: plain(
        partial(nets_plain.init_attention, size=4), nets_plain.rotary_attention, sequence(6)
    ),
}
