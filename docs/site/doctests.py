"""Doctests of docstrings as code: the site's reader of docstrings takes them for text."""

import griffe

_FENCE = "```"


class Doctests(griffe.Extension):
    """Puts a fence around each doctest that stands between paragraphs."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with each block of lines from `>>>` to an empty line in a fence."""
    lines, inside = [], False
    for line in [*text.split("\n"), ""]:
        if not inside and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}{_FENCE}pycon")
            inside = True
        elif inside and not line.strip():
            lines.append(f"{indent}{_FENCE}")
            inside = False
        lines.append(line)
    return "\n".join(lines[:-1])
