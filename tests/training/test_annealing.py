"""What changes with the epoch, the mean of the weights, weight decay."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from epoch_oracle import Oracle
from kept import NEVER_CUT, Kept
from small_runs import DIGITS, FEW, NAMES, copy, go_on, make, start, timeless

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.gates import hard_concrete
from dynhp_jax.training import config, options
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import epoch_schedules, loop, resume, shape_plans
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import weight_mean
from dynhp_jax.training.step.input_noise import make_perturb
from dynhp_jax.training.step.optimizer import make_optimizer
from dynhp_jax.training.step.state import stream
from dynhp_jax.training.step.step import make_draw
from dynhp_jax.training.sweep.team import Team

EVERYTHING = {
    "epochs": 7,
    "method": "hp",
    "penalty": config.Penalty(lam=4.0, start=1, warmup=1, stop=5),
    "pruning": config.Pruning(start=2, stop=6),
    "optimizer": config.Optimizer(
        learning_rate=0.02, schedule="cosine", warmup=1, final=0.1, weight_decay=0.02, ema=0.5
    ),
    "gates": config.Gates(per_example=True, learning_rate=0.05),
    "data": config.Data(noise=0.1, shift=0.6),
    "batch": config.Batch(size=16),
    "compiling": config.Compiling(shrink=0.4, ahead=False),
}


def optimizer(**changes):
    return make(epochs=12, optimizer=config.Optimizer(**changes))


# -- schedules -------------------------------------------------------------------------------------


def test_rates_against_values_written_out():
    constant = [epoch_schedules.rate(optimizer(), epoch) for epoch in range(1, 13)]
    assert constant == [1.0] * 12
    linear = optimizer(schedule="linear", final=0.4, warmup=2)
    expected = [1 / 3, 2 / 3, *(1 - 0.06 * k for k in range(10))]
    found = [epoch_schedules.rate(linear, epoch) for epoch in range(1, 13)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    cosine = optimizer(schedule="cosine")
    found = [epoch_schedules.rate(cosine, epoch) for epoch in range(1, 13)]
    # Degrees, so that the oracle has another form: cos^2 of half the angle.
    np.testing.assert_allclose(found, np.cos(np.deg2rad(7.5 * np.arange(12))) ** 2, rtol=1e-12)
    assert found == sorted(found, reverse=True) and found[0] == 1 and found[-1] > 0
    assert epoch_schedules.rate(optimizer(warmup=3), 2) == 0.5
    assert epoch_schedules.rate(optimizer(warmup=3), 400) == 1.0


def test_lambda_rises_and_ends_and_pruning_has_its_epochs():
    settings = make(penalty=config.Penalty(lam=8.0, start=2, warmup=3, stop=7))
    found = [epoch_schedules.lam(settings, epoch) for epoch in range(1, 10)]
    assert found == [0, 0, 2, 4, 6, 8, 8, 0, 0]
    assert {epoch_schedules.lam(make(), epoch) for epoch in (1, 2, 1000)} == {2.0}
    settings = make(pruning=config.Pruning(start=2, stop=4))
    assert [epoch_schedules.prunes(settings, epoch) for epoch in range(1, 7)] == [
        False, False, True, True, False, False,
    ]  # fmt: skip
    assert epoch_schedules.prunes(make(), 1) and not epoch_schedules.prunes(make(method="sp"), 1)


def test_the_mean_forgets_by_epochs_whatever_the_mini_batch():
    settings = make(optimizer=config.Optimizer(ema=2.0))
    for steps in (1, 7, 600):
        kept = (1 - epoch_schedules.forgetting(settings, steps)) ** (2 * steps)
        assert kept == pytest.approx(math.exp(-1), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"penalty": lambda: config.Penalty(start=5, stop=5)}, "penalty.stop"),
        ({"pruning": lambda: config.Pruning(start=5, stop=2)}, "pruning.stop"),
        ({"optimizer": lambda: config.Optimizer(schedule="cosine", warmup=4)}, "optimizer.warmup"),
        ({"optimizer": lambda: config.Optimizer(schedule="steps")}, "optimizer.schedule"),
        ({"optimizer": lambda: config.Optimizer(final=1.5)}, "optimizer.final"),
        ({"optimizer": lambda: config.Optimizer(ema=-1.0)}, "optimizer.ema"),
        ({"optimizer": lambda: config.Optimizer(weight_decay=math.inf)}, "optimizer.weight_decay"),
        ({"data": lambda: config.Data(noise=-0.1)}, "data.noise"),
    ],
)
def test_wrong_values_are_refused_by_name(changes, field):
    with pytest.raises(ConfigError) as caught:
        make(**{name: value() for name, value in changes.items()})
    assert caught.value.field == field


def test_a_run_whose_rate_is_scheduled_over_all_epochs_cannot_be_lengthened():
    base = optimizer(schedule="cosine")
    longer = dataclasses.replace(base, epochs=13)
    (found,) = config.differences(base, longer)
    assert "config.epochs (there 12, here 13" in found and "'cosine'" in found
    assert config.differences(base, base) == []
    warmed = optimizer(warmup=3)
    assert config.differences(warmed, dataclasses.replace(warmed, epochs=13)) == []


# -- steps -----------------------------------------------------------------------------------------


def layers_of(params, log_alpha):
    layers = [params[each] for each in ("hidden_1", "hidden_2", "output")]
    parameters = [each["kernel"] for each in layers] + [each["bias"] for each in layers]
    return parameters + [log_alpha[each] for each in NAMES]


def test_two_epochs_are_what_numpy_computes():
    """AdamW at scheduled rates, lambda as it rises, the mean of the weights, noisy inputs."""
    settings = make(
        epochs=4,
        penalty=config.Penalty(lam=6.0, warmup=2),
        optimizer=config.Optimizer(
            learning_rate=5e-3, schedule="linear", warmup=1, weight_decay=0.7, ema=0.6
        ),
        data=config.Data(noise=0.25),
        batch=config.Batch(size=16),
        gates=config.Gates(per_example=True),
    )
    trainer, run = start(settings, FEW)
    oracle = Oracle(run.state, settings, 60, True)
    draw = make_draw(run.network, settings)
    perturb = make_perturb(run.network, 0.25)
    masks = {name: np.ones(group.size, np.float32) for name, group in run.network.groups.items()}
    mean, weight, step = [np.zeros_like(p) for p in oracle.parameters], 0.0, 0
    decay = math.exp(-1 / (0.6 * 3))
    for epoch, rate in ((1, 0.5), (2, 1.0)):
        oracle.settings = dataclasses.replace(
            settings,
            penalty=config.Penalty(lam=6.0 * epoch / 3),
            optimizer=config.Optimizer(learning_rate=5e-3 * rate),
        )
        order = np.asarray(trainer.order(np.int32(epoch)))
        for k in range(3):
            rows = order[16 * k : 16 * (k + 1)]
            log_alpha = dict(zip(NAMES, (jnp.float32(a) for a in oracle.a), strict=True))
            z = draw(log_alpha, masks, run.given, step, 16)
            z = [np.asarray(z[name], np.float64) for name in NAMES]
            key = jax.random.fold_in(stream(settings.seed, "input noise"), step)
            images = FEW.x_train[rows].reshape(16, 64)
            x = np.asarray(perturb(images, key, run.given.units, 0), np.float64)
            before = [w.copy() for w in oracle.w]
            oracle.step(x, FEW.y_train[rows], z)
            for w, old in zip(oracle.w, before, strict=True):
                w -= 5e-3 * rate * 0.7 * old
            step, weight = step + 1, decay * weight + (1 - decay)
            mean = [
                decay * old + (1 - decay) * now
                for old, now in zip(mean, oracle.parameters, strict=True)
            ]
        state, tally = loop.train_epoch(trainer, run, 16, epoch, 3)
        run = dataclasses.replace(run, state=state)
    averages = state.averages
    found = layers_of(state.variables["params"], state.gates)
    for one, other in zip(found, oracle.parameters, strict=True):
        np.testing.assert_allclose(one, other, atol=4e-4)
    found = layers_of(averages.variables["params"], averages.gates)
    for one, other in zip(found, mean, strict=True):
        np.testing.assert_allclose(one, other / weight, atol=4e-4)
    np.testing.assert_allclose(averages.weight, weight, rtol=1e-5)
    assert 0.5 < weight < 0.99, "the start of the mean would not matter"


@pytest.mark.parametrize("name", options.OPTIMIZERS)
def test_weight_decay_is_decoupled_and_of_kernels_alone(name):
    trained = {
        "params": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
        "gates": {"units": jnp.full(3, 2.0)},
    }
    found = []
    for decay in (0.0, 0.3):
        settings = config.Optimizer(name, 0.01, weight_decay=decay)
        tx = make_optimizer(make(optimizer=settings))
        state = tx.init(trained)
        for slope in (0.5, -2.0):
            gradients = jax.tree.map(lambda leaf, slope=slope: slope * leaf, trained)
            updates, state = tx.update(gradients, state, trained)
        found.append(updates)
    plain, decayed = found
    np.testing.assert_allclose(
        decayed["params"]["kernel"], plain["params"]["kernel"] - 0.01 * 0.3 * 2.0, rtol=1e-5
    )
    np.testing.assert_array_equal(decayed["params"]["bias"], plain["params"]["bias"])
    np.testing.assert_array_equal(decayed["gates"]["units"], plain["gates"]["units"])


def test_the_mean_of_a_constant_is_the_constant_however_the_share_changes():
    averages = weight_mean.start({"params": jnp.zeros(2)}, {"h": jnp.full(1, -7.0)})
    for share in (0.01, 0.3, 0.001, 0.7):
        averages = weight_mean.moved(
            averages, {"params": jnp.array([3.0, -1.0])}, {"h": jnp.full(1, 2.0)}, share
        )
        np.testing.assert_allclose(averages.variables["params"], [3.0, -1.0], rtol=1e-6)
        np.testing.assert_allclose(averages.gates["h"], [2.0], rtol=1e-6)


# -- runs ------------------------------------------------------------------------------------------


def test_with_everything_on_a_run_prunes_only_in_its_epochs_and_learns():
    trainer, run = start(make(**EVERYTHING))
    run, records = go_on(trainer, run, 7)
    units = [sum(record["units"].values()) for record in records]
    assert units[:2] == [83, 83] and units[5] == units[6] < units[2]
    assert records[-1]["materialised"] < trainer.whole_parameters
    assert records[-1]["test_error"] < 50 < records[0]["test_error"]
    left = run.network.model.input_shape  # of the test set; training needs whole images to move
    assert run.splits["test"].inputs.shape[1:] == left < run.splits["train"].inputs.shape[1:]
    np.testing.assert_allclose([r["lam"] for r in records], [0, 2, 4, 4, 4, 0, 0])
    assert records[1]["learning_rate"] == 0.02 > records[2]["learning_rate"]
    assert records[-1]["penalty"] == 0 < records[4]["penalty"]
    for leaf, mean in zip(
        jax.tree.leaves((run.state.variables, run.state.gates)),
        jax.tree.leaves((run.state.averages.variables, run.state.averages.gates)),
        strict=True,
    ):
        assert leaf.shape == mean.shape


def test_what_is_evaluated_is_the_mean_and_not_the_weights():
    trainer, run = start(make(**EVERYTHING))
    run, (record,) = go_on(trainer, run, 1)
    split = run.splits["test"]
    state = run.state
    of_mean = state._replace(
        variables=state.averages.variables, gates=state.averages.gates, averages=()
    )
    found = [
        loop.evaluate(trainer, run.network, each, split, "test")["cross_entropy"]
        for each in (state, of_mean, state._replace(averages=()))
    ]
    assert found[0] == found[1] == record["test_cross_entropy"] != found[2]


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    settings = make(**EVERYTHING)
    trainer, run = start(settings)
    records = []
    for epoch in range(7):
        if epoch in (1, 5):
            resume.save(trainer, run, tmp_path / str(epoch))
        run, record = loop.advance(trainer, run)
        records.append(record)
    assert records[4]["materialised"] < trainer.whole_parameters
    programs = Kept()  # apart from the uninterrupted run's
    for epoch in (5, 1):
        another = Trainer(settings, DIGITS, programs)
        resumed = resume.run_of(another, resume.newest(another, tmp_path / str(epoch)))
        resumed, rest = go_on(another, resumed, 7 - epoch)
        assert timeless(rest) == timeless(records[epoch:])
        mine, theirs = jax.tree.leaves(resumed.state), jax.tree.leaves(run.state)
        for a, b in zip(mine, theirs, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_cutting_changes_no_output_and_no_later_epoch():
    """Masked and cut networks, the mean of the weights in both, train alike on the same noise."""
    settings = make(**{**EVERYTHING, "method": "sp"})
    trainer, run = start(settings)
    state, _ = loop.train_epoch(trainer, run, 16, 1, 3)
    rng = np.random.default_rng(0)
    masks = {
        name: (rng.random(m.shape) < 0.6).astype(np.float32) for name, m in state.masks.items()
    }
    masked = copy(state._replace(masks=masks))
    keeps = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    network, smaller = shape_plans.resize(
        run.network, state._replace(masks=masks), trainer.tx, keeps
    )
    assert smaller.averages.variables["params"]["hidden_2"]["kernel"].shape == (
        keeps["hidden_1"].size,
        keeps["hidden_2"].size,
    )
    found = []
    for net, each, kept in ((run.network, masked, run.keeps), (network, smaller, keeps)):
        here = dataclasses.replace(
            run, network=net, state=each, keeps=kept, splits=trainer.splits(kept),
            given=trainer.given(net, kept, each),
        )  # fmt: skip
        results = []
        for epoch in (2, 3):
            outputs = loop.evaluate(trainer, net, here.state, here.splits["test"], "test")
            trained, tally = loop.train_epoch(trainer, here, 16, epoch, 3)
            here = dataclasses.replace(here, state=trained)
            results += [outputs["cross_entropy"], tally.loss, tally.data_loss]
        outputs = loop.evaluate(trainer, net, trained, here.splits["test"], "test")
        gates_left = [trained.averages.gates[n][np.flatnonzero(trained.masks[n])] for n in NAMES]
        found.append((results + [outputs["cross_entropy"]], gates_left))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_members_of_a_sweep_are_their_single_runs():
    base = make(**EVERYTHING)
    members = [base, dataclasses.replace(base, penalty=config.Penalty(lam=4.0, warmup=2, start=1))]
    with pytest.raises(ConfigError, match="penalty.warmup"):
        Team(members, DIGITS, Programs())
    members[1] = dataclasses.replace(
        base, seed=3, penalty=dataclasses.replace(base.penalty, lam=6.0)
    )
    team = Team(members, DIGITS, Programs())
    everyone, records = team.start(), [[], []]
    for _ in range(5):
        everyone, now = team.advance(everyone)
        for each, record in zip(records, now, strict=True):
            each.append(record)
    programs = Kept()
    for k, settings in enumerate(members):
        whole = dataclasses.replace(settings, compiling=NEVER_CUT)
        trainer, run = start(whole, programs=programs)
        run, expected = go_on(trainer, run, 5)
        for mine, theirs in zip(records[k], expected, strict=True):
            for name in ("units", "batch_size", "steps", "lam", "learning_rate"):
                assert mine[name] == theirs[name], name
            for name in ("train_loss", "test_cross_entropy"):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=5e-3)
        np.testing.assert_allclose(
            everyone.state.averages.weight[k], run.state.averages.weight, rtol=1e-5
        )


def test_no_schedule_compiles_anything():
    trainer, run = start(make(**{**EVERYTHING, "method": "sp"}))
    run, _ = go_on(trainer, run, 1)
    compilations = trainer.programs.compilations
    run, records = go_on(trainer, run, 6)
    assert trainer.programs.compilations == compilations
    assert len({record["learning_rate"] for record in records}) == 6


def test_the_mean_is_counted_with_the_optimizer():
    sizes = []
    for ema in (0.0, 1.0):
        settings = make(optimizer=config.Optimizer(learning_rate=5e-3, ema=ema))
        trainer, run = start(settings, FEW)
        parts = trainer.steps.training_bytes(run.network, 16)
        found = trainer.steps.training_program(run.network, 16).memory_analysis()
        fed = 60 * (64 * 4 + 4) + 60 * 4 + 4 + 8 + 4 + (4 if ema else 0)  # ..., forgetting
        assert step_bytes.total(parts) == (
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            - found.alias_size_in_bytes
            + found.temp_size_in_bytes
            - fed
        )
        waiting = trainer.steps.evaluation_bytes(run.network, 8, "test")
        assert waiting["optimizer"] == parts["optimizer"]
        sizes.append(parts["optimizer"])
    parameters, units = 64 * 12 + 12 + 12 * 7 + 7 + 7 * 10 + 10, 64 + 12 + 7
    assert sizes[1] - sizes[0] == 4 * (parameters + units) + 4


def test_the_mean_of_the_gates_has_their_deterministic_values():
    """By hand: the mean's gates, stretched and clipped, times its weights."""
    trainer, run = start(make(**EVERYTHING))
    state, _ = loop.train_epoch(trainer, run, 16, 1, 3)
    x, mean = FEW.x_test.reshape(-1, 64), state.averages
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        layer = mean.variables["params"][name]
        x = x * np.asarray(hard_concrete.mean(mean.gates[NAMES[k]]))
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = np.maximum(x, 0) if k < 2 else x
    found = loop.evaluate(trainer, run.network, state, run.splits["test"], "test")
    wrong = 100 * (x.argmax(1) != FEW.y_test).mean()
    assert found["error"] == pytest.approx(wrong)
