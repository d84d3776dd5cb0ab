"""What stays the same from epoch to epoch of a run (`Trainer`), and what a checkpoint holds of it.

A `Run` goes into a checkpoint as its arrays, `array_part(run)`, and `host_part(run, trainer)`; a
`Trainer` of the same config makes the `Run` again from the two.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.batch_size import rules
from dynhp_jax.common import schema
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.pairs import ArrayData, Pairs
from dynhp_jax.gates.penalty import prices_of
from dynhp_jax.memory import paper, trial_records
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.structure.counts import numbers_in
from dynhp_jax.tasks import losses
from dynhp_jax.training import build, criterion_check
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.budget import Budget
from dynhp_jax.training.compiled.example_order import Order
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.scorer import Scorer
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.config import Config
from dynhp_jax.training.criterion import criterion_of
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import examples
from dynhp_jax.training.run.checkpoint import Checkpoint
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.run import (
    BEST,
    KEEPS,
    MEMORY,
    PLAN,
    Keeps,
    Plan,
    Run,
    check_keeps,
    keeps_of,
    lists_of,
)
from dynhp_jax.training.step import augmentation, devices
from dynhp_jax.training.step.state import StepInputs, TrainState, abstract_state, copies, stream

_SIZES = schema.list_of(schema.tuple_of(schema.POSITIVE, schema.WHOLE))
HOST = schema.fields(  # what `host_part` gives
    {
        "batch": schema.POSITIVE,
        "batch_in_use": schema.POSITIVE,
        "best": BEST,
        "chunk": schema.POSITIVE,
        "compilations": schema.WHOLE,
        "compile_seconds": schema.NOT_NEGATIVE,
        "compile_waited": schema.NOT_NEGATIVE,
        "devices": schema.POSITIVE,
        "earlier": schema.WHOLE,
        "keeps": KEEPS,
        "looks": schema.fields({"sizes": _SIZES, "room": schema.optional(schema.WHOLE)}),
        "memory_kib": MEMORY,
        "plan": schema.optional(PLAN),
        "score_chunk": schema.WHOLE,
        "spec": schema.MAPPING,
    },
    optional={
        "made_of": schema.TEXT,
        "trials": trial_records.SEVERAL,  # what is not there is measured again
    },
)


class Trainer:
    """What stays the same from epoch to epoch.

    Args:
      config: the run.
      dataset: its data: a `data.loading.Dataset`, or `data.pairs.ArrayData`.
      programs: where compiled programs are kept and counted; any runs may share them.
      criterion: that the method 'scores' prunes by, as an object; None for the one that the config
        names. Of a config that was read from a file only the library's own are taken.
      whole: the network; None for the one that the config names.
      tx: the optimizer of the parameters; None for the one that the config names.
      made_of: a digest of what was handed in and no config names, for checkpoints; '' for nothing.

    Attributes:
      criterion: that units are pruned by; None with methods other than scores.
      scorer: by it and within the budget; None likewise.
      budget: the one that is held against what XLA allocates.

    Raises:
      UserError: the criterion that the config names cannot be found, or used, or the run's
        variables take more than the memory.
      ConfigError: the budget is smaller than the network plus one example, the batch larger than
        the training set or than the paper's meter has room for, or no multiple of the devices,
        there are fewer of these, a group is unknown, or `data.shift` or `flip` does not go with
        the examples.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset | ArrayData,
        programs: Programs,
        criterion: Criterion | None = None,
        whole: Network | None = None,
        tx: optax.GradientTransformation | None = None,
        made_of: str = "",
    ):
        augmentation.check(config, dataset.example_shape)
        self.dataset, self.programs = dataset, programs
        self.criterion = criterion_of(config, criterion)
        if whole is None:
            if "model.name" not in config.own:  # analysing it may take memory
                build.spec_of(config, dataset, copies(config))
            whole = build.network_of(config, dataset)
            made_of = build.digest(whole, dataset) if config.own else ""
        self.whole, self.made_of = whole, made_of
        _check_task(config, whole)
        inputs = jax.tree.leaves(whole.model.example)
        self.meter = paper.PaperMeter(sum(paper.example_bytes(leaf.shape) for leaf in inputs))
        self.whole_parameters = numbers_in(self.whole.model.shapes()["params"])
        self.examples = len(dataset.splits["train"])
        batching = config.batching
        first = "batch.size" if config.batch.size or batching.rule != "fixed" else "memory.sp_batch"
        sizes = {first: batching.size, "memory.smallest": config.memory.smallest}
        for field, size in sizes.items():
            if size > self.examples:
                raise ConfigError(field, size, f"at most the {self.examples} training examples")
        counts = {name: len(pairs) for name, pairs in dataset.splits.items()}
        tx = build.optimizer_of(config) if tx is None else tx
        self.budget = Budget(Steps(config, self.whole, programs, counts, tx=tx))
        self.config, self.tx = self.steps.config, self.steps.tx
        self.scorer = None
        if self.criterion is not None:
            self.scorer = Scorer(self.criterion, self.budget, config.scores.criterion)
        self.budget_bytes = self.budget.bytes if self.by_xla else self._budget()
        room = self.room(self.whole_parameters)
        self.steps.check_parts(room, "the budget has room for so many examples")
        asked = config.batch.size
        if asked > room:
            allowed = f"at most {room}, for which memory.budget has room beside the whole network"
            raise ConfigError("batch.size", asked, f"{allowed}; or memory.budget='none'")
        self.controller = rules.RULES[batching.rule](batching)

    @property
    def steps(self) -> Steps:
        """The compiled steps that the run executes."""
        return self.budget.steps

    @property
    def by_xla(self) -> bool:
        """Whether the budget is held against what XLA allocates, not the paper's arithmetic."""
        return self.config.memory.meter == "xla"

    def _budget(self) -> int | None:
        budget = self.config.memory.budget
        if budget == paper.UNLIMITED:
            return None
        if budget == "sp":
            return self.meter.memory_bytes(self.whole_parameters, self.config.memory.sp_batch)
        return self.meter.budget_bytes(budget, self.whole_parameters)

    def place(self, tree: Any) -> Any:
        """The arrays of a tree on every device of the run; those that are there stay."""
        return devices.place(tree, self.config.devices)

    def in_shares(self, batch: int) -> int:
        """The mini-batch to compile that has equal shares for devices and micro-batches.

        At most `batch`, but at least the smallest that can be shared.
        """
        unit = self.steps.unit
        return max(batch // unit, 1) * unit

    def room(self, parameters: int) -> int:
        """The largest mini-batch that budget and training set allow beside so many parameters.

        By the paper's meter; what XLA allocates is known only of what was asked for (`fit`).
        """
        if self.budget_bytes is None or self.by_xla:
            return self.examples
        return min(self.meter.room(self.budget_bytes, parameters), self.examples)

    def fit(
        self, network: Network, wanted: int, before: int = 0, budget: Budget | None = None
    ) -> tuple[int, int]:
        """The exact batch and the one to compile, where the rule asks for `wanted`.

        By the paper's meter the compiled one is on the grid, unless it is fixed, and in equal
        shares for the devices; see `Budget.fit` for XLA's. `before` is what was compiled last;
        `budget` another account than the run's own.
        """
        if self.by_xla:
            return (budget or self.budget).fit(network, wanted, before)
        if self.config.batching.rule == "fixed":
            return wanted, self.in_shares(wanted)
        return wanted, self.in_shares(rules.on_grid(wanted, self.config.batch.grid))

    def may_change(self, network: Network, wanted: int, in_use: int) -> bool:
        """Whether `fit` may find another batch to compile than the one in use."""
        if self.by_xla:
            return self.budget.may_change(network, wanted, in_use)
        return self.fit(network, wanted, in_use)[1] != in_use

    @functools.cached_property
    def order(self) -> Order:
        """How the epochs take the examples."""
        room, source = None, stream(self.config.seed, "order")
        if self.budget.bytes is not None:
            room = self.budget.bytes - step_bytes.total(self._waiting(self.whole))
        return Order(source, self.examples, self.programs, room)

    def ordering_bytes(self, network: Network) -> Bytes:
        """Bytes of ordering the examples beside the state of a network, by part."""
        return self._waiting(network) | {"temporaries": self.order.temporaries}

    def _waiting(self, network: Network) -> Bytes:
        return step_bytes.waiting_bytes(self.steps.state_shapes(network))

    def start(self) -> Run:
        """A run before its first epoch.

        Raises:
          ConfigError: the criterion cannot score the network, or not as early as it has to.
        """
        score_chunk = self.check_criterion()
        size, room = self.config.batching.size, self.room(self.whole_parameters)
        network = self.whole
        batch, in_use = self.fit(network, min(size, room))
        if self.config.batching.rule == "fixed" and in_use < size:
            warnings.warn(
                f"the memory budget has room for {in_use} examples, not for {size}", stacklevel=1
            )
        chunk = self.budget.chunk(network)
        drawn, gates = (stream(self.config.seed, name) for name in ("params", "log_alpha"))
        program, parts = self.steps.starting(network)
        self.budget.check("the initial state", parts)
        state = program(drawn if network.model.given is None else network.model.given, gates)
        keeps = {name: np.arange(group.size) for name, group in network.groups.items()}
        return Run(
            epoch=0,
            batch=batch,
            batch_in_use=in_use,
            chunk=chunk,
            network=network,
            keeps=keeps,
            state=state,
            given=self.given(network, keeps, state),
            splits=self.splits(keeps),
            score_chunk=score_chunk,
            spent={"initial_state": parts},
        )

    def check_criterion(self) -> int:
        """How many examples the criterion looks at at once; 0 without one.

        Raises:
          ConfigError: it cannot score the network, or not as early as asked, or the budget has no
            room for it.
        """
        if self.criterion is None:
            return 0
        asked = self.config.scores
        seen = self.judged_on
        criterion_check.check_run(asked, self.criterion, self.whole, seen)
        again = asked.schedule != "one_shot"  # by then other units are masked
        return self.scorer.check(self.whole, min(asked.examples, len(seen)), again)

    @property
    def judged_on(self) -> Pairs:
        """The examples that criteria look at: held-out ones, or, without any, of the training set.

        On the host, as many as `scores.examples`, in the shape that the whole model reads.
        """
        splits = self.dataset.splits
        pairs = splits.get("validation", splits["train"]).first(self.config.scores.examples)
        return examples.fitted(pairs, self.whole)

    def resume(self, checkpoint: Checkpoint) -> Run:
        """The run that `host_part` and `array_part` were saved from.

        Raises:
          UserError: it was on another number of devices, and the budget is one of XLA's bytes.
        """
        host, count = checkpoint.host, self.steps.devices
        before = host["devices"]
        if self.by_xla and before != count:
            raise UserError(
                f"the run was on {before} devices, here it is {count}, which changes what fits"
                f" (memory.meter is 'xla'); go on with --config.devices={before}"
            )
        keeps = keeps_of(host["keeps"])
        network, state, earlier = self._network(host), checkpoint.state, ()
        if host["earlier"]:
            state, earlier = state
        self.budget.remember(network, host["looks"])
        score_chunk = host["score_chunk"]
        if not score_chunk and self.criterion is not None:  # a comparison's warm-up has none
            score_chunk = self.config.scores.examples
        return Run(
            epoch=checkpoint.epoch,
            batch=host["batch"],
            batch_in_use=self.in_shares(host["batch_in_use"]),
            chunk=host["chunk"],
            network=network,
            keeps=keeps,
            state=state,
            earlier=earlier,
            given=self.given(network, keeps, state),
            splits=self.splits(keeps),
            memory_kib=tuple(host["memory_kib"]),
            best=tuple(host["best"]),
            plan=host["plan"] and Plan.from_dict(host["plan"]),
            score_chunk=score_chunk,
        )

    def state_shapes(self, host: Mapping[str, Any]) -> Any:
        """The shapes and types of the `array_part` that belongs to a `host_part`.

        Raises:
          schema.Unfit: it lacks a field, as another version's may, or holds what this run cannot.
          UserError: it is of another model, data, loss or metrics.
        """
        schema.check(host, HOST)
        if host.get("made_of", "") != self.made_of:
            raise UserError(
                "the checkpoints there are of a run of another model, data, loss or metrics than"
                " those given now; give the same ones, or take another workdir"
            )
        network = self._network(host)
        state = abstract_state(network, self.config, self.tx)
        # Earlier variables stay on the host: a budget has room for the state alone.
        kept = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), state.evaluated[0]
        )
        return _with_earlier(state, (kept,) * host["earlier"])

    def given(self, network: Network, keeps: Keeps, state: TrainState) -> StepInputs:
        """What steps read beside the state, for a network of these units."""
        masks = jax.device_get(state.masks)
        prices = prices_of(network.groups, masks, self.config.penalty.convention)
        units, first = {}, 0
        for name, group in self.whole.groups.items():
            units[name] = jnp.asarray(first + keeps[name], jnp.int32)
            first += group.size
        lam, one = jnp.float32(self.config.penalty.lam), jnp.float32(1)
        streams = [stream(self.config.seed, name) for name in ("z", "input noise")]
        given = StepInputs(streams[0], lam, prices, units, streams[1], one, one, teaching=0 * one)
        if self.whole.model.draws:
            given = given._replace(draws=stream(self.config.seed, "draws"))
        if self.config.data.augmented:
            given = given._replace(
                input_moves=stream(self.config.seed, "input moves"),
                places=jnp.asarray(augmentation.input_places(self.whole, keeps)),
            )
        return given

    def _network(self, host: Mapping[str, Any]) -> Network:
        check_keeps(host["keeps"], self.whole.groups)
        keeps = keeps_of(host["keeps"])
        try:
            model = self.whole.model.rebuilt(host["spec"], keeps)
        except UserError as error:
            raise schema.Unfit(f"its spec: {error}") from None
        groups = self.whole.groups.shrunk(keeps)
        return dataclasses.replace(self.whole, model=model, groups=groups)

    def splits(self, keeps: Keeps) -> dict[str, Split]:
        """The data for arrays that hold these units."""
        return examples.cut(self.config, self.dataset.splits, self.whole, keeps, self.place)


def _check_task(config: Config, whole: Network) -> None:
    """Raises ConfigError for what the config asks for and this task has not."""
    if config.distillation.weight and whole.task.loss is not losses.cross_entropy:
        allowed = f"0 with the loss {whole.task.called!r}: outputs of classes are compared"
        raise ConfigError("distillation.weight", config.distillation.weight, allowed)
    example = whole.model.example
    floats = hasattr(example, "shape") and jnp.issubdtype(example.dtype, jnp.floating)
    for field in ("noise", "shift", "flip"):
        if getattr(config.data, field) and not floats:
            allowed = "its default: the inputs are not one array of real numbers"
            raise ConfigError(f"data.{field}", getattr(config.data, field), allowed)


def array_part(run: Run) -> Any:
    """What a checkpoint holds of a run's arrays: its state, and what there is of earlier epochs."""
    return _with_earlier(run.state, run.earlier)


def _with_earlier(state: TrainState, earlier: tuple) -> Any:
    return (state, earlier) if earlier else state


def host_part(run: Run, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint needs beside the arrays, as JSON holds it."""
    return {
        "batch": run.batch,
        "batch_in_use": run.batch_in_use,
        "chunk": run.chunk,
        "score_chunk": run.score_chunk,
        "devices": trainer.steps.devices,
        "earlier": len(run.earlier),
        "looks": trainer.budget.looks(run.network),
        "spec": run.network.model.to_dict(),
        "keeps": lists_of(run.keeps),
        "memory_kib": list(run.memory_kib),
        "best": list(run.best),
        "plan": run.plan and run.plan.to_dict(),
        "seed": trainer.config.seed,
        **({"made_of": trainer.made_of} if trainer.made_of else {}),
        "trials": trainer.programs.records.to_dict(),
        "compilations": trainer.programs.compilations,
        "compile_seconds": trainer.programs.seconds,
        "compile_waited": trainer.programs.waited,
    }
