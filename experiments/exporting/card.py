"""The model card: what a network is, of which data, how good, and what its files are."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynhp_jax.training.config import Config

# What the publishers of the data sets say.
LICENCES = {
    "digits": "Optical Recognition of Handwritten Digits, UCI (Alpaydin and Kaynak): CC BY 4.0",
    "mnist": "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0",
    "fashion_mnist": "Fashion-MNIST (Zalando): MIT",
    "cifar10": "CIFAR-10 (Krizhevsky): its publisher states no licence",
    "diabetes": "diabetes (Efron et al. 2004), as scikit-learn has it: BSD 3-Clause",
    "python_topics": "texts of Python's built-in help: PSF License",
}


def text(config: Config, facts: Mapping[str, Any], rows: Sequence[str]) -> str:
    """model.md.

    Args:
      config: of the run.
      facts: name -> what is said of it.
      rows: of the table of formats, in Markdown.
    """
    data = config.data.name
    licence = LICENCES.get(data, "not known to dynhp_jax; ask whoever published the data")
    listed = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    table = "\n".join(rows)
    return f"""# {config.name}

A network for `{data}`, trained and pruned by dynhp_jax with the method `{config.method}`: units go
for good while it learns, its gates are multiplied into its weights, and no pruned unit is left.

| | |
| --- | --- |
{listed}

## Data

{licence}. The numbers above and below are of the test set, which no unit was chosen by.

## Files

Each was run on examples of the test set after it was written. The difference is the largest one
from the network in JAX, by the largest output.

{table}

## Limits

It was judged on data of the same source as that it learned from. Nothing is known of how it does on
other data, of its calibration, or of groups of people among the data.
"""
