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
  normalisation) and `stop_gradient` count as constants.
- maxima, selections: all to the one that was taken.
- moves (reshape, transpose, slice, gather, ...): along with the entry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from dynhp_jax.errors import UserError
from dynhp_jax.jaxprs.control import scan_counts
from dynhp_jax.jaxprs.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.evaluate import BODIES, Hook, Run, bind
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.jaxprs.walk import Analysis, Walk

RULES = ("z+", "epsilon")

_STOPS = {"stop_gradient", "rsqrt"}
_OWN_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_NAMES = """
reshape transpose squeeze broadcast_in_dim expand_dims rev slice dynamic_slice dynamic_update_slice
concatenate pad gather convert_element_type reduce_precision copy copy_p split optimization_barrier
device_put sharding_constraint
"""
_MOVES = frozenset(_NAMES.split())
_ROUTES = {"max", "min", "select_n"}
_ROUTES |= {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"}
_SUMS = {"add", "add_any", "sub", "reduce_sum", "reduce_window_sum", "cumsum"}
_CONTRACTIONS = {"dot_general", "conv_general_dilated"}


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
        self._of_data: dict[Analysis, set] = {}

    def __call__(self, analysis: Analysis, args: Sequence[Any]) -> list[Any]:
        if not self._of_data:  # the whole function; what is inside it is found along with it
            values = [analysis.values[var] for var in analysis.jaxpr.invars]
            _depending(analysis, [not v.sources for v in values], self._of_data)
        return super().__call__(analysis, args)

    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list) -> Sequence[Any]:
        # A loop without data is not in the table: nothing in it depends on the inputs.
        name, known = eqn.primitive.name, self._of_data.get(analysis, frozenset())
        data = [
            not isinstance(atom, jex.Literal)
            and atom in known
            and jnp.issubdtype(atom.aval.dtype, jnp.floating)
            for atom in eqn.invars
        ]
        if index in analysis.inner:
            if name == "while" and any(data):
                _refuse(name, eqn)
            if name in _OWN_DERIVATIVE:  # as written, so that the rules act inside
                return self(analysis.inner[index][0], args)
            return BODIES[name](self, analysis, index, eqn, args)
        args = self.hook.operands(eqn, [analysis.value(atom) for atom in eqn.invars], args)
        floating = [jnp.issubdtype(var.aval.dtype, jnp.floating) for var in eqn.outvars]
        if not any(data) or not any(floating) or name in _STOPS:
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
            return tuple(next(shares) if is_data else None for is_data in data)

        function.defvjp(lambda *args: (function(*args), args), back)
        return function(*args)

    # -- rules: (forward of the data operands, these operands, relevance, all operands) -> shares --

    def _rule(self, name: str, eqn: Any, data: list[bool]) -> Callable:
        several = sum(data) > 1
        if name in _MOVES or (name in _ROUTES and (several or name not in ("max", "min"))):
            return _transposed
        if name in _CONTRACTIONS:
            return functools.partial(self._contraction, eqn, data)
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
        """Relevance per unit of what contributed to `total`."""
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
        mine, other = args[side], args[1 - side]
        # Pairs of factors whose products are the contributions.
        pairs = [(mine, other)]
        if self.rule == "z+":
            pairs = [(_positive(mine), _positive(other)), (_negative(mine), _negative(other))]
        total, backs = 0.0, []
        for a, b in pairs:
            value, back = jax.vjp(lambda a, b=b: bind(eqn, [a, b] if side == 0 else [b, a])[0], a)
            total, backs = total + value, [*backs, back]
        each = self._quotient(share, total)
        return sum(a * back(each)[0] for (a, _), back in zip(pairs, backs, strict=True))

    def _sum(self, name: str, forward: Callable, free: list, relevance: Any, args: tuple) -> list:
        parts = [free[0], *(-part if name == "sub" else part for part in free[1:])]
        # Of positive and negative parts alike: the summands, added up as the equation does.
        add = (lambda *parts: sum(parts)) if len(parts) > 1 else (lambda part: forward(part)[0])
        if self.rule == "epsilon":
            total, back = jax.vjp(add, *parts)
            each = back(self._quotient(relevance[0], total))
            return [part * share for part, share in zip(parts, each, strict=True)]
        above, back = jax.vjp(add, *map(_positive, parts))
        below = add(*map(_negative, parts))
        some = above > 0
        ups = back(jnp.where(some, relevance[0] / (above + self.epsilon), 0))
        downs = back(jnp.where(some, 0, relevance[0] / (below - self.epsilon)))
        return [
            _positive(part) * up + _negative(part) * down
            for part, up, down in zip(parts, ups, downs, strict=True)
        ]

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


def _depending(analysis: Analysis, of_data: Sequence[bool], found: dict[Analysis, set]) -> list:
    """Notes the variables of a jaxpr that depend on the inputs; returns which results do."""
    known = found.setdefault(analysis, set())
    known.update(v for v, is_data in zip(analysis.jaxpr.invars, of_data, strict=True) if is_data)
    for index, eqn in enumerate(analysis.jaxpr.eqns):
        name = eqn.primitive.name
        flags = [not isinstance(a, jex.Literal) and a in known for a in eqn.invars]
        if index in analysis.inner and name != "while":
            results = _of_bodies(name, eqn, analysis.inner[index], flags, found)
        else:
            results = [any(flags) and name not in _STOPS] * len(eqn.outvars)
        known.update(v for v, is_data in zip(eqn.outvars, results, strict=True) if is_data)
    return [not isinstance(a, jex.Literal) and a in known for a in analysis.jaxpr.outvars]


def _of_bodies(name: str, eqn: Any, bodies: list, flags: list, found: dict) -> list[bool]:
    if name == "cond":
        every = [_depending(body, flags[1:], found) for body in bodies]
        return [any(branch) for branch in zip(*every, strict=True)]
    if name != "scan":
        return _depending(bodies[0], flags, found)
    consts, carry = scan_counts(eqn.params)
    while True:  # until the carry depends on nothing more
        results = _depending(bodies[0], flags, found)
        after = [a or b for a, b in zip(flags[consts : consts + carry], results, strict=False)]
        if after == flags[consts : consts + carry]:
            return results
        flags = [*flags[:consts], *after, *flags[consts + carry :]]


def _positive(array: Any) -> Any:
    return jnp.maximum(array, 0)


def _negative(array: Any) -> Any:
    return jnp.minimum(array, 0)
