"""The documentation: examples run as shown, links resolve, generated pages are new."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import dynhp_jax as dp
from experiments import field_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BESIDE = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")]
EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\nIt prints\n\n```text\n(?P<shown>.*?)^```\n)?", re.M | re.S
)
EXAMPLES = [
    pytest.param(page, match, id=f"{page.stem}-{k}")
    for page in PAGES
    for k, match in enumerate(EXAMPLE.finditer(page.read_text()), start=1)
]
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


def test_there_are_examples():
    assert len(EXAMPLES) >= 8
    assert any(example.values[0] == README for example in EXAMPLES)


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_example(page, example):
    above = example.string.count("\n", 0, example.start("code"))  # tracebacks show the page's lines
    code = compile("\n" * above + example["code"], str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    if example["shown"]:
        assert printed.getvalue() == example["shown"]


def anchors(page):
    """What a link to a heading of the page may name, as forges and the site make it."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in LINK.finditer(FENCE.sub("", page.read_text())):
        if "://" in link["target"] or link["target"].startswith("mailto:"):
            continue
        path, _, anchor = link["target"].partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT) and there.exists(), link["target"]
        assert not anchor or anchor in anchors(there), link["target"]


def test_the_readme_is_short_and_has_the_two_commands():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    for title in ("# 1. install and run", "# 2. install and test"):
        assert lines[lines.index(title) - 1] == "```bash"


def test_the_table_of_fields_is_of_these_fields():
    assert (ROOT / "docs" / "fields.md").read_text() == field_table.page(), (
        "run: python -m experiments.field_table > docs/fields.md"
    )


def test_the_reference_has_the_whole_interface():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = set(re.findall(r"^::: dynhp_jax\.(.*)$", "\n".join(p.read_text() for p in pages), re.M))
    packages = {"finetune", "decentralised", "planner", "export"}
    names = set(dp.__all__) - packages
    for package in packages:
        names |= {f"{package}.{name}" for name in getattr(dp, package).__all__}
    assert shown == names
