"""Extensions by text, as a config holds them: one of the library's, or a class of your own.

The library's own lie in packages above this one, so they are imported when one is named.
"""

import dataclasses
import importlib
from typing import Any

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.literals import check_options
from dynhp_jax.common.own_code import Origin, Role
from dynhp_jax.training.extension import PLAIN, Extension

# A new one: its name and where it is.
EXTENSIONS = {
    "full": "dynhp_jax.finetune.methods:Full",
    "head": "dynhp_jax.finetune.methods:Head",
    "last_k": "dynhp_jax.finetune.methods:LastK",
    "bias_only": "dynhp_jax.finetune.methods:BiasOnly",
    "lora": "dynhp_jax.finetune.methods:LoRA",
    "hosvd": "dynhp_jax.finetune.methods:HOSVD",
    "asi": "dynhp_jax.finetune.methods:ASI",
    "compact": "dynhp_jax.finetune.methods:CompAct",
    "fixed": "dynhp_jax.finetune.methods:Fixed",
    "random": "dynhp_jax.finetune.methods:Random",
    "trady": "dynhp_jax.finetune.methods:TraDy",
    "medyate": "dynhp_jax.finetune.methods:MeDyate",
    "static": "dynhp_jax.finetune.methods:Static",
    "largest": "dynhp_jax.finetune.methods:Largest",
    "sparse_update": "dynhp_jax.finetune.methods:SparseUpdate",
    "velocity": "dynhp_jax.finetune.methods:Velocity",
    "cyclic": "dynhp_jax.finetune.methods:Cyclic",
}


def named(text: str, origin: Origin = Origin.PERSON) -> Extension:
    """The extension that a text names; the engine's own parts for ''.

    Args:
      text: `NAME(option=value, ...)`, or `module:Class` with or without options.
      origin: where the text was read; of a file only names are taken.

    Raises:
      UserError: there is no such extension, module, class or option.

    >>> named("trady(budget=3000)").budget
    3000
    """
    return own_code.instance(text, _ROLE, origin) if text else PLAIN


def _made(name: str, **options: Any) -> Extension:
    if name not in EXTENSIONS:
        raise UserError(
            f"there is no extension {name!r}; allowed: {', '.join(EXTENSIONS)}, or module:Class of"
            " your own"
        )
    module, _, kind = EXTENSIONS[name].partition(":")
    made = getattr(importlib.import_module(module), kind)
    known = [field.name for field in dataclasses.fields(made) if field.init]
    check_options(f"extension {name!r}", options, known)
    return made(**options)


_ROLE = Role(
    "extension",
    "forward",
    tuple(EXTENSIONS),
    _made,
    "name it yourself, by --config.extension or, in Python, by dp.fit (extension)",
)
