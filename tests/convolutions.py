"""A program of two convolutions, whose values a library may hold."""

import jax
import jax.numpy as jnp
import numpy as np


def convolution(differentiated: bool = True):
    """Jitted, of images and two kernels; the gradient of the kernels is fused, the sum is not."""

    def f(x, k, m):
        for kernel in (k, m):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jnp.maximum(x, 0)
        return x.sum()

    return jax.jit(jax.grad(f, argnums=(1, 2)) if differentiated else f)


def shapes(examples: int = 40):
    """Of its arguments, for so many images."""
    sizes = ((examples, 28, 28, 3), (3, 3, 3, 16), (3, 3, 16, 16))
    return tuple(jax.ShapeDtypeStruct(each, np.float32) for each in sizes)


def convolved(examples: int = 40, differentiated: bool = False) -> jax.stages.Lowered:
    """The program for so many images, to be compiled."""
    return convolution(differentiated).lower(*shapes(examples))
