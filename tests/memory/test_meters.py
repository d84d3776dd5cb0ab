"""Meters: their interface, and one from outside of the package."""

import dataclasses

import pytest
from command_lines import QUICK, fails, here
from hypothesis import given
from hypothesis import strategies as st

from dynhp_jax.memory.arithmetic import Arithmetic, Formula
from dynhp_jax.memory.meter import Meter
from dynhp_jax.memory.registry import METERS
from dynhp_jax.training.files.workdir import Workdir
from experiments import sweep, train


@dataclasses.dataclass(frozen=True)
class WithMoments(Formula):
    """The network, its gradients and Adam's two moments, and the inputs: a file of one's own."""

    example_bytes: int

    def memory_bytes(self, parameters, batch):
        return 16 * parameters + self.example_bytes * batch


class Training(Arithmetic):
    label = "training"
    formula = WithMoments


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(METERS, "training", Training)  # its line of registration


@pytest.mark.parametrize("meter", [*METERS.values(), Training])
def test_a_meter_has_all_that_a_run_asks_for(meter):
    asked = {name for name in vars(Meter) if not name.startswith("_")}
    told = set(vars(Meter)["__annotations__"]) - {"budget_bytes"}
    if meter.label == "XLA":
        told -= {"device_bytes"}  # by the budget, as `budget_bytes`
    assert {"room", "fit", "capped", "epoch_bytes", "measured"} < asked
    assert not [name for name in asked | told if not hasattr(meter, name)]


@given(st.integers(0, 10**8), st.integers(1, 10**6), st.integers(0, 10**10))
def test_room_by_any_formula_is_the_largest_batch_that_fits(parameters, size, budget):
    formula = WithMoments(size)
    room = formula.room(budget, parameters)
    assert room == 0 or formula.memory_bytes(parameters, room) <= budget
    assert formula.memory_bytes(parameters, room + 1) > budget


def test_a_meter_of_one_s_own_is_a_class_and_a_line(registered, tmp_path, capfd):
    """It counts, bounds the mini-batch, is drawn and named at the end; the run goes on by it."""
    parameters = 64 * 20 + 20 + 20 * 8 + 8 + 8 * 10 + 10
    budget = 16 * parameters + 256 * 18
    asked = [*QUICK, "--config.penalty.lam=0.0", "--config.batch.alpha=0.0",
             "--config.memory.meter=training", f"--config.memory.budget={budget}",
             f"--workdir={tmp_path / 'run'}"]  # fmt: skip
    code, out, said = here(capfd, train.main, *asked, "--config.epochs=4")
    assert code == 0, said
    assert "training memory (training)" in out
    records = Workdir(tmp_path / "run").records()
    assert [record["budget_kib"] for record in records] == [budget / 1024] * 4
    for record in records:
        taken = 16 * record["parameters"] + 256 * record["batch_size"]
        assert record["memory_kib"] == taken / 1024 <= budget / 1024
    whole = [record["next_batch"] for record in records if record["parameters"] == parameters]
    assert 18 in whole and max(whole) == 18, "as many as there is room for"
    code, out, said = here(capfd, train.main, *asked, "--config.epochs=5")
    assert code == 0 and "going on after epoch 4" in out
    said = fails(
        capfd, train.main, *QUICK, "--config.memory.meter=training",
        f"--config.memory.budget={16 * parameters}", f"--workdir={tmp_path / 'other'}",
    )  # fmt: skip
    assert "plus one example" in said


def test_a_sweep_names_the_meters_that_it_takes(registered, tmp_path, capfd):
    said = fails(
        capfd, sweep.main, *QUICK, "--seeds=0", "--config.memory.meter=xla",
        f"--workdir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert "allowed: 'paper' or 'training' in a sweep" in said
