"""The parts of a training step that a method may replace: a base class with the engine's own parts.

A method of training that the engine does not know is one class in one file: it derives from
`Extension` and overrides what it does otherwise. It comes into a run by `dp.fit(extension=...)` or,
named `module:Class(option=value)`, by `config.extension`; gates, pruning, the growing mini-batch,
the byte budget, resuming and records go on as they are. In the order of a run:

| part | asks | without an extension |
| --- | --- | --- |
| `within` | which of its like takes the bytes that it asks for? | itself |
| `bound` | what follows from the sizes of a model? | nothing |
| `start` | what is kept beside the state? | nothing |
| `begin_epoch` | what does the host decide before an epoch? | nothing |
| `decided` | which sizes of what is kept did it decide? | none |
| `foreseen` | which sizes will it decide before the epoch after that? | it is not known |
| `sized` | what follows from these? | nothing |
| `trained` | which arrays are differentiated, and have optimizer state? | all parameters |
| `forward` | what does the model compute in training? | itself |
| `passed_on` | what goes from one micro-batch to the next? | nothing |
| `gradients` | what becomes of gradients before the optimizer has them? | they stay |
| `updated` | what does an update change? | the parameters |
| `observe` | what is kept of a step? | what was kept before it |
| `evaluated` | which variables are evaluated, and handed over in the end? | the parameters |
| `evaluation` | what does the model compute in evaluation? | itself |
| `averaged` | what of the kept arrays is in a mean of the weights? | nothing |
| `cut` | what is left of the kept arrays when units are pruned? | what mirrors parameters is cut |
| `record` | what do records say of it? | nothing |

The arrays that an extension keeps are in checkpoints and, as 'statistics', in the metered bytes.
Its steps are metered as they are compiled. It is a frozen dataclass of plain numbers and texts, so
that programs that were compiled for one serve another that is equal to it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from dynhp_jax.data.pairs import Pairs
from dynhp_jax.structure.groups import Groups

Array = jax.Array
Variables = dict[str, Any]
Decided = tuple[tuple[str, tuple[int, ...]], ...]  # (name, numbers), as a checkpoint holds them


class EpochStart(NamedTuple):
    """What an extension may look at before an epoch.

    Attributes:
      epoch: the one that begins, from 1.
      batch: examples of its mini-batches.
      steps: mini-batches of the epoch.
      key: key<fry>[], the epoch's own: a resumed run has the same.
      groups: of units, in the arrays as they are now.
      masks: {group: f32[units]}, 0 for pruned units that are still in the arrays.
      tx: the optimizer, over {'params': `trained`, 'gates': ...}.
      gates: {group: log_alpha f32[units]}.
      apply: the model in evaluation, without gates, `apply(variables, inputs) -> outputs`.
      loss: the task's, `loss(outputs, targets) -> f32[batch]`.
      examples: `inputs` and `targets` on the host, up to `scores.examples`: held-out ones where
        there are any, or of the training set.
      parts: equal parts of a mini-batch that are in memory one after the other.
    """

    epoch: int
    batch: int
    steps: int
    key: Array
    groups: Groups
    masks: Mapping[str, Array]
    tx: optax.GradientTransformation
    gates: Mapping[str, Array]
    apply: Callable
    loss: Callable
    examples: Pairs
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class Extension:
    """The engine's own parts; derive from it and override some.

    `own` stands everywhere for the pytree of arrays that `start` made, `()` without one. All but
    `begin_epoch`, `decided`, `sized`, `cut` and `record` are traced.
    """

    def within(
        self,
        apply: Callable,
        shapes: Variables,
        inputs: Any,
        measure: Callable[["Extension"], int],
    ) -> "Extension":
        """The extension with which a training step takes no more bytes than it asks for.

        Asked before the run, of the whole model, and again of the smaller one whenever units were
        pruned for good: what they took may be asked for. Only fields that hold numbers may differ.

        Args:
          apply, shapes, inputs: as in `bound`.
          measure: an extension -> bytes of the training step with it; costs a compilation.
        """
        return self

    def bound(self, apply: Callable, shapes: Variables, inputs: Any) -> "Extension":
        """The extension for a model of some sizes; all other parts are asked of what this returns.

        It is called again when units were pruned, and has to give the same for the same sizes.

        Args:
          apply: the model in evaluation, `apply(variables, inputs) -> outputs`.
          shapes: of its variables.
          inputs: shapes of two examples' inputs.
        """
        return self

    def start(self, variables: Variables, key: Array) -> Any:
        """What is kept beside the state, before the first epoch: a pytree of arrays; traced.

        Args:
          variables: of the model, {'params': ..., and maybe other collections}.
          key: of the stream 'extension'.
        """
        return ()

    def begin_epoch(self, own: Any, opt_state: Any, variables: Variables, start: EpochStart):
        """(own, opt_state) for the next epoch, decided on the host.

        The arrays keep their shapes, unless `decided` says which others they have: of every
        decision the programs are compiled once.

        Args:
          own: as the last epoch left it.
          opt_state: of optax, over {'params': `trained`, 'gates': ...}.
          variables: of the model.
          start: of the epoch.
        """
        return own, opt_state

    def decided(self, own: Any) -> Decided:
        """Which sizes of `own` were decided in the run, and do not follow from the model's; ().

        Args:
          own: as `begin_epoch` gives it.
        """
        return ()

    def foreseen(self, own: Any, key: Array, epoch: int) -> Decided | None:
        """What `decided` will say after the `begin_epoch` of a later epoch; None if nobody knows.

        Its program is compiled while the epoch before is trained. A forecast that is wrong costs a
        compilation and nothing else.

        Args:
          own: before the epoch that is trained meanwhile.
          key: as `EpochStart` will have it.
          epoch: the later one.
        """
        return None

    def sized(self, decided: Decided) -> "Extension":
        """The extension with what follows from such a decision; asked of the bound one.

        All other parts are asked of what this returns: `start` then tells the shapes of `own`.
        """
        return self

    def trained(self, variables: Variables, own: Any) -> Any:
        """The arrays that are differentiated, and for which the optimizer keeps its state.

        A pytree; 'params' of the variables unless overridden. Where it is overridden, `forward` and
        `updated` have to be, too: they alone know what it stands for.
        """
        return variables["params"]

    def forward(self, apply: Callable) -> Callable:
        """`f(variables, trained, own, *rest)`: in training, instead of `apply(variables, *rest)`.

        Args:
          apply: the model with gates and probes around it, `apply(variables, *rest) -> (outputs,
            updates)`; the rest are gates, inputs and keys, in an order that `f` need not know.
            Transforms of the library (`finetune.selected`) go around it as around the model. What
            `f` adds to the updates reaches `updated` among the variables.
        """

        def f(variables: Variables, trained: Any, own: Any, *rest: Any) -> Any:
            return apply({**variables, "params": trained}, *rest)

        return f

    def passed_on(self, own: Any) -> Variables:
        """What `forward` adds to the updates, before the first micro-batch of a step.

        The micro-batches after it find what the one before has added among their variables.
        """
        return {}

    def gradients(self, gradients: Any, own: Any) -> Any:
        """What the optimizer gets of the gradients, a tree like `trained`."""
        return gradients

    def updated(
        self, variables: Variables, own: Any, trained: Any, change: Any
    ) -> tuple[Variables, Any]:
        """(variables, own) after an update.

        Args:
          variables, own: before.
          trained: from `trained`, before.
          change: what the optimizer adds to it, a tree like it.
        """
        return {**variables, "params": optax.apply_updates(trained, change)}, own

    def observe(self, own: Any, gradients: Any) -> Any:
        """What is kept after a step.

        Args:
          own: after `updated`.
          gradients: with respect to `trained`, before `gradients` saw them.
        """
        return own

    def evaluated(self, variables: Variables, own: Any) -> Variables:
        """The variables for which the model by itself computes what was trained."""
        return variables

    def evaluation(self, apply: Callable) -> Callable:
        """`f(variables, own, *rest)`: in evaluation, instead of `apply(variables, *rest)`.

        Override it only where no variables do (`evaluated`).
        """

        def f(variables: Variables, own: Any, *rest: Any) -> Any:
            return apply(self.evaluated(variables, own), *rest)

        return f

    def averaged(self, own: Any) -> Any:
        """A mapping of what of `own` is in the mean of the weights (`optimizer.ema`), by its name.

        In evaluation the means stand in its place. `cut` has to take it, too.
        """
        return {}

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> Any:
        """What is left of `own` when units are pruned for good; asked of the smaller model's.

        Args:
          own: before.
          mirrored: cuts the leaves of a tree that lie where a variable does ('params/Dense_0/bias')
            as that variable is cut, and leaves all others alone.
        """
        return mirrored(own)

    def record(self, own: Any) -> dict[str, float]:
        """What the record of an epoch says of it, by name; `own` is on the host."""
        return {}


PLAIN = Extension()


def reads_own(extension: Extension) -> bool:
    """Whether an evaluation reads what the extension keeps."""
    kind = type(extension)
    return kind.evaluation is not Extension.evaluation or kind.evaluated is not Extension.evaluated


def has_variables(extension: Extension) -> bool:
    """Whether the model by itself, with the variables `evaluated`, is what was trained."""
    return type(extension).evaluation is Extension.evaluation


def replaces_trained(extension: Extension) -> bool:
    """Whether something else than the parameters is differentiated."""
    return type(extension).trained is not Extension.trained
