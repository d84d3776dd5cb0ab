"""Pruning by a criterion within a run: what it looks at, and which units it leaves.

Units are taken away at once, by masks; smaller arrays follow by the run's plans, as with gates. A
masked network and the cut one compute the same, so nothing depends on when that is. Scores are
those of the network that is left: its smaller arrays are made, for the time of scoring.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.gates.penalty import prices_of
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.structure.keeps import UnitKeeps, UnitMasks
from dynhp_jax.surgery.cut import cut
from dynhp_jax.training import criterion_check
from dynhp_jax.training.compiled.scorer import Scored
from dynhp_jax.training.network import Network
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import stream


def prune(trainer: Trainer, run: Run) -> Run:
    """The run without the units that are due to go before its next epoch; the same run if none are.

    Args:
      trainer: the run's fixed part.
      run: between two epochs.

    Raises:
      UserError: the criterion lacks what it needs, or the limit cannot be reached.
    """
    if trainer.criterion is None:
        return run
    asked, groups = trainer.config.scores, trainer.whole.groups
    before = asked.target(1).measure(groups, {})
    limit = asked.timetable().limit(run.epoch, before, asked.most(groups))
    if limit is None or asked.target(1).measure(run.network.groups, survivors(run)) <= limit:
        return run
    found = scored(trainer, run)
    chunk = trainer.scorer.chunk(found, run.score_chunk)
    scores, parts = trainer.scorer.scores(found, chunk)
    keeps = chosen(asked, trainer.criterion, scores, found.network, limit)
    spent = run.spent | {"scoring": parts}
    return dataclasses.replace(without(trainer, run, keeps), score_chunk=chunk, spent=spent)


def remembered(trainer: Trainer, run: Run) -> tuple:
    """`Run.earlier` after the next epoch: for most criteria nothing."""
    count = criterion_check.earlier_epochs(trainer.criterion)
    if not count:
        return ()
    now = jax.tree.map(np.array, _evaluated(run))  # copies: steps write where these lie
    return (now, *run.earlier)[:count]


def survivors(run: Run) -> UnitKeeps:
    """The living units of every group, counted in the run's arrays."""
    masks = jax.device_get(run.state.masks)
    return UnitMasks({name: masks[name] for name in run.network.groups}).keeps()


def _evaluated(run: Run) -> Any:
    """The variables of the model by itself."""
    variables, *_, own = run.state.evaluated
    return run.network.extension.evaluated(variables, own)


def scored(trainer: Trainer, run: Run) -> Scored:
    """The network of the living units, and what a criterion may look at: examples on the host.

    Args:
      trainer: the run's fixed part.
      run: between two epochs.
    """
    earlier = run.earlier
    network, variables, keeps = run.network, _evaluated(run), survivors(run)
    seen = trainer.judged_on
    inputs = trainer.whole.cut_inputs(seen.inputs, run.keeps.then(keeps))
    masked = any(keep.size < network.groups[name].size for name, keep in keeps.items())
    copied = masked or variables is not run.state.evaluated[0]
    if masked:
        groups = network.groups
        variables, *earlier = (cut(tree, groups, keeps) for tree in (variables, *earlier))
        network = network.shrunk(variables["params"], keeps)
    key = jax.random.fold_in(stream(trainer.config.seed, "scores"), run.epoch)
    variables, earlier, key = trainer.place((variables, tuple(earlier), key))
    evidence = Evidence(
        network.evaluate,
        network.groups,
        variables,
        (inputs,),
        seen.targets,
        criterion_check.loss_of(network),
        names=tuple(network.groups),
        key=key,
        earlier=earlier,
    )
    return Scored(network, evidence, run.state, copied)


def chosen(
    asked: ScoreOptions,
    criterion: Criterion,
    scores: Mapping[str, Any],
    network: Network,
    most: int,
) -> UnitKeeps:
    """The units that stay, counted in the network that was scored.

    Args:
      asked: the section of the config.
      criterion: that gave the scores.
      scores: {group: [units]}.
      network: that was scored.
      most: what may remain of it, in the unit of `asked.of`.
    """
    scale = asked.scale
    if scale == "auto":
        scale = "none" if getattr(criterion, "comparable", False) else "mean"
    target = asked.target(most)
    return prune_to(scores, network.groups, target, scope=asked.scope, scale=scale).keeps


def without(trainer: Trainer, run: Run, keeps: UnitKeeps) -> Run:
    """The run with these of its living units left, by masks.

    Args:
      trainer: the run's fixed part.
      run: between two epochs.
      keeps: counted among the living units.
    """
    masks = dict(survivors(run).then(keeps).masks())
    state = run.state._replace(masks=trainer.place(jax.tree.map(jnp.asarray, masks)))
    prices = prices_of(run.network.groups, masks, trainer.config.penalty.convention)
    given = run.given._replace(prices=prices)
    return dataclasses.replace(run, state=state, given=given)
