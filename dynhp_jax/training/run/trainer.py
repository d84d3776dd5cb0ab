"""`Trainer`: what stays the same from epoch to epoch of a run."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.task_data import TaskData
from dynhp_jax.memory.paper import PaperMeter
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.tasks import losses
from dynhp_jax.training import build, criterion_check, extensions, first_look
from dynhp_jax.training.batch_rule import controller_of
from dynhp_jax.training.compiled import extension_bytes, extension_check, step_bytes
from dynhp_jax.training.compiled.budget import Budget
from dynhp_jax.training.compiled.example_order import InTurn, Order
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.scorer import Scorer
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.config import Config
from dynhp_jax.training.criterion import criterion_of
from dynhp_jax.training.extension import PLAIN, Extension
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import examples, gate_removal
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.step import augmentation, devices
from dynhp_jax.training.step.state import StepInputs, TrainState, copies, stream


class Trainer:
    """What stays the same from epoch to epoch.

    Args:
      config: the run.
      dataset: its data: a `data.loading.Dataset`, or `data.task_data.TaskData`.
      programs: where compiled programs are kept and counted; any runs may share them.
      criterion: that the method 'scores' prunes by, as an object; None for the one that the config
        names. Of a config that was read from a file only the library's own are taken.
      whole: the network; None for the one that the config names.
      tx: the optimizer of the parameters; None for the one that the config names.
      made_of: a digest of what was handed in and no config names, for checkpoints; '' for nothing.
      extension: the parts of the step that a method replaces; None for those that the config names.

    Attributes:
      extension: as given or named; that of `whole` takes no more bytes than it asks for.
      criterion: that units are pruned by; None with methods other than scores.
      scorer: by it and within the budget; None likewise.
      budget: of the run, and its steps, which are held to it.
      meter: by which the run counts memory.
      paper: the paper's arithmetic, which says how large a network is in any run.

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
        dataset: Dataset | TaskData,
        programs: Programs,
        criterion: Criterion | None = None,
        whole: Network | None = None,
        tx: optax.GradientTransformation | None = None,
        made_of: str = "",
        extension: Extension | None = None,
    ):
        augmentation.check(config, dataset.example_shape)
        self.dataset, self.programs = dataset, programs
        self.criterion = criterion_of(config, criterion)
        if whole is None:
            if "model.name" not in config.own:  # analysing it may take memory
                build.spec_of(config, dataset, copies(config))
            whole = build.network_of(config, dataset)
            named = config.own or config.start.weights  # what their files hold no config says
            made_of = build.digest(whole, dataset) if named else ""
        if extension is None:
            extension = extensions.named(config.extension, config.origin)
        first_look.check_extension(extension)
        self.extension = extension
        self.whole = whole = dataclasses.replace(whole, unbound=extension)
        self.made_of = made_of
        _check_task(config, whole)
        gate_removal.check(config, whole.groups)
        self.examples = len(dataset.splits["train"])
        batching = config.batching
        first = "batch.size" if config.batch.size or batching.rule != "fixed" else "memory.sp_batch"
        sizes = {first: batching.size, "memory.smallest": config.memory.smallest}
        for field, size in sizes.items():
            if size > self.examples:
                raise ConfigError(field, size, f"at most the {self.examples} training examples")
        counts = {name: len(pairs) for name, pairs in dataset.splits.items()}
        tx = build.optimizer_of(config) if tx is None else tx
        steps = Steps(config, whole, programs, counts, tx=tx)
        found = extension_bytes.fitted(steps, extension, whole, steps.in_shares(batching.size))
        if found is not whole:
            self.whole, steps = found, Steps(config, found, programs, counts, tx=tx)
        self.budget = Budget(steps)
        self.meter, self.whole_parameters = self.budget.meter, self.budget.parameters
        self.paper = PaperMeter(self.budget.example_bytes)
        self.config, self.tx = self.steps.config, self.steps.tx
        extension_check.check(self.steps)
        self.scorer = None
        if self.criterion is not None:
            self.scorer = Scorer(self.criterion, self.budget, config.scores.criterion)
        room = self.meter.room(self.whole_parameters)
        self.steps.check_parts(room, "the budget has room for so many examples")
        asked = config.batch.size
        if asked > room:
            allowed = f"at most {room}, for which memory.budget has room beside the whole network"
            raise ConfigError("batch.size", asked, f"{allowed}; or memory.budget='none'")
        self.controller = controller_of(config)

    @property
    def steps(self) -> Steps:
        """The compiled steps that the run executes."""
        return self.budget.steps

    def place(self, tree: Any) -> Any:
        """The arrays of a tree on every device of the run; those that are there stay."""
        return devices.place(tree, self.config.devices)

    @functools.cached_property
    def order(self) -> Order | InTurn:
        """How the epochs take the examples."""
        examples = self.dataset.splits["train"]
        if examples.in_turn:
            return InTurn(examples)
        room, source = None, stream(self.config.seed, "order")
        if self.budget.bytes is not None:
            room = self.budget.bytes - step_bytes.total(self._waiting(self.whole))
        return Order(source, self.examples, self.programs, room)

    def ordering_bytes(self, network: Network) -> Bytes:
        """Bytes of ordering the examples beside the state of a network, by part."""
        return self._waiting(network) | {"temporaries": self.order.temporaries}

    def _waiting(self, network: Network) -> Bytes:
        return step_bytes.waiting_bytes(self.steps.state_shapes(network))

    def announce(self, new: bool) -> None:
        """Says which programs the next epoch needs, of a new run or of one that goes on."""
        beginning = ["initial state"] if new else []
        self.programs.expect([*beginning, "order", *self.steps.names(self.whole)])

    def start(self) -> Run:
        """A run before its first epoch.

        Raises:
          ConfigError: the criterion cannot score the network, or not as early as it has to.
        """
        score_chunk = self.check_criterion()
        size, room = self.config.batching.size, self.meter.room(self.whole_parameters)
        network = self.whole
        batch, in_use = self.meter.fit(network, min(size, room))
        if self.config.batching.rule == "fixed" and in_use < size:
            warnings.warn(
                f"the memory budget has room for {in_use} examples, not for {size}", stacklevel=1
            )
        chunk = self.budget.chunk(network)
        names = ("params", "log_alpha", "extension")
        drawn, gates, own = (stream(self.config.seed, name) for name in names)
        program, parts = self.steps.starting(network)
        self.budget.check("the initial state", parts)
        first = drawn if network.given is None else network.given
        state = program(first, gates, () if network.unbound == PLAIN else own)
        everyone = {name: np.arange(group.size) for name, group in network.groups.items()}
        keeps = UnitKeeps(everyone, network.groups)
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

    def given(self, network: Network, keeps: UnitKeeps, state: TrainState) -> StepInputs:
        """What steps read beside the state, for a network of these units."""
        masks = jax.device_get(state.masks)
        prices = gate_removal.prices(self.config, network.groups, masks)
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

    def splits(self, keeps: UnitKeeps) -> dict[str, Split]:
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
