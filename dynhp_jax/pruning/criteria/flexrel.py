"""FlexRel: magnitude and relevance, each scaled to [0, 1], mixed by delta.

Source: Chiasserini et al. 2026, Combining relevance and magnitude for resource-saving DNN pruning
(2405.13088), section III:

    s = (1 - delta) M + delta R,    M, R = (x - min) / (max - min) over the units of a group.

The paper contradicts itself. Its Table I prints s = delta M + (1 - delta) R; its text says that a
unit of low magnitude and high relevance has a score close to delta, and of Figure 4 that delta = 0
is magnitude alone. Text and figure agree with the equation above, which is the default here;
`weights="table"` gives the table's.

M is the mean of |w| of a unit's kernel, as `L1` combines it. For R, Eq. 1 gives a weight w_kj the
sum of the relevances of its input k and of its output j, and a unit the mean of that over k: the
part of the inputs is the same for all units of a kernel and leaves no trace after the scaling, so R
is the relevance of the unit itself, as `Relevance` gives it. The paper does not say which rule
propagates; z+ is an inference.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.common.fields import Checked, choice, number
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.l1 import L1
from dynhp_jax.pruning.criteria.relevance import Relevance

DELTAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class FlexRel(Checked, Summed):
    """The mixture.

    Attributes:
      delta: the part of relevance; 0 is magnitude alone, 1 relevance alone.
      weights: 'text', or 'table' for Table I, where delta is the part of magnitude.
      magnitude: the criterion of the one part.
      relevance: the criterion of the other.
    """

    prefix = "criterion."
    comparable = True

    delta: float = number(0.5, 0.0, 1.0, "a number from 0 to 1", "the part of relevance")
    weights: str = choice("text", ("text", "table"), "which of the paper's two formulas")
    magnitude: L1 = L1()
    relevance: Relevance = Relevance()

    def __post_init__(self):
        super().__post_init__()
        for name, kind in (("magnitude", L1), ("relevance", Relevance)):
            found = getattr(self, name)
            if not isinstance(found, kind):
                raise ArgumentError(
                    f"criterion.{name}", found, f"a {kind.__name__}, in Python alone"
                )

    def parts(
        self, evidence: Evidence, sums: UnitScores, examples: int
    ) -> tuple[UnitScores, UnitScores]:
        """Magnitude and relevance, each scaled to [0, 1] within every group; see `of_sums`."""
        found = (
            self.magnitude.scores(evidence),
            self.relevance.of_sums(evidence, sums, examples),
        )
        return tuple(
            {name: to_unit_interval(score) for name, score in part.items()} for part in found
        )

    def mix(self, magnitude: UnitScores, relevance: UnitScores) -> UnitScores:
        """The scores from their parts."""
        share = self.delta if self.weights == "text" else 1 - self.delta
        return {name: (1 - share) * magnitude[name] + share * relevance[name] for name in magnitude}

    def sums(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units], of the examples' relevances."""
        return self.relevance.sums(evidence)

    def of_sums(self, evidence: Evidence, sums: UnitScores, examples: int) -> UnitScores:
        """Group name -> f32[units] in [0, 1]."""
        return self.mix(*self.parts(evidence, sums, examples))


@functools.partial(jax.jit, static_argnums=0)
def _parts(criterion: FlexRel, evidence: Evidence) -> tuple[UnitScores, UnitScores]:
    sums = criterion.sums(evidence)
    return criterion.parts(evidence.without_examples, sums, evidence.examples)


def to_unit_interval(score: jax.Array) -> jax.Array:
    """(x - min) / (max - min); zeros if all are equal.

    >>> to_unit_interval(jnp.array([1.0, 3.0, 2.0])).tolist()
    [0.0, 1.0, 0.5]
    """
    low, high = jnp.min(score), jnp.max(score)
    return (score - low) / jnp.where(high > low, high - low, 1.0)


def tune(
    criterion: FlexRel,
    evidence: Evidence,
    error: Callable[[UnitScores], float],
    deltas: Iterable[float] = DELTAS,
    score: Callable[[FlexRel], UnitScores] | None = None,
) -> tuple[FlexRel, dict[float, float]]:
    """The delta whose pruned network is best on a validation split.

    Magnitude and relevance are computed once. The paper tunes delta for each pruning target.

    Args:
      criterion: its other options are kept.
      evidence: to score by; not the test set.
      error: scores -> the error, on examples held out of training, of the network pruned by them.
      deltas: to try; the first of the best wins.
      score: a mixture -> its scores by the evidence, as `criteria.score` gives them; by default
        magnitude and relevance are computed of all examples at once.

    Returns:
      (the criterion with the best delta, {delta: error}).
    """
    if score is None:
        parts = _parts(criterion, evidence)
    else:
        alone = dataclasses.replace(criterion, weights="text")
        parts = tuple(score(dataclasses.replace(alone, delta=delta)) for delta in (0.0, 1.0))
    tried = {
        delta: float(error(dataclasses.replace(criterion, delta=delta).mix(*parts)))
        for delta in deltas
    }
    return dataclasses.replace(criterion, delta=min(tried, key=tried.get)), tried
