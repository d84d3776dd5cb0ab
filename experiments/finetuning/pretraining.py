"""The weights that a fine-tuning starts from: those of a file, or of a run before it."""

import dataclasses
from pathlib import Path

from dynhp_jax.common.errors import UserError
from dynhp_jax.models import weights
from dynhp_jax.models.options import Start
from dynhp_jax.training import config as configuration
from dynhp_jax.training import fit
from dynhp_jax.training.config import Config
from dynhp_jax.training.files.followed import claimed
from dynhp_jax.training.files.workdir import Workdir
from experiments import train
from experiments.finetuning.settings import Pretraining

FILE = "weights.npz"


def begun(base: Config, pretraining: Pretraining, directory: Path) -> Config:
    """The config of the fine-tuning with its weights; trains them if they are not there.

    Args:
      base: of the fine-tuning.
      pretraining: of the run before it.
      directory: of that run, in which its weights are kept as a file.

    Raises:
      UserError: what is there is of another config.
    """
    if base.start.weights:
        return base
    file, config = directory / FILE, pretraining.config(base)
    if file.exists():
        _check_same(Workdir(directory), config)
    else:
        print(f"-- pretraining: {config.epochs} epochs in {directory}", flush=True)
        with claimed(directory, config) as workdir:
            trained = train.train(config, workdir)
            weights.write(file, fit.result_of(*trained).variables)
    return dataclasses.replace(base, start=Start(weights=str(file)))


def _check_same(workdir: Workdir, config: Config) -> None:
    differing = configuration.differences(workdir.config(), config)
    if differing:
        raise UserError(
            f"{workdir.path} holds another pretraining; what differs: {', '.join(differing)};"
            " move it away, or take another --pretraining"
        )
