"""Choices of units by text, as a config holds them: one of the library's, or your own class."""

import dataclasses
from typing import Any

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.literals import check_options
from dynhp_jax.common.own_code import Origin, Role
from dynhp_jax.decentralised.pruned.choices.agreed import Agreed
from dynhp_jax.decentralised.pruned.choices.choice import Choice
from dynhp_jax.decentralised.pruned.choices.own import Own
from dynhp_jax.decentralised.pruned.choices.prefix import Prefix
from dynhp_jax.decentralised.pruned.choices.rolling import Rolling
from dynhp_jax.decentralised.pruned.choices.scored import Scored

# A new choice that configs may name: its file, and its line here.
CHOICES: dict[str, type[Choice]] = {
    "own": Own,
    "agreed": Agreed,
    "prefix": Prefix,
    "rolling": Rolling,
    "scored": Scored,
}


def choice_of(text: str, origin: Origin = Origin.PERSON) -> Choice:
    """The choice that a text names.

    Args:
      text: `NAME`, `NAME(option=value, ...)`, or `module:Class` with or without options.
      origin: where the text was read; of a file only names are taken.

    Raises:
      UserError: there is no such choice, module, class or option.

    >>> choice_of("rolling(step=2)")
    Rolling(step=2)
    """
    return own_code.instance(text, _ROLE, origin)


def _made(name: str, **options: Any) -> Choice:
    if name not in CHOICES:
        raise UserError(
            f"there is no choice of units {name!r}; allowed: {', '.join(CHOICES)}, or module:Class"
            " of your own"
        )
    known = [field.name for field in dataclasses.fields(CHOICES[name])]
    check_options(f"units {name!r}", options, known)
    return CHOICES[name](**options)


_ROLE = Role(
    "choice of units",
    "scores",
    tuple(CHOICES),
    _made,
    "name it yourself, by --config.nodes.units or, in Python, by decentralised.train_pruned"
    " (choice)",
)
