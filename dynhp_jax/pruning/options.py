"""What the method 'scores' prunes by, how far, and when: a section of the config."""

import dataclasses

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import Section, choice, number, text, whole
from dynhp_jax.pruning.scales import SCALES, SCOPES
from dynhp_jax.pruning.schedules import Cubic, EachEpoch, OneShot, Schedule
from dynhp_jax.pruning.targets import Parameters, Target, Units
from dynhp_jax.structure.groups import Groups

TARGETS = {"parameters": Parameters, "units": Units}
SCHEDULES = ("one_shot", "cubic", "each_epoch")


@dataclasses.dataclass(frozen=True)
class ScoreOptions(Section):
    """Attributes of the section `scores`; their help is in docs/fields.md."""

    prefix = "scores."

    criterion: str = text(
        "", "what ranks units: a name, with options if wanted, or module:Class; empty: nothing"
    )
    fraction: float = number(
        0.5, 0.0, 1 - 1e-9, "a number from 0 to below 1", "how much is gone in the end"
    )
    of: str = choice("parameters", tuple(TARGETS), "what the fraction is of")
    scope: str = choice("global", SCOPES, "compare units of all groups, or the same share of each")
    scale: str = choice(
        "auto", ("auto", *SCALES),
        "what a group's scores are divided by; 'auto': 'none' if the criterion's are comparable",
    )  # fmt: skip
    schedule: str = choice("one_shot", SCHEDULES, "all at once, or little by little")
    start: int = whole(0, 0, "epochs before the first units go")
    end: int = whole(10, 0, "epochs before the last go (not one_shot)")
    examples: int = whole(512, 1, "held-out ones to score on; without any, training examples")

    def timetable(self) -> Schedule:
        """When how much goes."""
        if self.schedule == "one_shot":
            return OneShot(self.start)
        if self.schedule == "cubic":
            return Cubic(self.start, self.end)
        return EachEpoch(1 - (1 - self.fraction) ** (1 / (self.end - self.start + 1)), self.start)

    def most(self, groups: Groups) -> int:
        """What may remain in the end, of the whole network's groups."""
        return max(1, int((1 - self.fraction) * self.target(1).measure(groups, {})))

    def target(self, most: int) -> Target:
        """At most so much, in the unit that the fraction is of."""
        return TARGETS[self.of](most)

    def check(self, epochs: int) -> None:
        """Raises ConfigError for a schedule that does not come to its end within so many epochs."""
        last = "start" if self.schedule == "one_shot" else "end"
        if getattr(self, last) >= epochs:
            found = getattr(self, last)
            raise ConfigError(f"scores.{last}", found, f"less than the {epochs} epochs of the run")
        if last == "end" and self.end <= self.start:
            raise ConfigError("scores.end", self.end, f"more than scores.start, {self.start}")
