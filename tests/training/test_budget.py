"""Budgets in real bytes: what steps take, what fits, what is done where nothing does."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from dynhp_jax import data
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.memory import largest_fit
from dynhp_jax.memory.options import SAVINGS
from dynhp_jax.training import config
from dynhp_jax.training.compiled import budget, example_order, step_bytes
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, resume, shape_plans
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import savings

ROOT = Path(__file__).resolve().parents[2]
DIGITS = data.load("digits")
FEW = dataclasses.replace(
    DIGITS,
    x_train=DIGITS.x_train[:96],
    y_train=DIGITS.y_train[:96],
)


def make(limit: str, allow=(), smallest=0, **changes) -> Config:
    base = Config(
        name="test",
        epochs=4,
        model=config.Model(hidden=(12, 7)),
        penalty=config.Penalty(lam=2.0),
        optimizer=config.Optimizer(learning_rate=5e-3),
        memory=config.Memory("xla", limit, sp_batch=32, allow=allow, smallest=smallest),
    )
    return dataclasses.replace(base, **changes)


def start(settings: Config, dataset=FEW):
    trainer = Trainer(settings, dataset, Programs())
    return trainer, trainer.start()


@pytest.fixture(scope="module")
def free():
    """The budget of a run without one: it meters."""
    trainer = Trainer(make("none"), FEW, Programs())
    return trainer.budget


# -- the search, against brute force ---------------------------------------------------------------

lines = st.tuples(st.integers(0, 10_000), st.integers(1, 500))


@settings(max_examples=200)
@given(st.lists(lines, min_size=1, max_size=4), st.integers(1, 40), st.data())
def test_the_largest_size_is_the_one_that_trying_all_finds(peaks, low, more):
    """A step's bytes are the highest of several peaks, each a line: they bend upwards."""
    high = low + more.draw(st.integers(0, 3000))
    limit = more.draw(st.integers(1, 400_000))
    looks = []

    def measure(n):
        looks.append(n)
        return max(fixed + each * n for fixed, each in peaks)

    fits = [n for n in range(low, high + 1) if measure(n) <= limit]
    expected = fits[-1] if fits else low - 1
    looks.clear()
    assert largest_fit.largest(measure, limit, low, high) == expected
    assert len(looks) == len(set(looks)) and all(low <= n <= high for n in looks)
    assert len(looks) <= 2 + largest_fit.LOOKS + math.ceil(math.log2(high - low + 1))
    assert not fits or expected in looks, "what is chosen was measured"


@given(st.integers(1, 30), st.integers(0, 1000))
def test_one_peak_takes_three_looks(each, fixed):
    looks = []
    size = largest_fit.largest(
        lambda n: looks.append(n) or fixed + each * n, fixed + each * 77, 1, 999
    )
    assert size == 77 and len(looks) == 3


# -- the meter -------------------------------------------------------------------------------------


def test_the_parts_sum_to_what_xla_allocates_beside_the_data(free):
    program = free.steps.training_program(free.whole, 16)
    parts = free.steps.training_bytes(free.whole, 16)
    assert tuple(parts) == step_bytes.PARTS and min(parts.values()) >= 0
    found = program.memory_analysis()
    # Images, labels, order, number of steps; the key of the noise and lambda.
    fed = 96 * (64 * 4 + 4) + 96 * 4 + 4 + 8 + 4
    assert step_bytes.total(parts) == (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
        - fed
    )
    parameters = 64 * 12 + 12 + 12 * 7 + 7 + 7 * 10 + 10
    units = 64 + 12 + 7
    assert parts["params"] == 4 * parameters
    assert parts["optimizer"] == 2 * 4 * (parameters + units) + 4  # Adam's moments, its count
    assert parts["gates"] == 4 * 4 * units  # log_alpha, masks, prices, numbers
    assert parts["batch"] == 16 * (64 + 1) * 4
    assert parts["statistics"] >= 4 * (units + 4) + 5 * 4  # the tally; step and running means


def test_evaluation_counts_the_state_that_waits(free):
    training, testing = (
        free.steps.training_bytes(free.whole, 16),
        free.steps.evaluation_bytes(free.whole, 8, "test"),
    )
    for part in ("params", "optimizer", "gates"):
        assert testing[part] == training[part]
    assert testing["batch"] == 8 * (64 + 1) * 4


def test_the_order_of_an_epoch_costs_the_step_nothing(free):
    """Ten times the training set, the same bytes: a resident set is fed, not held."""
    more = dataclasses.replace(
        FEW, x_train=np.tile(FEW.x_train, (10, 1, 1, 1)), y_train=np.tile(FEW.y_train, 10)
    )
    other = Trainer(make("none"), more, Programs()).budget
    assert other.step_bytes(other.whole, 16) == free.step_bytes(free.whole, 16)


# -- the budget ------------------------------------------------------------------------------------


def test_no_step_of_a_run_takes_more_and_the_room_is_used(free, tmp_path):
    limit = free.step_bytes(free.whole, 20) + 100
    settings = make(
        f"{limit}",
        batch=config.Batch(size=40, alpha=0.0, grid=2.0, loss="cross_entropy"),
        compiling=config.Compiling(shrink=0.2, ahead=False),
        epochs=9,
    )
    trainer, run = start(settings, DIGITS)
    held = trainer.budget
    assert held.step_bytes(held.whole, run.batch_in_use) <= limit
    assert held.step_bytes(held.whole, run.batch_in_use + 1) > limit, "one more example fits"
    records = []
    for _ in range(9):
        run, record = loop.advance(trainer, run)
        records.append(record)
        if record["epoch"] == 7:
            resume.save(trainer, run, tmp_path)
    assert records[-1]["materialised"] < records[0]["materialised"]
    assert records[-1]["batch_size"] > records[0]["batch_size"]
    for record in records:
        assert set(record["allocated"]) - {"initial_state", "surgery"} == {
            "order",
            "training",
            "test",
        }
        assert ("initial_state" in record["allocated"]) == (record["epoch"] == 1)
        sums = [sum(parts.values()) for parts in record["allocated"].values()]
        assert max(sums) <= limit
        assert record["memory_kib"] == record["allocated_kib"] == max(sums) / 1024
        assert record["budget_kib"] == limit / 1024
        assert record["batch_size"] <= record["wanted_batch"]
    # Where the rule asks for more than fits, the room is used to the last example.
    for record, following in zip(records, records[1:], strict=False):
        same = record["materialised"] == following["materialised"]
        if record["wanted_batch"] > record["next_batch"] and same:
            assert following["batch_size"] == record["next_batch"]
            assert sum(following["allocated"]["training"].values()) > 0.95 * limit

    another = Trainer(settings, DIGITS, Programs())
    resumed = resume.run_of(another, resume.newest(another, tmp_path))
    for expected in records[7:]:
        resumed, record = loop.advance(another, resumed)
        clocks = {"seconds", "compile_seconds", "compilations"}
        assert {k: v for k, v in record.items() if k not in clocks} == {
            k: v for k, v in expected.items() if k not in clocks
        }
    for a, b in zip(jax.tree.leaves(run.state), jax.tree.leaves(resumed.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_evaluation_is_cut_until_it_fits(free):
    limit = free.step_bytes(free.whole, 2)
    whole = step_bytes.total(free.steps.evaluation_bytes(free.whole, budget.CHUNK, "test"))
    assert whole > limit, "nothing to cut"
    trainer, run = start(make(f"{limit}", batch=config.Batch(size=2)))
    assert 1 <= run.chunk < 60
    assert step_bytes.total(trainer.steps.evaluation_bytes(run.network, run.chunk, "test")) <= limit


def test_a_step_above_the_budget_is_an_internal_error(free):
    trainer, run = start(make(f"{free.step_bytes(free.whole, 16)}"))
    with pytest.raises(budget.Exceeded, match="a training step takes"):
        loop.advance(trainer, dataclasses.replace(run, batch_in_use=32))


def test_sp_is_what_the_whole_network_takes_at_sp_batch(free):
    trainer = Trainer(make("sp"), FEW, Programs())
    assert trainer.meter.budget_bytes == free.step_bytes(free.whole, 32)


@pytest.mark.parametrize("text", ["0", "-4MiB", "plenty", "1 parsec", "none of it"])
def test_nonsense_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^config.memory.budget is .*allowed: ") as caught:
        Trainer(make(text), FEW, Programs())
    assert "\n" not in str(caught.value)


def test_too_small_a_budget_names_the_smallest_that_works(free):
    least = free.step_bytes(free.whole, 1)
    with pytest.raises(ConfigError, match="at least .*KiB.* with a mini-batch of 1") as caught:
        Trainer(make(f"{least - 1}"), FEW, Programs())
    assert "\n" not in str(caught.value)
    named = str(caught.value).split("at least ")[1].split("KiB")[0]
    assert float(named) * 1024 >= least > (float(named) - 0.1) * 1024
    trainer, run = start(make(f"{named}KiB"))
    assert run.batch == 1


# -- programs beside the steps ---------------------------------------------------------------------


def test_the_initial_state_takes_what_it_is_and_its_numbers_are_those_of_jax(free):
    wide = Trainer(make("none", model=config.Model(hidden=(300,))), FEW, Programs())
    program, parts = wide.steps.starting(wide.whole)
    assert 0 <= parts["temporaries"] < 0.02 * step_bytes.total(parts)
    key = jax.random.key(7)
    state, drawn = program(key, key, ()), jax.jit(wide.whole.model.init)(key)
    for a, b in zip(jax.tree.leaves(state.variables), jax.tree.leaves(dict(drawn)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("examples", [1, 96, 2000])
def test_an_order_that_the_host_sorts_is_the_one_of_the_device(examples):
    source, programs = jax.random.key(3), Programs()
    there = example_order.Order(source, examples, programs, None)
    here = example_order.Order(source, examples, programs, 0)
    assert here.temporaries < 100 or here.temporaries < there.temporaries
    for number in (1, 2):
        expected = jax.random.permutation(jax.random.fold_in(source, number), examples)
        np.testing.assert_array_equal(there(number), expected)
        np.testing.assert_array_equal(here(number), expected)


def test_arrays_are_given_back_as_smaller_ones_are_made(free):
    program, _ = free.steps.starting(free.whole)
    states = [program(jax.random.key(0), jax.random.key(1), ()) for _ in range(2)]
    keeps = {"hidden_1": np.arange(5)}
    (_, kept), (_, cut) = (
        shape_plans.resize(free.whole, state, free.steps.tx, keeps, *how)
        for state, how in zip(states, [(), (shape_plans.consumed,)], strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, kept, cut)
    for before, after in zip(jax.tree.leaves(states[1]), jax.tree.leaves(cut), strict=True):
        assert before.is_deleted() == (before.shape != after.shape)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(states[0]))


# -- savings ---------------------------------------------------------------------------------------


def saving(used: savings.Savings, asked: Config) -> Trainer:
    """That uses these savings, whatever the budget."""
    trainer = Trainer(asked, FEW, Programs())
    trainer.budget.steps = trainer.steps.saving(used)
    trainer.config, trainer.tx = trainer.steps.config, trainer.steps.tx
    return trainer


def run_with(used: savings.Savings, asked: Config):
    """One epoch of a run that uses these savings."""
    trainer = saving(used, asked)
    run = trainer.start()
    size = step_bytes.total(trainer.steps.training_bytes(run.network, 32))
    state, tally = loop.train_epoch(trainer, run, 32, 1, 3)
    return size, jax.tree.map(np.array, state), tally


@pytest.mark.parametrize(
    ("used", "variance", "per_example"),
    [
        (savings.Savings(parts=4), "norms", False),
        (savings.Savings(parts=4), "vmap", True),
        (savings.Savings(remat=True), "norms", True),
        (savings.Savings(parts=2, remat=True), "norms", False),
    ],
)
def test_accumulating_and_rematerialising_change_no_number(used, variance, per_example):
    settings = make(
        "none",
        batch=config.Batch(size=32, variance=variance),
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=2.0, l2=3.0),
    )
    size, state, tally = run_with(savings.NOTHING, settings)
    less, same_state, same_tally = run_with(used, settings)
    if used.parts == 4 and per_example:
        assert less < size
    for a, b in zip(
        jax.tree.leaves((state, tally)), jax.tree.leaves((same_state, same_tally)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_micro_batches_vary_the_same_whether_kept_or_summed():
    settings = make("none", batch=config.Batch(size=32, variance="micro", micro_batches=4))
    _, state, _ = run_with(savings.NOTHING, settings)
    _, same, _ = run_with(savings.Savings(parts=4), settings)
    assert state.means.grad_variance > 0
    np.testing.assert_allclose(state.means.grad_variance, same.means.grad_variance, rtol=1e-3)


def test_bf16_moments_are_smaller_and_survive_a_resize():
    settings = make("none")
    size, state, _ = run_with(savings.Savings(bf16_moments=True), settings)
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(state.opt_state)}
    assert kinds == {"bfloat16", "float32", "int32"}
    trainer = saving(savings.Savings(bf16_moments=True), settings)
    tx, network = trainer.steps.tx, trainer.whole
    keeps = {"hidden_1": np.arange(5)}
    smaller, cut = shape_plans.resize(network, state, tx, keeps)
    shapes = trainer.steps.state_shapes(smaller)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), cut) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )


def test_savings_are_used_in_order_only_if_allowed_and_needed(free):
    """A budget between what 32 examples take and what 16 do."""
    tight = (free.step_bytes(free.whole, 32) + free.step_bytes(free.whole, 16)) // 2
    batch = config.Batch(size=32)
    relaxed = Trainer(
        make(f"{free.step_bytes(free.whole, 32)}", SAVINGS, batch=batch),
        FEW,
        Programs(),
    )
    assert relaxed.steps.used == savings.NOTHING
    trainer, run = start(make(f"{tight}", SAVINGS, batch=batch))
    assert trainer.steps.used.names == ("accumulate",)
    assert run.batch_in_use >= 32 and run.batch_in_use % trainer.steps.used.parts == 0
    run, record = loop.advance(trainer, run)
    assert record["savings"] == ["accumulate"]
    assert record["allocated_kib"] * 1024 <= tight
    # Not allowed, so the mini-batch itself is smaller.
    trainer, run = start(make(f"{tight}", batch=batch))
    assert trainer.steps.used == savings.NOTHING and run.batch_in_use < 32


def test_an_error_says_what_would_help():
    asked = {"gates": config.Gates(per_example=True), "batch": config.Batch(size=4)}
    least = Trainer(make("none", **asked), FEW, Programs()).budget
    settings = make(f"{least.step_bytes(least.whole, 4) - 1}", smallest=4, **asked)
    with pytest.raises(ConfigError, match=r"or .*KiB with config.memory.allow=\('"):
        Trainer(settings, FEW, Programs())


# -- the planner -----------------------------------------------------------------------------------


def test_the_planner_says_what_steps_take_and_budgets_allow(free, tmp_path):
    """A process of its own; its numbers are the loop's."""
    limit = free.step_bytes(free.whole, 20)
    command = [
        *(sys.executable, "-m", "experiments.memory", "--config=configs/digits.py"),
        *("--config.model.hidden=(12, 7)", "--config.data.examples=96"),
        "--config.optimizer.learning_rate=0.005",
        *(f"--budgets={limit},100", "--widths=1", "--batches=16"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (step,) = [line for line in lines if line[:2] == ["64-12-7", "16"]]
    assert float(step[-1]) == pytest.approx(free.step_bytes(free.whole, 16) / 1024, abs=0.051)
    assert sum(map(float, step[2:-1])) == pytest.approx(float(step[-1]), abs=0.31)
    (allowed,) = [line for line in lines if line[:1] == [f"{limit}"]]
    assert allowed[1:3] == ["64-12-7", "20"]
    assert "config.memory.budget is '100'; allowed: at least" in done.stdout
