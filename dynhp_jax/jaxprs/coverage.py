"""Every primitive of the installed JAX, and what the analysis does about it.

python -m dynhp_jax.jaxprs.coverage > docs/primitives.md
"""

from __future__ import annotations

import sys
from collections.abc import Collection

import jax
from jax import lax
from jax.extend import core as jex

from dynhp_jax.jaxprs.values import family, known_primitives

# Without a rule: what reaches them stays whole. Constants may reach them.
STAY = {
    "after_all": "It orders effects and holds no array.",
    "all_to_all": "It sends positions of one axis to other devices, where they are other units.",
    "approx_top_k": "It may choose other positions of a smaller axis than of the whole one.",
    "create_token": "It orders effects and holds no array.",
    "custom_linear_solve": "It solves by functions that are written for one size.",
    "dce_sink": "It keeps what nothing reads from being left out.",
    "empty2": "It has no operands; what it makes is a constant.",
    "get": "It reads mutable state; functions with such effects are refused.",
    "ragged_all_to_all": "It sends positions of one axis to other devices.",
    "random_gamma": "Its keys are split by the number of draws, so that fewer draws are others.",
    "rng_uniform": "Its draws depend on how many there are.",
    "select_and_scatter": "It picks places in windows; met in the gradients of pooling.",
    "stage": "It only marks a place between compiler passes.",
    "swap": "It writes mutable state; functions with such effects are refused.",
    "threefry2x32": "It hashes halves of counters, so that fewer draws are others.",
}


def installed() -> set[str]:
    """Names of all primitives that `jax.extend.core.primitives` and `jax.lax` have."""
    found = (*vars(jex.primitives).values(), *vars(lax).values())
    return {each.name for each in found if isinstance(each, jex.Primitive)}


def unlisted(names: Collection[str]) -> list[str]:
    """Those of some primitives that have neither a rule nor a reason to stay whole."""
    return sorted(set(names) - set(known_primitives()) - set(STAY))


def document() -> str:
    """A page for a person to read, in Markdown."""
    names = installed()
    by_family: dict[str, list[str]] = {}
    for name in sorted(names & set(known_primitives())):
        by_family.setdefault(family(name), []).append(name)
    lines = [
        "# Primitives",
        "",
        f"What the structural analysis does about each of the {len(names)} primitives of",
        "`jax.extend.core.primitives` and `jax.lax`. Another JAX may have others: what reaches one",
        "without a rule stays whole and is named by `Groups.describe`, and a test of this library",
        "fails until it has a rule or a reason below. Made by",
        "",
        "```",
        "python -m dynhp_jax.jaxprs.coverage > docs/primitives.md",
        "```",
        "",
        f"with JAX {jax.__version__}.",
        "",
        "## With a rule",
        "",
    ]
    for what, of_family in sorted(by_family.items()):
        lines += [f"- **{what}** {', '.join(f'`{name}`' for name in of_family)}"]
    lines += ["", "## What reaches these stays whole", ""]
    lines += [f"- `{name}`: {STAY[name]}" for name in sorted(names & set(STAY))]
    lines += [f"- `{name}`: not looked at yet." for name in unlisted(names)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
