"""Criteria by text, as a config holds them: a name, with options if wanted, or a class of your own.

>>> parse("flexrel(delta=0.25)").delta
0.25
>>> parse("dynhp_jax.pruning.criteria.l1:L1(members='both')")
L1(members='both', scale='mean', reduction='mean')
"""

from dynhp_jax.common import own_code
from dynhp_jax.common.own_code import Origin, Role
from dynhp_jax.pruning.criteria.contract import check_object
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.pruning.criteria.registry import CRITERIA, get_criterion

_ROLE = Role(
    "criterion",
    "scores",
    tuple(CRITERIA),
    get_criterion,
    "name it yourself, by --config.scores.criterion or, in Python, by Trainer(criterion=...)",
)


def parse(text: str, origin: Origin = Origin.PERSON) -> Criterion:
    """The criterion that a text names.

    Args:
      text: `NAME`, `NAME(option=value, ...)`, or `module:Class` with or without options, for a
        class that can be imported from where the program was started.
      origin: where the text was read; of a file only names are taken.

    Raises:
      UserError: there is no such criterion, module, class or option, or it cannot be used; the text
        says what is allowed.
    """
    criterion = own_code.instance(text, _ROLE, origin)
    check_object(criterion, text)
    return criterion
