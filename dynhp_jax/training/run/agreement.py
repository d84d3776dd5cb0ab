"""What several processes that train one run have to have in common, bit for bit.

Each of them decides on the host which units are left, which batch is next and what is compiled; and
each has the whole state on its devices. Where they do not agree a run would go on with arrays of
several runs, or wait for ever.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
import numpy as np

from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.streamed import Streamed
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import resume
from dynhp_jax.training.run.epoch_results import Record
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import devices

# What a process says of itself alone.
_OF_A_RECORD = {"seconds", "compile_seconds", "compilations", "device_peak_kib"}
_OF_THE_HOST = {"compilations", "compile_seconds", "compile_waited", "trials"}
_OWN_PLACES = {"data.dir", "data.cache_dir", "compiling.cache_dir"}
_ALLOCATED = {"allocated", "allocated_kib"}  # may differ where nothing is decided by them


def check_inputs(config: Config, splits: Mapping[str, Pairs | Streamed]) -> None:
    """Looks, before any work, whether all processes were given the same.

    Args:
      config: of the run.
      splits: its data, as they were loaded.

    Raises:
      UserError: they were not; it names what differs. Or examples are read when they are needed,
        of which nobody knows whether all processes read the same.
    """
    if not processes.several():
        return
    for name, pairs in splits.items():
        if not isinstance(pairs, Pairs):
            raise UserError(
                f"{name} is read when it is needed; allowed where several processes train: arrays"
                " (those that are too large for a device stay on the host, see data.resident)"
            )
    here = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    values = configuration.flatten(config).items()
    asked = {f"config.{name}": value for name, value in values if name not in _OWN_PLACES}
    data = {
        f"data for {name}": digest((pairs.inputs, pairs.targets)) for name, pairs in splits.items()
    }
    processes.check_same("before training", here | asked | data)


def check_start(run: Run) -> None:
    """Looks whether all processes have the same run before them.

    Raises:
      UserError: they have not; it names what differs.
    """
    if processes.several():
        known = {"epochs done": run.epoch, "batch": run.batch_in_use, "network": digest(run.state)}
        processes.check_same("before training", known)


def decided(trainer: Trainer, run: Run, record: Record) -> dict[str, Any]:
    """What the host has made of an epoch; a few words, and the digest of all of it."""
    if not processes.several():
        return {}
    own = _OF_A_RECORD | (set() if trainer.steps.tried else _ALLOCATED)
    known = {name: value for name, value in record.items() if name not in own}
    kept = resume.host_part(run, trainer)
    everything = {name: value for name, value in kept.items() if name not in _OF_THE_HOST} | known
    return {
        "units": record["units"],
        "next_batch": record["next_batch"],
        "all numbers and plans": _hashed(json.dumps(everything, sort_keys=True).encode()),
    }


def digest(tree: Any) -> str:
    """Of the arrays of a tree, as they lie in this process."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        leaf = jax.random.key_data(leaf) if devices.is_key(leaf) else leaf
        if isinstance(leaf, jax.Array):
            leaf = leaf.addressable_data(0)
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def _hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
