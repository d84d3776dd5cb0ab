"""Training some input channels of some kernels: the rest of what a layer read is not kept.

A `custom_vjp` has to give a kernel a cotangent of the kernel's own shape. So the gradient of the
chosen rows is that of a *probe*: an argument of zeros, of the rows' shape, which every product
takes and does not read. The forward pass and the gradient with respect to the data are the ordinary
ones; kept for the backward pass are the channels that the chosen rows read.

>>> import jax, jax.numpy as jnp
>>> from dynhp_jax.finetune import channel_costs, draw, quotas, zero_probes, apply_rows
>>> def apply(params, x):
...     return jnp.tanh(x @ params["in"]) @ params["out"]
>>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((3, 2))}
>>> x = jnp.ones((8, 4))
>>> some = quotas(channel_costs(apply, params, x, prefix=""), ["in"], budget=8)
>>> rows = draw(jax.random.key(0), some)
>>> chosen = selected(apply, some)
>>> loss = lambda probes: chosen(params, rows, probes, x).sum()
>>> gradients = jax.grad(loss)(zero_probes(params, rows))
>>> gradients["in"].shape
(2, 3)
>>> new = apply_rows(params, rows, {"in": -0.1 * gradients["in"]})
>>> int((new["in"] != params["in"]).any(1).sum())
2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.kernel_products import KernelReads, Read
from dynhp_jax.finetune.per_kernel import PerKernel
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.jaxprs.products import Kept, Part, for_probe
from dynhp_jax.jaxprs.trace import Traced, varying
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Value


def selected(apply: Callable, rows: Mapping[Path, Any]) -> Callable:
    """Makes some kernels trainable in chosen rows alone.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      rows: the kernels, by path; what stands for them (quotas, counts, `Rows`) is not looked at.

    Returns:
      `f(variables, rows, probes, *inputs) -> outputs`, with the outputs of `apply`. `rows` is
      {path: `Rows`} (`draw`, `pad_rows`), `probes` {path: zeros} (`zero_probes`). The gradient
      with respect to a probe is that of the chosen rows (0 where `rows` has padding); with respect
      to these kernels themselves it is 0, and what else depends on the loss has the ordinary one.
      Differentiate with respect to what is trained alone, or more is kept.

    Raises (when called):
      UserError: no kernel is chosen; there is none of this path (the nearest are named); its rows
        cannot be chosen, because of how the function uses it; rows or probes of another shape.
      ValueError: the function has side effects or needs concrete values.
    """
    paths = tuple(rows)

    def hook(call: Call, rows: Mapping[Path, Rows], probes: Mapping[Path, Any]) -> _Selected:
        reads = KernelReads(call.traced)
        if not paths:
            reads.check_any()
            raise UserError("no kernel is chosen, so nothing is trained; give paths of kernels")
        reads.check(paths)
        for path in paths:
            _check(path, reads, rows, probes, call.traced)
        return _Selected(reads, {path: (rows[path].index, probes[path]) for path in paths})

    return transformed(apply, 2, hook)


def _check(
    path: Path,
    reads: KernelReads,
    rows: Mapping[Path, Rows],
    probes: Mapping[Path, Any],
    traced: Traced,
) -> None:
    for name, given in (("rows", rows), ("probes", probes)):
        if path not in given:
            raise UserError(f"there are no {name} of kernel {path!r}; give them for {list(given)}")
    layout = reads.reads[path][0].layout
    if rows[path].layout != layout:
        raise UserError(
            f"the rows of {path!r} are of a kernel of shape {rows[path].layout.shape} that is read"
            f" otherwise than this one of {traced.shapes[path]}; find the costs of this function"
        )
    wanted, found = layout.shape_of(rows[path].capacity), jnp.shape(probes[path])
    if found != wanted:
        raise UserError(
            f"the probe of {path!r} has shape {found}; give zeros of {wanted} (`zero_probes`)"
        )


class _Selected(PerKernel):
    """With (row numbers, probe) of every kernel."""

    def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
        read = self.read(eqn, values)
        if read is None:
            return []
        index, probe = self.given[read.path]
        apart = tuple(sorted(varying(args[read.product.data]) - varying(probe)))
        # One probe for all devices of a `shard_map` gets the sum of what they find.
        probe = lax.pcast(probe, apart, to="varying") if apart else probe
        return [_part(read, index, probe)]


def _part(read: Read, index: Any, probe: Any) -> Part:
    product, layout = read.product, read.layout.step

    def narrow(array: Any, given: tuple) -> Any:
        return product.narrow(array, given[0])

    def narrowed(kept: Kept, given: tuple) -> Kept:
        if not product.grouped:
            return kept
        return dataclasses.replace(
            kept,
            groups=given[0].shape[0],
            cotangent=lambda cotangent: product.narrow_result(cotangent, given[0]),
        )

    def back(kept: Kept, cotangent: Any, given: tuple) -> tuple:
        def gradient(cotangent: Any) -> Any:
            of_rows = kept.contracted(product.gradient, kept.cotangent(cotangent))
            return layout.assembled(of_rows, product.others)

        return None, for_probe(given[1], gradient, cotangent)

    return Part(
        product.data, (index, probe), narrow=narrow, narrowed=narrowed, back=back, frozen=True
    )
