"""Dense networks of a pruned network's sizes: the comparison that the paper's tables lack.

A network that reads only some of the pixels trains on a data set of those pixels.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from dynhp_jax.data.loading import Dataset
from dynhp_jax.training.network import Network, whole_network
from dynhp_jax.training.run import shape_plans
from dynhp_jax.training.run.run import Keeps, Run
from dynhp_jax.training.run.trainer import Trainer


def of_pixels(dataset: Dataset, kept: Sequence[int]) -> Dataset:
    """The data set with flat examples that hold only these pixels, f32[examples, kept]."""
    pixels = math.prod(dataset.example_shape)

    def part(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), pixels)
        return np.ascontiguousarray(flat[:, np.asarray(kept)])

    return dataclasses.replace(
        dataset,
        x_train=part(dataset.x_train),
        x_validation=part(dataset.x_validation),
        x_test=part(dataset.x_test),
    )


def cuttable(run: Run) -> Network:
    """A dense run's network with every group that can be cut; the run itself gates none."""
    return whole_network(run.network.model, ())


def largest(run: Run, units: Mapping[str, int]) -> Keeps:
    """Of every group the units with the largest L2 norm of all weights and biases they hold.

    That is, of a hidden unit, its incoming weights, its bias and its outgoing weights; of a pixel
    its outgoing weights.

    Args:
      run: a dense run.
      units: how many of each group stay.
    """
    params = jax.device_get(run.state.variables["params"])
    groups = cuttable(run).groups.at("params")
    leaves = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    keeps = {}
    for name, group in groups.items():
        squares = np.zeros(group.size)
        for member in group.members:
            if member.path not in leaves:
                continue  # an input
            leaf = np.moveaxis(np.asarray(leaves[member.path], np.float64), member.axis, 0)
            by_position = np.square(leaf).reshape(len(leaf), -1).sum(1)
            squares += by_position[member.index].sum(1)
        order = np.argsort(-squares, kind="stable")  # the earlier one of two that are equal
        keeps[name] = np.sort(order[: units[name]])
    return keeps


def random(run: Run, units: Mapping[str, int], seed: int) -> Keeps:
    """As many units of every group, drawn at random; the same ones for the same seed."""
    generator = np.random.default_rng(seed)
    return {
        name: np.sort(generator.choice(group.size, units[name], replace=False))
        for name, group in cuttable(run).groups.items()
    }


def cut_run(trainer: Trainer, dense: Run, keeps: Keeps) -> Run:
    """A dense run that goes on with these units only, its optimizer's moments cut as well.

    Args:
      trainer: of a network of the sizes that `keeps` leaves.
      dense: where the whole network has come to.
      keeps: its surviving units, {group: sorted indices}.
    """
    _, state = shape_plans.resize(cuttable(dense), dense.state, trainer.tx, keeps)
    return dataclasses.replace(
        trainer.start(),
        epoch=dense.epoch,
        state=state,
        memory_kib=dense.memory_kib,
        best=dense.best,
    )
