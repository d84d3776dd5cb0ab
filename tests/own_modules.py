"""Modules with code of one's own, for tests that name it."""

SMALL = (
    "--config=configs/digits.py", "--config.epochs=3", "--config.model.hidden=(8,)",
    "--config.method=scores", "--config.scores.start=2", "--config.batch.variance=none",
)  # fmt: skip


def criterion(scores="return ones", top="", body="", field="a: int = 0"):
    """The text of a module with a class `Mine`."""
    return "\n".join([
        "import dataclasses", "import jax.numpy as jnp", "import numpy as np", top,
        "@dataclasses.dataclass(frozen=True)", "class Mine:", f"    {field}",
        *(f"    {line}" for line in body.splitlines()),
        "    def scores(self, evidence):",
        "        ones = {n: jnp.ones(evidence.groups[n].size) for n in evidence.scored}",
        *(f"        {line}" for line in scores.splitlines()),
    ])  # fmt: skip
