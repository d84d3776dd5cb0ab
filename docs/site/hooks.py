"""Brings what lies beside docs/ into the site: README, changelog, results and their pictures.

In the repository links lead from page to page by relative paths, so that they work where the files
are read. The site has the files of docs/ at its top and all others at their path in the repository;
links between the two are rewritten.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
_PLAIN = ("LICENSE", "CITATION.cff")
_LINK = re.compile(r"\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files, config):
    """Adds them."""
    found = [ROOT / name for name in (*_PAGES, *_PLAIN)]
    found += [*(ROOT / "results").rglob("*.md"), *(ROOT / "results").rglob("*.png")]
    for file in found:
        path = file.relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links that lead into docs/ or out of it."""
    source = page.file.src_uri
    if source.startswith("reference/"):
        page.meta["search"] = {"boost": 4}  # a name leads to its entry first
    outside = not (ROOT / "docs" / source).exists()
    here = posixpath.dirname(source if outside else f"docs/{source}")

    def rewritten(link):
        there = posixpath.normpath(posixpath.join(here, link["path"]))
        place = there.removeprefix("docs/")
        path = posixpath.relpath(place, posixpath.dirname(source) or ".")
        return f"]({path}{link['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)
