"""`experiments.plan`: measured tables, plans of them, a training by a plan, and the claims."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command_lines import ROOT, fails, here

from configs import plan_cifar10, plan_digits, plan_mnist
from dynhp_jax.planner.estimators.recorded import recorded
from experiments import plan
from experiments.planning import measure, scenario, settings
from experiments.planning.claims import verdicts

QUICK = [
    "--config=configs/plan_digits.py",
    "--config.name=quick",
    "--config.model.hidden=(12,)",
    "--config.optimizer.learning_rate=0.01",
    "--config.plan.seeds=1",
    "--config.plan.steps=20",
    "--config.plan.first=4",
    "--config.plan.later=4",
    "--config.plan.cuts=(1,3)",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The directory of a small measurement, made once."""
    folder = tmp_path_factory.mktemp("planner")
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        plan.main(["plan", *QUICK, "--measure", f"--config.plan.results={folder}"])
    finally:
        os.chdir(before)
    return folder


def flags(folder, *more):
    return [*QUICK, f"--config.plan.results={folder}", *more]


def of_files(folder):
    config, planning = settings.from_config_dict(_config())
    return planning, measure.read(config, planning, Path(folder) / "quick")


def _config():
    config = plan_digits.get_config()
    config.name, config.model.hidden, config.optimizer.learning_rate = "quick", (12,), 0.01
    config.plan.update({"seeds": 1, "first": 4, "later": 4, "cuts": (1, 3)})
    return config


def test_what_is_measured_is_kept_and_not_done_again(measured, capfd):
    names = {path.stem for path in (measured / "quick").glob("*.json")}
    assert names == {"seed0-whole", *(f"seed0-{m}{k}" for m in "MS" for k in (1, 3))}
    twice = json.loads((measured / "quick" / "seed0-M3.json").read_text())
    assert [len(each["stages"]) for each in twice["trainings"]] == [3, 3, 2]
    first, second, third = twice["trainings"][1]["stages"]
    assert [len(s["losses"]) for s in (first, second, third)] == [4, 4, 5]
    assert second["after_cut"] > 0 and twice["trainings"][0]["stages"][0] == first
    # By hand: 64-12-10 has 910 numbers; half of the units of both groups go, whatever is whole.
    whole = json.loads((measured / "quick" / "seed0-whole.json").read_text())["costs"]["L"]
    assert whole["model_bytes"] == 4 * 910 and whole["steps"] == 600 // 16
    assert whole["flops"] == 3 * 16 * 2 * (64 * 12 + 12 * 10)
    assert 0.5 <= twice["costs"]["M"]["pruned"] < 0.75 <= twice["costs"]["S"]["pruned"]
    before = (measured / "quick" / "seed0-M3.json").stat().st_mtime_ns
    code, said, _ = here(capfd, plan.main, *flags(measured, "--measure"))
    assert code == 0 and not said
    assert (measured / "quick" / "seed0-M3.json").stat().st_mtime_ns == before
    said = fails(capfd, plan.main, *flags(measured, "--measure", "--config.plan.first=5"))
    assert "was measured with another config" in said


def test_the_recorded_world_has_the_recorded_losses(measured):
    _, found = of_files(measured)
    world = recorded(found.traces, 0)
    for trace in found.traces:
        history, last = (), trace.stages[-1]
        for stage in trace.stages:
            history = (*history, (stage.pair, len(stage.losses) - 1))
        ahead = np.arange(1, len(last.losses))
        *earlier, _ = history
        seen = world.after(last.pair, last.pair, 0.0, (*earlier, (last.pair, 0)), ahead)
        np.testing.assert_array_equal(seen.expected, last.losses[1:])
    between = world.changed(measure.LARGE, measure.MIDDLE, 0.0, ((measure.LARGE, 2),))
    move = measure.LARGE, measure.MIDDLE, 0.0
    ends = [world.changed(*move, ((measure.LARGE, epochs),)) for epochs in (1, 3)]
    assert between == pytest.approx(np.mean(ends))
    assert np.isinf(world.changed(measure.LARGE, measure.SMALL, 0.0, ((measure.LARGE, 4),)))


def test_a_plan_is_printed_drawn_and_run(measured, capfd):
    code, said, _ = here(
        capfd, plan.main, *flags(measured, "--target=1.5", "--deadline=50", "--run")
    )
    assert code == 0 and "epoch  model on nodes" in said and "the target of 1.5 was" in said, said
    assert "the first plan said" in said
    figure = measured / "quick" / "figures" / "target1.5-deadline50-seed0.png"
    assert figure.stat().st_size > 10_000
    (file,) = (measured / "quick" / "runs").glob("*.json")
    outcome = json.loads(file.read_text())
    count = sum(count for _, count in outcome["epochs"])
    assert outcome["met"] == (outcome["loss"] <= 1.5) and count == sum(
        len(losses) - 1 for losses in outcome["losses"]
    )


def test_claims_are_checked_and_drawn(measured, capfd):
    code, said, _ = here(
        capfd, plan.main, *flags(measured, "--claims", "--target=1.6,1.3", "--deadline=50")
    )
    assert code == 0 and "power_law, run:" in said and "optimum <= planner" in said
    found = json.loads((measured / "quick" / "claims.json").read_text())
    assert len(found["rows"]) == 2 and len(list((measured / "quick" / "figures").glob("*"))) >= 5
    for row in found["rows"]:
        energies = row["energy"]
        assert all(v is None or v >= energies["optimum"] * (1 - 1e-9) for v in energies.values())


def test_stated_costs_are_the_stated_sums(measured):
    config, planning = settings.from_config_dict(_config())
    found = measure.read(config, planning, measured / "quick")
    stated = settings.from_config_dict(_stated())[1]
    tables = scenario.tables_of(stated, found)
    cost = found.costs["M"]
    energy = cost["steps"] * (7.3e-12 * cost["flops"] + 6e-11 * cost["step_bytes"])
    assert tables.energy[1, 1] == pytest.approx(energy)
    assert tables.change_energy[0, 0, 1, 1] == pytest.approx(1e-7 * cost["model_bytes"])
    assert np.isinf(tables.change_energy[1, 1, 0, 0])


def _stated():
    config = _config()
    config.plan.costs = "stated"
    return config


def test_verdicts_count_what_both_rules_met():
    def row(target, **energies):
        each = {"L": 3, "M": 4}
        names = ("optimum", "pact", "static", "one", "coarse", "bias +", "bias -")
        return {
            "target": target,
            "energy": {**dict.fromkeys(names), **energies},
            "epochs": dict.fromkeys(names, list(each.items())),
            "by_model": dict.fromkeys(names, [3.0, 2.0, 0.0]),
        }

    rows = [row(0.3, optimum=4, pact=5, static=10), row(0.5, optimum=3, pact=3, static=None)]
    found = verdicts(rows)
    assert found["optimum <= planner <= StaticLearn (fig. 6)"] == "3 of 3"
    assert found["planner against the optimum"] == "1.125 times"
    assert found["the gap to StaticLearn grows as the target falls (fig. 6)"] == "0.3: 2.00 times"
    assert found["targets met by the planner"] == "2 of 2"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target=0.5", "--deadline=soon"], "--deadline is 'soon'; allowed: a number"),
        (["--target=0.5,0.4", "--deadline=5"], "allowed: one loss, or several with --claims"),
        (["--target=-1", "--deadline=5"], "no plan meets a loss of -1 within 5 s"),
        (["--target=0.5", "--deadline=0"], "the deadline is 0.0; allowed: seconds, above 0"),
        (["--config.plan.pruned=(0.0,0.8,0.5)"], "config.plan.pruned"),
        (["--config.plan.cuts=(1,9)"], "config.plan.cuts is (1, 9); allowed: rising whole"),
        (["--config.plan.room=('1KiB','none','none')", "--target=1", "--deadline=5"], "model 'L'"),
        (["--config.plan.cut=(1,)"], "config.plan.cut is not a field"),
        (["--config.method=dense"], "config.method is 'dense'; allowed: 'scores'"),
    ],
)
def test_bad_input_is_one_line(measured, capfd, more, said):
    assert said in fails(capfd, plan.main, *flags(measured, *more)), said


def test_more_than_there_is_is_one_line(tmp_path, capfd):
    where = flags(tmp_path, "--target=1", "--deadline=5")
    assert "nothing was measured in" in fails(capfd, plan.main, *where)
    many = flags(tmp_path, "--measure", "--config.plan.examples=(1500,1,1)")
    assert re.search("plan.examples.*at most for gold nodes", fails(capfd, plan.main, *many))
    for config in (plan_mnist, plan_cifar10):
        _, planning = settings.from_config_dict(config.get_config())
        assert planning.classes == (6, 8, 10)
