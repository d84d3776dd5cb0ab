"""What a run says of itself: the summary and the final table beside the whole network's numbers."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dynhp_jax
from dynhp_jax.memory import paper
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer

_METERS = {"paper": "paper", "xla": "XLA"}  # by which the final table counts
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def dense_numbers(trainer: Trainer) -> dict[str, Any]:
    """Units, parameters, model size and memory of the network before anything was pruned.

    The memory is by the run's meter, with `memory.sp_batch` examples; XLA's costs a compilation.
    """
    parameters, batch = trainer.whole_parameters, trainer.config.memory.sp_batch
    if trainer.by_xla:
        memory_kib = trainer.budget.total(trainer.whole, min(batch, trainer.examples)) / 1024
    else:
        memory_kib = trainer.meter.memory_kib(parameters, batch)
    return {
        "units": {name: group.size for name, group in trainer.whole.groups.items()},
        "parameters": parameters,
        "model_kib": trainer.meter.model_kib(parameters),
        "batch_size": batch,
        "memory_kib": memory_kib,
    }


def summarise(trainer: Trainer, run: Run, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds, from the state at the end and the lines of metrics.jsonl."""
    last, config = records[-1], trainer.config
    dense = dense_numbers(trainer)
    return {
        "name": config.name,
        "method": config.method,
        "dataset": config.data.name,
        "seed": config.seed,
        "epochs": run.epoch,
        "test_error": last["test_error"],
        "best_test_error": run.best[0],
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
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the packages that numbers may depend on."""
    found = {"dynhp_jax": dynhp_jax.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """What jax computes on, the processor with its cores, and the system; not the host's name."""
    devices = jax.devices()
    first = devices[0]
    accelerators = f"{len(devices)} x {first.device_kind}" if first.platform != "cpu" else ""
    system = f"{platform.machine()} {platform.system()}"
    usable = f"{cores()} core{'s' if cores() > 1 else ''}"
    return ", ".join(filter(None, (accelerators, processor(), usable, system)))


def processor() -> str:
    """The processor's model, as the system names it."""
    known = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (x for x in info.read_text().splitlines() if x.startswith("model name"))
        known = next((x.partition(":")[2].strip() for x in named), known)
    return known


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit() -> str | None:
    """The commit that the code is at, with '+' if files were changed since; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def table(summary: Mapping[str, Any]) -> str:
    """The end of a run for a person: every number beside that of the whole network."""
    dense = summary["dense"]
    rows = [("", "whole", summary["method"], "left")]

    def add(name: str, whole: float, now: float, style: str = ",d"):
        rows.append((name, f"{whole:{style}}", f"{now:{style}}", f"{100 * now / whole:.0f} %"))

    for group, units in dense["units"].items():
        add(f"units of {group}", units, summary["units"][group])
    add("parameters", dense["parameters"], summary["parameters"])
    add("model size, KiB", dense["model_kib"], summary["model_kib"], ",.1f")
    add("mini-batch", dense["batch_size"], summary["batch_size"])
    add("memory at its peak, KiB", dense["memory_kib"], summary["memory_kib_peak"], ",.1f")
    label = f"training memory ({_METERS[summary['meter']]})"
    add(label, dense["training_memory"], summary["training_memory"], ".4g")
    lines = columns(rows)
    lines.append(
        f"test error {summary['test_error']:.2f} %"
        f" (best {summary['best_test_error']:.2f} % in epoch {summary['best_epoch']});"
        f" {summary['seconds']:.0f} s, and {summary['compile_seconds']:.0f} s waiting for"
        f" {summary['compilations']} compilations"
    )
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: a rule below the first row, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def confusion_table(confusion: np.ndarray) -> str:
    """Labels by row, predictions by column."""
    width = max(len(str(confusion.max())), len(str(len(confusion) - 1))) + 1
    head = " " * 6 + "".join(str(k).rjust(width) for k in range(len(confusion)))
    rows = [
        str(label).rjust(5) + " " + "".join((str(n) if n else ".").rjust(width) for n in row)
        for label, row in enumerate(confusion)
    ]
    return "\n".join([head, *rows])


def line(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch for a log file."""
    return (
        f"epoch {record['epoch']}/{epochs}: test error {record['test_error']:.2f} %,"
        f" units {'-'.join(str(n) for n in record['units'].values()) or 'all'},"
        f" batch {record['batch_size']}, model {record['model_kib']:.1f} KiB,"
        f" memory {record['memory_kib']:.1f} KiB, {record['seconds']:.2f} s"
        + (f" + compiling {record['compile_seconds']:.1f} s" if record["compile_seconds"] else "")
    )
