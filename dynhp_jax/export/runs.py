"""The run that lies in a directory, read back; and the network that it ended with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from dynhp_jax.common import paths
from dynhp_jax.common.errors import UserError
from dynhp_jax.export.network import Finished, finished
from dynhp_jax.models.spec import Spec
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.extension import has_variables
from dynhp_jax.training.files.run_directory import RUNS
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.fit import Result, result_of
from dynhp_jax.training.run import resume
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.sweep import resume_sweep

OWN_CODE = "run_own_code"  # the flag of programs that read a run


def load(
    source: str | os.PathLike | Result,
    *,
    own: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Finished:
    """The finished network of a run.

    Units that were only masked are cut, gates are in the weights (those that cannot be are in
    `gates`), and `inputs` says which positions of an example are read.

    Args:
      source: the directory of a run, or the result of `dp.fit`.
      own: whether code may run that the config of the directory names as `module:object`; a run may
        be anybody's.
      tell: is told, in a line, of what is damaged in the directory and passed over.

    Raises:
      UserError: the directory holds no run, or none that can be read here; or the run was trained
        by an extension whose network is not a function of its variables alone.
    """
    if isinstance(source, Result):
        return _of_result(source)
    return finished_of(*reopened(source, own=own, tell=tell))


def finished_of(trainer: Trainer, run: Run) -> Finished:
    """The finished network of a run that was read back; the rest is as in `load`."""
    return _of_result(result_of(trainer, run, []))


def _of_result(result: Result) -> Finished:
    whole, network = result.whole, result.network
    if not has_variables(network.extension):
        raise UserError(
            f"the extension {type(network.extension).__name__} computes something else in"
            " evaluation than the model does; override its `evaluated` instead, or pass a function"
            " to dp.export.finish"
        )
    read = {
        (path, axis): whole.groups.positions(path, axis, result.keeps)
        for (path, axis), name in whole.input_axes.items()
        if name in result.keeps
    }
    return finished(
        network.evaluate,
        result.variables,
        network.groups,
        result.gates,
        result.keeps,
        read,
        whole.model.example,
        network.model if isinstance(network.model, Spec) else None,
    )


def reopened(
    path: str | os.PathLike,
    *,
    own: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Trainer, Run]:
    """The fixed part of the run in a directory, and where it stands; on one device.

    Args:
      path: of the run; of a member, in the folder of its sweep.
      own, tell: as in `load`.

    Raises:
      UserError: it holds no run, or none that can be read here.
    """
    workdir = Workdir(path)
    workdir.check_places()
    if workdir.members and not (workdir.of_sweep or workdir.config_file.exists()):
        one = workdir.path / workdir.members[0]
        raise UserError(f"{workdir.path} holds a sweep; take a member's directory, such as {one}")
    config = here(workdir.config(tell), own)
    dataset = build.dataset_of(config)
    program_cache.use_cache(config.compiling.cache_dir)
    trainer = Trainer(config, dataset, programs.Programs(known=workdir.trials))
    run = _of_sweep(trainer, workdir, tell) if workdir.members else _alone(trainer, workdir, tell)
    return trainer, run


def here(config: Config, own: bool = False) -> Config:
    """A run's config as it can be evaluated by: on one device, on this machine.

    Model, data and loss of one's own are imported only if the person said so (`own`).

    The criterion goes, as nothing is pruned any more; so does the folder of compiled programs: they
    are code, and the run may be anybody's. The budget goes, too: it was for training, and by XLA's
    meter what fits would be found out anew, on other devices. Unless it decides which types the
    moments in the checkpoint have.
    """
    if config.own and not own:
        values = configuration.flatten(config)
        names = ", ".join(f"{field}={values[field]!r}" for field in config.own)
        raise UserError(
            f"the config of this run names code of one's own ({names}), and a run may be anybody's;"
            f" to have it run, add --{OWN_CODE}"
        )
    if own:
        config = configuration.of_person(config)
    memory = config.memory
    cached = "none" if config.compiling.cache_dir == "none" else ""
    if "bf16_moments" not in memory.allow:
        memory = dataclasses.replace(memory, meter="paper", budget="none")
    return dataclasses.replace(
        config,
        devices=1,
        memory=memory,
        scores=ScoreOptions(),
        data=_found(config.data, "dir", "cache_dir"),
        compiling=dataclasses.replace(config.compiling, cache_dir=cached),
    )


def _found(section: Any, *names: str) -> Any:
    """A section whose fields of these names are '' unless they name a directory that is here."""
    lost = [name for name in names if not _usable(getattr(section, name))]
    return dataclasses.replace(section, **dict.fromkeys(lost, ""))


def _usable(directory: str) -> bool:
    if directory == "none":  # no cache
        return True
    try:
        return paths.given(directory, "a directory of the run").is_dir()
    except UserError:
        return False


def _alone(trainer: Trainer, workdir: Workdir, tell: Callable[[str], None]) -> Run:
    found = resume.newest(trainer, workdir.checkpoints, tell)
    if found is None:
        raise UserError(f"{workdir.path} has no checkpoint yet; train in it first")
    return resume.run_of(trainer, found)


def _of_sweep(trainer: Trainer, workdir: Workdir, tell: Callable[[str], None]) -> Run:
    """A member, from the checkpoint that lies in the sweep's folder."""
    name, members, folder = workdir.path.name, workdir.members, Workdir(workdir.path.parent)
    if name not in members or folder.members != members:
        raise UserError(
            f"{workdir.path} belongs to a sweep over {', '.join(members)}, which is not in"
            f" {folder.path}; put the directory back into that sweep's folder"
        )
    found = resume_sweep.newest(trainer, folder.checkpoints, tell)
    if found is None:
        raise UserError(f"{folder.path} has no checkpoint yet; go on with its sweep first")
    if list(found.host[RUNS]) != members:
        raise UserError(
            f"{workdir.sweep_file} has other members than the checkpoint, which is of"
            f" {', '.join(found.host[RUNS])}; put it back as it was"
        )
    return resume_sweep.run_of(trainer, found, members.index(name))
