"""What summary.json says of a run that has ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynhp_jax.memory import paper
from dynhp_jax.training.files import origin
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer


def dense_numbers(trainer: Trainer) -> dict[str, Any]:
    """Units, parameters, model size and memory of the network before anything was pruned.

    The memory is by the run's meter, with `memory.sp_batch` examples; XLA's costs a compilation.
    """
    parameters = trainer.whole_parameters
    return {
        "units": {name: group.size for name, group in trainer.whole.groups.items()},
        "parameters": parameters,
        "model_kib": trainer.paper.model_kib(parameters),
        "batch_size": trainer.config.memory.sp_batch,
        "memory_kib": trainer.meter.whole_bytes() / 1024,
    }


def summarise(trainer: Trainer, run: Run, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds, from the state at the end and the lines of metrics.jsonl."""
    last, config, task = records[-1], trainer.config, trainer.whole.task
    dense = dense_numbers(trainer)
    return {
        "name": config.name,
        "method": config.method,
        "dataset": trainer.dataset.name,
        "seed": config.seed,
        "epochs": run.epoch,
        f"test_{task.best}": last[f"test_{task.best}"],
        f"best_test_{task.best}": task.value(run.best[0]),
        "best_epoch": run.best[1],
        "units": last["units"],
        "parameters": last["parameters"],
        "model_kib": last["model_kib"],
        "memory_kib_peak": max(run.memory_kib),
        "budget_kib": last["budget_kib"],
        "meter": config.memory.meter,
        "savings": list(trainer.steps.used.names),
        "training_memory": paper.training_memory(run.memory_kib),
        "batch_size": last["batch_size"],
        "dense": dense
        | {"training_memory": paper.training_memory([dense["memory_kib"]] * run.epoch)},
        "seconds": sum(record["seconds"] for record in records),
        "compile_seconds": trainer.programs.waited,
        "compile_seconds_in_all": trainer.programs.seconds,
        "compilations": trainer.programs.compilations,
        "versions": origin.versions(),
        "machine": origin.machine(),
        "commit": origin.commit(),
    }
