"""Figures of plans and of what became of them, after the paper's figures 6 to 9."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.planner import Executed, Limits, Plan, State
from dynhp_jax.training.files.figures import COLORS, panels_of
from experiments.planning.settings import MODELS

_RULES = {"optimum": "optimum", "pact": "planner", "static": "StaticLearn",
          "one": "OneSwitch", "never": "never", "greedy": "greedy"}  # fmt: skip


def plan(start: State, found: Plan, limits: Limits, path: Path, done: Executed | None) -> None:
    """The loss over time: expected, robust, and, where it was run, observed; with its switches."""
    with panels_of(path, size=(6.4, 3.8), over="seconds", whole=False) as (panel,):
        times = [start.time, *(step.time for step in found.steps)]
        for name, style in (("expected", "-"), ("robust", ":")):
            losses = [start.loss, *(getattr(step, name) for step in found.steps)]
            panel.plot(times, losses, style, color=COLORS[0], label=f"{name}, by the first plan")
        _switches(panel, [step.pair.model for step in found.steps], times, COLORS[0])
        if done is not None:
            losses = [loss for stage in done.state.stages for loss in stage.losses[1:]]
            models = [s.pair.model for s in done.state.stages for _ in s.losses[1:]]
            share = np.arange(1, len(losses) + 1) / max(1, len(losses))
            took = [start.time, *(share * done.state.time)]
            panel.plot(took, [start.loss, *losses], "o-", ms=2.5, color=COLORS[1], label="observed")
            _switches(panel, models, took, COLORS[1])
        panel.axhline(limits.loss, color="0.6", lw=0.8, label="target")
        panel.set_ylabel("loss")
        panel.legend(frameon=False)


def _switches(panel, models: Sequence[str], times: Sequence[float], color: str) -> None:
    for place in range(1, len(models)):
        if models[place] != models[place - 1]:
            panel.axvline(times[place], color=color, lw=0.8, ls="--")
            panel.text(times[place], panel.get_ylim()[1], f" {models[place]}", color=color,
                       va="top", fontsize=8)  # fmt: skip


def cost_against_target(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Figure 6, left: mean energy of every rule against the target."""
    targets = sorted({row["target"] for row in rows})
    with panels_of(path, size=(6.0, 3.8), over="target", whole=False) as (panel,):
        for place, (rule, name) in enumerate(_RULES.items()):
            means = [_mean(row["energy"].get(rule) for row in rows if row["target"] == target)
                     for target in targets]  # fmt: skip
            panel.plot(targets, means, "o-", label=name, **_style(place))
        panel.set_ylabel("joules")
        panel.legend(frameon=False)


def energy_by_model(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Figure 7: joules under each model, at the lowest, the middle and the highest target."""
    targets = sorted({row["target"] for row in rows})
    chosen = sorted({targets[0], targets[len(targets) // 2], targets[-1]})
    rules = ("optimum", "pact", "static")
    with panels_of(path, 1, len(chosen), over="", whole=False) as panels:
        for panel, target in zip(panels, chosen, strict=True):
            here = [row["by_model"] for row in rows if row["target"] == target]
            for place, rule in enumerate(rules):
                for color, number in zip(COLORS, range(len(MODELS)), strict=False):
                    value = _mean(each[rule][number] for each in here if each.get(rule))
                    panel.bar(place + 0.25 * (number - 1), value, 0.25, color=color,
                              label=MODELS[number] if not place else None)  # fmt: skip
            panel.set_xticks(range(len(rules)), [_RULES[rule] for rule in rules])
            panel.set_title(f"target {target:g}")
            panel.set_ylabel("joules")
        panels[-1].legend(frameon=False, title="model")


def variants(rows: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Figures 8 and 9, left: energy against the target with a coarser grid, or a bias."""
    targets = sorted({row["target"] for row in rows})
    with panels_of(path, size=(6.0, 3.8), over="target", whole=False) as (panel,):
        for place, name in enumerate(("optimum", "pact", *names, "static")):
            means = [_mean(row["energy"].get(name) for row in rows if row["target"] == target)
                     for target in targets]  # fmt: skip
            panel.plot(targets, means, "o-", label=_RULES.get(name, name), **_style(place))
        panel.set_ylabel("joules")
        panel.legend(frameon=False)


def over_time(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Figure 6, centre and right: loss and energy over time at the lowest target."""
    with panels_of(path, 1, 2, over="seconds", whole=False) as panels:
        for panel, what in zip(panels, ("loss", "energy"), strict=True):
            for place, (rule, name) in enumerate(_RULES.items()):
                if rule in curves:
                    each = curves[rule]
                    panel.plot(each["time"], each[what], label=name, **_style(place))
            panel.set_ylabel("loss" if what == "loss" else "joules")
        panels[0].legend(frameon=False)


def _style(place: int) -> dict[str, Any]:
    """Of the lines of a panel; each is narrower than those below it, as many lie on each other."""
    width = max(1.0, 7.0 - 1.3 * place)
    return {"color": COLORS[place % len(COLORS)], "linewidth": width, "markersize": width + 2}


def _mean(values: Any) -> float:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else np.nan
