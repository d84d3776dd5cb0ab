"""The examples of the documentation run as they stand, and print what the pages say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\nIt prints\n\n```text\n(?P<shown>.*?)^```\n)?", re.M | re.S
)
EXAMPLES = [
    pytest.param(page, match, id=f"{page.stem}-{k}")
    for page in sorted(DOCS.glob("*.md"))
    for k, match in enumerate(EXAMPLE.finditer(page.read_text()), start=1)
]


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_example(page, example):
    above = example.string.count("\n", 0, example.start("code"))  # tracebacks show the page's lines
    code = compile("\n" * above + example["code"], str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    if example["shown"]:
        assert printed.getvalue() == example["shown"]
