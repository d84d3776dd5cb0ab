"""The criterion of a run: the one that its config names, or one that is given instead."""

from dynhp_jax.pruning.criteria.contract import check_object
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.pruning.criteria.parse import parse
from dynhp_jax.training.config import Config


def criterion_of(config: Config, given: Criterion | None = None) -> Criterion | None:
    """The criterion of a run; None with methods other than scores, or if none is named.

    Args:
      config: of the run; one that was read from a file names only the library's own.
      given: the criterion itself, instead of the one that the config names.

    Raises:
      UserError: as in `criteria.naming.parse`.
    """
    if config.method != "scores" or (given is None and not config.scores.criterion):
        return None
    if given is None:
        return parse(config.scores.criterion, config.origin)
    check_object(given)
    config.scores.check(config.epochs)
    return given
