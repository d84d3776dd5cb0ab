"""`plan`: how much can be trained inside a budget of bytes of the compiled step, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common import byte_sizes
from dynhp_jax.common.errors import ArgumentError, UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.compressed import HOW
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import Quota, draw
from dynhp_jax.finetune.planning import network, spending
from dynhp_jax.finetune.planning.bench import Bench
from dynhp_jax.finetune.planning.estimate import Estimate
from dynhp_jax.finetune.planning.search import Look, Search
from dynhp_jax.finetune.planning.setting import Setting, ladder
from dynhp_jax.finetune.planning.step import State, Step, Task
from dynhp_jax.finetune.rows import Rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, and the step that trains it.

    Attributes:
      quotas: path -> how many rows of each kernel are trained.
      layers: the kernels that rows are chosen from, in the order of execution.
      numbers: what the rows cost by the papers' count: `quotas(costs, layers, numbers)` are these.
      setting: how the step saves bytes.
      bytes: what the bytes of the step are spent on; they sum to `total`.
      budget: bytes.
      norm: of the gradient that is expected of rows that are drawn uniformly, as a share of the
        norm of all layers that rows may be chosen from.
      of: which norm, in words.
      looks: (what was compiled, its bytes), in order.
      step: the executable that was metered, `step(variables, state, rows, inputs, targets) ->
        (variables, state, loss)`; it writes over the variables and the state.
      function: the same as a pure function, to be compiled otherwise.
      options: what a method of `finetune.methods` takes to train the same.
    """

    quotas: Mapping[Path, Quota]
    layers: tuple[Path, ...]
    numbers: int
    setting: Setting
    bytes: Mapping[str, int]
    budget: int
    norm: float
    of: str
    looks: tuple[tuple[str, int], ...]
    step: jax.stages.Compiled = dataclasses.field(repr=False)
    function: Step = dataclasses.field(repr=False)
    options: Mapping[str, Any] = dataclasses.field(repr=False)
    factors: Any = dataclasses.field(repr=False)

    @property
    def total(self) -> int:
        """Bytes of the compiled step."""
        return sum(self.bytes.values())

    @property
    def temporaries(self) -> int:
        """Bytes of it beside its arguments."""
        return self.total - sum(self.bytes[name] for name in spending.ARGUMENTS)

    def draw(self, key: jax.Array, weights: Mapping[Path, Any] | None = None) -> dict[Path, Rows]:
        """Rows of the plan's quotas; see `finetune.draw`."""
        return draw(key, self.quotas, weights)

    def start(self, variables: Any, rows: Mapping[Path, Rows]) -> State:
        """The state before the first step; at a new choice `finetune.move` has its optimizer's."""
        optimizer = self.function.task.tx.init(self.function.task.trained(variables, rows))
        return State(optimizer, jax.tree.map(jnp.copy, self.factors))

    def __str__(self) -> str:
        rows = sum(quota.rows for quota in self.quotas.values())
        lines = [
            f"{rows} rows of {len(self.quotas)} kernels ({self.numbers} numbers), {self.setting}:"
            f" {self.norm:.1%} of {self.of}; {len(self.looks)} compilations",
        ]
        said = [*self.bytes.items(), ("all", self.total), ("budget", self.budget)]
        width = max(len(name) for name, _ in said)
        lines += [f"{name:{width}} {size / 1024:12,.1f} KiB" for name, size in said]
        return "\n".join(lines)


def plan(
    apply: Callable,
    variables: Any,
    inputs: Any,
    targets: Any,
    *,
    loss: Callable,
    budget: int | str,
    tx: optax.GradientTransformation | None = None,
    layers: Collection[Path] = (),
    head: Path = "",
    norms: Mapping[Path, Any] | None = None,
    bits: bool = True,
    remat: bool = True,
    chunks: Sequence[int] | None = None,
    parts: Sequence[int] = (4,),
    segments: Sequence[int] = (),
    epsilons: Sequence[float] = (),
    how: str = "asi",
    spare: float = 0.0,
    worth: float = 0.05,
    libraries: bool = True,
) -> Plan:
    """The step that trains most inside a budget of bytes, as they are counted of the compiled step.

    What a step trains is measured by the norm of the gradient that is expected of its rows, drawn
    uniformly. Candidates differ in depth (what lies below is frozen), in the number of rows (the
    same share of every layer) and in how they save bytes: bits, then what lies below in chunks,
    then parts of the mini-batch. A further saving is used only if it trains `worth` more. Bytes are
    XLA's, without the fusion of a CPU's convolutions, whose memory is in no count: arguments +
    outputs - aliased + temporaries; and what libraries take beside them.

    Compilations: mostly 2 or 3 at every setting that is tried and 5 at the most, one for norms
    where none are given and, if nothing fits, one for the least that does. With the defaults there
    are at most 3 settings, and what surely does not fit is not compiled.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      variables: pytree of arrays, or their shapes.
      inputs: of a mini-batch, likewise: an array, or a tuple of what `apply` takes.
      targets: of a mini-batch, likewise.
      loss: `loss(outputs, targets) -> f[]`, the mean over the examples.
      budget: bytes, as a number or a text like '4.5MiB'.
      tx: the optimizer; SGD without momentum by default.
      layers: paths of the kernels whose rows may be trained; () for all but the head's.
      head: below which path everything is trained whole; '' for the last kernel's layer.
      norms: path -> f[channels], norms of the gradient's rows; by default those of this
        mini-batch. Of shapes, and where the gradient is zero as below a head of zeros, all numbers
        of the kernels count alike.
      bits: whether ReLU, max-pool and the like keep bits.
      remat: whether the derivative of GELU, SiLU and the like is computed anew.
      chunks: how many examples may be in a part of what lies below, the largest first; by default
        an eighth of the mini-batch.
      parts: in how many equal parts a mini-batch may be trained on, the smallest number first.
      segments: in how many segments the step may be, each of which is computed anew in the backward
        pass, the smallest number first; that takes about a forward pass more.
      epsilons: shares of the energy of what is stored that may be kept, the largest first. Such a
        gradient is an approximation, so there are none by default; needs arrays.
      how: what is stored is decomposed then; see `compressed`.
      spare: how much more room for rows there is than rows are trained, as a share: for draws whose
        counts vary.
      worth: by how much more has to be trained for another saving or compilation.
      libraries: whether what a CPU's libraries take beside XLA's buffers counts. Where the text of
        a program says little of it (convolutions) the executable is run on zeros, once, in a
        process of its own. Without, a budget is of XLA's buffers, the same on all machines.

    Raises:
      UserError: the budget is too small (it says the smallest that works, and what that trains),
        there is no such kernel (the nearest are named), the model has nothing to select, or an
        option is not allowed.
    """
    if how not in HOW:
        raise UserError(f"how is {shown(how)}; allowed: {', '.join(map(repr, HOW))}")
    for name, share in (("spare", spare), ("worth", worth)):
        if not isinstance(share, (int, float)) or not 0 <= share < np.inf:
            raise UserError(f"{name} is {shown(share)}; allowed: shares, 0 or more")
    limit = _parsed(budget)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    costs = network.costs_of(apply, variables, inputs, layers)
    whole = network.head_of(variables, costs, head)
    kernels = {path: cost for path, cost in costs.items() if path in whole}
    tx = optax.sgd(0.1) if tx is None else tx
    task = Task(apply, variables, inputs, targets, loss, tx, whole, kernels)
    chosen = {path: costs[path] for path in costs if path in (layers or costs)}
    chosen = {path: cost for path, cost in chosen.items() if path not in whole}
    if not chosen:
        raise UserError(f"nothing is left to select beside the head {head or whole[0]!r}")
    settings = list(ladder(task.examples, bits, remat, chunks, parts, segments, epsilons))
    if epsilons and not network.concrete(task):
        raise UserError("epsilons need arrays to decompose; give variables and inputs, not shapes")
    if norms is None:
        norms, whose = network.norms_of(task, chosen)
    else:
        norms, whose = _checked(norms, chosen), network.GIVEN
    estimate = _estimate(task, costs, chosen, norms, spare)
    search = Search(estimate, Bench(task, estimate, how, libraries), limit, worth)
    found = search.best(settings)
    if found is None:
        raise _too_small(search, settings, limit)
    return _plan(search, found, limit, whose, {"head": head})


def _parsed(budget: int | str) -> int:
    try:
        return byte_sizes.parse_bytes(budget)
    except ArgumentError as error:
        raise UserError(f"budget is {shown(budget)}; allowed: {error.allowed}") from None


def _checked(norms: Mapping[Path, Any], chosen: Mapping[Path, Cost]) -> Mapping[Path, Any]:
    for path, cost in chosen.items():
        shape = np.shape(norms.get(path, ()))
        if path not in norms or shape[-1:] != (cost.channels,):
            raise UserError(
                f"the norms of {path!r} have shape {shape}; give one for each of its"
                f" {cost.channels} rows, of every kernel that may be trained"
            )
    return norms


def _estimate(
    task: Task,
    costs: Mapping[Path, Cost],
    chosen: Mapping[Path, Cost],
    norms: Mapping[Path, Any],
    spare: float,
) -> Estimate:
    gains = {path: float(np.square(np.asarray(norms[path], np.float64)).sum()) for path in chosen}
    arrays = jax.tree.leaves(jax.eval_shape(task.tx.init, jnp.zeros(2)))
    state = sum(leaf.shape == (2,) for leaf in arrays)
    known = spending.before_compiling(Step(task, {}, Setting()))
    return Estimate(
        costs,
        tuple(chosen),
        gains,
        examples=task.examples,
        fixed=sum(known.values()),
        batch=known["batch"],
        state=1 + state,
        itemsize=task.itemsize,
        spare=spare,
    )


def _plan(search: Search, found: Look, limit: int, whose: str, options: Mapping[str, Any]) -> Plan:
    candidate, made = found.candidate, found.made
    layers = search.estimate.layers[candidate.depth :]
    setting = candidate.setting
    return Plan(
        quotas=candidate.quotas,
        layers=layers,
        numbers=candidate.numbers,
        setting=setting,
        bytes=spending.spent(made.step, made.compiled, search.bench.tried),
        budget=limit,
        norm=search.estimate.share(candidate),
        of=whose,
        looks=tuple(search.tried()),
        step=made.compiled,
        function=made.step,
        options={
            **options, "budget": candidate.numbers, "layers": layers, "bits": setting.bits,
            "chunk": setting.chunk,
        },
        factors=made.factors,
    )  # fmt: skip


def _too_small(search: Search, settings: Sequence[Setting], limit: int) -> UserError:
    """Says the smallest budget that works, and what it buys."""
    for setting in settings[-2:]:
        search.least(setting)
    least = min(search.looks, key=lambda look: look.bytes)
    buys = search.estimate.said(least.candidate)
    return UserError(
        f"a budget of {byte_sizes.kib(limit)} is too small; the least that works is"
        f" {byte_sizes.kib(least.bytes, up=True)}, which trains the head and {buys}"
    )
