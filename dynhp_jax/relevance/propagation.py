"""Layer-wise relevance propagation: what share of an output is owed to which of its inputs.

A backward recursion over the jaxpr with a rule per primitive. The rules stand in for the
derivatives of the equations, so the recursion is a reverse-mode pass, and loops, branches and calls
need nothing of their own.

>>> import jax, jax.numpy as jnp
>>> def apply(params, x):
...     return jax.nn.relu(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.array([[1.0, -2.0], [3.0, 1.0]]), "b": jnp.array([[1.0], [1.0]])}
>>> x = jnp.array([[1.0, 2.0]])
>>> output, back = jax.vjp(lambda x: relevant(apply)(params, x), x)
>>> back(output)[0].round().tolist(), float(output[0, 0])  # 7 = 1 + 6; the other unit is off
([[1.0, 6.0]], 7.0)

Sources: Bach et al. 2015, doi 10.1371/journal.pone.0130140; Montavon et al. 2018
(1706.07979), section 5. With a the operand that depends on the inputs and w the weights:

- 'z+': R_k = sum_j (a_k w_kj)^+ / (sum_k' (a_k' w_k'j)^+ + eps) R_j. Where a >= 0 it is the
  rule of the positive weights.
- 'epsilon': R_k = sum_j a_k w_kj / (z_j + eps sign(z_j)) R_j.

What is no contraction:

- sums (additions, pooling by means): in proportion to the summands; under z+ to their positive
  parts, or to their negative ones where none is positive.
- a constant or bias that is added has no part under z+, so relevance is conserved (but for results
  of a contraction to which nothing contributes positively); under epsilon it keeps its share.
- a normalisation is not folded into the kernel before it: where its scale is negative, z+ goes by
  the contributions that the scale turns round.
- element-wise functions and factors: unchanged to the operand that depends on the inputs. Of a
  product of two such operands each has half. A denominator, `rsqrt` (the statistics of a
  normalisation) and `stop_gradient` count as constants. So does a reciprocal (1 / s, s**-0.5) that
  multiplies such an operand; alone it is a function like any other, as in 1 / (1 + exp(-x)).
- maxima, selections: all to the one that was taken.
- moves (reshape, transpose, slice, gather, stack, tile, ...): along with the entry.
- an operand that is repeated along axes of size one has the sum of the shares of its repetitions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.precision import wide, wide_type
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.interpreter import BODIES, Run, bind
from dynhp_jax.jaxprs.rules.contractions import CONTRACTIONS
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.jaxprs.values import Analysis, Walk
from dynhp_jax.relevance.reciprocals import CONSTANT, DATA, MOVES, STOPS, Kinds, kind_of, kinds

RULES = ("z+", "epsilon")

_OWN_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_ROUTES = {"max", "min", "select_n"}
_ROUTES |= {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"}
_SUMS = {"add", "add_any", "sub", "reduce_sum", "reduce_window_sum", "cumsum"}


def relevant(apply: Callable, rule: str = "z+", epsilon: float = 1e-6) -> Callable:
    """A function with the values of `apply` and relevance in place of derivatives.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, for evaluation.
      rule: 'z+' or 'epsilon', for contractions and sums.
      epsilon: keeps denominators from zero.

    Returns:
      `f(variables, *inputs) -> outputs`. `jax.vjp` of it with respect to the inputs turns the
      relevance of the outputs into that of the inputs. Do not differentiate with respect to the
      variables.

    Raises:
      UserError: for an unknown rule or an epsilon of 0; when called, for a primitive without a
        rule, by name.
    """
    make_run = propagation(rule, epsilon)

    def function(variables: Any, *inputs: Any) -> Any:
        traced = trace(apply, variables, inputs)
        run = make_run(traced.walk)
        out = run(traced.analysis, jax.tree.leaves((variables, inputs)))
        return jax.tree.unflatten(traced.out_tree, out)

    return function


def propagation(rule: str = "z+", epsilon: float = 1e-6) -> Callable[..., Run]:
    """(walk, hook=...) -> a `Run` whose backward pass is that of `relevant`."""
    if rule not in RULES:
        raise UserError(f"the relevance rule is {rule!r}; allowed: {', '.join(map(repr, RULES))}")
    if not epsilon > 0:
        raise UserError(f"the relevance rule's epsilon is {epsilon!r}; allowed: numbers above 0")
    return functools.partial(_Relevance, rule=rule, epsilon=epsilon)


class _Relevance(Run):
    def __init__(self, walk: Walk, hook: Hook | None = None, *, rule: str, epsilon: float):
        super().__init__(walk, hook=hook or Hook())
        self.rule, self.epsilon = rule, epsilon
        self._kinds: Kinds = {}

    def __call__(self, analysis: Analysis, args: Sequence[Any]) -> list[Any]:
        if not self._kinds:  # the whole function; what is inside it is found along with it
            values = [analysis.values[var] for var in analysis.jaxpr.invars]
            kinds(analysis, [CONSTANT if v.sources else DATA for v in values], self._kinds)
        return super().__call__(analysis, args)

    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list) -> Sequence[Any]:
        # A loop without data is not in the table: nothing in it depends on the inputs.
        name, data = eqn.primitive.name, self._data(analysis, eqn)
        if index in analysis.inner:
            if name == "while" and any(data):
                _refuse(name, eqn)
            if name in _OWN_DERIVATIVE:  # as written, so that the rules act inside
                return self(analysis.inner[index][0], args)
            return BODIES[name](self, analysis, index, eqn, args)
        args = self.hook.operands(eqn, analysis.operands[index], args)
        floating = [jnp.issubdtype(var.aval.dtype, jnp.floating) for var in eqn.outvars]
        if not any(data) or not any(floating) or name in STOPS:
            return bind(eqn, [lax.stop_gradient(a) for a in args])
        backward = self._rule(name, eqn, data)

        @jax.custom_vjp
        def function(*args: Any) -> tuple:
            return tuple(bind(eqn, args))

        def back(args: tuple, relevance: tuple) -> tuple:
            free = [a for a, is_data in zip(args, data, strict=True) if is_data]

            def forward(*free: Any) -> Any:
                rest = iter(free)
                return bind(eqn, [next(rest) if d else a for a, d in zip(args, data, strict=True)])

            shares = iter(backward(forward, free, relevance, args))
            return tuple(
                _fitted(next(shares), a) if is_data else None
                for a, is_data in zip(args, data, strict=True)
            )

        function.defvjp(lambda *args: (function(*args), args), back)
        return function(*args)

    def _data(self, analysis: Analysis, eqn: Any) -> list[bool]:
        """Which operands have a share in the relevance of the results."""
        # A loop without data is not in the table: nothing in it depends on the inputs.
        known = self._kinds.get(analysis, {})
        found = [kind_of(atom, known) for atom in eqn.invars]
        for i, atom in enumerate(eqn.invars):
            if found[i] and not jnp.issubdtype(atom.aval.dtype, jnp.floating):
                found[i] = CONSTANT
        # To divide by a value and to multiply by its reciprocal is the same.
        least = DATA if eqn.primitive.name == "mul" and DATA in found else CONSTANT + 1
        return [kind >= least for kind in found]

    # -- rules: (forward of the data operands, these operands, relevance, all operands) -> shares --

    def _rule(self, name: str, eqn: Any, data: list[bool]) -> Callable:
        several = sum(data) > 1
        if name in MOVES or (name in _ROUTES and (several or name not in ("max", "min"))):
            return _transposed
        if name in CONTRACTIONS:
            return functools.partial(self._contraction, eqn, data)
        if name == "scatter-add":
            return functools.partial(self._sum_into, eqn, data)
        if name in _SUMS:
            if several or name not in ("add", "add_any", "sub"):
                return functools.partial(self._sum, name)
            sign = -1.0 if name == "sub" and data[1] else 1.0
            return functools.partial(self._offset, sign)
        if name == "mul" and several:
            return lambda forward, free, relevance, args: [relevance[0] / 2] * 2
        if name == "div" and several:
            return lambda forward, free, relevance, args: [relevance[0], None]
        if name in ELEMENTWISE and not several:
            return lambda forward, free, relevance, args: list(relevance)
        return _refuse(name, eqn)

    def _quotient(self, relevance: Any, total: Any) -> Any:
        """Relevance per unit of what contributed to `total`, wide."""
        relevance, total = wide(relevance), wide(total)
        if self.rule == "z+":
            return relevance / (total + self.epsilon)
        return relevance / (total + jnp.where(total < 0, -self.epsilon, self.epsilon))

    def _contraction(
        self, eqn: Any, data: list[bool], forward: Callable, free: list, relevance: Any, args: tuple
    ) -> list:
        share = relevance[0] / sum(data)
        return [self._factor(eqn, side, args, share) for side in (0, 1) if data[side]]

    def _factor(self, eqn: Any, side: int, args: tuple, share: Any) -> Any:
        """What one factor gets of a result's relevance."""
        mine, other = wide(args[side]), wide(args[1 - side])
        changed = _wide_results(eqn)
        # Pairs of factors whose products are the contributions.
        pairs = [(mine, other)]
        if self.rule == "z+":
            pairs = [(_positive(mine), _positive(other)), (_negative(mine), _negative(other))]
        total, backs = 0.0, []
        for a, b in pairs:

            def product(a: Any, b: Any = b) -> Any:
                factors = [a, b] if side == 0 else [b, a]
                return bind(eqn, [*factors, *args[2:]], **changed)[0]

            value, back = jax.vjp(product, a)
            total, backs = total + value, [*backs, back]
        each = self._quotient(share, total)
        return sum(a * back(each)[0] for (a, _), back in zip(pairs, backs, strict=True))

    def _sum(self, name: str, forward: Callable, free: list, relevance: Any, args: tuple) -> list:
        first, *others = map(wide, free)
        parts = [first, *(-part if name == "sub" else part for part in others)]
        # Of positive and negative parts alike: the summands, added up as the equation does.
        alike = len(parts) == 1 or name == "scatter-add"
        add = (lambda *parts: forward(*parts)[0]) if alike else (lambda *parts: sum(parts))
        if self.rule == "epsilon":
            total, back = jax.vjp(add, *parts)
            each = back(self._quotient(relevance[0], total))
            return [part * share for part, share in zip(parts, each, strict=True)]
        above, back = jax.vjp(add, *map(_positive, parts))
        below = add(*map(_negative, parts))
        some, relevance = above > 0, wide(relevance[0])
        ups = back(jnp.where(some, relevance / (above + self.epsilon), 0))
        downs = back(jnp.where(some, 0, relevance / (below - self.epsilon)))
        return [
            _positive(part) * up + _negative(part) * down
            for part, up, down in zip(parts, ups, downs, strict=True)
        ]

    def _sum_into(
        self, eqn: Any, data: list, forward: Callable, free: list, relevance: Any, args: tuple
    ) -> list:
        """What is added to entries of an array; constants among them are offsets."""
        into, indices, updates = args
        rest = [wide(into), indices, wide(updates)]
        if self.rule == "z+":
            rest = [jnp.zeros_like(rest[0]), indices, jnp.zeros_like(rest[2])]

        def added(*free: Any) -> Any:
            parts = iter(free)
            return bind(eqn, [next(parts) if d else a for d, a in zip(data, rest, strict=True)])

        return self._sum("scatter-add", added, free, relevance, args)

    def _offset(
        self, sign: float, forward: Callable, free: list, relevance: Any, args: tuple
    ) -> list:
        """A constant is added or subtracted, or the operand from a constant."""
        if self.rule == "z+":
            return list(relevance)
        return [sign * free[0] * self._quotient(relevance[0], forward(*free)[0])]


def _refuse(name: str, eqn: Any) -> Any:
    shapes = ", ".join(str(list(v.aval.shape)) for v in eqn.invars)
    raise UserError(
        f"relevance has no rule for the primitive {name!r} (on {shapes}); write the model without "
        "it, or use another criterion"
    )


def _transposed(forward: Callable, free: list, relevance: Any, args: tuple) -> tuple:
    return jax.vjp(lambda *free: tuple(forward(*free)), *free)[1](tuple(relevance))


def _fitted(share: Any, operand: Any) -> Any:
    """A share as its operand is: summed over the axes of size one that were repeated."""
    if share is None:
        return None
    shape = operand.shape  # a scalar is repeated along every axis
    axes = tuple(d for d, n in enumerate(share.shape) if not shape or shape[d] != n)
    return jnp.sum(share, axes).reshape(shape).astype(operand.dtype)


def _wide_results(eqn: Any) -> dict[str, Any]:
    """Parameters of a contraction to change for operands that were made wide."""
    if not any(wide_type(v.aval.dtype) != v.aval.dtype for v in (*eqn.invars, *eqn.outvars)):
        return {}
    return {"preferred_element_type": None, "precision": None}


def _positive(array: Any) -> Any:
    return jnp.maximum(array, 0)


def _negative(array: Any) -> Any:
    return jnp.minimum(array, 0)
