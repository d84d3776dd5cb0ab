"""What is planned: the section `plan`, beside those of a single training."""

import dataclasses

import ml_collections

from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import (
    Section,
    as_real,
    as_text,
    as_whole,
    choice,
    number,
    several,
    text,
    whole,
)  # fmt: skip
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments import config_sections

MODELS, NODES = ("L", "M", "S"), ("gold", "silver", "bronze")
SECTION_VI = (1.0, 0.8, 0.5), (1.0, 0.5, 0.2)  # time and energy of an epoch, relative to L's
_NUMBERS = "three numbers, 0 or more"
_EACH = "of gold, silver and bronze nodes"


@dataclasses.dataclass(frozen=True)
class Planning(Section):
    """The section `plan`: models L, M and S on gold, silver and bronze nodes.

    Of the other sections those of data, model, optimizer, batch and scores hold. `config.epochs`
    says nothing here.
    """

    prefix = "plan."

    pruned: tuple[float, ...] = several(
        (0.0, 0.5, 0.75), as_real, "three shares from 0 to below 1, rising from 0",
        "share of the whole network's parameters that L, M and S lack",
    )  # fmt: skip
    examples: tuple[int, ...] = several(
        (4_500, 500, 150), as_whole, "three whole numbers, 1 or more", f"of the data {_EACH}"
    )
    classes: tuple[int, ...] = several(
        (6, 8, 10), as_whole, "three whole numbers, 1 or more", f"of the data {_EACH}"
    )
    judged: str = choice(
        "own", ("own", "test"), "the loss that counts: on the nodes' own data, or on test examples"
    )
    looked_at: int = whole(1_000, 1, "examples that it is measured on, at most")
    first: int = whole(60, 2, "epochs that L is measured for")
    cuts: tuple[int, ...] = several(
        (5, 15, 25, 40), as_whole, "rising whole numbers, 1 or more",
        "epochs of L, and of M, after which there is a measured change",
    )  # fmt: skip
    later: int = whole(60, 2, "epochs that a cut network is measured for")
    seeds: int = whole(3, 1, "trainings of everything that is measured")
    costs: str = choice(
        "stated", ("stated", "section6"),
        "joules and seconds: by the model stated here, or relative ones as in the paper",
    )  # fmt: skip
    slower: tuple[float, ...] = several(
        (1.0, 1.0, 1.0), as_real, _NUMBERS, f"seconds for one of this machine, {_EACH}"
    )
    per_flop: tuple[float, ...] = several(
        (2.1e-11, 7.3e-12, 1.2e-10), as_real, _NUMBERS, f"joules of an operation {_EACH}"
    )
    per_byte: tuple[float, ...] = several(
        (4e-11, 6e-11, 3e-11), as_real, _NUMBERS, f"joules of a byte that is moved {_EACH}"
    )
    per_sent: float = number(1e-7, 0.0, 1e9, "a number, 0 or more", "joules of a byte sent")
    bandwidth: float = number(1e6, 1e-9, 1e15, "a number above 0", "bytes sent in a second")
    room: tuple[str, ...] = several(
        ("none", "none", "none"), as_text, "three sizes such as '2MiB', or 'none'",
        f"bytes that a step may take {_EACH}",
    )  # fmt: skip
    grid: float = number(0.01, 1e-9, 1e9, "a number above 0", "resolution of the losses")
    time_grid: float = number(
        0.0, 0.0, 1e9, "a number, 0 or more", "resolution of time; 0: a thousandth of the deadline"
    )
    estimator: str = choice("power_law", ("power_law", "published"), "of the losses to come")
    steps: int = whole(3_000, 1, "that each of the published networks is trained for")
    risk: str = choice("none", ("none", "return"), "the paper's risk factor, mended")
    opportunity: str = choice("none", ("none", "ratio"), "the paper's opportunity factor, mended")
    results: str = text("results/planner", "directory of the measured tables")

    def __post_init__(self):
        super().__post_init__()
        for name in ("pruned", "examples", "classes", "slower", "per_flop", "per_byte", "room"):
            if len(getattr(self, name)) != len(MODELS):
                raise ConfigError(f"plan.{name}", getattr(self, name), "three values")
        for name in ("slower", "per_flop", "per_byte"):
            if min(getattr(self, name)) < 0:
                raise ConfigError(f"plan.{name}", getattr(self, name), _NUMBERS)
        for name in ("examples", "classes", "cuts"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"plan.{name}", getattr(self, name), "whole numbers, 1 or more")
        if list(self.pruned) != sorted(set(self.pruned)) or self.pruned[0] or self.pruned[-1] >= 1:
            raise ConfigError("plan.pruned", self.pruned, "rising shares from 0 to below 1")
        last = min(self.first, self.later)
        if list(self.cuts) != sorted(set(self.cuts)) or self.cuts[-1] > last:
            raise ConfigError("plan.cuts", self.cuts, f"rising whole numbers, at most {last}")
        for size in self.room:
            if size != "none":
                parse_bytes(size, "config.plan.room")

    @property
    def limits(self) -> list[int | None]:
        """Bytes of a step on each node; None for no limit."""
        return [None if size == "none" else parse_bytes(size) for size in self.room]


SECTIONS = {"plan": Planning}
# What no measurement depends on.
FREE = ("costs", "slower", "per_flop", "per_byte", "per_sent", "bandwidth", "room", "grid", "seeds",
        "time_grid", "estimator", "steps", "risk", "opportunity", "results")  # fmt: skip


def default_config_dict() -> ml_collections.ConfigDict:
    """`dynhp_jax.training.config.default_config_dict` with the section `plan`."""
    config = config_sections.with_defaults(Planning)
    config.method = "scores"
    config.scores.criterion = "l2"
    config.scores.scope = "group"
    config.batch.variance = "none"
    config.memory.budget = "none"
    return config


def from_config_dict(values: ml_collections.ConfigDict) -> tuple[Config, Planning]:
    """The config and its section `plan`.

    Raises:
      UserError: the file has no section `plan`, a name is no field, a value is not allowed, or the
        method is no pruning by scores.
    """
    plain, planning = config_sections.split(values, Planning, "configs/plan_digits.py")
    never = 10**6  # the planner says when units go
    plain["epochs"], plain["scores"]["start"] = never, never - 1
    plain["scores"]["schedule"] = "one_shot"
    config = configuration.from_config_dict(ml_collections.ConfigDict(plain))
    if config.method != "scores":
        raise ConfigError("method", config.method, "'scores': a plan cuts by a criterion")
    return config, planning
