"""Every primitive of the installed JAX has a rule, or a reason to have none."""

from pathlib import Path

import jax

from dynhp_jax.jaxprs import coverage
from dynhp_jax.jaxprs.values import known_primitives

PAGE = Path(__file__).resolve().parents[2] / "docs" / "primitives.md"


def test_a_new_jax_shows_its_new_primitives():
    assert len(coverage.installed()) > 150
    assert coverage.unlisted(coverage.installed()) == []
    assert coverage.unlisted({"add", "of_tomorrow", "swap"}) == ["of_tomorrow"]


def test_nothing_has_both_a_rule_and_a_reason_to_have_none():
    assert not set(known_primitives()) & set(coverage.STAY)


def test_the_page_names_every_primitive():
    page = coverage.document()
    assert [name for name in coverage.installed() if f"`{name}`" not in page] == []


def test_the_page_in_the_documentation_is_that_of_its_jax():
    kept = PAGE.read_text()
    if f"with JAX {jax.__version__}." in kept:
        assert kept == coverage.document()
