"""What an extension decides on the host between two epochs, and what it adds to their records."""

import dataclasses
import math
from typing import Any

import jax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import guarded
from dynhp_jax.training.compiled.extension_check import check_alike, whose
from dynhp_jax.training.extension import EpochStart, Extension
from dynhp_jax.training.network import Network
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import stream


def begin_epoch(trainer: Trainer, run: Run) -> Run:
    """The run with what the extension decides before its next epoch.

    Args:
      trainer: the run's fixed part.
      run: between two epochs, in the shapes of the next one.
    """
    state, network = run.state, run.network
    if type(network.unbound).begin_epoch is Extension.begin_epoch:
        return run
    epoch, batch = run.epoch + 1, run.batch_in_use
    key = jax.random.fold_in(stream(trainer.config.seed, "extension"), epoch)
    seen = trainer.judged_on
    inputs = trainer.whole.cut_inputs(seen.inputs, run.keeps)
    start = EpochStart(
        epoch, batch, trainer.examples // batch, key, network.groups, state.masks,
        trainer.tx, state.gates, network.evaluate, network.task.loss,
        dataclasses.replace(seen, inputs=inputs), trainer.steps.unit // trainer.steps.devices,
    )  # fmt: skip
    with guarded(whose(network.unbound)):
        before = (state.own, state.opt_state, state.variables)
        own, opt_state = network.extension.begin_epoch(*before, start)
        decided = network.extension.decided(own)
        if decided != network.decided:
            network = network.deciding(decided)
        shapes = trainer.steps.state_shapes(network)
        check_alike(shapes.own, own, "what it keeps")
        check_alike(shapes.opt_state, opt_state, "the optimizer's state")
    _compile_ahead(trainer, network, own, epoch + 1, batch)
    state = state._replace(own=trainer.place(own), opt_state=trainer.place(opt_state))
    return dataclasses.replace(run, network=network, state=state)


def _compile_ahead(trainer: Trainer, network: Network, own: Any, epoch: int, batch: int) -> None:
    """Compiles what the extension foresees for an epoch, while the one before is trained."""
    if epoch > trainer.config.epochs or not trainer.config.compiling.ahead:
        return
    key = jax.random.fold_in(stream(trainer.config.seed, "extension"), epoch)
    with guarded(whose(network.unbound)):
        foreseen = network.extension.foreseen(own, key, epoch)
    if foreseen is not None and foreseen != network.decided:
        other = network.deciding(foreseen)
        trainer.programs.ahead(lambda: trainer.steps.training_program(other, batch))


def record(network: Network, own: Any) -> dict[str, float]:
    """What the record of an epoch says of the extension, by names of its own.

    Args:
      network: of the run.
      own: what the extension keeps beside the state.

    Raises:
      UserError: it is no mapping of names to finite numbers.
    """
    if type(network.unbound).record is Extension.record:
        return {}
    with guarded(whose(network.unbound)):
        found = network.extension.record(jax.device_get(own))
        said = {f"extension_{name}": float(value) for name, value in found.items()}
    wrong = [name for name, value in said.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"{whose(network.unbound)} records {wrong[0]}, which is NaN or infinite")
    return said
