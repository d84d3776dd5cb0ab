"""Programs of one process that train for a turn each, and what their seconds come to."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.compiled.step_bytes import total
from dynhp_jax.training.config import Config
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer

EXAMPLES_PER_TURN = 25_600


@dataclasses.dataclass(frozen=True, eq=False)
class Contestant:
    """A training program, ready to run.

    Attributes:
      turn: trains on EXAMPLES_PER_TURN examples, or the whole training set if it has fewer.
      step_bytes: of a training step, by XLA's count.
      analysis_seconds: to build the model and find its groups.
      compile_seconds: of the training program.
      trainer, run: it belongs to; the run's arrays are used up.
    """

    turn: Callable[[], None]
    step_bytes: int
    analysis_seconds: float
    compile_seconds: float
    trainer: Trainer
    run: Run


def training(settings: Config, dataset: Dataset, batch: int) -> Contestant:
    """A run's own epoch, of a turn's length."""
    began = time.perf_counter()
    trainer = Trainer(settings, dataset, programs.Programs())
    analysed = time.perf_counter()
    run = trainer.start()
    started = time.perf_counter()
    program = trainer.steps.training_program(run.network, batch)
    compiled = time.perf_counter()
    split, steps = run.splits["train"], min(EXAMPLES_PER_TURN, trainer.examples) // batch
    data = (split.inputs, split.targets, run.given, trainer.order(np.int32(1)))
    held = [run.state]

    def turn() -> None:
        held[0], _ = program(held[0], *data, np.int32(steps))
        jax.block_until_ready(held[0])

    step_bytes = total(trainer.steps.training_bytes(run.network, batch))
    return Contestant(turn, step_bytes, analysed - began, compiled - started, trainer, run)


def products(widths: tuple[int, ...], batch: int) -> Callable[[], None]:
    """A dense step's matrix products alone: outputs, gradients of weights and of hidden units.

    Args:
      widths: of all layers, the inputs first.
      batch: examples of a mini-batch.
    """
    pairs = list(zip(widths, widths[1:], strict=False))
    weights = [jnp.ones(pair) for pair in pairs]
    inputs = [jnp.ones((batch, n)) for n in widths]

    @jax.jit
    def run(inputs, weights, steps):
        def step(_, carried):
            inputs, weights = carried
            outs = [x @ w for x, w in zip(inputs, weights, strict=False)]
            grads = [x.T @ y for x, y in zip(inputs, outs, strict=False)]
            backs = [y @ w.T for y, w in zip(outs[1:], weights[1:], strict=True)]
            # Next step's operands depend on all results, so that none is left out or moved out.
            inputs = [inputs[0], *(1e-9 * b for b in backs), inputs[-1]]
            return inputs, [w - 1e-9 * g for w, g in zip(weights, grads, strict=True)]

        return jax.lax.fori_loop(0, steps, step, (inputs, weights))

    steps = np.int32(EXAMPLES_PER_TURN // batch)
    compiled = run.lower(inputs, weights, steps).compile()
    return functools.partial(
        lambda *given: jax.block_until_ready(compiled(*given)), inputs, weights, steps
    )


def in_turn(turns: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every turn, after one that is not counted: it touches memory first."""
    for turn in turns.values():
        turn()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(
    seconds: Mapping[str, list[float]], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, dict]:
    """Median and quartiles over the rounds of one turn's seconds over another's.

    >>> ratios({"a": [2.0, 6.0], "b": [1.0, 2.0]}, {"a over b": ("a", "b")})
    {'a over b': {'median': 2.5, 'quartiles': [2.25, 2.75]}}
    """
    return {
        name: record.spread([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])
        for name, (one, other) in pairs.items()
    }
