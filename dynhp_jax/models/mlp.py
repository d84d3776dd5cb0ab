"""Multilayer perceptron with ReLU: the 784-300-100-10 network of the DynHP paper (2011.08545)."""

import dataclasses
import math
import typing

import jax
from flax import linen as nn

from dynhp_jax.common.errors import UserError
from dynhp_jax.models.layers import check_input, he_normal, scaled
from dynhp_jax.models.spec import LeafShapes, Spec


class MLP(nn.Module):
    """Dense layers `hidden_1`, `hidden_2`, ..., `output`; ReLU after each hidden one.

    Attributes:
      widths: input features, hidden units of each layer, outputs.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, widths[0]] -> logits [batch, widths[-1]]."""
        del train  # nothing here differs in training
        check_input(x, self.widths[:1], "MLP")
        for i, units in enumerate(self.widths[1:-1], start=1):
            x = nn.relu(nn.Dense(units, kernel_init=he_normal, name=f"hidden_{i}")(x))
        return nn.Dense(self.widths[-1], kernel_init=he_normal, name="output")(x)


@dataclasses.dataclass(frozen=True)
class MLPSpec(Spec):
    """Widths of an MLP; every one but the last can be pruned, the input features included.

    Attributes:
      widths: input features, hidden units of each layer, outputs.

    >>> MLPSpec(widths=(784, 300, 100, 10)).to_dict()
    {'model': 'mlp', 'widths': [784, 300, 100, 10]}
    """

    model: typing.ClassVar[str] = "mlp"
    reads: typing.ClassVar[str] = "numbers"
    widths: tuple[int, ...] = (784, 300, 100, 10)

    def __post_init__(self):
        super().__post_init__()
        if len(self.widths) < 2:
            raise UserError(f"MLPSpec.widths is {self.widths}; allowed: at least inputs, outputs")

    @classmethod
    def classifier(
        cls,
        input_shape: tuple[int, ...] = (784,),
        num_classes: int = 10,
        hidden: tuple[int, ...] = (300, 100),
        width: float = 1.0,
    ) -> "MLPSpec":
        """The MLP for examples that are flattened to prod(input_shape) features first."""
        units = (scaled(units, width) for units in hidden)
        return cls(widths=(math.prod(input_shape), *units, num_classes))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.widths[:1]

    @property
    def num_classes(self) -> int:
        return self.widths[-1]

    def module(self) -> MLP:
        return MLP(widths=self.widths)

    def _read(self, shapes: LeafShapes) -> "MLPSpec":
        layers = [f"hidden_{i}" for i in range(1, len(self.widths) - 1)] + ["output"]
        read = tuple(shapes.width(f"{layer}/kernel", axis=-2) for layer in layers)
        return MLPSpec(widths=(*read, self.num_classes))
