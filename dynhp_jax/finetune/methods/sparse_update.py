"""Sparse Update: a static policy, of each layer the rows with the largest weights.

Source: Lin et al. 2022 (2206.15472). Their search for policies is not published; the policies are
(`finetune.policies`). Here the biases stay as they are, and the budget is the policy's own.
"""

import dataclasses
from collections.abc import Mapping

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import Quota
from dynhp_jax.finetune.methods.largest import Largest
from dynhp_jax.finetune.policies import POLICIES


@dataclasses.dataclass(frozen=True)
class SparseUpdate(Largest):
    """A published policy.

    Attributes:
      network: whose it is, such as 'mbv2-w0.35'.
      policy: by the memory that it takes by their count, such as '49kb'.
    """

    network: str = "mbv2-w0.35"
    policy: str = "49kb"

    def shares(self, costs: Mapping[Path, Cost]) -> dict[Path, Quota]:
        """Of the policy.

        Raises:
          UserError: there is no such policy, or the network has too few convolutions for it.
        """
        known = POLICIES.get(self.network, {})
        if self.policy not in known:
            names = [f"{one}: {', '.join(policies)}" for one, policies in POLICIES.items()]
            raise UserError(
                f"there is no policy {self.policy!r} of {self.network!r}; there are, by network:"
                f" {'; '.join(names)}"
            )
        rows = known[self.policy].rows(costs)
        return {path: Quota(count, costs[path]) for path, count in rows.items()}
