"""What `--help` says of a config's fields: name, type, default, meaning, and what is allowed.

All of it is read from where the fields are declared: `dynhp_jax.common.fields` and the sections.
"""

import dataclasses
import shutil
import textwrap
from collections.abc import Mapping
from types import MappingProxyType

from dynhp_jax.training import config as configuration

WIDTH = 100  # of a line, at most
_INTRODUCTION = (
    "Fields of the config. Each is a flag of its own, --config.FIELD=VALUE, and takes its default"
    " where neither a flag nor the file gives it."
)


def text(sections: Mapping[str, type] = MappingProxyType({}), width: int | None = None) -> str:
    """The fields by section, for a terminal.

    Args:
      sections: of a program's own, beside those of `dynhp_jax.training.config`, by name.
      width: of a line; None for the terminal's, up to WIDTH.
    """
    width = width or min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    top = [each for each in dataclasses.fields(configuration.Config) if "rule" in each.metadata]
    groups = {"of the run": ("", top)} | {
        name: (f"{name}.", dataclasses.fields(holder))
        for name, holder in {**configuration.SECTIONS, **sections}.items()
    }
    blocks = [textwrap.fill(_INTRODUCTION, width)]
    for name, (prefix, fields) in groups.items():
        blocks.append("\n".join([f"{name}:", *(_field(prefix, each, width) for each in fields)]))
    return "\n\n".join(blocks)


def _field(prefix: str, field: dataclasses.Field, width: int) -> str:
    rule = field.metadata["rule"]
    kind = str(field.type) if field.type.__name__ == "tuple" else field.type.__name__
    said = f"{rule.help}. Allowed: {rule.allowed}."
    indent = " " * 6
    body = textwrap.fill(
        said, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return f"  --config.{prefix}{field.name}: {kind}, default {field.default!r}\n{body}"
