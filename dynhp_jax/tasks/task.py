"""What a run is trained and judged by."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks import losses, metrics
from dynhp_jax.tasks.metrics import Metric


@dataclasses.dataclass(frozen=True)
class Task:
    """A loss and what is reported beside it; hashable, as programs are compiled for it.

    Attributes:
      loss: `loss(outputs, targets) -> f32[batch]`.
      called: what records call the loss.
      reported: (name, metric), in the order in which they are shown.
      best: the name by which the best epoch is chosen, one of `reported` or `called`.
      classes: of a classification whose confusion matrix is counted; 0 for none.
    """

    loss: Callable[[Any, Any], jax.Array] = losses.cross_entropy
    called: str = "cross_entropy"
    reported: tuple[tuple[str, Metric], ...] = (("error", metrics.ERROR),)
    best: str = "error"
    classes: int = 0

    @property
    def metrics(self) -> dict[str, Metric]:
        """By name."""
        return dict(self.reported)

    def sums(self, outputs: Any, targets: Any, weight: jax.Array | None) -> dict[str, jax.Array]:
        """What the metrics sum up over the examples that count; see `Metric.sums`."""
        return {name: metric.sums(outputs, targets, weight) for name, metric in self.reported}

    def results(self, sums: Mapping[str, Any], examples: int) -> dict[str, float]:
        """The metrics, from sums over so many examples."""
        return {name: metric.result(sums[name], examples) for name, metric in self.reported}

    @property
    def higher(self) -> bool:
        """Whether a higher value of what is best is better."""
        return self.best != self.called and self.metrics[self.best].higher

    @property
    def unit(self) -> str:
        """Of what is best."""
        return "" if self.best == self.called else self.metrics[self.best].unit

    def cost(self, results: Mapping[str, Any]) -> float:
        """What is best as a number of which less is better.

        Args:
          results: of an evaluation, by name.
        """
        found = results[self.best]
        return -found if self.higher else found

    def value(self, cost: float) -> float:
        """What is best, from its `cost`."""
        return -cost if self.higher else cost


def task_of(
    loss: str | Callable[[Any, Any], jax.Array],
    reported: Mapping[str, Any] | None = None,
    best: str = "",
    classes: int = 0,
) -> Task:
    """A task from what a person gives.

    Args:
      loss: a function, or a name of LOSSES.
      reported: {name: metric}, see `metrics.of_names`; None for what is usual with the loss.
      best: by which the best epoch is chosen; '' for the first metric, or the loss without any.
      classes: of a classification whose confusion matrix is counted; 0 for none.

    Raises:
      UserError: a name that is none, or a metric that cannot be one.

    >>> task_of("mean_squared_error").best
    'root_squared_error'
    """
    called = loss if isinstance(loss, str) else getattr(loss, "__name__", "loss").strip("<>")
    if isinstance(loss, str):
        if loss not in losses.LOSSES:
            raise UserError(f"there is no loss {loss!r}; allowed: {', '.join(losses.LOSSES)}")
        loss = losses.LOSSES[loss]
    if not callable(loss):
        raise UserError(
            f"the loss is {loss!r}; allowed: a function (outputs, targets) -> [batch], or one of"
            f" {', '.join(losses.LOSSES)}"
        )
    if reported is None:
        known = next((name for name, each in losses.LOSSES.items() if each is loss), called)
        reported = {name: metrics.METRICS[name] for name in metrics.USUAL.get(known, ())}
        called = known
    found = metrics.of_names(reported)
    best = best or next(iter(found), called)
    if best not in (*found, called):
        allowed = ", ".join((*found, called))
        raise UserError(f"what is best is {best!r}; allowed: one of {allowed}")
    return Task(loss, called, tuple(found.items()), best, classes)
