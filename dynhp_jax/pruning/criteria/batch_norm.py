"""The scale of the batch normalisation that a unit passes.

Source: Liu et al. 2017, Network slimming (1708.06519), section 3: s_j = |gamma_j|.

Units that pass several normalisations (a residual stream) have the mean of |gamma| over them, not
scaled: the criterion compares scales across layers. Groups without one are left out of the scores,
and so stay whole.
"""

import dataclasses

import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Checked, choice, text
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.kernels import REDUCTIONS, SCALES, combine


@dataclasses.dataclass(frozen=True)
class BatchNormScale(Checked):
    """|gamma|.

    Attributes:
      leaf: what the scale is called, the last part of its path: 'scale' in Flax. The 'value' in
        which NNX holds it is no part of its name.
      scale: what each normalisation's scores are divided by.
      reduction: over the normalisations.
    """

    prefix = "criterion."
    comparable = True

    leaf: str = text("scale", "the last part of the scale's path")
    scale: str = choice("none", tuple(SCALES), "what each one's scores are divided by")
    reduction: str = choice("mean", tuple(REDUCTIONS), "over the normalisations")

    def scores(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units], for the groups that have a scale.

        Raises:
          UserError: none has.
        """
        found = {}
        for name in evidence.scored:
            members = [
                m
                for m in evidence.groups[name].members
                if m.role == "with" and _called(m.path, self.leaf)
            ]
            if members:
                each = [jnp.mean(jnp.abs(r), 1) for r in evidence.rows(evidence.variables, members)]
                found[name] = combine(each, self.scale, self.reduction)
        if not found:
            raise UserError(
                f"no group has a leaf called {self.leaf!r}; the criterion 'batch_norm' needs a "
                "model with batch normalisation, or the option leaf=..."
            )
        return found


def _called(path: str, name: str) -> bool:
    return name in (path.split("/")[-1], path.removesuffix("/value").split("/")[-1])
