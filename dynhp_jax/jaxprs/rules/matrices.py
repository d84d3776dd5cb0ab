"""Transforms and factorisations: of whole vectors or matrices that lie along the last axes."""

from __future__ import annotations

from typing import Any

from dynhp_jax.jaxprs.values import Value, Walk, rule

# Name -> how many of the last axes of its first operand it looks at as a whole.
OF_LAST_AXES = {
    "cholesky": 2,
    "eig": 2,
    "eigh": 2,
    "hessenberg": 2,
    "householder_product": 2,
    "lu": 2,
    "qr": 2,
    "schur": 2,
    "svd": 2,
    "triangular_solve": 2,
    "tridiagonal": 2,
    "tridiagonal_solve": 1,
}


def whole_axes(eqn: Any) -> int:
    """How many of the last axes of its first operand an equation looks at as a whole."""
    name = eqn.primitive.name
    return len(eqn.params["fft_lengths"]) if name == "fft" else OF_LAST_AXES[name]


@rule("fft", *OF_LAST_AXES)
def _of_last_axes(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    reason = f"an axis of '{eqn.primitive.name}'"
    apart = len(operands[0].axes) - whole_axes(eqn)
    axes = list(operands[0].axes[:apart])
    for value in operands:
        for d, axis in enumerate(value.axes[:apart]):
            axes[d] = walk.labels.unify(axes[d], axis, "axes that divide differently")
        for axis in value.axes[apart:]:
            walk.labels.pin_axis(axis, reason)
    return [
        Value((*axes, *walk.pinned_axes(var.aval.shape[apart:], reason))) for var in eqn.outvars
    ]
