"""Writes the network that a run ended with in formats that others read, and checks each file.

python -m experiments.export --workdir=runs/digits --format=npz,c,onnx

The network holds no pruned unit, and its gates are in its weights. Every file is run on examples
of the test set and compared with the network in JAX; C is compiled for that where there is a
compiler. Beside the files are export.json, with the numbers of the table, and a model card,
model.md. Formats: npz, safetensors, stablehlo, onnx, tflite, c, c-int8. Some need
`pip install -e '.[export]'`. A run may come from anybody: no code is run that its files name,
unless --run_own_code is given.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common.disk import write_json, write_text
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.export import network, runs, writing
from dynhp_jax.export.formats import registry
from dynhp_jax.training.files import origin, summary
from dynhp_jax.training.run import loop
from dynhp_jax.writers import screen
from experiments import commandline
from experiments.exporting import card, examples

_OPTIONS = [
    ("format", "npz,c", f"separated by commas: {', '.join(registry.FORMATS)}"),
    ("out", "", "directory of the files; 'export' in the workdir if it is not given"),
    ("examples", "512", "of the test set, to compare by; as many of training choose ranges"),
]
_OWN_CODE = (runs.OWN_CODE, "run the code that the config of the run names as module:object")


def main(argv: Sequence[str]) -> None:
    """Parses the command line, writes, compares and prints."""
    _, path, formats, out, count, own = commandline.parse(
        argv, with_config=False, options=_OPTIONS, switches=[_OWN_CODE]
    )
    if not path:
        raise UserError("--workdir is missing: the directory of a run, such as runs/digits")
    if not count.isdecimal() or not int(count):
        raise UserError(f"--examples is {count!r}; allowed: a whole number from 1")
    registry.named(formats)
    trainer, run = runs.reopened(path, own=own, tell=warn)
    finished = runs.finished_of(trainer, run)
    folder = Path(out or Path(path) / "export")
    config, task = trainer.config, trainer.whole.task
    splits = examples.first(trainer, int(count))
    inputs, targets = splits["test"]
    written = writing.write(
        finished, folder, formats, inputs=inputs, calibration=splits["train"][0], name=config.name
    )
    errors = [
        None if each.outputs is None else examples.judged(task, each.outputs, targets)
        for each in written
    ]
    whole = loop.evaluate(trainer, run.network, run.state, run.splits["test"], "test", run.chunk)
    dense = summary.dense_numbers(trainer)
    facts = {
        f"test {task.best.replace('_', ' ')}": screen.value(whole[task.best], task),
        "parameters": f"{finished.parameters:,} of {dense['parameters']:,}",
        "units": ", ".join(
            f"{name} {units} of {dense['units'][name]}"
            for name, units in loop.size_of(trainer, run)["units"].items()
        ),
        "gates outside of the weights": ", ".join(finished.gates) or "none",
        "inputs that are read": _inputs(finished),
        "method": f"{config.method}, {run.epoch} epochs, seed {config.seed}",
        "commit": origin.commit() or "not known",
        "versions": ", ".join(f"{k} {v}" for k, v in origin.versions().items()),
    }
    rows = _rows(written, errors, task)
    write_text(folder / "model.md", card.text(config, facts, rows))
    write_json(folder / "export.json", {"facts": facts, "formats": _numbers(written, errors)})
    print("\n".join(rows))
    print(f"everything is in {folder}")


def _inputs(finished: network.Finished) -> str:
    found = [f"{kept.size} positions of axis {axis} of {path}"
             for (path, axis), kept in finished.inputs.items()]  # fmt: skip
    return ", ".join(found) or "all"


def _numbers(written: Sequence[writing.Written], errors: Sequence[float | None]) -> list[Any]:
    return [
        {
            "format": each.format,
            "files": [file.name for file in each.files],
            "bytes": each.bytes,
            "difference": each.difference,
            "error": error,
            "ram": each.ram,
            "not_run": each.why,
        }
        for each, error in zip(written, errors, strict=True)
    ]


def _rows(written: Sequence[writing.Written], errors: Sequence, task: Any) -> list[str]:
    """A table in Markdown; of C the bytes are those of code and constants, compiled for size."""
    called = task.best.replace("_", " ")
    rows = [f"| format | file | bytes | {called} | difference | RAM |",
            "| --- | --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for each, error in zip(written, errors, strict=True):
        good = f"not run: {each.why}" if error is None else screen.value(error, task)
        far = "" if each.difference is None else f"{each.difference:.1e}"
        ram = "" if each.ram is None else f"{each.ram:,}"
        rows.append(
            f"| {each.format} | {each.files[0].name} | {each.bytes:,} | {good} | {far} | {ram} |"
        )
    return rows


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
