"""The claims of the paper's section VI, on measured tables: the interpolated world of each seed.

An estimator is fitted on the trainings of the other seeds; the world is that of its own.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.planner import Executed, Limits, State, Tables, baselines, replanned, world
from dynhp_jax.planner.baselines import Schedule
from dynhp_jax.planner.errors import of_changes, of_repeating, of_runs
from dynhp_jax.planner.estimators.estimator import Forecast
from dynhp_jax.planner.estimators.recorded import Recorded, recorded
from experiments.planning import figures
from experiments.planning.measure import LARGE, Measured
from experiments.planning.scenario import estimator_of, grid_of, scaled, start_of, tables_of
from experiments.planning.settings import MODELS, Planning

_RULES: Mapping[str, Callable] = {
    "optimum": baselines.optimum,
    "static": baselines.static_learn,
    "one": baselines.one_switch,
    "never": baselines.never_switch,
    "greedy": baselines.greedy,
}
_COARSER, _BIAS = 10, 0.02  # of figure 8; of figure 9, a share of the loss of L, an epoch
_PAPER = {"run": "0.0173, 0.078, 0.90", "change": "0.13, 0.52, 0.87"}


@dataclasses.dataclass(frozen=True, eq=False)
class _Biased:
    """Losses of L that are expected too high or too low, by a share of each epoch's."""

    estimator: Any
    bias: float

    def begin(self, state: State) -> Any:
        return self.estimator.begin(state)

    def after(self, source, target, loss, carry, epochs) -> Forecast:
        seen = self.estimator.after(source, target, loss, carry, epochs)
        if target != LARGE:
            return seen
        factor = (1 + self.bias) ** np.asarray(epochs)
        return seen._replace(expected=seen.expected * factor, robust=seen.robust * factor)


def check(
    planning: Planning, measured: Measured, targets: Sequence[float], deadline: float, folder: Path
) -> dict[str, Any]:
    """All figures, and a verdict on each claim.

    Args:
      planning, measured: the scenario and its tables.
      targets: losses.
      deadline: seconds, the same for all.
      folder: where the figures go.

    Returns:
      What lies in claims.json: the rows by seed and target, the estimators' errors, the verdicts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables, rows, curves = tables_of(planning, measured), [], {}
    for seed in measured.seeds:
        truth = recorded(measured.traces, seed)
        own = [trace for trace in measured.traces if trace.seed == seed]
        start = start_of(own)
        estimator = estimator_of(planning, measured, measured.without(seed))
        for target in targets:
            limits = Limits(target, deadline)
            row, found = _row(planning, tables, truth, estimator, start, limits)
            rows.append({"seed": seed, "target": target, **row})
            if seed == measured.seeds[0] and target == min(targets):
                curves = found
            print(_line(rows[-1]), flush=True)
    figures.cost_against_target(rows, folder / "cost.png")
    figures.over_time(curves, folder / "over_time.png")
    figures.energy_by_model(rows, folder / "by_model.png")
    figures.variants(rows, ("coarse",), folder / "resolution.png")
    figures.variants(rows, ("bias +", "bias -"), folder / "bias.png")
    errors = table_i(planning, measured)
    return {"rows": rows, "errors": errors, "verdicts": verdicts(rows)}


def _row(planning, tables: Tables, truth: Recorded, estimator, start: State, limits: Limits):
    grid = grid_of(planning, tables, limits)
    found: dict[str, Schedule | Executed | None] = {
        name: rule(tables, truth, start, limits) for name, rule in _RULES.items()
    }
    options = {"risk": planning.risk, "opportunity": planning.opportunity}
    ways = {
        "pact": (estimator, grid),
        "coarse": (estimator, scaled(grid, _COARSER)),
        "bias +": (_Biased(estimator, _BIAS), grid),
        "bias -": (_Biased(estimator, -_BIAS), grid),
    }
    for name, (guess, resolution) in ways.items():
        found[name] = replanned(
            world(truth), start, tables, guess, limits, resolution, robust=False, **options
        )
    row = {
        "energy": {name: _energy(each) for name, each in found.items()},
        "epochs": {name: _epochs(each) for name, each in found.items()},
        "by_model": {name: _by_model(tables, each) for name, each in found.items()},
        "spread": found["static"].spread if found["static"] else None,
    }
    return row, {n: c for n, e in found.items() if (c := _curve(tables, start, e)) is not None}


def _energy(found: Schedule | Executed | None) -> float | None:
    if found is None or (isinstance(found, Executed) and not found.met):
        return None
    return found.energy


def _epochs(found: Schedule | Executed | None) -> list[list[Any]] | None:
    if found is None:
        return None
    if isinstance(found, Schedule):
        return [[pair.model, count] for pair, count in found.epochs]
    return [[s.pair.model, len(s.losses) - 1] for s in found.state.stages if len(s.losses) > 1]


def _by_model(tables: Tables, found: Schedule | Executed | None) -> list[float] | None:
    """Joules of the epochs of L, M and S; None for what did not meet the target."""
    if _energy(found) is None:
        return None
    counts = collections.Counter()
    for model, count in _epochs(found):
        counts[model] += count
    own = range(len(MODELS))
    return [counts[MODELS[place]] * float(tables.energy[place, place]) for place in own]


def _curve(tables: Tables, start: State, found: Schedule | Executed | None):
    if _energy(found) is None:
        return None
    if isinstance(found, Schedule):
        losses = found.losses
    else:
        losses = [loss for stage in found.state.stages for loss in stage.losses[1:]]
    times, energies = [0.0], [0.0]
    before = start.pair.model
    for model, count in _epochs(found):
        old, new = MODELS.index(before), MODELS.index(model)
        at = old, old, new, new
        times[-1] += float(tables.change_time[at])
        energies[-1] += float(tables.change_energy[at])
        for _ in range(count):
            times.append(times[-1] + float(tables.time[new, new]))
            energies.append(energies[-1] + float(tables.energy[new, new]))
        before = model
    return {"time": times, "energy": energies, "loss": [start.loss, *losses]}


def _line(row: Mapping[str, Any]) -> str:
    said = ", ".join(
        f"{name} {'-' if value is None else format(value, '.4g')}"
        for name, value in row["energy"].items()
    )
    return f"seed {row['seed']}, target {row['target']:g}: {said} J"


def table_i(planning: Planning, measured: Measured) -> dict[str, Any]:
    """Mean absolute error, width and coverage on seeds that an estimator was not fitted on."""
    found: dict[str, Any] = {}
    for kind in ("power_law", "published"):
        each = collections.defaultdict(list)
        for seed in measured.seeds:
            held = [trace for trace in measured.traces if trace.seed == seed]
            law = estimator_of(planning, measured, measured.without(seed), kind)
            each["run"].append(of_runs(law, held))
            each["change"].append(of_changes(law, held))
        for name, errors in each.items():
            values = np.array([error[:3] for error in errors])
            found[f"{kind}, {name}"] = {
                "mean": values.mean(0).tolist(),
                "deviation": values.std(0).tolist(),
            }
    repeat = [of_repeating([t for t in measured.traces if t.seed == s]) for s in measured.seeds]
    return {**found, "repeating the last decrement": float(np.mean(repeat))}


def verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each claim comes to, by the means over seeds where both rules met the target."""
    low = min(row["target"] for row in rows)
    lowest = [row for row in rows if row["target"] == low]
    ordered = [_pairs(rows, "optimum", "pact"), _pairs(rows, "pact", "static")]
    gaps = [
        (target, np.mean([s / p for p, s in each]))
        for target in sorted({row["target"] for row in rows})
        if (each := _pairs([r for r in rows if r["target"] == target], "pact", "static"))
    ]
    return {
        "optimum <= planner <= StaticLearn (fig. 6)": _share(
            [a <= b * (1 + 1e-9) for each in ordered for a, b in each]
        ),
        "planner against the optimum": _ratio(_pairs(rows, "optimum", "pact")),
        "the gap to StaticLearn grows as the target falls (fig. 6)": "; ".join(
            f"{target:g}: {ratio:.2f} times" for target, ratio in gaps
        )
        or "StaticLearn met no target",
        "OneSwitch is the worst (fig. 6)": _ratio(_pairs(rows, "pact", "one")) + " of the planner",
        "more on L and less on S than StaticLearn at the lowest target (fig. 7)": _more(lowest),
        "ten times coarser losses still beat StaticLearn (fig. 8)": _share(
            [a <= b * (1 + 1e-9) for a, b in _pairs(rows, "coarse", "static")]
        ),
        "coarser losses switch later (fig. 8)": _share(
            [b >= a for a, b in _first_switches(rows, "pact", "coarse")]
        ),
        "a bias of either sign costs about the same (fig. 9)": (
            f"+ {_ratio(_pairs(rows, 'pact', 'bias +'))};"
            f" - {_ratio(_pairs(rows, 'pact', 'bias -'))}"
        ),
        "L underestimated switches later (fig. 9)": _share(
            [b >= a for a, b in _first_switches(rows, "pact", "bias +")]
        ),
        "targets met by the planner": _share([row["energy"]["pact"] is not None for row in rows
                                              if row["energy"]["optimum"] is not None]),
    }  # fmt: skip


def _pairs(rows, one: str, two: str) -> list[tuple[float, float]]:
    found = [(row["energy"][one], row["energy"][two]) for row in rows]
    return [(a, b) for a, b in found if a is not None and b is not None]


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    return f"{np.mean([b / a for a, b in pairs]):.3f} times" if pairs else "no target met by both"


def _more(rows) -> str:
    found = [(row["by_model"]["pact"], row["by_model"]["static"]) for row in rows]
    return _share([a[0] >= b[0] and a[-1] <= b[-1] for a, b in found if a and b])


def _first_switches(rows, one: str, two: str) -> Iterator[tuple[int, int]]:
    """Epochs of L under two rules that both met the target."""
    for row in rows:
        if row["energy"][one] is not None and row["energy"][two] is not None:
            yield tuple(
                sum(count for model, count in row["epochs"][name] if model == "L")
                for name in (one, two)
            )


def lines(found: Mapping[str, Any]) -> list[str]:
    """What a person reads: the errors beside the paper's, and the verdicts."""
    said = ["mean absolute error, width and coverage of 90 % intervals, on held-out seeds:"]
    for name, value in found["errors"].items():
        if isinstance(value, Mapping):
            mean, deviation = value["mean"], value["deviation"]
            numbers = ", ".join(f"{m:.4f} ± {d:.4f}" for m, d in zip(mean, deviation, strict=True))
            said.append(f"  {name}: {numbers} (the paper: {_PAPER[name.split(', ')[1]]})")
        else:
            said.append(f"  {name}: {value:.4f}")
    return [*said, *(f"{claim}: {verdict}" for claim, verdict in found["verdicts"].items())]
