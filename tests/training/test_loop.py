"""The loop over epochs: pruning, resizing, resuming, counting compilations."""

import contextlib
import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from kept import NEVER_CUT, Kept
from small_runs import AT_ONCE, DIGITS, FEW, copy, go_on, make, start, timeless

from dynhp_jax import data
from dynhp_jax.common import schema
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.sweep import team


def test_dynhp_prunes_resizes_and_grows_the_batch_inside_the_budget():
    settings = make(batch=config.Batch(alpha=0.2, grid=1.5), compiling=AT_ONCE, epochs=8)
    trainer, run = start(settings)
    run, records = go_on(trainer, run, 8)
    units = [sum(record["units"].values()) for record in records]
    assert units == sorted(units, reverse=True) and units[-1] < units[0]
    assert records[-1]["materialised"] < records[0]["materialised"] == trainer.whole_parameters
    sizes = [record["batch_size"] for record in records]
    assert sizes == sorted(sizes) and sizes[0] == 16 < sizes[-1]
    for record, following in zip(records, records[1:], strict=False):
        n, h, k = (record["units"][name] for name in ("input", "hidden_1", "hidden_2"))
        assert record["parameters"] == n * h + h + h * k + k + k * 10 + 10
        assert record["parameters"] <= record["materialised"]
        assert record["memory_kib"] <= record["budget_kib"]
        assert following["batch_size"] <= record["next_batch"]
        growth = math.floor(0.8 * record["grad_variance"] / record["smoothed_loss"])
        room = (trainer.meter.budget_bytes - 4 * record["parameters"]) // 256
        exact = 16 if record["epoch"] == 1 else records[record["epoch"] - 2]["next_batch"]
        assert record["next_batch"] == min(exact + growth, room)
    kept = {name: len(units) for name, units in run.keeps.items()}
    assert kept == {name: group.size for name, group in run.network.groups.items()}
    assert run.splits["train"].inputs.shape == (1437, kept["input"])
    np.testing.assert_array_equal(
        run.splits["test"].inputs, DIGITS.x_test.reshape(360, 64)[:, run.keeps["input"]]
    )


def test_a_rule_by_step_counts_as_often_as_the_epoch_had_steps():
    settings = make(
        batch=config.Batch(alpha=0.2, grid=2.0, every="step"),
        memory=config.Memory(sp_batch=128),
        compiling=AT_ONCE,
        epochs=5,
    )
    trainer, run = start(settings)
    _, records = go_on(trainer, run, 5)
    exact, steps, bound = 16, set(), 0
    for record in records:
        growth = math.floor(0.8 * record["grad_variance"] / record["smoothed_loss"])
        room = (trainer.meter.budget_bytes - 4 * record["parameters"]) // 256
        bound += exact + record["steps"] * growth > room
        exact = min(exact + record["steps"] * growth, room)
        assert record["next_batch"] == exact
        if growth:
            steps.add(record["steps"])
    assert len(steps) > 1 and bound, "the batch hardly grew, or the budget never bound; test more"


def test_gates_cost_what_the_convention_counts():
    """'parameters': with n, h, k units left, a pixel h, a unit n + 1 + k and h + 1 + 10."""
    settings = make(
        penalty=config.Penalty(lam=0.6, convention="parameters"),
        optimizer=config.Optimizer(learning_rate=2e-2),
        compiling=config.Compiling(shrink=0.4, ahead=False),
        epochs=6,
    )
    trainer, run = start(settings)
    seen = set()
    for _ in range(6):
        masks = jax.device_get(run.state.masks)
        n, h, k = (int(masks[name].sum()) for name in ("input", "hidden_1", "hidden_2"))
        for name, price in {"input": h, "hidden_1": n + 1 + k, "hidden_2": h + 1 + 10}.items():
            alive = masks[name] > 0
            np.testing.assert_array_equal(np.asarray(run.given.prices[name])[alive], price)
        seen.add((n, h, k, masks["input"].size))
        run, _ = loop.advance(trainer, run)
    assert len(seen) > 3 and len({cut for *_, cut in seen}) > 1, "too little was cut; test more"


def test_methods_differ_only_in_what_they_switch_on():
    units, sizes = {}, {}
    for method in config.METHODS:
        fast, many = config.Optimizer(learning_rate=0.05), config.Penalty(20.0)
        trainer, run = start(
            make(method=method, penalty=many, optimizer=fast, epochs=3, compiling=NEVER_CUT)
        )
        run, records = go_on(trainer, run, 3)
        units[method], sizes[method] = records[-1]["units"], records[-1]["batch_size"]
    assert units["dense"] == {}
    assert units["sp"] == {"input": 64, "hidden_1": 12, "hidden_2": 7}
    assert sum(units["hp"].values()) < 83 and sum(units["dynhp"].values()) < 83
    assert sizes["sp"] == sizes["hp"] == sizes["dense"] == 64


def test_compilations_do_not_grow_with_the_number_of_epochs():
    backend = []
    listener = lambda event, seconds, **_: (  # noqa: E731
        backend.append(event) if event.endswith("backend_compile_duration") else None
    )
    trainer, run = start(make(method="hp", pruning=config.Pruning(gamma=0.0)))
    run, _ = go_on(trainer, run, 2)
    compilations = trainer.programs.compilations
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run, _ = go_on(trainer, run, 25)
        seen = len(backend)
        jax.jit(lambda x: x * 3.25)(1.5)
        assert len(backend) == seen + 1, "the listener counts nothing"
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert seen == 0
    assert trainer.programs.compilations == compilations


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": config.Optimizer(learning_rate=1e-2)}, {"gates": config.Gates(inputs=False)}],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_that_share_programs_are_what_they_are_alone(changes):
    """And what no program depends on makes no other ones."""
    first, programs = make(method="hp"), Programs()
    second = dataclasses.replace(first, **changes)
    _, alone = go_on(*start(second), 1)
    go_on(*start(first, programs=programs), 1)
    _, beside = go_on(*start(second, programs=programs), 1)
    assert timeless(beside) == timeless(alone)
    compilations = programs.compilations
    third = dataclasses.replace(first, seed=1, epochs=9, penalty=config.Penalty(lam=0.7))
    go_on(*start(third, programs=programs), 1)
    assert programs.compilations == compilations
    assert set(team.FREE) <= config.NOT_COMPILED
    wide = dataclasses.replace(DIGITS, **{
        name: getattr(DIGITS, name).reshape(-1, 4, 16, 1) for name in ("x_train", "x_test")
    })  # fmt: skip
    other = Trainer(first, wide, programs)  # its examples could be moved in another way
    assert other.steps.compiled_for != Trainer(first, DIGITS, programs).steps.compiled_for


def test_while_pruning_there_is_one_epoch_program_per_spec_and_batch():
    settings = make(
        penalty=config.Penalty(lam=4.0),
        batch=config.Batch(alpha=0.5, grid=2.0),
        compiling=config.Compiling(shrink=0.5, ahead=False),
        epochs=20,
    )
    trainer, run = start(settings)
    run, records = go_on(trainer, run, 20)
    assert len({record["parameters"] for record in records}) > 5
    pairs = {(16, trainer.whole_parameters)}
    for record, following in zip(records, records[1:], strict=False):
        pairs.add((following["batch_size"], record["materialised"]))
    compiled = [each for each in trainer.programs.log if each.name == "epoch"]
    assert len(compiled) == len({each.key for each in compiled}) == len(pairs)
    resizes = math.log(trainer.whole_parameters / records[-1]["materialised"], 2)
    sizes = math.log(records[-1]["batch_size"] / 16, 2)
    assert len(compiled) <= 1 + resizes + sizes
    assert len(trainer.programs) <= 2 + sizes + 1, "programs of earlier sizes are let go"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path, ahead):
    settings = make(
        epochs=8,
        optimizer=config.Optimizer(learning_rate=2e-2),
        batch=config.Batch(alpha=0.0, grid=2.0),
        compiling=config.Compiling(shrink=0.25, ahead=ahead),
    )
    trainer, run = start(settings)
    states, records, pending = [], [], []
    for _ in range(8):
        run, record = loop.advance(trainer, run)
        records.append(record)
        pending.append(run.plan is not None)
        states.append(run.epoch)
        folder = tmp_path / str(run.epoch)
        resume.save(trainer, run, folder)
    uninterrupted = run
    assert records[-1]["materialised"] < trainer.whole_parameters, "nothing was resized; test more"
    assert records[-1]["batch_size"] > 16
    waiting = [epoch for epoch, has_plan in zip(states, pending, strict=True) if has_plan]
    assert len(waiting) > 3, "no plan was ever pending; test more"

    # Apart from the uninterrupted run's. Each begins before the last one, and so compiles what its
    # checkpoint names.
    programs = Kept()
    for epoch in sorted({waiting[0], waiting[1], waiting[-1], 7}, reverse=True):
        another = Trainer(settings, DIGITS, programs)
        resumed = resume.run_of(another, resume.newest(another, tmp_path / str(epoch)))
        assert resumed.epoch == epoch
        resumed, rest = go_on(another, resumed, 8 - epoch)
        assert timeless(rest) == timeless(records[epoch:])
        assert resumed.batch == uninterrupted.batch
        assert resumed.best == uninterrupted.best
        assert resumed.memory_kib == uninterrupted.memory_kib
        for name, kept in uninterrupted.keeps.items():
            np.testing.assert_array_equal(resumed.keeps[name], kept)
        assert resumed.network.model == uninterrupted.network.model
        mine, theirs = jax.tree.leaves(resumed.state), jax.tree.leaves(uninterrupted.state)
        for a, b in zip(mine, theirs, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_checkpoint_s_host_part_is_checked_field_by_field():
    trainer, run = start(make())
    run = go_on(trainer, run, 1)[0]
    host = json.loads(json.dumps(resume.host_part(run, trainer)))
    resume.state_shapes(trainer, host)
    read = set(host) - {"seed"}
    assert {path.strip(".") for path, *_ in resume.HOST.parts(host)} == read
    for field in read:
        less = {name: value for name, value in host.items() if name != field}
        with contextlib.ExitStack() as stack:
            if field != "trials":  # which are made anew
                stack.enter_context(pytest.raises(schema.Unfit, match=f"it has no {field}$"))
            resume.state_shapes(trainer, less)
        with pytest.raises(schema.Unfit, match=f"its {field} is not "):
            resume.state_shapes(trainer, {**host, field: "text"})
    first, *rest = host["keeps"]["hidden_1"]
    for kept in ([], [first, first, *rest], [*rest, 10**6], [-1]):
        with pytest.raises(schema.Unfit, match="its keeps.hidden_1"):
            resume.state_shapes(trainer, {**host, "keeps": {**host["keeps"], "hidden_1": kept}})
    with pytest.raises(schema.Unfit, match="its keeps are not of the groups input, hidden_1"):
        resume.state_shapes(trainer, {**host, "keeps": {}})
    with pytest.raises(schema.Unfit, match="its spec: .*widths"):
        resume.state_shapes(trainer, {**host, "spec": {**host["spec"], "widths": [64, 0, 10]}})


@pytest.mark.parametrize(("size", "parts"), [(3, 2), (1, 2), (16, 3)])
def test_a_fixed_batch_that_micro_batches_do_not_divide_is_refused(size, parts):
    asked = config.Batch(size=size, variance="micro", micro_batches=parts)
    with pytest.raises(config.ConfigError, match=rf"batch.size .* a multiple of {parts}: equal"):
        start(make(method="hp", batch=asked))


def test_a_growing_batch_is_in_whole_micro_batches():
    """Of the grid of all sizes, so that the rule asks for odd ones, too."""
    settings = make(
        penalty=config.Penalty(lam=0.0),
        compiling=AT_ONCE,
        batch=config.Batch(variance="micro", micro_batches=3, grid=1.0, alpha=0.2),
    )
    _, records = go_on(*start(settings), 4)
    assert any(record["next_batch"] % 3 for record in records), "no size was odd; test more"
    assert all(record["batch_size"] % 3 == 0 for record in records)
    with pytest.raises(config.ConfigError, match=r"batch.micro_batches is 61; allowed: at most 60"):
        start(make(batch=dataclasses.replace(settings.batch, micro_batches=61)), FEW)


def test_divergence_is_found_in_the_epoch_where_it_happens():
    settings = make(method="dense", optimizer=config.Optimizer(name="sgd", learning_rate=1e30))
    trainer, run = start(settings)
    with pytest.raises(loop.Diverged, match="epoch 1") as caught:
        loop.advance(trainer, run)
    assert caught.value.epoch == 1


def test_gradients_whose_variance_overflows_are_no_gradients_without_variance():
    # Its square grows with twice the layers of the loss, which is still a number.
    settings = make(
        model=dataclasses.replace(make().model, hidden=(12, 7, 7, 7, 7)),
        optimizer=config.Optimizer(learning_rate=3e6),
        batch=config.Batch(variance="norms"),
    )
    trainer, run = start(settings)
    with pytest.raises(loop.Diverged, match="variance of the gradients"):
        loop.advance(trainer, run)


def test_a_budget_below_the_network_and_one_example_names_the_smallest_that_works():
    parameters = 64 * 12 + 12 + 12 * 7 + 7 + 7 * 10 + 10
    least = 4 * parameters + 256
    with pytest.raises(config.ConfigError, match=r"config.memory.budget .* at least 4.0KiB"):
        start(make(memory=config.Memory(budget=f"{least - 1}")))
    trainer, run = start(make(memory=config.Memory(budget=f"{least}")))
    assert run.batch == 1


def test_a_batch_beyond_the_training_set_and_a_strange_group_are_refused():
    with pytest.raises(config.ConfigError, match=r"config.batch.size .* at most the 1437"):
        start(make(batch=config.Batch(size=1438)))
    with pytest.raises(config.ConfigError, match=r"config.pruning.groups .*hidden_1"):
        start(make(pruning=config.Pruning(groups=("hidden_9",))))


def test_chosen_groups_alone_are_pruned():
    settings = make(pruning=config.Pruning(groups=("hidden_1",)), penalty=config.Penalty(lam=40.0))
    trainer, run = start(settings)
    run, records = go_on(trainer, run, 4)
    assert list(records[-1]["units"]) == ["hidden_1"]
    assert 1 <= records[-1]["units"]["hidden_1"] < 12
    assert run.network.model.widths[0] == 64 and run.network.model.widths[2] == 7


def test_the_held_out_part_is_reported_too():
    held = data.load("digits", validation=0.1)
    fast = config.Optimizer(learning_rate=1e-2)
    trainer, run = start(make(epochs=1, optimizer=fast), held)
    _, (record,) = go_on(trainer, run, 1)
    assert 0 <= record["validation_error"] <= 100
    assert record["steps"] == len(held.y_train) // 16


@pytest.mark.slow
def test_a_model_with_batch_statistics_trains_and_shrinks():
    settings = make(
        method="hp",
        epochs=3,
        model=config.Model(name="resnet", width=0.25, depth=8),
        penalty=config.Penalty(lam=20.0),
        optimizer=config.Optimizer(learning_rate=0.05),
        batch=config.Batch(size=64, variance="none"),
        compiling=config.Compiling(shrink=0.1, ahead=False),
    )
    trainer, run = start(settings)
    before = copy(run.state.variables["batch_stats"])
    run, records = go_on(trainer, run, 3)
    assert records[-1]["materialised"] < trainer.whole_parameters
    run.network.model.check(run.state.variables)
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    after = run.state.variables["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
