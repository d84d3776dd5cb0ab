"""Runs of a small perceptron on the digits, epoch by epoch."""

import dataclasses

import jax
import numpy as np

from dynhp_jax import data
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer

DIGITS = data.load("digits")
FEW = dataclasses.replace(DIGITS, x_train=DIGITS.x_train[:60], y_train=DIGITS.y_train[:60])
SMALL = config.Model(hidden=(12, 7))
NAMES = ("input", "hidden_1", "hidden_2")  # of its groups
AT_ONCE = config.Compiling(shrink=0.2, ahead=False)


def make(**changes) -> Config:
    base = Config(
        name="test",
        epochs=4,
        model=SMALL,
        penalty=config.Penalty(lam=2.0),
        optimizer=config.Optimizer(learning_rate=5e-3),
        memory=config.Memory(sp_batch=64),
    )
    return dataclasses.replace(base, **changes)


def start(settings: Config, dataset=DIGITS, programs=None):
    programs = Programs() if programs is None else programs
    trainer = Trainer(settings, dataset, programs)
    return trainer, trainer.start()


def go_on(trainer, run, epochs):
    records = []
    for _ in range(epochs):
        run, record = loop.advance(trainer, run)
        records.append(record)
    return run, records


def timeless(records):
    clocks = {"seconds", "compile_seconds", "compilations"}
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def copy(tree):
    return jax.tree.map(lambda leaf: np.array(leaf), tree)
