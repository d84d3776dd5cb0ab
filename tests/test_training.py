"""The compiled epoch against NumPy; the loop: resuming, resizing, counting compilations."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kept import NEVER_CUT, Kept

from dynhp_jax import (
    checkpoint,
    compiling,
    config,
    data,
    gates,
    loop,
    plans,
    runs,
    sections,
    train_state,
    training,
)
from dynhp_jax.config import Config

DIGITS = data.load("digits")
FEW = dataclasses.replace(DIGITS, x_train=DIGITS.x_train[:60], y_train=DIGITS.y_train[:60])
SMALL = config.Model(hidden=(12, 7))
AT_ONCE = config.Compiling(shrink=0.2, ahead=False)


def make(**changes) -> Config:
    base = Config(
        name="test",
        epochs=4,
        model=SMALL,
        penalty=config.Penalty(lam=2.0),
        optimizer=config.Optimizer(learning_rate=5e-3),
        memory=config.Memory(sp_batch=64),
    )
    return dataclasses.replace(base, **changes)


def start(settings: Config, dataset=DIGITS, programs=None):
    programs = compiling.Programs() if programs is None else programs
    trainer = runs.Trainer(settings, dataset, programs)
    return trainer, trainer.start()


def go_on(trainer, run, epochs):
    records = []
    for _ in range(epochs):
        run, record = loop.advance(trainer, run)
        records.append(record)
    return run, records


def timeless(records):
    clocks = {"seconds", "compile_seconds", "compilations"}
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def copy(tree):
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


# -- an oracle: NumPy, float64, formulas written down by hand -------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Oracle:
    """A 64-12-7-10 perceptron with gates on the inputs of every layer, trained by Adam."""

    def __init__(self, state, settings, examples, per_example):
        f64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), copy(state))
        layers = f64.variables["params"]
        self.w = [layers[name]["kernel"] for name in ("hidden_1", "hidden_2", "output")]
        self.b = [layers[name]["bias"] for name in ("hidden_1", "hidden_2", "output")]
        self.a = [f64.gates[name] for name in ("input", "hidden_1", "hidden_2")]
        self.first = [np.zeros_like(p) for p in self.parameters]
        self.second = [np.zeros_like(p) for p in self.parameters]
        self.settings, self.examples, self.per_example = settings, examples, per_example
        self.steps = 0
        self.means = np.zeros(4)

    @property
    def parameters(self):
        return [*self.w, *self.b, *self.a]

    def step(self, x, y, z):
        """One update; z: gates of the three layers, [units] or [batch, units]."""
        batch = len(y)
        inputs, before = [x], []
        for layer in range(3):
            before.append(inputs[-1] * z[layer] @ self.w[layer] + self.b[layer])
            inputs.append(np.maximum(before[-1], 0))
        logits = before[-1] - before[-1].max(1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        cross_entropy = -np.log(p[np.arange(batch), y]).mean()
        open_ = [sigmoid(a - 2 / 3 * np.log(0.1 / 1.1)) for a in self.a]
        fan_out = [w.shape[1] for w in self.w]
        lam = self.settings.penalty.lam / self.examples
        rho = self.settings.penalty.l2 / self.examples
        penalty = lam * sum(n * o.sum() for n, o in zip(fan_out, open_, strict=True))
        penalty += (
            rho
            / 2
            * sum(
                (o[:, None] * w**2).sum() + (b**2).sum()
                for o, w, b in zip(open_, self.w, self.b, strict=True)
            )
        )

        delta = p.copy()  # [batch, out], of each example's own loss
        delta[np.arange(batch), y] -= 1
        gw, gb, ga, squares = [None] * 3, [None] * 3, [None] * 3, 0.0
        for layer in (2, 1, 0):
            gated = inputs[layer] * z[layer]
            each = gated[:, :, None] * delta[:, None, :]  # [batch, in, out]
            gw[layer], gb[layer] = each.mean(0), delta.mean(0)
            squares += (each.var(0)).sum() + delta.var(0).sum()
            back = delta @ self.w[layer].T  # with respect to the gated input
            gz = back * inputs[layer]  # [batch, in]
            slope = self.slope(z[layer])
            ga[layer] = (gz * slope).mean(0) if self.per_example else gz.mean(0) * slope
            delta = back * z[layer] * (inputs[layer] > 0)
        for layer in range(3):
            o, w = open_[layer], self.w[layer]
            slope = o * (1 - o)
            ga[layer] += lam * fan_out[layer] * slope + rho / 2 * (w**2).sum(1) * slope
            gw[layer] += rho * o[:, None] * w
            gb[layer] += rho * self.b[layer]

        self.steps += 1
        rate = self.settings.optimizer.learning_rate
        for k, (value, g) in enumerate(zip(self.parameters, [*gw, *gb, *ga], strict=True)):
            self.first[k] = 0.9 * self.first[k] + 0.1 * g
            self.second[k] = 0.999 * self.second[k] + 0.001 * g**2
            m = self.first[k] / (1 - 0.9**self.steps)
            v = self.second[k] / (1 - 0.999**self.steps)
            value -= rate * m / (np.sqrt(v) + 1e-8)
        for a in self.a:
            np.clip(a, np.log(0.01), np.log(100), out=a)
        seen = np.array([1.0, squares, cross_entropy + penalty, cross_entropy])
        self.means = 0.95 * self.means + 0.05 * seen
        return cross_entropy, penalty

    def slope(self, z):
        """d z / d log_alpha, from the value of z: s(1-s)/beta x 1.2 between the ends."""
        s = (z + 0.1) / 1.2
        return np.where((z > 0) & (z < 1), s * (1 - s) / (2 / 3) * 1.2, 0.0)


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("l2", [0.0, 30.0])
def test_an_epoch_is_what_numpy_computes(per_example, l2):
    settings = make(
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=2.0, l2=l2),
        batch=config.Batch(size=16),
    )
    trainer, run = start(settings, FEW)
    oracle = Oracle(run.state, settings, 60, per_example)
    draw = training.make_draw(run.network, settings)
    names = ("input", "hidden_1", "hidden_2")

    order = jax.random.permutation(
        jax.random.fold_in(train_state.stream(settings.seed, "order"), 1), 60
    )
    masks = {name: np.ones(group.size, np.float32) for name, group in run.network.groups.items()}
    losses, penalties, counts = [], [], [0, 0, 0]
    for k in range(3):
        rows = np.asarray(order[16 * k : 16 * (k + 1)])
        log_alpha = dict(zip(names, (jnp.float32(a) for a in oracle.a), strict=True))
        z = draw(log_alpha, masks, run.given, k, 16)
        z = [np.asarray(z[name], np.float64) for name in names]
        counts = [c + np.atleast_2d(v > 0).sum(0) for c, v in zip(counts, z, strict=True)]
        x = FEW.x_train[rows].reshape(16, 64).astype(np.float64)
        cross_entropy, penalty = oracle.step(x, FEW.y_train[rows], z)
        losses.append(cross_entropy)
        penalties.append(penalty)

    state, tally = loop.train_epoch(trainer, run, 16, 1, 3)
    np.testing.assert_allclose(tally.cross_entropy, sum(losses), rtol=1e-4)
    np.testing.assert_allclose(tally.penalty, sum(penalties), rtol=1e-4)
    np.testing.assert_allclose(tally.loss, sum(losses) + sum(penalties), rtol=1e-4)
    for name, expected, log_alpha in zip(names, counts, oracle.a, strict=True):
        np.testing.assert_array_equal(tally.counts[name], expected)
        np.testing.assert_allclose(state.gates[name], log_alpha, atol=2e-4)
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        layer = state.variables["params"][name]
        np.testing.assert_allclose(layer["kernel"], oracle.w[k], atol=2e-4)
        np.testing.assert_allclose(layer["bias"], oracle.b[k], atol=2e-4)
    np.testing.assert_allclose(np.array(state.means), oracle.means, rtol=2e-4)
    assert int(state.step) == 3


def test_the_two_estimators_of_the_variance_give_the_same_run():
    found = {}
    for kind in ("norms", "vmap"):
        for per_example in (False, True):
            settings = make(
                batch=config.Batch(size=16, variance=kind),
                gates=config.Gates(per_example=per_example),
            )
            trainer, run = start(settings, FEW)
            state, tally = loop.train_epoch(trainer, run, 16, 1, 3)
            found[kind, per_example] = copy((state, tally))
    for per_example in (False, True):
        one, other = found["norms", per_example], found["vmap", per_example]
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_evaluation_counts_each_example_once_whatever_the_chunk():
    trainer, run = start(make())
    state, test = run.state, run.splits["test"]
    z = {name: gates.mean(value) for name, value in state.gates.items()}
    layers, x = state.variables["params"], np.asarray(test.images)
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        x = x * np.asarray(z[("input", "hidden_1", "hidden_2")[k]])
        x = x @ np.asarray(layers[name]["kernel"]) + np.asarray(layers[name]["bias"])
        x = np.maximum(x, 0) if k < 2 else x
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (DIGITS.y_test, x.argmax(1)), 1)
    for chunk in (7, 360, 5000):
        evaluate = training.make_evaluation(run.network, chunk)
        arguments = (state.variables, state.gates, state.masks, test.images, test.labels)
        parts = [evaluate(*arguments, i) for i in range(-(-360 // chunk))]
        confusion, loss = (sum(part) for part in zip(*parts, strict=True))
        np.testing.assert_array_equal(confusion, expected)
        logs = jax.nn.log_softmax(x)[np.arange(360), DIGITS.y_test]
        np.testing.assert_allclose(loss, -logs.sum(), rtol=1e-4)


def test_a_loop_on_the_host_trains_as_one_program_does():
    found = []
    for on_host in (False, True):
        trainer, run = start(make(), FEW)
        trainer.steps.on_host = on_host
        found.append(copy(loop.train_epoch(trainer, run, 16, 1, 3)))
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# -- the loop ------------------------------------------------------------------------------------


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
        room = (trainer.budget_bytes - 4 * record["parameters"]) // 256
        exact = 16 if record["epoch"] == 1 else records[record["epoch"] - 2]["next_batch"]
        assert record["next_batch"] == min(exact + growth, room)
    kept = {name: len(units) for name, units in run.keeps.items()}
    assert kept == {name: group.size for name, group in run.network.groups.items()}
    assert run.splits["train"].images.shape == (1437, kept["input"])
    np.testing.assert_array_equal(
        run.splits["test"].images, DIGITS.x_test.reshape(360, 64)[:, run.keeps["input"]]
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
        room = (trainer.budget_bytes - 4 * record["parameters"]) // 256
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
        checkpoint.save(folder, run.epoch, run.state, runs.host_part(run, trainer))
    uninterrupted = run
    assert records[-1]["materialised"] < trainer.whole_parameters, "nothing was resized; test more"
    assert records[-1]["batch_size"] > 16
    waiting = [epoch for epoch, has_plan in zip(states, pending, strict=True) if has_plan]
    assert len(waiting) > 3, "no plan was ever pending; test more"

    # Apart from the uninterrupted run's. Each begins before the last one, and so compiles what its
    # checkpoint names.
    programs = Kept()
    for epoch in sorted({waiting[0], waiting[1], waiting[-1], 7}, reverse=True):
        another = runs.Trainer(settings, DIGITS, programs)
        found = checkpoint.restore(tmp_path / str(epoch), another.state_shapes)
        resumed = another.resume(found)
        assert resumed.epoch == epoch
        resumed, rest = go_on(another, resumed, 8 - epoch)
        assert timeless(rest) == timeless(records[epoch:])
        assert resumed.batch == uninterrupted.batch
        assert resumed.best == uninterrupted.best
        assert resumed.memory_kib == uninterrupted.memory_kib
        for name, kept in uninterrupted.keeps.items():
            np.testing.assert_array_equal(resumed.keeps[name], kept)
        assert resumed.network.spec == uninterrupted.network.spec
        mine, theirs = jax.tree.leaves(resumed.state), jax.tree.leaves(uninterrupted.state)
        for a, b in zip(mine, theirs, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_resizing_changes_no_output_and_no_later_update():
    """float64: masked and resized agree, also after three more Adam steps with the same gates."""
    with jax.enable_x64(True):
        settings = make()
        trainer, run = start(settings)
        state, _ = loop.train_epoch(trainer, run, 16, 1, 3)
        state = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, state
        )
        rng = np.random.default_rng(0)
        masks = {name: (rng.random(m.shape) < 0.6).astype(float) for name, m in state.masks.items()}
        state = state._replace(masks=masks)
        keeps = {name: np.flatnonzero(mask) for name, mask in masks.items()}
        network, smaller = plans.resize(run.network, state, trainer.tx, keeps)
        left = [len(keeps[name]) for name in ("input", "hidden_1", "hidden_2")]
        assert network.spec.widths == (*left, 10)
        x = DIGITS.x_train[:32].reshape(32, 64).astype(float)
        y = DIGITS.y_train[:32]

        def outcome(network, state, images):
            apply = training.gated(network.evaluate, network.groups)
            trained = {"params": state.variables["params"], "gates": state.gates}
            opt_state, outputs = state.opt_state, []

            def loss(trained):
                z = {n: gates.mean(a) * state.masks[n] for n, a in trained["gates"].items()}
                logits = apply({"params": trained["params"]}, z, images)
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits

            @jax.jit
            def update(trained, opt_state):
                grads, logits = jax.grad(loss, has_aux=True)(trained)
                change, opt_state = trainer.tx.update(grads, opt_state, trained)
                return logits, optax.apply_updates(trained, change), opt_state

            for _ in range(4):
                logits, trained, opt_state = update(trained, opt_state)
                outputs.append(logits)
            return outputs

        whole = outcome(run.network, state, x)
        cut = outcome(network, smaller, x[:, keeps["input"]])
        for a, b in zip(whole, cut, strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_divergence_is_found_in_the_epoch_where_it_happens():
    settings = make(method="dense", optimizer=config.Optimizer(name="sgd", learning_rate=1e30))
    trainer, run = start(settings)
    with pytest.raises(loop.Diverged, match="epoch 1") as caught:
        loop.advance(trainer, run)
    assert caught.value.epoch == 1


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


@pytest.mark.parametrize("name", sections.OPTIMIZERS)
def test_gates_may_have_a_step_size_of_their_own(name):
    one = make(optimizer=config.Optimizer(name, 0.01))
    other = dataclasses.replace(one, gates=config.Gates(learning_rate=0.03))
    trained = {"params": {"w": jnp.ones(3)}, "gates": {"units": jnp.ones(3)}}
    found = []
    for settings in (one, other):
        tx = train_state.make_optimizer(settings)
        state = tx.init(trained)
        for slope in (0.5, -2.0):
            gradients = jax.tree.map(lambda leaf, slope=slope: slope * leaf, trained)
            updates, state = tx.update(gradients, state, trained)
        found.append(updates)
    np.testing.assert_allclose(found[1]["params"]["w"], found[0]["params"]["w"], rtol=1e-6)
    np.testing.assert_allclose(
        found[1]["gates"]["units"], 3 * found[0]["gates"]["units"], rtol=1e-6
    )


def test_chosen_groups_alone_are_pruned():
    settings = make(pruning=config.Pruning(groups=("hidden_1",)), penalty=config.Penalty(lam=40.0))
    trainer, run = start(settings)
    run, records = go_on(trainer, run, 4)
    assert list(records[-1]["units"]) == ["hidden_1"]
    assert 1 <= records[-1]["units"]["hidden_1"] < 12
    assert run.network.spec.widths[0] == 64 and run.network.spec.widths[2] == 7


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
    run.network.spec.check(run.state.variables)
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    after = run.state.variables["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
