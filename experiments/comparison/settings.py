"""What a comparison is: a section of the config, and the configs of its cells."""

import dataclasses

import ml_collections

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import (
    LARGEST,
    LARGEST_WHOLE,
    Section,
    as_real,
    as_text,
    several,
    text,
    whole,
)
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments import config_sections


def _share(value) -> float:
    if not 0 < as_real(value) < 1:
        raise ValueError
    return float(value)


def _strength(value) -> float:
    if not as_real(value) > 0:
        raise ValueError
    return float(value)


def _seed(value) -> int:
    return configuration.rule("seed").convert(value)


def _method(value) -> str:
    if value not in ("hp", "dynhp"):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Comparison(Section):
    """The section `compare`: what is set beside each other.

    `epochs` of the config are those of the dense warm-up; the section `scores` says what the
    fractions are of, how scores become a choice of units, and when units go: its epochs are counted
    from the end of the warm-up.
    """

    prefix = "compare."

    criteria: tuple[str, ...] = several(
        ("l1", "random"), as_text, "texts such as 'l1', 'flexrel(delta=0.3)', 'module:Class'",
        "what ranks units",
    )  # fmt: skip
    fractions: tuple[float, ...] = several(
        (0.5,), _share, "numbers between 0 and 1", "how much is gone in the end"
    )
    seeds: tuple[int, ...] = several((0,), _seed, "whole numbers, 0 to 4294967295", "of the runs")
    epochs: int = whole(1, 0, "of fine-tuning, after the warm-up")
    methods: tuple[str, ...] = several(
        (), _method, "names among 'hp', 'dynhp'", "methods with gates, as rows of the same table"
    )
    lams: tuple[float, ...] = several(
        (0.1,),
        _strength,
        f"numbers above 0, at most {LARGEST:.3g}",
        "strengths of their penalty, a run each",
    )
    test: int = whole(0, 0, "the first so many test examples are used; 0: all")
    cut: str = text("", "group whose outputs split learning sends; empty: the first one's")


KEPT = 3  # last epochs of a warm-up, that criteria may look at
SECTIONS = {"compare": Comparison}


def default_config_dict() -> ml_collections.ConfigDict:
    """`dynhp_jax.training.config.default_config_dict` with the section `compare`."""
    return config_sections.with_defaults(Comparison)


def from_config_dict(values: ml_collections.ConfigDict) -> tuple[Config, Comparison]:
    """The config of the warm-up, and what is compared.

    Raises:
      UserError: the file is no config of a comparison, a name is no field, a value not allowed, or
        the warm-up and the comparison do not go together.
    """
    plain, comparison = config_sections.split(values, Comparison, "configs/compare_fmnist.py")
    for name in ("criteria", "fractions", "seeds"):
        found = getattr(comparison, name)
        if not found or len(set(found)) < len(found):
            raise ConfigError(f"compare.{name}", found, "at least one, and each once")
    for name in ("methods", "lams"):
        found = getattr(comparison, name)
        if len(set(found)) < len(found):
            raise ConfigError(f"compare.{name}", found, "each once")
    plain["method"] = "scores"
    base = configuration.from_config_dict(ml_collections.ConfigDict(plain))
    most = LARGEST_WHOLE - base.epochs
    if comparison.epochs > most:
        raise ConfigError("compare.epochs", comparison.epochs, f"a whole number, 0 to {most}")
    if base.scores.criterion:
        raise ConfigError("scores.criterion", base.scores.criterion, "'' here: compare.criteria")
    if not base.data.validation:
        raise ConfigError("data.validation", 0.0, "a share above 0 here: units are scored on it")
    return base, comparison


def warm_up(base: Config, seed: int) -> Config:
    """The run that all cells of a seed start from."""
    return dataclasses.replace(
        base,
        name=f"{base.name}-warm-up",
        seed=seed,
        scores=ScoreOptions(),
        batch=dataclasses.replace(base.batch, variance="none"),  # nobody reads it
        checkpoint=dataclasses.replace(
            base.checkpoint, every=1, keep=max(KEPT, base.checkpoint.keep)
        ),
    )


def cell(
    base: Config, comparison: Comparison, seed: int, criterion: str, fraction: float
) -> Config:
    """The run of a criterion: the warm-up, units taken away from its last epoch on, fine-tuning.

    Without a criterion it is the dense network, trained for as long.
    """
    asked = base.scores
    if criterion:
        asked = dataclasses.replace(
            asked,
            criterion=criterion,
            fraction=fraction,
            start=base.epochs + asked.start,
            end=base.epochs + asked.end,
        )
    return dataclasses.replace(
        warm_up(base, seed),
        name=base.name,
        epochs=base.epochs + max(1, comparison.epochs),
        scores=asked,
    )


def prunes_first(base: Config) -> bool:
    """Whether all units go before the fine-tuning, so that the error before it can be had."""
    return base.scores.schedule == "one_shot" and base.scores.start == 0


def with_gates(base: Config, comparison: Comparison, seed: int, method: str, lam: float) -> Config:
    """A run of a method with gates, over as many epochs."""
    variance = base.batch.variance if method == "dynhp" else "none"
    return dataclasses.replace(
        base,
        seed=seed,
        method=method,
        epochs=base.epochs + comparison.epochs,
        scores=ScoreOptions(),
        batch=dataclasses.replace(base.batch, variance=variance),
        penalty=dataclasses.replace(base.penalty, lam=lam),
    )
