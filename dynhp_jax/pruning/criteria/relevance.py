"""LRP: the share of the outputs that is owed to a unit.

Source: Yeom et al. 2021, Pruning by explaining (1912.08881), section 3: the relevance of a unit is
what the units that read it hand back to it, summed over positions and averaged over examples;
the rules are those of `dynhp_jax.relevance.propagation`. The recursion starts from one logit of
every example:
R_out = f_c(x) for c = argmax f(x) or c = the label. Outputs [batch, ..., classes] have one such
logit at every position (a language model's next token, a pixel's class): each position counts as an
example, and the relevances that start from all of them are averaged.

Reduction over a coupled group: the sum over the places that read the unit, not scaled. A unit of a
residual stream is read by every block, and is counted by each.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Checked, choice, positive
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores, nan_unless
from dynhp_jax.pruning.criteria.reads import noted
from dynhp_jax.relevance.propagation import RULES, propagation
from dynhp_jax.tasks.losses import shapes


@dataclasses.dataclass(frozen=True)
class Relevance(Checked, Summed):
    """Relevance of the units, positive where they speak for the chosen class.

    Attributes:
      rule: 'z+' or 'epsilon'.
      epsilon: keeps denominators from zero.
      start: the logit of which class: the predicted one, or the label's.
    """

    prefix = "criterion."

    rule: str = choice("z+", RULES, "of contractions and sums")
    epsilon: float = positive(1e-6, "in denominators")
    start: str = choice("predicted", ("predicted", "labels"), "whose logit is explained")

    def sums(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units], of the examples' relevances, each the mean over positions.

        Raises:
          UserError: outputs without a batch and classes, labels that are not theirs, or a
            primitive without a rule.
        """
        evidence.need("relevance", "inputs")
        if self.start == "labels":
            evidence.need("relevance", "labels")
        make_run = propagation(self.rule, self.epsilon)
        function = noted(
            evidence.apply,
            evidence.groups,
            evidence.scored,
            lambda _, cotangent: cotangent,
            make_run,
        )
        probes = {name: jnp.zeros(evidence.groups[name].size) for name in evidence.scored}
        outputs, back = jax.vjp(
            lambda probes: function(evidence.variables, probes, *evidence.inputs), probes
        )
        start = self._start(outputs, evidence.labels)
        (totals,) = back(outputs * start)
        known = jnp.all(jnp.any(start, axis=-1))  # else a position starts from no logit
        positions = math.prod(outputs.shape[1:-1])
        return nan_unless(known, {name: total / positions for name, total in totals.items()})

    def _start(self, outputs: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Ones at the logits that are explained, zeros elsewhere; [batch, ..., classes]."""
        if jnp.ndim(outputs) < 2:
            raise UserError(
                "relevance starts from logits [batch, classes] or [batch, positions, classes]; the "
                f"outputs are {jax.tree.map(jnp.shape, outputs)}"
            )
        chosen = outputs.argmax(axis=-1) if self.start == "predicted" else labels
        shape, classes = outputs.shape[:-1], outputs.shape[-1]
        if self.start == "labels" and (chosen.shape != shape or classes < 2):
            raise UserError(
                f"relevance cannot start from the labels {shapes(chosen)} of outputs that are "
                f"{shapes(outputs)}; allowed: one for each example and position, of two classes or "
                "more; or start='predicted'"
            )
        return jax.nn.one_hot(chosen, classes, dtype=outputs.dtype)

    def of_sums(self, evidence: Evidence, sums: UnitScores, examples: int) -> UnitScores:
        """Group name -> f32[units]."""
        return {name: total / examples for name, total in sums.items()}
