"""Plans a training: which model on which nodes in every epoch, at the least energy.

    python -m experiments.plan --measure --config=configs/plan_digits.py
    python -m experiments.plan --config=configs/plan_digits.py --target=0.9 --deadline=60
    python -m experiments.plan --config=configs/plan_digits.py --target=0.9 --deadline=60 --run
    python -m experiments.plan --config=configs/plan_digits.py --claims --target=0.9,0.7,0.5 \
        --deadline=60

--measure trains, cuts and goes on at a grid of epochs and keeps losses, seconds and bytes in
files, one for each change, so that the same command goes on where it stopped. Without it a plan is
made of them, printed epoch by epoch and drawn; --run trains by it, planned anew before every epoch.
--claims holds the planner against the optimum and the paper's baselines at several targets.
docs/planner.md says more. Everything lies in results/planner/NAME (plan.results).
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.planner import Infeasible, Limits, Plan, State
from dynhp_jax.planner import plan as planned
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from experiments import commandline, result_files
from experiments.planning import claims, figures, measure, running, scenario, settings
from experiments.planning.measure import Measured
from experiments.planning.running import Problem
from experiments.planning.settings import Planning

_OPTIONS = (
    ("target", "", "the loss to reach; with --claims several, with commas"),
    ("deadline", "", "seconds until then"),
)
_SWITCHES = (
    ("measure", "measure what is missing"),
    ("run", "train by the plan, planned anew before every epoch"),
    ("claims", "the paper's figures and claims, on what was measured"),
)


def main(argv: Sequence[str]) -> None:
    """Parses the command line; measures, plans, runs."""
    values, _, targets, deadline, measuring, executing, checking = commandline.parse(
        argv, True, _OPTIONS, _SWITCHES, settings.SECTIONS, workdir=""
    )
    config, planning = settings.from_config_dict(values)
    folder = paths.given(planning.results, "config.plan.results") / config.name
    program_cache.use_cache(config.compiling.cache_dir)
    if measuring:
        paths.make_writable({"config.plan.results": folder})
        with result_files.writing(folder):
            measure.measure(config, planning, folder)
        if not targets:
            return
    aims = _numbers("target", targets)
    (time,) = _numbers("deadline", deadline)
    if len(aims) > 1 and not checking:
        raise UserError(f"--target is {targets!r}; allowed: one loss, or several with --claims")
    measured = measure.read(config, planning, folder)
    if checking:
        found = claims.check(planning, measured, aims, time, folder / "figures")
        write_json(folder / "claims.json", {**found, "deadline": time, **provenance.present()})
        print("\n".join(claims.lines(found)))
        return
    limits = Limits(aims[0], time)
    _plan(config, planning, measured, limits, folder, executing)


def _numbers(name: str, text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UserError(f"--{name} is {text!r}; allowed: a number, such as --{name}=0.5")
    return found


def _plan(
    config: Config,
    planning: Planning,
    measured: Measured,
    limits: Limits,
    folder: Path,
    executing: bool,
) -> None:
    tables = scenario.tables_of(planning, measured)
    traces = measured.without(config.seed)
    estimator = scenario.estimator_of(planning, measured, traces)
    start = scenario.start_of(traces)
    options = {"risk": planning.risk, "opportunity": planning.opportunity}
    grid = scenario.grid_of(planning, tables, limits)
    found = planned(start, tables, estimator, limits, grid, **options)
    if isinstance(found, Infeasible):
        raise UserError(found.why)
    print("\n".join(lines(found)))
    done = None
    name = f"target{limits.loss:g}-deadline{limits.time:g}"
    if executing:
        problem = Problem(tables, estimator, limits, grid, options)
        done = running.run(config, planning, problem, _say)
        said, outcome = running.compared(done, limits)
        print("\n".join(said))
        name += f"-seed{config.seed}"
        described = {**outcome, "seed": config.seed, **provenance.present()}
        result_files.write_lines(folder / "runs" / f"{name}.json", described)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures.plan(start, found, limits, folder / "figures" / f"{name}.png", done)


def lines(found: Plan) -> list[str]:
    """A plan epoch by epoch."""
    said = ["epoch  model on nodes   expected    robust   seconds    joules"]
    for number, step in enumerate(found.steps, 1):
        said.append(
            f"{number:5d}  {step.pair!s:<15} {step.expected:9.4f} {step.robust:9.4f}"
            f" {step.time:9.4g} {step.energy:9.4g}"
        )
    return [*said, f"{found.energy:.4g} J and {found.time:.4g} s in {len(found.steps)} epochs"]


def _say(state: State, found: Plan) -> None:
    step, epoch = found.steps[0], sum(len(stage.losses) - 1 for stage in state.stages) + 1
    print(
        f"epoch {epoch}: a loss of {state.loss:.4f}; {step.pair} next, {step.expected:.4f}"
        f" expected, {len(found.steps)} epochs to go",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
