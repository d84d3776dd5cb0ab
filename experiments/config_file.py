"""The file that --config names: a person's code, which is run, and whose failures are one line."""

import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Sequence

import ml_collections

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import guarded

_MODULE = "config_of_the_run"


def split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """What --config names, and the arguments without it; of several the last one wins.

    >>> split(["train", "--config=a.py", "--config.seed=1", "--config", "b.py"])
    ('b.py', ['train', '--config.seed=1'])
    """
    found, others, rest = None, [], iter(argv)
    for argument in rest:
        match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            others.append(argument)
        else:
            found = next(rest, "") if match[1] is None else match[1]
    return found, others


def load(named: str) -> ml_collections.ConfigDict:
    """What `get_config` of a file gives.

    Args:
      named: the path; what follows a colon is the argument of `get_config`.

    Raises:
      OSError: there is no such file, or it cannot be read.
      UserError: its code fails, ends the program, or gives no ConfigDict; it is named.
    """
    path, *arguments = named.split(":", 1)
    open(path, "rb").close()
    with guarded(f"--config: {path!r}"):
        loader = importlib.machinery.SourceFileLoader(_MODULE, path)
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_file_location(_MODULE, path, loader=loader)
        )
        sys.modules[_MODULE] = module  # where dataclasses look up their annotations
        loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError("the file has no function get_config()")
        config = module.get_config(*arguments)
        if not isinstance(config, ml_collections.ConfigDict):
            kind = type(config).__name__
            raise UserError(
                f"its get_config() gives a {kind}; allowed: a ConfigDict, such as"
                " dynhp_jax.training.config.default_config_dict() with changes"
            )
        config.to_dict()  # fields may be computed, by code that fails, too
    return config
