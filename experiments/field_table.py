"""The table of a config's fields in the documentation.

python -m experiments.field_table > docs/fields.md
"""

import dataclasses
from collections.abc import Iterator

from dynhp_jax.training import config as configuration

_TOP = """# Config fields

Each field is a flag, `--config.FIELD=VALUE`, a field of the file that `--config` names,
and an argument of `dp.Config` or of its section. `--help` also says which values are allowed.
This page is written by

```
python -m experiments.field_table > docs/fields.md
```
"""

_HEAD = "| field | default | what it is |\n| --- | --- | --- |"


def page() -> str:
    """The page in Markdown: a table for each section, as `dynhp_jax.training.config` has them."""
    sections = {"": configuration.Config, **configuration.SECTIONS}
    return "\n".join([_TOP, *(_section(name, holder) for name, holder in sections.items())])


def _section(name: str, holder: type) -> str:
    rows = "\n".join(_rows(f"{name}." if name else "", holder))
    return f"## {name or 'The run'}\n\n{_HEAD}\n{rows}\n"


def _rows(prefix: str, holder: type) -> Iterator[str]:
    for field in dataclasses.fields(holder):
        if "rule" in field.metadata:
            said = field.metadata["rule"].help.replace("|", r"\|")
            yield f"| `{prefix}{field.name}` | `{field.default!r}` | {said} |"


if __name__ == "__main__":
    print(page(), end="")
