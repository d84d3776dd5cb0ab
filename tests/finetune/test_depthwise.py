"""The gradient of a depthwise kernel place by place, against JAX's own."""

import jax
import numpy as np
import pytest
from jax import lax

from dynhp_jax.finetune import depthwise


@pytest.mark.parametrize(
    ("multiplier", "options"),
    [
        (1, {"window_strides": (1, 1), "padding": "SAME"}),
        (2, {"window_strides": (2, 1), "padding": ((-1, 2), (0, 3))}),
        (1, {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)}),
        (3, {"window_strides": (1, 1), "padding": ((1, 1), (0, 1)), "lhs_dilation": (1, 2)}),
    ],
)
@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC")])
def test_gradient_is_that_of_jax(multiplier, options, numbers, x64):
    rng, channels = np.random.default_rng(0), 5
    axes = {"N": 3, "C": channels, "H": 7, "W": 6}
    x = rng.normal(size=[axes[name] for name in numbers[0]])
    axes = {"I": 1, "O": channels * multiplier, "H": 3, "W": 2}
    kernel = rng.normal(size=[axes[name] for name in numbers[1]])

    def product(kernel):
        return lax.conv_general_dilated(
            x, kernel, dimension_numbers=numbers, feature_group_count=channels, **options
        )

    (eqn,) = (e for e in jax.make_jaxpr(product)(kernel).eqns if "conv" in e.primitive.name)
    out, back = jax.vjp(product, kernel)
    cotangent = rng.normal(size=out.shape)
    (wanted,) = back(cotangent)
    found = depthwise.kernel_gradient(eqn, x, cotangent)  # [channels, multiplier, H, W]
    found = found.reshape(1, -1, 3, 2)
    order = ["IOHW".index(name) for name in numbers[1]]
    np.testing.assert_allclose(np.transpose(found, order), wanted, rtol=1e-12)


def test_the_smaller_of_two_copies_is_made():
    def product(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=kernel.shape[-1],
        )  # fmt: skip

    for side, wanted in ((2, True), (32, False)):
        x = jax.ShapeDtypeStruct((4, side, side, 64), "float32")
        kernel = jax.ShapeDtypeStruct((3, 3, 1, 64), "float32")
        (eqn,) = jax.make_jaxpr(product)(x, kernel).eqns
        assert depthwise.smaller(eqn, x) is wanted
