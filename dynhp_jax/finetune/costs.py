"""What the rows of each layer cost, by the papers' count: of one example, in numbers.

A row is an input channel of one layer with all weights that read it. It costs its weights, which
get a gradient and a state of the optimizer, and its activation, which is stored for the backward
pass. Left out are the batch, masks of activations, biases, the forward pass's transients; bytes of
a compiled step are the meter's (`dynhp_jax.memory`).

Source: TraDy (2510.19675), section 3; Lin et al. 2022 (2206.15472) for the memory model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.kernel_products import KernelReads, Read
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.jaxprs.trace import Traced, trace


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the rows of one kernel cost, by the papers' count.

    Attributes:
      kind: 'convolution', 'depthwise', 'grouped' or 'dense'.
      channels: how many rows there are. In a grouped convolution (but a depthwise one) a row is a
        whole group of channels. Of kernels that are stacked for a loop a row is one of each step.
      weight: numbers of the kernel in one row.
      activation: numbers of one example's input that have to be stored for one row.
      flops: of one row's gradient for one example.
      outputs: numbers that the layer makes of one example.
      made: channels that it makes.
      layout: the rows of the kernel.
    """

    kind: str
    channels: int
    weight: int
    activation: int
    flops: int
    outputs: int
    made: int
    layout: RowLayout = dataclasses.field(repr=False)

    @property
    def row(self) -> int:
        """Numbers of one row in all: weights and activation."""
        return self.weight + self.activation

    @property
    def total(self) -> int:
        """Numbers of all rows of the layer."""
        return self.channels * self.row

    def of_batch(self, examples: int) -> Cost:
        """The same, but with the activations of a mini-batch, as a step really stores them."""
        return dataclasses.replace(self, activation=self.activation * examples)


Costs = dict[Path, Cost]


def channel_costs(
    apply: Callable, variables: Any, *inputs: Any, prefix: str = "params"
) -> dict[Path, Cost]:
    """The costs of every kernel of which rows can be chosen.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: example inputs, likewise; axis 0 of the first array is the batch axis.
      prefix: path of the subtree of the variables that is trained ('' for all).

    Returns:
      path -> `Cost`, in the order of execution.

    Raises:
      UserError: no kernel is read by a convolution or a matrix product with data.
      ValueError: the function has side effects or needs concrete values.

    >>> import jax, jax.numpy as jnp
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
    >>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((3, 2))}
    >>> costs = channel_costs(apply, params, jnp.ones((8, 4)), prefix="")
    >>> {path: (cost.channels, cost.weight, cost.activation) for path, cost in costs.items()}
    {'in': (4, 3, 1), 'out': (3, 2, 1)}
    """
    traced = trace(apply, variables, inputs)
    reads = KernelReads(traced)
    reads.check_any()
    inside = below(prefix)
    usable = reads.usable()
    found = {path: _cost(traced, each) for path, each in usable.items() if inside(path)}
    if not found:
        reads.check_prefix(prefix)
    return found


def _cost(traced: Traced, reads: Sequence[Read]) -> Cost:
    layout, product = reads[0].layout, reads[0].product
    examples = 1 if traced.batch is None else traced.batch.size
    weight = max(layout.steps, 1) * math.prod(layout.shape) // layout.count
    activation = outputs = flops = made = 0
    for read in reads:
        data, result = (v.aval.shape for v in (read.eqn.invars[product.data], read.eqn.outvars[0]))
        made, numbers = _made(read), read.often * math.prod(result) // examples
        activation += read.often * math.prod(data) // (examples * layout.count)
        outputs += numbers
        flops += math.prod(layout.shape) // layout.count * numbers // made
    return Cost(product.kind, layout.count, weight, activation, flops, outputs, made, layout)


def _made(read: Read) -> int:
    """Channels that a product makes."""
    result = read.eqn.outvars[0].aval.shape
    if read.eqn.primitive.name == "conv_general_dilated":
        return result[read.eqn.params["dimension_numbers"].out_spec[1]]
    return math.prod(digit.size for digit in read.product.others)


def layer_of(kernel: Path, costs: Mapping[Path, Cost]) -> Path:
    """The path of a kernel and what lies beside it; of the kernel alone if other kernels do.

    >>> layer_of("params/out/kernel", {"params/in/kernel": None, "params/out/kernel": None})
    'params/out'
    >>> layer_of("params/out", {"params/in": None, "params/out": None})
    'params/out'
    """
    parent = kernel.rpartition("/")[0]
    alone = parent not in ("", "params") and sum(map(below(parent), costs)) == 1
    return parent if alone else kernel


def sparse_update_bytes(
    costs: Mapping[Path, Cost], rows: Mapping[Path, int], biases: Sequence[Path], features: int
) -> float:
    """Bytes of a Sparse Update policy by its own memory model, of one example in 8 bits.

    Weights and stored activations take a byte, biases four, and the mask of an activation one bit
    for every output of a convolution whose bias is updated; of the classifier its input counts.

    Args:
      costs: of the convolutions.
      rows: path -> how many rows of a kernel are updated.
      biases: paths of the kernels whose layers' biases are updated.
      features: numbers that the classifier reads.
    """
    of_rows = sum(count * costs[path].row for path, count in rows.items())
    of_biases = sum(4 * costs[path].made + costs[path].outputs / 8 for path in biases)
    return of_rows + of_biases + features
