"""Methods of fine-tuning on the engine, epoch by epoch: a small perceptron on a few digits."""

import dataclasses

import jax
import numpy as np
from small_runs import DIGITS, copy, timeless

from dynhp_jax.finetune.methods.selection import ROWS
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.trainer import Trainer

ADAPT = Config(
    method="dense",
    epochs=4,
    data=config.Data(examples=320),
    model=config.Model(hidden=(20, 12)),
    memory=config.Memory(budget="none", sp_batch=32),
    optimizer=config.Optimizer(learning_rate=5e-3),
)
FEW = dataclasses.replace(DIGITS, x_train=DIGITS.x_train[:320], y_train=DIGITS.y_train[:320])
KERNELS = ("params/hidden_1/kernel", "params/hidden_2/kernel")


def start(method, settings=ADAPT, programs=None):
    programs = Programs() if programs is None else programs
    trainer = Trainer(settings, FEW, programs, extension=method)
    return trainer, trainer.start()


def chosen(run):
    return {path: np.asarray(rows.index) for path, rows in run.state.own[ROWS].items()}


def kernels(run):
    params = copy(run.state.variables["params"])
    return {path: params[path.split("/")[1]]["kernel"] for path in KERNELS}, params


def check_resumed(method, tmp_path, settings=ADAPT):
    """A run that goes on from a checkpoint ends with the bits of one that was not interrupted."""
    trainer, run = start(method, settings)
    for _ in range(2):
        run, _ = loop.advance(trainer, run)
    resume.save(trainer, run, tmp_path)
    records = []
    for _ in range(2):
        run, record = loop.advance(trainer, run)
        records.append(record)
    again, _ = start(method, settings, trainer.programs)
    other, more = resume.run_of(again, resume.newest(again, tmp_path)), []
    for _ in range(2):
        other, record = loop.advance(again, other)
        more.append(record)
    assert timeless(more) == timeless(records)
    jax.tree.map(np.testing.assert_array_equal, copy(other.state), copy(run.state))
    return run, records
