"""What two processes do together, and what one with two devices does: `test_processes` compares.

python -m in_processes FOLDER [ADDRESS NUMBER]
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import dynhp_jax as dp
from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.training import config
from dynhp_jax.training.compiled import program_cache

RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 12)).astype("f")
Y = np.argmax(X @ RNG.normal(size=(12, 3)), 1).astype("i4")
PARAMS = {
    "in": RNG.normal(size=(12, 24)).astype("f") / 3,
    "out": RNG.normal(size=(24, 3)).astype("f") / 5,
}
CASES = {
    "allocated": {
        "memory": config.Memory("xla", "24KiB"),
        "penalty": config.Penalty(lam=3.0),
        "gates": config.Gates(learning_rate=0.05),
        "optimizer": config.Optimizer(learning_rate=0.01, ema=1.0),
        "batch": config.Batch(alpha=0.0),
        "compiling": config.Compiling(shrink=0.2),
        "epochs": 5,
    },
    "scored": {  # on examples that are sent in chunks
        "method": "scores",
        "data": config.Data(resident="4KiB", noise=0.1),
        "memory": config.Memory("paper", "none", sp_batch=20),
        "scores": config.ScoreOptions("taylor", fraction=0.5, start=1),
        "compiling": config.Compiling(shrink=0.2, ahead=False),
    },
}


def apply(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def fit(devices, **changes):
    settings = config.Config(**{"epochs": 3, "devices": devices} | changes)
    seen = []
    result = dp.fit(
        apply, PARAMS, train=(X[:200], Y[:200]), test=(X[200:], Y[200:]), config=settings,
        callbacks=[lambda record: seen.append(record["epoch"])],
    )  # fmt: skip
    leaves = jax.tree.leaves(result.variables)
    assert all(leaf.sharding.is_fully_addressable for leaf in leaves)
    return {
        "records": [timeless(record) for record in result.records],
        "arrays": [np.asarray(leaf).tobytes().hex() for leaf in leaves],
        "error": float(np.mean(np.argmax(result.apply(result.variables, X), 1) != Y)),
        "callbacks": seen,
    }


def timeless(record):
    clocks = ("seconds", "compile_seconds", "compilations")
    return {name: value for name, value in record.items() if name not in clocks}


def refusal(act):
    try:
        act()
    except UserError as error:
        return str(error)
    return ""


def meetings():
    """How the others hear of what goes wrong in one, and of what differs."""
    me = jax.process_index()

    def failing():
        with processes.together("a step that one cannot take"):
            if me == 1:
                raise OSError("no room")

    def other_point():
        with processes.together(f"point {me}"):
            pass

    with processes.together("numbers") as meeting:
        meeting.said["number"] = 10 + me
    try:
        failed = refusal(failing)
    except OSError as error:
        failed = f"itself: {error}"
    return {
        "heard": [each["number"] for each in meeting.heard],
        "failed": failed,
        "point": refusal(other_point),
        "seed": refusal(lambda: fit(1, seed=me)),
        "devices": refusal(lambda: fit(2)),
        "exchanged": processes.exchanged("bytes of one", 5 * me),
    }


def main(folder, address="", number=""):
    if address:
        jax.distributed.initialize(address, 2, int(number))
    program_cache.use_cache()
    found = {name: fit(1 if address else 2, **case) for name, case in CASES.items()}
    if address:
        found["meetings"] = meetings()
    (Path(folder) / f"{number or 'alone'}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
