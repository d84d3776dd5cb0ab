"""What the backward pass keeps of six convolutions, by the residuals of `jax.vjp`, in MiB."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import finetune_steps
from dynhp_jax import finetune

APPLY, VARIABLES, (X, LABELS) = finetune_steps.six_convolutions()
KERNELS = [f"params/conv{k}/kernel" for k in range(6)]


def kept(function, trained):
    """(floats, masks) that are kept beside kernels and small vectors."""
    back = jax.eval_shape(lambda trained: jax.vjp(function, trained)[1], trained)
    arrays = [a for a in jax.tree.leaves(back) if a.size > 4096]
    shapes = [leaf.shape for leaf in jax.tree.leaves(VARIABLES)]
    arrays = [a for a in arrays if a.shape not in shapes and 3 not in a.shape[:2]]
    sizes = {True: 0, False: 0}
    for a in arrays:
        sizes[jnp.issubdtype(a.dtype, jnp.floating)] += a.size * a.dtype.itemsize / 2**20
    return sizes[True], sizes[False]


def test_of_all_kernels():
    def loss(kernels):
        params = {
            name: layer | ({"kernel": kernels[name]} if name in kernels else {})
            for name, layer in VARIABLES["params"].items()
        }
        return finetune_steps.loss_of(APPLY({"params": params}, X), LABELS)

    names = [f"conv{k}" for k in range(6)]
    kernels = {name: VARIABLES["params"][name]["kernel"] for name in names}
    floats, masks = kept(loss, kernels)
    assert floats + masks == pytest.approx(30.9, rel=0.02)  # 13.4 inputs, 14 zeros that XLA folds
    assert masks == pytest.approx(3.5, rel=0.02)


@pytest.mark.parametrize(("share", "floats", "masks"), [(4, 3.39, 0.44), (8, 1.77, 0.44)])
def test_of_a_share_of_the_rows_with_bits(share, floats, masks):
    costs = finetune.channel_costs(APPLY, VARIABLES, X)
    counts = {path: max(1, costs[path].channels // share) for path in KERNELS}
    rows = finetune.pad_rows({path: range(count) for path, count in counts.items()}, costs, None)
    function = finetune.selected(finetune.bit_activations(APPLY), rows)

    def loss(probes):
        return finetune_steps.loss_of(function(VARIABLES, rows, probes, X), LABELS)

    found = kept(loss, finetune.zero_probes(VARIABLES, rows))
    assert found[0] == pytest.approx(floats, rel=0.02)
    assert found[1] == pytest.approx(masks, rel=0.02)
