"""What of one's own does not fit together, found by shapes alone, before anything is trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import guarded
from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.tasks import losses
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.extension import Extension
from dynhp_jax.training.network import batch_of
from dynhp_jax.training.own_model import Source

FEW = 3  # examples


def check_model(source: Source) -> Any:
    """The shapes of a model's outputs for a few examples.

    Raises:
      UserError: a parameter is no real number, or the model fails on these inputs; the message has
        what it raised.
    """
    params = source.variables["params"]
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise UserError(
                f"the parameter {path!r} is {jnp.result_type(leaf)}{list(np.shape(leaf))}; allowed:"
                " real numbers, such as float32; what is not trained can be in a collection beside"
                " 'params'"
            )
    with guarded("the model"):
        return jax.eval_shape(
            source.functions.evaluate, source.shapes, batch_of(source.example, FEW)
        )


def check_task(task: Task, outputs: Any, target: Any) -> None:
    """Whether loss and metrics take the outputs and targets, and give a number for each example.

    Args:
      task: of the run.
      outputs: shapes, from `check_model`.
      target: shapes of one example's targets.

    Raises:
      UserError: they do not.
    """
    targets = batch_of(target, FEW)
    parts = {f"the loss {task.called!r}": task.loss}
    parts |= {f"the metric {name!r}": metric.values for name, metric in task.reported}
    for whose, function in parts.items():
        with guarded(whose):
            found = jax.eval_shape(function, outputs, targets)
        shape = getattr(found, "shape", None)
        right = shape == (FEW,) if function is task.loss else shape and shape[0] == FEW
        if not right:
            raise UserError(
                f"{whose} gives {losses.shapes(found)} for {FEW} examples; allowed: [batch], one"
                " number for each; leave out the mean over the examples"
            )


def check_labels(task: Task, outputs: Any, name: str, targets: Any, rows: Any = None) -> None:
    """Whether targets are classes, where the loss is one of the cross-entropies.

    Args:
      task: of the run.
      outputs: shapes, from `check_model`.
      name: of the split.
      targets: of its examples.
      rows: their numbers, where they are not all that there are.

    Raises:
      UserError: one is no class.
    """
    if task.loss not in (losses.cross_entropy, losses.masked_cross_entropy):
        return
    classes, low, high = outputs.shape[-1], int(targets.min()), int(targets.max())
    least = 0 if task.loss is losses.cross_entropy else low
    if least <= low and high < classes:
        return
    said = f"the targets of {name} run from {low} to {high}"
    if rows is not None:
        wrong = (targets < least) | (targets >= classes)
        place = int(np.argmax(wrong.reshape(len(wrong), -1).any(1)))
        value = targets[place][wrong[place]].flat[0]
        said = f"example {int(rows[place])} of {name} has the target {int(value)}"
    raise UserError(
        f"{said}; allowed: {least} to {classes - 1}, as the model has {classes} outputs for each"
    )


def check_extension(extension: Extension) -> None:
    """Raises UserError unless this is an extension that programs can be compiled for."""
    if not isinstance(extension, Extension):
        raise UserError(
            f"the extension is a {type(extension).__name__}; allowed: an object of a class that"
            " derives from dp.Extension"
        )
    try:
        hash(extension)
    except TypeError as error:
        raise UserError(
            f"{type(extension).__name__} cannot be hashed ({error}); allowed: a frozen dataclass of"
            " plain numbers, texts and tuples"
        ) from None


def check_optimizer(tx: Any, called: str, hint: str = "") -> None:
    """Raises UserError unless this is an optax transformation; `hint` ends the message."""
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise UserError(
            f"{called} is a {type(tx).__name__}; allowed: an optax transformation, with init and"
            f" update{hint}"
        )
