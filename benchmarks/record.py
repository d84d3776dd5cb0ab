"""What every result starts with, how spreads are written down, and how the file is written."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.training.files import origin


def head(command: str, device: str = "") -> dict[str, Any]:
    """Command, commit, versions, machine and load; the load is that of the moment of the call.

    Args:
      command: as it is typed, without paths of this machine.
      device: jax's name of what it computes on, where the benchmark's own process uses jax.
    """
    machine = filter(None, (origin.processor(), device, f"{origin.cores()} cores"))
    return {
        "command": command,
        "commit": origin.commit(),
        "versions": origin.versions(),
        "machine": ", ".join(machine),
        "load": os.getloadavg(),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of at least one value.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'quartiles': [2.0, 4.0]}
    """
    if len(values) == 1:
        return {"median": values[0], "quartiles": [values[0], values[0]]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def write(path: Path, result: dict[str, Any]) -> None:
    """The JSON of a result, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
