"""Rules of aggregation by text, as a config holds them: one of the library's, or your own class."""

import dataclasses
from typing import Any

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.literals import check_options
from dynhp_jax.common.own_code import Origin, Role
from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.decdiff import DecDiff
from dynhp_jax.decentralised.aggregation.dechw import DecHW
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.aggregation.zero_filled import ZeroFilled

# A new rule that configs may name: its file, and its line here.
RULES: dict[str, type[Rule]] = {
    "decavg": DecAvg,
    "decdiff": DecDiff,
    "dechw": DecHW,
    "coverage": Coverage,
    "zero_filled": ZeroFilled,
}


def rule_of(text: str, origin: Origin = Origin.PERSON) -> Rule:
    """The rule that a text names.

    Args:
      text: `NAME`, `NAME(option=value, ...)`, or `module:Class` with or without options.
      origin: where the text was read; of a file only names are taken.

    Raises:
      UserError: there is no such rule, module, class or option.

    >>> rule_of("decdiff(norm='global')")
    DecDiff(norm='global')
    """
    return own_code.instance(text, _ROLE, origin)


def _made(name: str, **options: Any) -> Rule:
    if name not in RULES:
        raise UserError(
            f"there is no rule {name!r}; allowed: {', '.join(RULES)}, or module:Class of your own"
        )
    known = [field.name for field in dataclasses.fields(RULES[name])]
    check_options(f"rule {name!r}", options, known)
    return RULES[name](**options)


_ROLE = Role(
    "rule",
    "combine",
    tuple(RULES),
    _made,
    "name it yourself, by --config.nodes.rule or, in Python, by decentralised.train (rule)",
)
