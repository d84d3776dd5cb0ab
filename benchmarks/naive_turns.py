"""The naive peer as a side of a comparison (see benchmarks/turns.py): a turn is an epoch.

    python -m benchmarks.naive_turns CONFIG [vmap|outer]

CONFIG is a config of the library as JSON; the word is how the variance of the gradients is found.
"""

import json
import sys
import time

import jax

from benchmarks import naive_dynhp, turns
from dynhp_jax.training import build
from dynhp_jax.training import config as library


class Compiling:
    """Counts what XLA compiles in this process, and the seconds of tracing and compiling."""

    def __init__(self):
        self.seconds, self.count = 0.0, 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += seconds
            self.count += event.endswith("backend_compile_duration")


def main() -> None:
    """Prepares the run and serves."""
    config = library.from_dict(json.loads(sys.argv[1]))
    dataset, compiling = build.dataset_of(config), Compiling()

    def said(began: float, before: float) -> turns.Answer:
        return {
            "wall": time.perf_counter() - began,
            "compile_seconds": compiling.seconds - before,
            "compilations": compiling.count,
        }

    began = time.perf_counter()
    run = naive_dynhp.Run(config, dataset, *sys.argv[2:])
    jax.block_until_ready(run.state)

    def turn() -> turns.Answer:
        began, before = time.perf_counter(), compiling.seconds
        found = run.advance()
        jax.block_until_ready(run.state)
        return found | said(began, before)

    turns.serve(said(began, 0.0), turn)


if __name__ == "__main__":
    main()
