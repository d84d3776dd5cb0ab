"""In words: which equation of a model it is, by the module or the function that it is in."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

_JAX = str(Path(jax.__file__).parent)


@dataclasses.dataclass(frozen=True, eq=False)
class Reduced:
    """Says that an equation reduces units, and where; found out when it is asked for.

    Attributes:
      eqn: the equation.
      outer: those that hold its jaxpr, from the outside.
    """

    eqn: Any
    outer: tuple[Any, ...]

    def __str__(self) -> str:
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        every = (*self.outer, self.eqn)
        scopes = [str(eqn.source_info.name_stack) for eqn in every]  # of each within the one before
        module = "/".join(filter(None, scopes))
        module = module or next(filter(None, (_function(eqn) for eqn in every[::-1])), "")
        return f"reduced by '{self.eqn.primitive.name}'" + (f" in {module}" if module else "")


def _function(eqn: Any) -> str:
    """The innermost function outside of JAX: `rms_norm`; of an installed library, its module."""
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    own = [frame for frame in frames if not frame.file_name.startswith(_JAX)]
    names = []
    for frame in own:
        if frame.file_name != own[0].file_name:
            break
        name = frame.function_name.rpartition("<locals>.")[2]
        if name.endswith(".__call__") and "site-packages" in frame.file_name:
            return name.removesuffix(".__call__")
        names += [] if name.startswith("<") else [name.removesuffix(".__call__")]
    return names[0] if names else ""
