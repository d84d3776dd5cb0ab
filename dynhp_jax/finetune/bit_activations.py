"""Activations that keep a few bits for the backward pass, instead of floats or bytes.

A piecewise linear function needs for its derivative only which piece was met: one bit for ReLU,
ReLU6, leaky ReLU, hard tanh, clip or abs. JAX keeps a byte for each number, or XLA the whole
operand, to compare it again. Which functions are piecewise linear is read from their jaxprs, not
from their names, and ties have JAX's own derivative (that of `jnp.maximum(x, 0)` at 0 is a half,
which takes a second bit).

>>> import jax, jax.numpy as jnp
>>> relu = bit_activations(lambda params, x: jax.nn.relu(x @ params))
>>> x, params = jnp.array([[1.0, -1.0]]), jnp.eye(2)
>>> jax.grad(lambda x: relu(params, x).sum())(x).tolist()
[[1.0, 0.0]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.finetune.packed import bits_for, pack, unpack
from dynhp_jax.finetune.pooling import choice_with_bits, pool_with_bits, reduction_with_bits
from dynhp_jax.finetune.regions import Stretch, stretches
from dynhp_jax.finetune.slopes import slopes
from dynhp_jax.jaxprs.hooks import Hook, Region
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Analysis, Value

SMOOTH = ("exact", "recompute", "steps")
LEVELS = 4  # of the derivative of a smooth function with `smooth='steps'`
_FORMS = {
    "reduce_window_max": pool_with_bits,
    "reduce_max": reduction_with_bits,
    "select_n": choice_with_bits,
}


def bit_activations(apply: Callable, smooth: str = "exact") -> Callable:
    """Makes what is piecewise linear keep bits for the backward pass.

    Elementwise functions of one array with at most 16 slopes, in equations of their own or not;
    maximum over windows (which position it was) or over axes; choices by masks. Outputs and
    gradients stay what they are.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      smooth: what becomes of GELU, SiLU, softplus and the like. 'exact': they are left alone.
        'recompute': they keep what they read alone and compute their derivative from it, exactly.
        'steps': AN APPROXIMATION, the derivative is rounded to the nearest of 4 levels, 2 bits;
        outputs stay exact, but gradients of all that is below do not.

    Returns:
      `f(variables, *inputs) -> outputs`, with the outputs of `apply`.

    Raises:
      UserError: `smooth` is none of these.
      ValueError (when called): the function has side effects or needs concrete values.
    """
    if smooth not in SMOOTH:
        raise UserError(
            f"smooth is {shown(smooth)}; allowed: {', '.join(map(repr, SMOOTH))} ('steps' makes"
            " gradients approximate)"
        )
    return transformed(apply, 0, lambda call: _Bits(call, smooth))


class _Bits(Hook):
    def __init__(self, call: Call, smooth: str):
        self.walk, self.smooth = call.traced.walk, smooth
        self._regions: dict[int, dict[int, Region]] = {}

    def regions(self, analysis: Analysis) -> Mapping[int, Region]:
        if id(analysis) not in self._regions:
            found: dict[int, Region] = {}
            for each in stretches(analysis, piecewise=True):
                self._note(found, each, self._of_pieces(analysis, each))
            if self.smooth != "exact":
                for each in stretches(analysis, piecewise=False, without=tuple(found)):
                    self._note(found, each, self._of_smooth(analysis, each))
            self._regions[id(analysis)] = found
        return self._regions[id(analysis)]

    def _note(
        self, found: dict[int, Region], each: Stretch, replace: Callable[[Any], Any] | None
    ) -> None:
        if replace is not None:
            region = Region(each.source, each.result, each.indices, replace)
            found |= dict.fromkeys(each.indices, region)

    def _of_pieces(self, analysis: Analysis, each: Stretch) -> Callable | None:
        function = functools.partial(_evaluated, self.walk, analysis, each)
        levels = slopes(function, each.source.aval.shape, each.source.aval.dtype)
        if levels is None or len(levels) == 1:  # of one slope nothing is kept
            return None
        return functools.partial(_coded, function, levels)

    def _of_smooth(self, analysis: Analysis, each: Stretch) -> Callable | None:
        function = functools.partial(_evaluated, self.walk, analysis, each)
        if self.smooth == "steps":
            levels = _levels(function, each.source.aval)
            many = levels is not None and len(levels) > 1
            return functools.partial(_coded, function, levels) if many else None
        several = len(each.indices) > 1 or each.indices[0] in analysis.inner
        return functools.partial(_recomputed, function) if several else None

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        form = _FORMS.get(eqn.primitive.name)
        if form is None or not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
            return run(*args)
        result = form(eqn, args, run)
        return run(*args) if result is None else [result]


def _evaluated(walk: Any, analysis: Analysis, each: Stretch, array: Any) -> Any:
    """The function that a stretch is, by itself."""
    run, env = Run(walk), dict(zip(analysis.jaxpr.constvars, analysis.consts, strict=True))
    env[each.source] = array
    run.evaluate(analysis, env, (*each.constants, *each.indices))
    return env[each.result]


def _coded(function: Callable, levels: tuple[float, ...], array: Any) -> Any:
    """`function(array)`, whose backward pass keeps the number of the nearest level."""
    bits, dtype = bits_for(len(levels)), array.dtype
    middles = [(a + b) / 2 for a, b in zip(levels, levels[1:], strict=False)]

    @jax.custom_vjp
    def coded(x: Any) -> Any:
        return function(x)

    def forward(x: Any) -> tuple:
        result, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
        codes = sum((slope > middle).astype(jnp.uint8) for middle in middles)
        return result, pack(codes, bits)

    def backward(packed: Any, cotangent: Any) -> tuple:
        codes = unpack(packed, bits, cotangent.shape)
        found = _times(levels[0], cotangent)
        for k, level in enumerate(levels[1:], start=1):
            found = jnp.where(codes >= k, _times(level, cotangent), found)
        return (found.astype(dtype),)

    coded.defvjp(forward, backward)
    return coded(array)


def _times(level: float, cotangent: Any) -> Any:
    if level in (0.0, 1.0):
        return cotangent if level else jnp.zeros_like(cotangent)
    return cotangent * jnp.asarray(level, cotangent.dtype)


def _recomputed(function: Callable, array: Any) -> Any:
    """`function(array)`, whose backward pass keeps the array alone."""

    @jax.custom_vjp
    def recomputed(x: Any) -> Any:
        return function(x)

    recomputed.defvjp(
        lambda x: (function(x), x), lambda x, cotangent: jax.vjp(function, x)[1](cotangent)
    )
    return recomputed(array)


def _levels(function: Callable, aval: Any) -> tuple[float, ...] | None:
    """Levels for the derivative of a smooth function at normally distributed numbers.

    They have the least mean squared error (Lloyd's iteration from quantiles). None for a function
    whose derivative is not bounded or does not settle far out, as that of `exp`.
    """
    size = int(np.prod(aval.shape))

    def derivative(points: np.ndarray) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            found = []
            for start in range(0, points.size, size):
                part = np.resize(points[start : start + size], aval.shape).astype(aval.dtype)
                slope = jax.jvp(function, (jnp.asarray(part),), (jnp.ones(aval.shape, aval.dtype),))
                found.append(np.asarray(slope[1], np.float64).reshape(-1)[: points.size - start])
            return np.concatenate(found)

    far = derivative(np.array([-40.0, -20.0, 20.0, 40.0]))
    if not np.isfinite(far).all() or np.abs(far[[0, 2]] - far[[1, 3]]).max() > 1e-2:
        return None
    quantiles = (np.arange(256) + 0.5) / 256
    values = np.sort(derivative(_normal(quantiles)))
    if not np.isfinite(values).all():
        return None
    levels = np.quantile(values, (np.arange(LEVELS) + 0.5) / LEVELS)
    for _ in range(50):
        nearest = np.abs(values[:, None] - levels).argmin(1)
        means = [values[nearest == k].mean() for k in range(LEVELS) if (nearest == k).any()]
        levels = np.array(means + [means[-1]] * (LEVELS - len(means)))
    return tuple(sorted(set(levels.tolist())))


def _normal(quantiles: np.ndarray) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.scipy.special.ndtri(quantiles), np.float64)
