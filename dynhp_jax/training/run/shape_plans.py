"""When the shapes of a run change, and what is compiled for it in the meantime.

Arrays become smaller and mini-batches larger by *plans*: decided at the end of one epoch, in force
at the start of a later one. In between training goes on with the old shapes, pruned units masked,
while a background thread compiles what the new shapes need. The epoch in which a plan is due
depends on nothing but the run, never on a clock: if the thread is late, training waits. So a seed
gives one result, bit for bit, however long compiling takes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.memory.meter import Meter
from dynhp_jax.structure.counts import numbers_in, parameters_left
from dynhp_jax.structure.keeps import Keeps, UnitKeeps, UnitMasks
from dynhp_jax.surgery.cut import axis_cuts, cut, cut_leaf
from dynhp_jax.surgery.optimizer import map_like_params
from dynhp_jax.training.compiled import extension_bytes, step_bytes
from dynhp_jax.training.compiled.extension_check import difference
from dynhp_jax.training.extension import Extension, replaces_trained
from dynhp_jax.training.network import Network
from dynhp_jax.training.run.machine_speeds import costs
from dynhp_jax.training.run.run import Plan, Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import TrainState

LEAST = 0.15  # a smaller share of the parameters is not worth a compilation in any run
LONGEST = 0.02  # of the epochs of a run, is how long a plan may take,
AT_MOST = 8  # but no more epochs than these: from 400 on, a run is the beginning of a longer one


@dataclasses.dataclass(frozen=True, eq=False)
class Ready:
    """What the background thread found: shapes that fit, their programs compiled."""

    network: Network
    batch: int
    batch_in_use: int
    chunk: int
    scout: Meter


class Shaped(Protocol):
    """What a plan is made from: a `Run`, or what a member of a sweep would be alone."""

    epoch: int
    batch_in_use: int
    network: Network
    keeps: UnitKeeps


def next_plan(
    trainer: Trainer, run: Shaped, masks: Mapping[str, np.ndarray], wanted: int
) -> Plan | None:
    """What to change in the shapes of a run that has no plan; None if nothing.

    Args:
      trainer: the run's fixed part.
      run: after an epoch.
      masks: of the surviving units, {group: f32[units]}.
      wanted: the mini-batch that the rule asks for.
    """
    if run.epoch == trainer.config.epochs:
        return None
    keeps = run.keeps
    starved = wanted > trainer.meter.capped(run.network, wanted)
    batch, materialised = run.batch_in_use, numbers_in(run.network.model.shapes()["params"])
    if worth_cutting(trainer, run.network, materialised, run.epoch, batch, masks, starved):
        keeps = keeps.then(UnitMasks(masks).keeps())
    elif not trainer.meter.may_change(run.network, wanted, batch):
        return None
    wait, longest = 0, min(int(LONGEST * trainer.config.epochs), AT_MOST)
    if trainer.config.compiling.ahead:
        seconds = costs().epoch(run.network, materialised, trainer.examples, batch)
        wait = max(1, min(math.ceil(costs().compilation / seconds), longest))
    return Plan(run.epoch + 1 + wait, keeps, wanted)


def begin(trainer: Trainer, run: Run) -> Run:
    """The run, whose plan, if it has one, is being worked on; a resumed run's, too."""
    plan = run.plan
    if plan is None or plan.work is not None:
        return run
    network = run.network
    if any(plan.keeps[name].size < run.keeps[name].size for name in plan.keeps):
        network = trainer.whole.part(plan.keeps)
    # What the thread finds to fit goes into an account of its own until the plan is due, so that
    # a checkpoint in between never depends on how far the thread has come.
    scout, steps, before = trainer.meter.scout(), trainer.steps, run.batch_in_use

    def work() -> Ready:
        trainer.programs.expect(steps.names(network))
        batch, in_use = scout.fit(network, plan.wanted, before)
        found = network
        if network is not run.network:  # what was cut frees bytes, which the extension may ask for
            found = extension_bytes.fitted(steps, trainer.extension, network, in_use)
        if found is not network:
            batch, in_use = scout.fit(found, plan.wanted, in_use)
        steps.training_program(found, in_use)
        fitting = trainer.budget.chunk(found, run.chunk)
        for split in run.splits.keys() - {"train"}:
            steps.evaluation_program(found, steps.evaluated(fitting, split), split)
        return Ready(found, batch, in_use, fitting, scout)

    return dataclasses.replace(
        run, plan=dataclasses.replace(plan, work=trainer.programs.ahead(work))
    )


def worth_cutting(
    trainer: Trainer,
    network: Network,
    materialised: int,
    epoch: int,
    batch: int,
    masks: Mapping[str, np.ndarray],
    starved: bool = False,
) -> bool:
    """Whether so many units are masked that smaller arrays are worth their compilation.

    They are if `compiling.shrink` of the parameters are gone, whatever it costs: memory is to be
    given back. They are from a share of `LEAST` on if the epochs that are left become faster by
    more than compiling takes, or if the mini-batch is `starved`.

    Args:
      trainer: the run's fixed part.
      network: as its arrays are.
      materialised: parameters that the arrays hold.
      epoch: epochs done.
      batch: the mini-batch in use.
      masks: of the surviving units.
      starved: whether the budget keeps the mini-batch below what the rule asks for.
    """
    keeps = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    left = parameters_left(network.groups, masks)
    if all(kept.size == len(masks[name]) for name, kept in keeps.items()):
        return False
    if left <= (1 - trainer.config.compiling.shrink) * materialised:
        return True
    if left > (1 - LEAST) * materialised:
        return False
    if starved:
        return True
    machine, examples = costs(), trainer.examples
    saved = machine.epoch(network, materialised, examples, batch)
    # Any units will do, as many as are left.
    first = {name: np.arange(kept.size) for name, kept in keeps.items()}
    saved -= machine.epoch(trainer.whole.part(first), left, examples, batch)
    return (trainer.config.epochs - epoch) * saved > machine.compilation


def carry_out(trainer: Trainer, run: Run) -> Run:
    """The run with the shapes of its plan, if that is due in the epoch that starts."""
    if run.plan is None or run.epoch + 1 < run.plan.due:
        return run
    ready, keeps = trainer.programs.join(run.plan.work), run.plan.keeps
    trainer.meter.learn(ready.network, ready.scout)
    network, state, splits, given = run.network, run.state, run.splits, run.given
    earlier, spent = run.earlier, dict(run.spent)
    if ready.network is not run.network:
        local, groups = keeps.within(run.keeps), network.groups
        earlier = jax.device_get(tuple(cut(tree, groups, local) for tree in earlier))
        before = trainer.steps.state_shapes(run.network)
        spent["surgery"] = step_bytes.surgery_bytes(
            before, trainer.steps.state_shapes(ready.network)
        )
        trainer.budget.check("making arrays smaller", spent["surgery"])
        extension = ready.network.unbound
        network, state = resize(run.network, state, trainer.tx, local, consumed, extension)
        if any(keeps[name].size < run.keeps[name].size for name in run.network.input_axes.values()):
            splits = trainer.splits(keeps)
        trainer.programs.drop(run.network.model)
        given = trainer.given(network, keeps, state)
    return dataclasses.replace(
        run,
        # The exact batch has gone on growing; only bytes that are not there hold it back.
        batch=run.batch if ready.batch == run.plan.wanted else ready.batch,
        batch_in_use=ready.batch_in_use,
        chunk=ready.chunk,
        network=network,
        keeps=keeps,
        state=state,
        earlier=earlier,
        given=given,
        splits=splits,
        plan=None,
        spent=spent,
    )


def consumed(leaf: Any, cuts: tuple[tuple[int, np.ndarray], ...]) -> Any:
    """`cut.cut_leaf` of an array that is given back: a budget has no room for both of all."""
    small = cut_leaf(leaf, cuts)
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
        leaf.delete()
    return small


def resize(
    network: Network,
    state: TrainState,
    tx: Any,
    keeps: Keeps,
    cut_leaf: Callable = cut_leaf,
    then: Extension | None = None,
) -> tuple[Network, TrainState]:
    """Network and state with the arrays of the surviving units only.

    Args:
      network, state: before; groups may be without a gate.
      tx: the optimizer.
      keeps: survivors, counted in the arrays as they are now.
      cut_leaf: how an array is cut, as `cut.cut_leaf` does.
      then: the extension from now on; None for the same.
    """
    groups = network.groups
    for name, mask in state.masks.items():
        groups = groups.tie(f"gates/{name}", 0, name, mask.shape)
        groups = groups.tie(f"masks/{name}", 0, name, mask.shape)
    # The optimizer knows params and gates, which are a part of what the groups speak of.
    cuts = axis_cuts(groups, keeps)
    extension = network.extension
    trained = {"params": extension.trained(state.variables, state.own), "gates": state.gates}

    def trimmer(path: Any, _: Any) -> Callable | None:
        here = cuts.get(path_name(path))
        return here and functools.partial(cut_leaf, cuts=here)

    trimmers = jax.tree_util.tree_map_with_path(trimmer, trained)
    opt_state = map_like_params(tx, state.opt_state, trained, trimmers)

    def smaller(tree: Any) -> Any:
        def one(path: Any, leaf: Any) -> Any:
            trim = trimmer(path, leaf)
            return trim(leaf) if trim else leaf

        return jax.tree_util.tree_map_with_path(one, tree)

    def of(whole: Any) -> Any:
        """The run itself or its mean."""
        tree = smaller({**whole.variables, "gates": whole.gates})
        return whole._replace(gates=tree.pop("gates"), variables=tree)

    averages = state.averages and of(state.averages)
    state = of(state)._replace(masks=smaller({"masks": state.masks})["masks"])
    network = network.shrunk(state.variables["params"], keeps)
    if then is not None:
        network = dataclasses.replace(network, unbound=then)
    own = network.extension.cut(state.own, smaller)
    if averages and averages.own:
        averages = averages._replace(own=network.extension.cut(averages.own, smaller))
    if replaces_trained(network.unbound):
        smaller_ones = network.extension.trained(state.variables, own)
        trained = {"params": smaller_ones, "gates": state.gates}
        # An extension may train what is no cut of what it trained before.
        if difference(jax.eval_shape(tx.init, trained), opt_state):
            opt_state = tx.init(trained)
    return network, state._replace(opt_state=opt_state, averages=averages, own=own)
