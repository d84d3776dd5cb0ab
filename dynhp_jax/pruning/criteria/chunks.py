"""Scores from sums over the examples, which are taken chunk by chunk where memory is short.

A criterion takes part by being `Summed`: it says what it adds up over the examples, and what the
scores are of these sums. Any other one looks at all examples at once.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.memory import turns
from dynhp_jax.pruning.criteria import contract
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence, UnitScores


class Summed(abc.ABC):
    """A criterion whose scores follow from sums over the examples.

    >>> import jax.numpy as jnp
    >>> class LargestLogit(Summed):  # the same for all units
    ...     def sums(self, evidence):
    ...         logits = evidence.apply(evidence.variables, *evidence.inputs)
    ...         return jnp.sum(jnp.max(logits, axis=1))
    ...
    ...     def of_sums(self, evidence, sums, examples):
    ...         sizes = {name: evidence.groups[name].size for name in evidence.scored}
    ...         return {name: jnp.full(size, sums / examples) for name, size in sizes.items()}
    """

    @abc.abstractmethod
    def sums(self, evidence: Evidence) -> Any:
        """A pytree of arrays that add up: those of all examples are the sums of those of chunks.

        Args:
          evidence: with some of the examples, or all.
        """

    @abc.abstractmethod
    def of_sums(self, evidence: Evidence, sums: Any, examples: int) -> Mapping[str, jax.Array]:
        """Group name -> f32[units].

        Args:
          evidence: without inputs and labels.
          sums: over all examples.
          examples: how many these are.
        """

    def scores(self, evidence: Evidence) -> Mapping[str, jax.Array]:
        """Group name -> f32[units], from all examples at once."""
        sums = self.sums(evidence)
        return self.of_sums(evidence.without_examples, sums, evidence.examples)


class Piece(NamedTuple):
    """A function that scoring executes.

    Attributes:
      name: for reports.
      function: of static arguments and pytrees of arrays, to be compiled.
      statics: how many of its first arguments are static.
      donated: the arguments that it consumes.
    """

    name: str
    function: Callable
    statics: int
    donated: tuple[int, ...] = ()


def _whole(criterion: Criterion, evidence: Evidence) -> UnitScores:
    return contract.scores_of(criterion, evidence)


def _add(criterion: Summed, sums: Any, evidence: Evidence) -> Any:
    found = criterion.sums(evidence)
    before, now = (jax.tree.map(np.shape, tree) for tree in (sums, found))
    if before != now:  # they would be broadcast, and add up to something else
        raise UserError(
            f"its sums have shapes {now} of {evidence.examples} examples, {before} of more;"
            " allowed: the same, whatever their number"
        )
    return jax.tree.map(lambda old, new: (old + new).astype(old.dtype), sums, found)


def _finish(criterion: Summed, examples: int, sums: Any, evidence: Evidence) -> UnitScores:
    return contract.checked(criterion.of_sums(evidence, sums, examples), evidence.groups)


WHOLE = Piece("all examples", _whole, 1)
ADD = Piece("a chunk of examples", _add, 1, (1,))
FINISH = Piece("sums", _finish, 2)


def are_taken(criterion: Criterion, evidence: Evidence, chunk: int | None) -> bool:
    """Whether fewer examples are looked at at once than there are.

    Raises:
      UserError: a chunk below 1, or arrays that cannot be divided.
    """
    if chunk is not None and chunk < 1:
        raise UserError(f"the chunk is {chunk} examples; allowed: 1 or more, or None for all")
    if chunk is None or not isinstance(criterion, Summed) or chunk >= evidence.examples:
        return False
    axes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves((evidence.inputs, evidence.labels))}
    if len(axes) > 1:
        raise UserError(
            f"inputs and labels have first axes of {sorted(axes)}; allowed where they are taken in"
            " chunks: the examples' in each of them; or give no chunk"
        )
    return True


def even(examples: int, room: int) -> int:
    """The size of chunks where there is room for so many examples: a divisor, if one is near.

    >>> even(360, 256), even(512, 100), even(101, 40)
    (180, 64, 40)
    """
    parts = -(-examples // room)
    equal = (examples // n for n in range(parts, 2 * parts + 1) if examples % n == 0)
    return next(equal, min(room, examples))


def run(
    criterion: Criterion, evidence: Evidence, chunk: int | None, execute: Callable[..., Any]
) -> UnitScores:
    """The scores, by way of the functions that make them.

    Args:
      criterion: hashable.
      evidence: with all examples.
      chunk: how many are looked at at once, if the criterion lets them be divided.
      execute: `execute(piece, *arguments) -> results` compiles and calls the function of a piece.
    """
    if not are_taken(criterion, evidence, chunk):
        return execute(WHOLE, criterion, evidence)
    shapes = jax.eval_shape(criterion.sums, evidence)
    sums = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for part in parts(evidence, chunk):
        # Only then is the next chunk sent: one at a time is in memory.
        sums = turns.finished(execute(ADD, criterion, sums, part))
    return execute(FINISH, criterion, evidence.examples, sums, evidence.without_examples)


def calls(criterion: Criterion, evidence: Evidence, chunk: int) -> Iterator[tuple]:
    """(piece, *arguments) of every program that `run` executes, once each, as shapes.

    Args:
      criterion, chunk: as in `run`.
      evidence: of arrays, or of jax.ShapeDtypeStructs in their place.
    """
    if not are_taken(criterion, evidence, chunk):
        yield WHOLE, criterion, evidence
        return
    sums = jax.eval_shape(criterion.sums, evidence)
    for size in filter(None, (evidence.examples % chunk, chunk)):
        part = jax.tree.map(
            lambda leaf, size=size: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype),
            (evidence.inputs, evidence.labels),
        )
        yield ADD, criterion, sums, evidence.with_examples(*part)
    yield FINISH, criterion, evidence.examples, sums, evidence.without_examples


def parts(evidence: Evidence, chunk: int) -> Iterator[Evidence]:
    """The evidence with so many examples at a time, in their order."""
    for first in range(0, evidence.examples, chunk):
        examples = (evidence.inputs, evidence.labels)
        here = slice(first, first + chunk)
        yield evidence.with_examples(*jax.tree.map(lambda leaf, here=here: leaf[here], examples))
