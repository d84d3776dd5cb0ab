"""What `test_devices.py` runs in a process of its own, that is told to have eight devices.

Usage: python -m on_eight_devices FOLDER. It goes on from the checkpoints FOLDER/one/*,
leaves FOLDER/eight/* and FOLDER/resumed/*, and what it found in FOLDER/found.json.
"""

import dataclasses
import json
import sys
from pathlib import Path

import inside_shard_map
import jax
import numpy as np
import on_a_mesh
from kept import Kept

from dynhp_jax import data
from dynhp_jax.common.errors import UserError
from dynhp_jax.training import config
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer

EPOCHS, STOP = 6, 3
DIGITS = data.load("digits")


def make(devices: int, per_example: bool = False, **changes) -> Config:
    base = Config(
        name="test",
        epochs=EPOCHS,
        devices=devices,
        model=config.Model(hidden=(12, 7)),
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=4.0),
        batch=config.Batch(alpha=0.0),
        optimizer=config.Optimizer(learning_rate=1e-2),
        memory=config.Memory(budget="none"),
        compiling=config.Compiling(shrink=0.3, ahead=False),
    )
    return dataclasses.replace(base, **changes)


def trainer_of(settings: Config, programs: Programs | None = None) -> Trainer:
    programs = Programs() if programs is None else programs
    return Trainer(settings, DIGITS, programs)


def whole_run(settings: Config, programs: Kept, folder: Path) -> list[dict]:
    """Trains from the start; leaves checkpoints of epoch STOP and of the end."""
    trainer = trainer_of(settings, programs)
    run, records = trainer.start(), []
    while run.epoch < EPOCHS:
        run, record = loop.advance(trainer, run)
        records.append(record)
        if run.epoch in (STOP, EPOCHS):
            save(folder / f"{run.epoch}", trainer, run)
    return records


def resumed_run(settings: Config, programs: Kept, start: Path, folder: Path) -> list[dict]:
    """Goes on from a checkpoint to the end, and leaves one of that."""
    trainer = trainer_of(settings, programs)
    run, records = resume.run_of(trainer, resume.newest(trainer, start)), []
    while run.epoch < EPOCHS:
        run, record = loop.advance(trainer, run)
        records.append(record)
    save(folder, trainer, run)
    return records


def save(folder: Path, trainer: Trainer, run: Run) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)  # a checkpoint makes its own folder alone
    resume.save(trainer, run, folder)


def refusal(**changes) -> str:
    try:
        trainer_of(make(**{"devices": 8} | changes))
    except UserError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    program_cache.use_cache()
    found = {"devices": len(jax.devices()), "records": {}, "resumed": {}, "programs": {}}
    for per_example in (False, True):
        name, settings, programs = str(per_example), make(0, per_example), Kept()
        found["records"][name] = whole_run(settings, programs, folder / "eight" / name)
        found["resumed"][name] = resumed_run(
            settings, programs, folder / "one" / name / f"{STOP}", folder / "resumed" / name
        )
        trainer = trainer_of(settings, programs)
        found["programs"][name] = trainer.steps.training_program(trainer.whole, 16).as_text()
    evaluation = trainer.steps.evaluation_program(
        trainer.whole, trainer.steps.evaluated(357, "test"), "test"
    )
    found["evaluation"] = evaluation.as_text()

    streamed = {}
    for resident in ("2GiB", "20KiB"):
        trainer = trainer_of(make(8, data=config.Data(resident=resident)))
        run, _ = loop.advance(trainer, trainer.start())
        streamed[resident] = [np.asarray(a).tobytes().hex() for a in jax.tree.leaves(run.state)]
    found["streamed is resident"] = streamed["2GiB"] == streamed["20KiB"]

    three = trainer_of(make(3, memory=config.Memory(budget="none")))
    found["in threes"] = [three.meter.fit(three.whole, size)[1] for size in (1, 3, 16, 100)]
    metered = trainer_of(make(8, memory=config.Memory("xla", "none"))).steps
    found["metered"] = metered.training_bytes(metered.whole, 16)
    found["shard_map"] = inside_shard_map.transforms()
    found["collectives"] = inside_shard_map.collectives()
    found["placements"] = on_a_mesh.placements()
    found["partly manual"] = on_a_mesh.partly_manual()
    found["mesh"] = on_a_mesh.transforms()
    found["refused"] = {
        "too many": refusal(devices=9),
        "no multiple": refusal(method="hp", batch=config.Batch(size=100)),
        "little room": refusal(memory=config.Memory(budget="5.5KiB")),
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
