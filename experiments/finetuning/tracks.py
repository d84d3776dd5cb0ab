"""The two tracks of the comparison, and what all runs of one call share."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.common.disk import write_json
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training import build
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run.trainer import Trainer
from experiments import result_files
from experiments.finetuning import layers, step
from experiments.finetuning.rows import KERNELS, ROWS, Row

# Of each track: its config, and the rates that are tried.
CONFIGS = {"A": "configs/finetune_cifar10.py", "B": "configs/finetune_mbv2.py"}
RATES = (0.0125, 0.05, 0.125, 0.25)
OTHER = {"name": "fashion_mnist", "channels": 3}  # data on which layers are ranked, too
SHOWN = 500  # test examples that records are about; the whole test set is for the end
_TRIES = 8  # knobs that are compiled to fit a row into a budget
_CLOSE = 0.04  # share of what a budget allows above the floor that may be left over
_SIZES = schema.mapping_of(schema.ANY)


@dataclasses.dataclass(frozen=True)
class Size:
    """What a row is in a budget.

    Attributes:
      knob: the number in its text; 0 where it has none.
      bytes: of its step, by part; see `step.bytes_of`.
      fits: whether it is inside the budget; where it is not, this is its least.
    """

    knob: int
    bytes: Mapping[str, int]
    fits: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """What all runs of one call share.

    Attributes:
      track: 'A' or 'B'.
      base: the config of the track, with weights to start from.
      workdirs: under which every run has its workdir.
      results: where the result files go.
      now: commit, versions and machine of what is run.
    """

    track: str
    base: Config
    workdirs: Path
    results: Path
    now: Mapping[str, Any]

    @functools.cached_property
    def whole_data(self) -> Dataset:
        """With the whole test set."""
        return build.classes_of(self.base)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """With the few test examples that the records of epochs are about."""
        data = self.whole_data
        return dataclasses.replace(data, x_test=data.x_test[:SHOWN], y_test=data.y_test[:SHOWN])

    def config(
        self,
        extension: str,
        seed: int = 0,
        rate: float = 0.05,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Config:
        """Of a run."""
        optimizer = dataclasses.replace(self.base.optimizer, learning_rate=rate)
        config = dataclasses.replace(self.base, seed=seed, optimizer=optimizer)
        for name, value in changes.items():
            section, field = name.split(".")
            value = value.format(rate=rate) if isinstance(value, str) else value
            changed = dataclasses.replace(getattr(config, section), **{field: value})
            config = dataclasses.replace(config, **{section: changed})
        return dataclasses.replace(config, extension=extension)

    def trainer(self, extension: str, changes: Mapping[str, Any] = MappingProxyType({})) -> Trainer:
        """Of a run that is metered, not run."""
        return Trainer(self.config(extension, changes=changes), self.dataset, Programs())

    # -- what is found once, and kept beside the results -------------------------------------------

    def kept(self, name: str, find: Callable[[], Any]) -> Any:
        """What an earlier call found and kept under a name, else what is found now."""
        file = self.results / "sizes.json"
        known = result_files.read(file, _SIZES) or {}
        if name not in known:
            found = find()
            known = (result_files.read(file, _SIZES) or {}) | {name: found}
            self.results.mkdir(parents=True, exist_ok=True)
            write_json(file, known)
            print(f"   {name}: {json.dumps(found)[:160]}", flush=True)
        return known[name]

    @functools.cached_property
    def floor(self) -> int:
        """Temporaries of the forward pass alone."""
        return self.kept("floor", lambda: step.forward_bytes(self.trainer("head()")))

    def measured(self, row: Row, knob: int) -> dict[str, int]:
        """Bytes of a row's step."""
        extension = self.text(row, knob)
        return self.kept(
            f"{row.name} {knob}" if row.fitted else row.name,
            lambda: _metered(self.trainer(extension, row.changes)),
        )

    def text(self, row: Row, knob: int) -> str:
        """The extension of a row."""
        return row.text(knob, self.layers(row, knob))

    def layers(self, row: Row, knob: int) -> tuple[str, ...]:
        """The layers that it keeps."""
        if not row.ranked:
            return ()
        return layers.ranked(self.norms, self.trainer("head()").whole, row.ranked, knob)

    @functools.cached_property
    def norms(self) -> Mapping[str, list[float]]:
        """Of the rows' gradients in an epoch of full fine-tuning; see `layers.norms`."""
        config = self.config("full()", rate=RATES[0])
        return self.kept("norms", lambda: layers.norms(Trainer(config, self.dataset, Programs())))

    def layer_measures(self) -> dict[str, dict[str, float]]:
        """task -> path -> what layers are ranked by, on the task of the track and on another."""
        config = self.config("full()", rate=RATES[0])
        data = dataclasses.replace(config.data, classes=(), **OTHER)
        data = dataclasses.replace(data, size=data.size or 32)
        elsewhere = dataclasses.replace(config, data=data)

        def find() -> dict[str, list[float]]:
            return layers.norms(Trainer(elsewhere, build.classes_of(elsewhere), Programs()))

        network = self.trainer("head()").whole
        norms = {config.data.name: self.norms, data.name: self.kept(f"norms of {data.name}", find)}
        return {task: layers.measures(each, network) for task, each in norms.items()}

    def limit(self, budget: float) -> int:
        """Temporaries that a budget allows: the floor and a share of what full takes above it."""
        full = self.measured(ROWS["full"], 0)["temporaries"]
        return int(self.floor + budget * (full - self.floor))

    def size(self, row: Row, budget: float | None) -> Size:
        """The largest that a row may be in a budget; its own where it has no knob."""
        if not row.fitted:
            return Size(0, self.measured(row, 0), True)
        if row.sized_as:
            of = self.size(ROWS[row.sized_as], budget)
            return dataclasses.replace(of, bytes=self.measured(row, of.knob))
        limit = self.limit(budget)
        knob, fits = largest(
            lambda knob: self.measured(row, knob)["temporaries"],
            *self._range(row),
            limit,
            _CLOSE * (limit - self.floor),
        )
        return Size(knob, self.measured(row, knob), fits)

    def _range(self, row: Row) -> tuple[int, int]:
        """The least and the most that a row's knob may be."""
        costs = layers.costs_of(self.trainer("head()").whole)
        head = list(costs)[-1]
        if row.knob == KERNELS:
            return 1, len(costs) - 1
        total = sum(cost.total for path, cost in costs.items() if path != head)
        return max(100, total // 500), int(total)


def _metered(trainer: Trainer) -> dict[str, int]:
    return step.bytes_of(trainer, trainer.whole)


def largest(
    measure: Callable[[int], int], low: int, high: int, limit: int, close: float
) -> tuple[int, bool]:
    """The largest knob whose step is within a limit, with few measurements; and whether any is.

    Args:
      measure: knob -> bytes, which grow with it, but not always evenly.
      low, high: the least and the most that it may be.
      limit: bytes.
      close: bytes below the limit that are near enough.

    >>> largest(lambda knob: 10 * knob, 1, 100, 505, 8), largest(lambda knob: 7, 1, 9, 3, 0)
    ((50, True), (1, False))
    """
    least, most = measure(low), measure(high)
    if least > limit:
        return low, False
    if most <= limit:
        return high, True
    for turn in range(_TRIES):
        if limit - least <= close or high - low < 2:
            break
        share = (limit - least) / max(1, most - least)  # as if bytes grew evenly, by turns
        middle = low + share * (high - low) if turn % 2 == 0 else (low * high) ** 0.5
        middle = min(max(round(middle), low + 1), high - 1)
        found = measure(middle)
        if found <= limit:
            low, least = middle, found
        else:
            high, most = middle, found
    return low, True
