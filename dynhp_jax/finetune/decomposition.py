"""Arrays as a small core and a factor for each axis: HOSVD, SVD, one subspace iteration.

`A ~ S x_1 U_1 x_2 U_2 ...`: of each mode (axis) the factor U has orthonormal columns, and the core
is `A x_1 U_1^T x_2 U_2^T ...`. A mode without a factor is whole.

Sources: HOSVD (2411.06346), ASI (2505.05086).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Factors = Mapping[int, Any]  # axis -> f[size, rank], orthonormal columns


def times(array: Any, matrix: Any, axis: int) -> Any:
    """The mode product: the axis of the array is replaced by the rows of the matrix [new, size]."""
    moved = jnp.tensordot(array, matrix, ((axis,), (1,)))
    return jnp.moveaxis(moved, -1, axis)


def core(array: Any, factors: Factors) -> Any:
    """The array in the coordinates of the factors; modes that shrink most come first."""
    for axis in sorted(factors, key=lambda axis: factors[axis].shape[1] / factors[axis].shape[0]):
        array = times(array, factors[axis].T, axis)
    return array


def expanded(array: Any, factors: Factors) -> Any:
    """The array that a core and its factors stand for."""
    for axis in sorted(factors, key=lambda axis: factors[axis].shape[0] / factors[axis].shape[1]):
        array = times(array, factors[axis], axis)
    return array


def gram(array: Any, axis: int) -> Any:
    """f[size, size]: of the array unfolded along an axis with itself."""
    others = tuple(d for d in range(array.ndim) if d != axis)
    return jnp.tensordot(array, array, (others, others))


def leading(array: Any, axis: int, rank: int) -> Any:
    """f[size, rank]: the leading left singular vectors of an unfolding."""
    _, vectors = jnp.linalg.eigh(gram(array, axis))
    return vectors[:, ::-1][:, :rank]


def iterated(array: Any, axis: int, factor: Any) -> Any:
    """A step of subspace iteration on an unfolding A: qr(A (A^T U)), from the factor before."""
    others = tuple(d for d in range(array.ndim) if d != axis)
    right = jnp.tensordot(array, factor, ((axis,), (0,)))  # A^T U, with the other axes apart
    left = jnp.tensordot(array, right, (others, tuple(range(array.ndim - 1))))
    return jnp.linalg.qr(left)[0]


def spectrum(array: Any, axis: int) -> np.ndarray:
    """The squares of an unfolding's singular values, descending, in float64."""
    matrix = np.moveaxis(np.asarray(array, np.float64), axis, 0).reshape(array.shape[axis], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return np.maximum(np.linalg.eigvalsh(small)[::-1], 0.0)


def rank_for(squares: np.ndarray, epsilon: float) -> int:
    """The fewest leading squares whose sum is at least this share of all.

    >>> rank_for(np.array([6.0, 3.0, 1.0]), 0.8)
    2
    """
    total = squares.sum()
    if not total > 0:
        return 1
    return int(np.searchsorted(np.cumsum(squares) / total, epsilon - 1e-12) + 1)


def stored_numbers(shape: tuple[int, ...], ranks: Mapping[int, int]) -> int:
    """Numbers of a core and its factors."""
    sizes = [ranks.get(axis, size) for axis, size in enumerate(shape)]
    return int(np.prod(sizes)) + sum(shape[axis] * rank for axis, rank in ranks.items())


def first_factors(key: jax.Array, shape: tuple[int, ...], ranks: Mapping[int, int]) -> dict:
    """Orthonormal columns of normal noise, from which subspace iteration starts."""
    keys = jax.random.split(key, max(len(ranks), 1))
    return {
        axis: jnp.linalg.qr(jax.random.normal(each, (shape[axis], rank)))[0]
        for each, (axis, rank) in zip(keys, ranks.items(), strict=False)
    }
