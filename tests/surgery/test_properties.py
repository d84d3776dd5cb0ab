"""For any architecture: the masked model and the cut one agree, outputs, gradients, updates.

The long run, of as many cases as wanted, resumes where it stopped and notes its result in
results/properties/:

    DYNHP_PROPERTY_CASES=5000 python -m pytest tests/test_properties.py -m slow
"""

import collections
import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from architectures import Seeded, random_case, sharing
from architectures.check import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-10
CASES = 100
NOTES = Path(__file__).resolve().parents[2] / "results" / "properties" / "masked_equals_cut.json"


class Drawn:
    """Draws from hypothesis."""

    def __init__(self, data):
        self.data = data

    def integer(self, low, high):
        return self.data.draw(st.integers(low, high))

    def pick(self, options):
        return options[self.integer(0, len(options) - 1)]


@given(st.data())
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_masked_equals_cut(data):
    """What hypothesis comes up with; a failure shrinks to the smallest architecture."""
    with jax.enable_x64(True):
        draw = Drawn(data)
        case = random_case(draw, sharing.BLOCKS * 2)
        result = check(case, draw)
        assert result["error"] < TOLERANCE, (case.blocks, result)


def test_masked_equals_cut_in_all_blocks(x64):
    """The same for a fixed sample; every block occurs, and nearly every case loses units."""
    seeds = sample()
    noted = run(seeds)
    assert not noted["failures"]
    assert noted["error"] < TOLERANCE
    assert noted["compared"] >= 0.9 * len(seeds)
    rare = {block: count for block, count in noted["blocks"].items() if count < 2}
    assert len(rare) <= 5, rare


def test_masked_equals_cut_where_layers_share_and_write(x64):
    """Tables for two layers, and features that are written at given places."""
    noted = run(range(12), sharing.BLOCKS * 12)
    assert not noted["failures"]
    assert sum(name.startswith(("shared", "written")) for name in noted["blocks"]) >= 8


@pytest.mark.parametrize("seed", [3440])
def test_masked_equals_cut_where_the_long_run_once_failed(x64, seed):
    """3440: a normalised group of channels, taken by constant indices, some of them twice."""
    noted = run(range(seed, seed + 1))
    assert not noted["failures"]
    assert noted["error"] < TOLERANCE


@pytest.mark.slow
def test_masked_equals_cut_in_the_long_run(x64):
    wanted = int(os.environ.get("DYNHP_PROPERTY_CASES", "0"))
    if not wanted:
        pytest.skip("set DYNHP_PROPERTY_CASES to the number of cases")
    done = json.loads(NOTES.read_text()) if NOTES.exists() else None
    command = f"DYNHP_PROPERTY_CASES={wanted} python -m pytest tests/test_properties.py -m slow"
    first = 0 if done is None else done["seeds"][1]
    while first < wanted:
        chunk = range(first, min(first + 100, wanted))
        done = merge(done, {**run(chunk), "seeds": [chunk.start, chunk.stop], "command": command})
        jax.clear_caches()  # which other tests of this session would have to fill again
        first = chunk.stop
        NOTES.parent.mkdir(parents=True, exist_ok=True)
        NOTES.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
    assert not done["failures"]


def sample() -> list[int]:
    """Of the first cases those that hold a block which fewer than two before them hold."""
    counts, seeds = collections.Counter(), []
    for seed in range(CASES):
        blocks = random_case(Seeded(seed)).blocks
        if any(counts[block] < 2 for block in blocks):
            counts.update(blocks)
            seeds.append(seed)
    return seeds


def run(seeds, more=()):
    """Checks the architectures of some seeds; what was found, as it is noted."""
    start, worst = time.time(), 0.0
    counts = {name: collections.Counter() for name in ("blocks", "forms")}
    failures, units, compared = [], 0, 0
    for seed in seeds:
        draw = Seeded(seed)
        case = random_case(draw, more)
        try:
            result = check(case, draw)
        except Exception as problem:  # noted; the long run goes on
            result = {"error": math.nan, "units": 0, "form": repr(problem)}
        counts["blocks"].update(case.blocks)
        counts["forms"][result["form"]] += 1
        units += result["units"]
        compared += result["units"] > 0
        worst = np.fmax(worst, result["error"])
        if not result["error"] < TOLERANCE:
            failures.append({"seed": seed, "blocks": case.blocks, **result})
    return {
        "cases": len(seeds),
        "compared": compared,
        "units cut": units,
        "error": float(worst),
        "tolerance": TOLERANCE,
        "failures": failures,
        "seconds": round(time.time() - start, 1),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "optax": optax.__version__,
        },
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: dict(counter) for name, counter in counts.items()},
    }


def commit():
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(asked, cwd=NOTES.parents[2], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def merge(done, more):
    if done is None:
        return more
    merged = {**more, "seeds": [done["seeds"][0], more["seeds"][1]]}
    for key in ("cases", "compared", "units cut", "failures"):
        merged[key] = done[key] + more[key]
    merged["seconds"] = round(done["seconds"] + more["seconds"], 1)
    merged["error"] = max(done["error"], more["error"])
    for key in ("blocks", "forms"):
        merged[key] = dict(collections.Counter(done[key]) + collections.Counter(more[key]))
    return merged
