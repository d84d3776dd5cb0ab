"""How the scores of groups are made comparable."""

from __future__ import annotations

import numpy as np

SCOPES = ("global", "group")


SCALES = {
    "mean": lambda score: np.mean(np.abs(score)),
    "max": lambda score: np.max(np.abs(score)),
    "none": lambda score: 1.0,
}
