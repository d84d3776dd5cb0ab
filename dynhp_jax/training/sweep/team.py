"""Several runs side by side as one program: seeds, and grids of lambda, alpha or gamma.

The members' arrays are stacked, the step is vmapped, and one compiled epoch trains them all: on an
accelerator that a small network leaves mostly idle, a whole table is one job. All members' arrays
have the same sizes, those of the largest survivor of each group (of the inputs, which they share:
whatever any member has left); what a member has lost beyond that is masked. Mini-batches of
different sizes are padded to the largest, and what is padded weighs nothing. A member draws what
its single run draws, takes a new mini-batch in the epoch in which that does (`sweep.member`), and
ends where that ends, up to the rounding of another order of summation: unless that moves a gate's
rate or a mini-batch across a threshold, from where on they are two runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.task_data import TaskData
from dynhp_jax.memory.registry import METERS
from dynhp_jax.structure.counts import numbers_in
from dynhp_jax.structure.keeps import UnitMasks
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled.budget import CHUNK
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import epoch_results, epoch_schedules, shape_plans
from dynhp_jax.training.run.epoch_results import Choice, Pruned, Record
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.one_epoch import one_epoch
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import evaluation
from dynhp_jax.training.step.gradients import estimator
from dynhp_jax.training.step.state import StepInputs, Tally, TrainState, copies
from dynhp_jax.training.sweep import member as solo
from dynhp_jax.training.sweep.alike import alike
from dynhp_jax.training.sweep.member import Member, SoloShapes
from dynhp_jax.training.sweep.stacked import common_keeps, make_epoch, member_of, stacked

# What members may differ in: numbers that shape no array of a step.
FREE = ("name", "seed", "penalty.lam", "batch.alpha", "batch.eta", "pruning.gamma")


@dataclasses.dataclass(frozen=True, eq=False)
class Replicas:
    """Where several runs stand between two epochs.

    Attributes:
      network: sizes of everybody's arrays.
      members: what is each one's own.
      state: their arrays, stacked: [members, ...] each; `advance` consumes them.
      given: likewise.
      splits: the data, which they share.
    """

    network: Network
    members: tuple[Member, ...]
    state: TrainState
    given: StepInputs
    splits: Mapping[str, Split]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.members[0].epoch


def check(configs: Sequence[Config]) -> None:
    """Raises ConfigError for runs that no data and no model let be members of one team.

    They may differ in FREE.
    """
    first = config.flatten(configs[0])
    for other in map(config.flatten, configs[1:]):
        for name, value in other.items():
            if name not in FREE and value != first[name]:
                raise ConfigError(name, value, f"{first[name]!r} for all members of a sweep")
    if configs[0].method == "scores":
        raise ConfigError("method", "scores", "'dynhp', 'hp', 'sp' or 'dense' in a sweep")
    meter = configs[0].memory.meter
    if not METERS[meter].side_by_side:
        fit = (repr(name) for name, other in METERS.items() if other.side_by_side)
        raise ConfigError("memory.meter", meter, f"{' or '.join(fit)} in a sweep")
    if configs[0].extension:
        raise ConfigError("extension", configs[0].extension, "'' in a sweep")
    variance = configs[0].batch.variance
    if configs[0].batching.rule != "fixed" and variance not in ("auto", "norms"):
        allowed = "'norms' or 'auto' in a sweep where the mini-batch grows"
        raise ConfigError("batch.variance", variance, allowed)


class Team:
    """What stays the same from epoch to epoch.

    Args:
      configs: of the members; they may differ in FREE.
      dataset: their data.
      programs: where compiled programs are kept and counted; any runs may share them.
      networks: of each member, whole, which differ in their variables alone; None for those that
        the configs name.
      tx: the optimizer of the parameters; None for the one that the configs name.

    Raises:
      ConfigError: configs that differ in more, or that ask for what is not done side by side, or a
        model that computes something else whenever it is made.
      UserError: the memory cannot hold the variables of all.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        dataset: Dataset | TaskData,
        programs: Programs,
        networks: Sequence[Network] | None = None,
        tx: optax.GradientTransformation | None = None,
    ):
        check(configs)
        self.programs, self.dataset = programs, dataset
        count = len(configs) * copies(configs[0])
        if networks is None and "model.name" not in configs[0].own:
            build.spec_of(configs[0], dataset, count)
        given = [None] * len(configs) if networks is None else networks
        self.trainers = [
            Trainer(each, dataset, programs, whole=whole, tx=tx)
            for each, whole in zip(configs, given, strict=True)
        ]
        self.whole, self.examples = self.trainers[0].whole, self.trainers[0].examples
        build.check_holds(self.whole.model, count)
        if not alike([trainer.whole for trainer in self.trainers]):
            allowed = "in a sweep: a model that computes the same whenever it is made"
            raise ConfigError("model.name", configs[0].model.name, allowed)
        steps = self.lead.steps
        if steps.devices > 1:
            raise ConfigError("devices", configs[0].devices, "1 in a sweep, of one process")
        if any(steps.streams(self.whole, split) for split in steps.examples):
            found = configs[0].data.resident
            raise ConfigError("data.resident", found, "room for all images in a sweep")
        kind, rule = estimator(self.whole, configs[0]), configs[0].batching.rule
        if rule != "fixed" and kind != "norms":
            raise ConfigError("batch.rule", rule, "'fixed' in a sweep of this model: batches of"
                              " several sizes need the variance 'norms'")  # fmt: skip

    @property
    def lead(self) -> Trainer:
        """The first member's trainer, for whatever is everybody's."""
        return self.trainers[0]

    def start(self) -> Replicas:
        """All members before their first epoch."""
        runs = [trainer.start() for trainer in self.trainers]
        members = tuple(
            Member(run.batch, run.keeps, SoloShapes(0, run.batch_in_use, run.network, run.keeps))
            for run in runs
        )
        state = stacked([run.state for run in runs])
        given = stacked([run.given for run in runs])
        return Replicas(runs[0].network, members, state, given, runs[0].splits)

    def given(self, network: Network, members: Sequence[Member], state: TrainState) -> StepInputs:
        """What steps read beside the members' stacked state."""
        return stacked(
            [
                trainer.given(network, member.keeps, member_of(state, k))
                for k, (trainer, member) in enumerate(zip(self.trainers, members, strict=True))
            ]
        )

    # -- one epoch (`run.one_epoch.Execution`) -----------------------------------------------------

    def advance(self, replicas: Replicas) -> tuple[Replicas, list[Record]]:
        """One epoch of every member; see `one_epoch.one_epoch`."""
        return one_epoch(self, replicas)

    def members(self, replicas: Replicas) -> tuple[Member, ...]:
        """What is each one's own."""
        return replicas.members

    def with_members(self, replicas: Replicas, members: Sequence[Member]) -> Replicas:
        """With something else as each one's own."""
        return dataclasses.replace(replicas, members=tuple(members))

    def each(self, tree: Any) -> list[Any]:
        """Stacked arrays as a tree for each member."""
        return [member_of(tree, k) for k in range(len(self.trainers))]

    def joined(self, trees: Sequence[Any]) -> Any:
        """Each member's arrays, stacked."""
        return stacked(trees)

    def begin(self, replicas: Replicas) -> Replicas:
        """A mini-batch changes in the epoch in which it would in the member's single run."""
        members = (
            dataclasses.replace(member, alone=solo.carry_out(trainer, member.alone))
            for trainer, member in zip(self.trainers, replicas.members, strict=True)
        )
        return self.with_members(replicas, list(members))

    def spent(self, replicas: Replicas) -> list[dict[str, Bytes]]:
        """Nobody counts what a member takes of the programs of all."""
        return [{} for _ in self.trainers]

    def train(self, replicas: Replicas, epoch: int) -> tuple[Replicas, list[Tally]]:
        """The members after the steps of an epoch, and the tally of each."""
        sizes = np.array([member.batch_in_use for member in replicas.members], np.int32)
        batch, even = int(sizes.max()), bool((sizes == sizes[0]).all())
        network, count = replicas.network, len(sizes)
        split = replicas.splits["train"]
        orders = jnp.stack([trainer.order(np.int32(epoch)) for trainer in self.trainers])
        if not even:  # a short mini-batch reads beyond itself, the last one beyond the end
            orders = jnp.pad(orders, ((0, 0), (0, batch)))
        numbers = [
            epoch_schedules.numbers(trainer.config, epoch, self.examples // size)
            for trainer, size in zip(self.trainers, sizes.tolist(), strict=True)
        ]
        given = replicas.given._replace(**stacked(numbers))
        data = (split.inputs, split.targets, given, orders, sizes)
        program = self.programs.get(
            "epoch of replicas",
            (*network.sizes, batch, even, count, self.lead.steps.compiled_for),
            lambda: make_epoch(network, self.lead, batch, even),
            *(replicas.state, *data, self.examples // sizes),
        )
        state, tallies = program(replicas.state, *data, self.examples // sizes)
        tallies = [epoch_results.on_host(each) for each in self.each(jax.device_get(tallies))]
        return dataclasses.replace(replicas, state=state), tallies

    def evaluate(self, replicas: Replicas, name: str) -> list[dict[str, Any]]:
        """The results of every member on a split."""
        network, split = replicas.network, replicas.splits[name]
        examples = len(split)
        chunk = min(CHUNK, examples)
        arguments = (*replicas.state.evaluated, split.inputs, split.targets)
        program = self.programs.get(
            f"evaluation of replicas on {name}",
            (*network.sizes, chunk, len(self.trainers), self.lead.steps.compiled_for),
            lambda: jax.jit(
                jax.vmap(
                    evaluation.make_evaluation(network, chunk), in_axes=(0, 0, 0, 0, *[None] * 4)
                )
            ),
            *(*arguments, np.int32(0), np.int32(examples)),
        )
        rest = np.int32(examples)
        parts = [program(*arguments, np.int32(i), rest) for i in range(-(-examples // chunk))]
        return [
            epoch_results.of_split(network.task, sums, examples)
            for sums in self.each(evaluation.added_up(parts))
        ]

    def end(
        self, replicas: Replicas, pruned: Sequence[Pruned], choices: Sequence[Choice]
    ) -> Replicas:
        """With smaller arrays for all, if enough units are dead in everybody's."""
        members = []
        for k, member in enumerate(replicas.members):
            left = member.keeps.then(UnitMasks(pruned[k].masks).keeps())
            alone = solo.after_epoch(self.trainers[k], member.alone, left, choices[k].wanted)
            members.append(dataclasses.replace(member, alone=alone))
        return self._cut(self.with_members(replicas, members), [each.masks for each in pruned])

    def _cut(self, replicas: Replicas, masks: Sequence[Mapping[str, np.ndarray]]) -> Replicas:
        """With smaller arrays for all, if enough units are dead in everybody's."""
        network, trainer = replicas.network, self.lead
        keeps = common_keeps(network, masks)
        widths = {name: np.r_[np.ones(k.size), np.zeros(network.groups[name].size - k.size)]
                  for name, k in keeps[0].items()}  # fmt: skip
        batch = max(member.batch_in_use for member in replicas.members)
        now = numbers_in(replicas.state.variables["params"]) // len(masks)
        if not shape_plans.worth_cutting(trainer, network, now, replicas.epoch, batch, widths):
            return replicas
        members = tuple(
            dataclasses.replace(member, keeps=member.keeps.then(mine))
            for member, mine in zip(replicas.members, keeps, strict=True)
        )
        if not alike([self.whole.part(member.keeps) for member in members]):
            return replicas  # what is left of each computes something else: only masks take units
        parts = [
            shape_plans.resize(network, member_of(replicas.state, k), trainer.tx, keeps[k])
            for k in range(len(masks))
        ]
        self.programs.drop(network.model)
        network, state = parts[0][0], stacked([part for _, part in parts])
        splits = replicas.splits
        before = replicas.members[0].keeps
        if any(members[0].keeps[name].size < before[name].size
               for name in network.input_axes.values()):  # fmt: skip
            splits = trainer.splits(members[0].keeps)
        given = self.given(network, members, state)
        return dataclasses.replace(
            replicas, network=network, members=members, state=state, given=given, splits=splits
        )
