"""Which layers rows are chosen from: by the norms of their gradients, found once for a track."""

from collections.abc import Mapping

import jax
import numpy as np

from dynhp_jax import finetune
from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune.methods.measured import measured_norms
from dynhp_jax.training.extension import EpochStart
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.run import examples
from dynhp_jax.training.run.trainer import Trainer

EXAMPLES, EPOCHS = 2_000, 1  # in which norms are found


def costs_of(network: Network) -> Mapping[str, finetune.Cost]:
    """Of all kernels."""
    example = batch_of(network.model.example, 2)
    return finetune.channel_costs(network.evaluate, network.model.shapes(), example)


def norms(trainer: Trainer) -> dict[str, list[float]]:
    """path -> norms of the rows' gradients in an epoch of full fine-tuning; see `measured_norms`.

    On training examples alone: held-out ones choose rates.

    Raises:
      UserError: the training diverges.
    """
    network, config = trainer.whole, trainer.config
    batch = config.batching.size
    seen = examples.fitted(trainer.dataset.splits["train"].first(EXAMPLES), network)
    start = EpochStart(
        1, batch, len(seen) // batch, jax.random.key(0), network.groups, {}, trainer.tx, {},
        network.evaluate, network.task.loss, seen,
    )  # fmt: skip
    found = measured_norms(network.given, start, costs_of(network), EPOCHS)
    if not all(np.isfinite(each).all() for each in found.values()):
        raise UserError(
            "layers cannot be ranked: full fine-tuning diverges with the learning rate"
            f" {config.optimizer.learning_rate:g}; were the weights trained long enough?"
        )
    return {path: each.round(9).tolist() for path, each in found.items()}


def measures(norms: Mapping[str, list[float]], network: Network) -> dict[str, float]:
    """path -> the layer's reweighted gradient norm, without the head; see `rank_layers`."""
    costs = costs_of(network)
    return {path: sum(norms[path]) / costs[path].row for path in list(costs)[:-1]}


def ranked(
    norms: Mapping[str, list[float]], network: Network, rule: str, budget: int
) -> tuple[str, ...]:
    """The kept layers, in the order of execution."""
    costs = costs_of(network)
    head = list(costs)[-1]
    rest = {path: each for path, each in norms.items() if path != head}
    best = finetune.rank_layers(rest, costs, rule, budget=budget if rule == "lara" else None)
    return tuple(path for path in costs if path in best)
