"""Controllers of the mini-batch size.

A controller is a frozen dataclass with one host-side function,
`update(batch, grad_variance, loss, room) -> batch`, called after an epoch's pruning: once, or with
`batch.every='step'` as often as the epoch had steps.
`grad_variance` is ||S||_1, the sum over all parameters of the per-example gradients' variance;
`loss` is F; `room` is the largest batch that the memory budget allows
(`memory.paper.PaperMeter.room`). A controller whose attribute `reads` names some of `READS` is
given these, too, by keyword.

Sources: Valerio et al. 2020, Eq. 8 to 10; Balles, Romero & Hennig 2017 (CABS); McCandlish et al.
2018 (the gradient noise scale, Eq. 2.8 and 2.9).
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from dynhp_jax.common.errors import ArgumentError

# What a rule may read beside the four arguments that all are given.
READS = ("squared_norm", "held")


class Controller(Protocol):
    """The interface of a batch-size rule."""

    def update(self, batch: int, grad_variance: float, loss: float, room: int) -> int:
        """The batch to go on with, at least 1 and at most `room`."""


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Keeps the batch; only a budget too small for it makes it smaller."""

    def update(self, batch: int, grad_variance: float, loss: float, room: int) -> int:
        """See `Controller`. Raises ValueError for inputs that are no sizes or not finite."""
        _check(batch, grad_variance, loss, room)
        return _within(batch, batch, room)


@dataclasses.dataclass(frozen=True)
class DynHP:
    """The rule of Valerio et al.: grow by floor((1 - alpha) ||S||_1 / F), up to the budget.

    The batch never shrinks unless the budget forces it to. It does not grow at all while the ratio
    ||S||_1 / F is below 1 / (1 - alpha), because of the floor; what alpha suits depends on the
    model, the loss and the parametrisation (`calibrate_alpha`).

    Eq. 10 caps the batch at b + (C - N), mixing examples and bytes; here the cap is `room`, the
    number of examples that fit into the bytes the network leaves, which is the same rule when the
    printed N includes the present batch.

    >>> DynHP(alpha=0.75).update(batch=16, grad_variance=40.0, loss=1.0, room=512)
    26
    >>> DynHP(alpha=0.75).update(batch=16, grad_variance=40.0, loss=1.0, room=20)
    20

    Args:
      alpha: the paper's smoothing parameter, in [0, 1]; 1 never grows.
    """

    alpha: float

    def __post_init__(self):
        _check_alpha(self.alpha)

    def update(self, batch: int, grad_variance: float, loss: float, room: int) -> int:
        """See `Controller`. A loss of exactly 0 counts as an infinite ratio (no variance: as 0).

        Raises:
          ValueError: a negative or non-finite input, a batch or room below 1.
        """
        _check(batch, grad_variance, loss, room)
        if self.alpha == 1:  # also where the ratio is infinite
            return _within(batch, batch, room)
        growth = (1 - self.alpha) * _ratio(grad_variance, loss)
        # Compared before the floor: an infinite growth has none, and room is all that can be had.
        wanted = room if growth >= room else batch + math.floor(growth)
        return _within(wanted, batch, room)


@dataclasses.dataclass(frozen=True)
class CABS:
    """Balles et al.: the batch is round(eta ||S||_1 / F), clipped; it may shrink.

    Args:
      eta: the learning rate, above 0.
      low: smallest batch.
      high: largest batch.
    """

    eta: float
    low: int = 16
    high: int = 2048

    def __post_init__(self):
        if not 0 < self.eta < math.inf:
            raise ArgumentError("eta", self.eta, "a number above 0")
        if not 1 <= self.low <= self.high:
            raise ArgumentError("low", self.low, f"an integer from 1 to high ({self.high})")

    def update(self, batch: int, grad_variance: float, loss: float, room: int) -> int:
        """See `Controller`; raises as `DynHP.update`. The budget goes before `low`."""
        _check(batch, grad_variance, loss, room)
        wanted = min(max(self.eta * _ratio(grad_variance, loss), self.low), self.high)
        return _within(round(wanted), batch, room)


@dataclasses.dataclass(frozen=True)
class Doubling:
    """Twice the batch in every epoch, as long as there is room for it: a schedule, not a rule.

    Smith et al. 2018 let the batch grow in the place of a learning rate that falls. It is what the
    rules that look at gradients have to beat.
    """

    def update(self, batch: int, grad_variance: float, loss: float, room: int) -> int:
        """See `Controller`. Raises ValueError for inputs that are no sizes or not finite."""
        _check(batch, grad_variance, loss, room)
        return _within(batch if 2 * batch > room else 2 * batch, batch, room)


@dataclasses.dataclass(frozen=True)
class Worth:
    """The batch that makes the most progress for each second and each byte that are spent on it.

    The printed rule asks how noisy gradients are; it does not ask what a byte is worth. A step with
    b examples makes b / (b + B) of the progress of one with all examples, where B = tr S / |g|^2 is
    the gradient noise scale (McCandlish et al. 2018, Eq. 2.8). It takes the time of `overhead` + b
    examples: reading and writing the parameters costs as much as so many. For this time the bytes
    of the network and of b examples are held, those of the network being as many as `held`
    examples have. So the rule takes the b that makes

        b / (b + B) / ((overhead + b) (held + b))

    the largest. A wide network makes a large batch cheap beside it; where gradients are noise
    alone (B very large), b comes to sqrt(overhead held), and bytes beyond it stay free. Candidates
    are the present batch times powers of two, of which few get compiled; it never shrinks unless
    the budget forces it to.

    >>> rule = Worth(overhead=25)
    >>> rule.update(16, grad_variance=3.0, loss=1.0, room=512, squared_norm=0.21, held=340)
    64
    >>> rule.update(16, grad_variance=0.1, loss=1.0, room=512, squared_norm=0.21, held=340)
    16

    Args:
      overhead: examples whose forward and backward pass takes as long as all of a step that does
        not depend on the number of its examples.
    """

    overhead: float = 32.0
    reads: ClassVar[tuple[str, ...]] = READS

    def __post_init__(self):
        if not 0 < self.overhead < math.inf:
            raise ArgumentError("overhead", self.overhead, "a number above 0")

    def update(
        self,
        batch: int,
        grad_variance: float,
        loss: float,
        room: int,
        squared_norm: float,
        held: float,
    ) -> int:
        """See `Controller`.

        Args:
          batch, grad_variance, loss, room: as of every rule.
          squared_norm: of the mean gradient of a mini-batch, |g_b|^2, on average over mini-batches.
          held: bytes of the network, in examples.

        Raises:
          ValueError: a negative or non-finite input, a batch or room below 1.
        """
        _check(batch, grad_variance, loss, room, squared_norm=squared_norm, held=held)
        trace = grad_variance * batch / (batch - 1) if batch > 1 else grad_variance  # tr S
        # E |g_b|^2 = |g|^2 + tr S / b; a negative difference is noise of the estimate.
        signal = max(0.0, squared_norm - trace / batch)

        def worth(b: int) -> float:
            left = signal * b + trace  # |g|^2 (b + B)
            return b / left / ((self.overhead + b) * (held + b)) if left else -b

        octaves = max(0, (max(room, batch) // batch).bit_length() - 1)
        return _within(max((batch << k for k in range(octaves + 1)), key=worth), batch, room)


# A new rule: its class, and its line here; from the options of the section `batch`.
RULES: dict[str, Callable[[Any], Controller]] = {
    "fixed": lambda options: Fixed(),
    "dynhp": lambda options: DynHP(options.alpha),
    "cabs": lambda options: CABS(options.eta),
    "doubling": lambda options: Doubling(),
    "worth": lambda options: Worth(options.overhead),
}


def calibrate_alpha(ratios: Sequence[float], start: int, target: int) -> float:
    """Proposes alpha: the largest for which DynHP's rule takes the batch from start to target.

    The published values (0.971 to 0.989) belong to the authors' loss scale. Run some epochs with
    `Fixed`, collect ||S||_1 / F once per epoch, and read off the alpha that would have
    brought the batch to `target` within those epochs; a larger one spends less memory.

    >>> calibrate_alpha([80.0, 120.0, 160.0], start=16, target=106)
    0.75

    Args:
      ratios: observed ||S||_1 / F, one per epoch, in any order.
      start: batch at the first epoch.
      target: batch to be reached after the last one.

    Returns:
      alpha in [0, 1], rounded down to six decimals.

    Raises:
      ValueError: ratios that are negative or not finite; a target not above start; a target that
        even alpha = 0 does not reach.
    """
    if not all(0 <= ratio < math.inf for ratio in ratios):
        raise ValueError("ratios hold a negative or non-finite number; drop those epochs")
    if not 1 <= start < target:
        raise ValueError(f"target {target} must be above start {start}, and start at least 1")

    def reached(millionths: int) -> int:
        alpha = millionths / 1e6
        return start + sum(math.floor((1 - alpha) * ratio) for ratio in ratios)

    if reached(0) < target:
        raise ValueError(
            f"these {len(ratios)} epochs take the batch to {reached(0)} at most (alpha = 0), not "
            f"to {target}; observe more epochs or lower the target"
        )
    low, high = 0, 10**6 + 1  # reached(low) >= target > reached(high), and reached falls with alpha
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) >= target else (low, middle)
    return low / 1e6


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ArgumentError("alpha", alpha, "a number from 0 to 1")


def reads(controller: Controller) -> tuple[str, ...]:
    """Which of `READS` a rule is given.

    Raises:
      ArgumentError: it names others.
    """
    names = tuple(getattr(controller, "reads", ()))
    if set(names) - set(READS):
        raise ArgumentError("reads", names, f"of a batch rule, some of {', '.join(READS)}")
    return names


def _check(batch: int, grad_variance: float, loss: float, room: int, **more: float) -> None:
    for name, value in {"grad_variance": grad_variance, "loss": loss, **more}.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{name} is {value}; the batch rule needs a finite number that is 0 or above"
            )
    for name, value in (("batch", batch), ("room", room)):
        if not value >= 1:
            raise ValueError(f"{name} is {value}; at least one example must fit")


def _ratio(grad_variance: float, loss: float) -> float:
    # float(): a float32 scalar from the device would pull the whole rule down to float32.
    grad_variance, loss = float(grad_variance), float(loss)
    if loss == 0:
        return math.inf if grad_variance > 0 else 0.0
    return grad_variance / loss


def _within(wanted: int, batch: int, room: int) -> int:
    if room < batch:
        warnings.warn(
            f"the memory budget has room for {room} examples; the batch shrinks from {batch}",
            stacklevel=3,
        )
    return min(wanted, room)
