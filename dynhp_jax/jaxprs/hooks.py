"""What transforms do to equations as they run, one by one or several at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dynhp_jax.jaxprs.products import Part, product_with_parts
from dynhp_jax.jaxprs.values import Analysis, Value


@dataclasses.dataclass(frozen=True)
class Region:
    """Equations that run as one function of one array.

    Attributes:
      source: the variable that they read, beside constants.
      result: the one of theirs that others read.
      indices: of the equations, in their order.
      replace: array -> what the equations make of it, with another backward pass.
    """

    source: Any
    result: Any
    indices: tuple[int, ...]
    replace: Callable[[Any], Any]


class Hook:
    """What a transform does to equations as they run.

    Attributes:
      values_only: whether the derivatives of what runs are of no interest.
      alone: whether no other hook acts in the same run.
    """

    values_only = False
    alone = True

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        """The operands of an equation, perhaps changed."""
        return args

    def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
        """What the backward pass of a product of data and a kernel is to be made of, if anything.

        Asked for matrix products and convolutions; hooks can share a product only in this way.
        """
        return []

    def added(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        """What is added to the result of a product of data and a kernel; it has its own derivative.

        Asked for matrix products and convolutions.
        """
        return []

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        """The results of an equation without `parts`; `run(*args)` gives the ordinary ones."""
        return run(*args)

    def around(self, body: Analysis, values: list[Value], args: list[Any]) -> list[Any] | str:
        """Operands, perhaps changed, for a function with a derivative of its own.

        What is to change inside the function, so that it has to be run as its body is written, is
        said in words instead.
        """
        return args

    def regions(self, analysis: Analysis) -> Mapping[int, Region]:
        """Equations that run as one: by the index of each of them."""
        return {}

    def by_step(self, body: Analysis) -> Sequence[Any]:
        """Arrays that a loop over this body takes along, one slice for each step."""
        return ()

    @contextlib.contextmanager
    def in_step(self, body: Analysis, slices: Sequence[Any]) -> Iterator[None]:
        """Around a step of the loop, with the slices of `by_step`."""
        yield

    def finish(self, outputs: Any) -> Any:
        """After the run: the function's outputs, perhaps with more; raises what was not right."""
        return outputs


class Chain(Hook):
    """Several hooks that act in one run, the innermost transform's first."""

    def __init__(self, hooks: Sequence[Hook]):
        self.hooks = tuple(hooks)
        self.values_only = all(hook.values_only for hook in hooks)
        for hook in hooks:
            hook.alone = False

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        for hook in self.hooks:
            args = hook.operands(eqn, values, args)
        return args

    def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
        return [part for hook in self.hooks for part in hook.parts(eqn, values, args)]

    def added(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        return [each for hook in self.hooks for each in hook.added(eqn, values, args)]

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        for hook in self.hooks:
            run = _within(hook, eqn, values, run)
        return run(*args)

    def around(self, body: Analysis, values: list[Value], args: list[Any]) -> list[Any] | str:
        for hook in self.hooks:
            args = hook.around(body, values, args)
            if isinstance(args, str):
                break
        return args

    def regions(self, analysis: Analysis) -> Mapping[int, Region]:
        found: dict[int, Region] = {}
        for hook in self.hooks:
            found |= hook.regions(analysis)
        return found

    def by_step(self, body: Analysis) -> Sequence[Any]:
        return [tuple(hook.by_step(body)) for hook in self.hooks]

    @contextlib.contextmanager
    def in_step(self, body: Analysis, slices: Sequence[Any]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for hook, own in zip(self.hooks, slices, strict=True):
                stack.enter_context(hook.in_step(body, own))
            yield

    def finish(self, outputs: Any) -> Any:
        for hook in self.hooks:
            outputs = hook.finish(outputs)
        return outputs


def with_parts(
    hook: Hook, eqn: Any, values: list[Value], args: list[Any], run: Callable
) -> Sequence[Any]:
    """The results of a matrix product or convolution under a hook."""
    parts = hook.parts(eqn, values, args)
    of_parts = functools.partial(product_with_parts, parts=parts)
    results = of_parts(run, args) if parts else hook.bind(eqn, values, args, run)
    more = hook.added(eqn, values, args)
    return [sum(more, results[0])] if more else results


def _within(hook: Hook, eqn: Any, values: list[Value], run: Callable) -> Callable:
    return lambda *args: hook.bind(eqn, values, list(args), run)
