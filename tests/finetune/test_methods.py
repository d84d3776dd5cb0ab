"""Methods of fine-tuning on the engine: which rows they train, and that nothing else moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapting import ADAPT, FEW, KERNELS, check_resumed, chosen, kernels, start
from command_lines import fails, here, timeless
from small_runs import copy

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import methods
from dynhp_jax.finetune.methods.selection import ROWS
from dynhp_jax.training import config
from dynhp_jax.training.run import extensions, loop
from experiments import train

BUDGET = 400
ALL = {
    "random": methods.Random(budget=BUDGET),
    "trady": methods.TraDy(budget=BUDGET),
    "medyate": methods.MeDyate(budget=BUDGET),
    "static": methods.Static(budget=BUDGET),
    "largest": methods.Largest(budget=BUDGET),
    "cyclic": methods.Cyclic(budget=BUDGET),
}


@pytest.mark.parametrize("name", ALL)
def test_chosen_rows_and_the_head_are_trained_and_nothing_else(name):
    trainer, run = start(ALL[name])
    seen, compilations = [], None
    for epoch in range(3):
        before, params = kernels(run)
        run, record = loop.advance(trainer, run)
        after, now = kernels(run)
        rows = chosen(run)
        for path, index in rows.items():
            others = np.setdiff1d(np.arange(len(before[path])), index)
            np.testing.assert_array_equal(after[path][others], before[path][others])
            assert (after[path][index] != before[path][index]).mean() > 0.3
        for layer in ("hidden_1", "hidden_2"):
            np.testing.assert_array_equal(now[layer]["bias"], params[layer]["bias"])
        assert (now["output"]["kernel"] != params["output"]["kernel"]).mean() > 0.5
        cost = sum(len(index) * (before[path].shape[1] + 1) for path, index in rows.items())
        assert record["extension_numbers"] == cost <= BUDGET
        assert cost > BUDGET - 21  # no row more would fit
        seen.append(rows)
        if epoch == 0:
            compilations = record["compilations"]
    assert record["compilations"] == compilations  # another choice compiles nothing
    same = [
        all(np.array_equal(one[path], other[path]) for path in one)
        for one, other in zip(seen, seen[1:], strict=False)
    ]
    assert same == [name in ("static", "largest")] * 2


def test_blocks_go_round():
    trainer, run = start(dataclasses.replace(ALL["cyclic"], budget=1000))
    met = {path: set() for path in KERNELS}
    for _ in range(4):
        run, _ = loop.advance(trainer, run)
        for path, index in chosen(run).items():
            met[path] |= set(index.tolist())
    assert met == {KERNELS[0]: set(range(64)), KERNELS[1]: set(range(20))}


def test_the_largest_rows_are_those_of_the_largest_norms():
    trainer, run = start(ALL["largest"])
    weights, _ = kernels(run)
    for path, index in chosen(run).items():
        norms = np.linalg.norm(np.float64(weights[path]), axis=1)
        np.testing.assert_array_equal(index, np.sort(np.argsort(-norms)[: len(index)]))


def test_rows_that_stay_keep_their_moments():
    """The state of a momentum: of rows in both choices what it was, of new ones nothing."""
    settings = dataclasses.replace(
        ADAPT, optimizer=config.Optimizer(name="momentum", learning_rate=0.01)
    )
    method = methods.TraDy(budget=1000)
    trainer, run = start(method, settings)
    run, _ = loop.advance(trainer, run)
    before, was = chosen(run), copy(run.state.opt_state)
    after_choice = extensions.begin_epoch(trainer, run)
    after, now = chosen(after_choice), copy(after_choice.state.opt_state)
    was, now = (
        next(node.trace for node in jax.tree.leaves(state, is_leaf=_is_trace) if _is_trace(node))
        for state in (was, now)
    )
    for path in KERNELS:
        for place, row in enumerate(after[path]):
            found = now["params"][ROWS][path][place]
            at = np.flatnonzero(before[path] == row)
            expected = was["params"][ROWS][path][at[0]] if at.size else np.zeros_like(found)
            np.testing.assert_array_equal(found, expected)
    jax.tree.map(np.testing.assert_array_equal, was["params"]["whole"], now["params"]["whole"])


def _is_trace(node):
    return hasattr(node, "trace")


@pytest.mark.parametrize("name", ["trady", "medyate"])
def test_a_run_goes_on_with_its_rows_bit_for_bit(name, tmp_path):
    check_resumed(ALL[name], tmp_path)


def test_medyate_draws_by_the_norms_of_what_was_trained():
    """Without momentum the mean gradient is the change by the rate."""
    rate = 0.1
    settings = dataclasses.replace(
        ADAPT, optimizer=config.Optimizer(name="sgd", learning_rate=rate)
    )
    trainer, run = start(methods.MeDyate(budget=BUDGET), settings)
    before, _ = kernels(run)
    run, record = loop.advance(trainer, run)
    first, (after, _) = chosen(run), kernels(run)
    run, _ = loop.advance(trainer, run)
    means = {
        path: np.linalg.norm((after[path] - before[path])[index], axis=1) / rate / record["steps"]
        for path, index in first.items()
    }
    largest = max(each.max() for each in means.values())
    for path, norms in copy(run.state.own["norms"]).items():
        expected = np.full(norms.shape, largest)
        expected[first[path]] = means[path]
        np.testing.assert_allclose(norms, expected, rtol=1e-3)


def test_a_step_takes_less_and_pruned_units_go_with_their_rows():
    sizes = []
    metered = dataclasses.replace(ADAPT, memory=config.Memory("xla", "none", sp_batch=32))
    for extension in (None, methods.TraDy(budget=BUDGET)):
        trainer, _ = start(extension, metered)
        sizes.append(trainer.steps.training_bytes(trainer.whole, 32)["optimizer"])
    assert sizes[1] < sizes[0] / 3
    pruning = dataclasses.replace(
        ADAPT,
        method="hp",
        penalty=config.Penalty(lam=3.0),
        gates=config.Gates(learning_rate=0.1),
        compiling=config.Compiling(shrink=0.1, ahead=False),
    )
    trainer, run = start(methods.TraDy(budget=BUDGET), pruning)
    for _ in range(4):
        run, record = loop.advance(trainer, run)
    assert run.network.model.widths != trainer.whole.model.widths
    (weights, _), rows = kernels(run), chosen(run)
    assert all(0 <= index.min() <= index.max() < len(weights[path]) for path, index in rows.items())
    every = sum(len(kernel) * (kernel.shape[1] + 1) for kernel in weights.values())
    assert min(BUDGET, every) - 21 < record["extension_numbers"] <= BUDGET


def test_a_model_of_ones_own_and_the_name_of_a_method(tmp_path, capfd):
    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["c"]

    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(64, 16)) / 8, "c": rng.normal(size=(16, 10)) / 4}
    x, y = FEW.x_train.reshape(-1, 64), FEW.y_train
    result = dp.fit(
        apply, jax.tree.map(np.float32, params), train=(x, y), test=(x, y), config=ADAPT,
        extension=methods.TraDy(budget=170, head="params/c"),
    )  # fmt: skip
    moved = (np.asarray(result.variables["params"]["a"]) != np.float32(params["a"])).any(1)
    assert 10 <= moved.sum() <= 40
    flags = [
        "--config=configs/digits.py", "--config.method=dense", "--config.model.hidden=(20, 12)",
        "--config.extension=trady(budget=400)",
    ]  # fmt: skip
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    assert here(capfd, train.main, *flags, "--config.epochs=3", f"--workdir={whole}")[0] == 0
    for epochs in (1, 3):
        more = (f"--config.epochs={epochs}", f"--workdir={workdir}")
        code, _, said = here(capfd, train.main, *flags, *more)
        assert code == 0, said
    assert timeless(workdir) == timeless(whole)


@pytest.mark.parametrize(
    "text, said",
    [
        ("trady(budget=1)", "a budget of 1 numbers trains no row"),
        ("trady(budget=400, layers=('params/none/kernel',))", "no kernel 'params/none/kernel'"),
        ("trady(budget=400, head='params/none')", "nothing lies below the head 'params/none'"),
        (
            "trady(budgets=400)",
            "has no option 'budgets'; it has: head, bits, ",
        ),
        ("trad(budget=400)", "there is no extension 'trad'; allowed: full, "),
        ("trady(budget=-1)", "budget is -1; allowed: numbers, 0 or more"),
        ("trady(budget=400, every=0.5)", "every is 0.5; allowed: whole epochs"),
        ("sparse_update", "the policy updates convolution 49 and the network has 0"),
        ("sparse_update(policy='1kb')", "there is no policy '1kb' of 'mbv2-w0.35'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")


def test_methods_are_extensions_that_share_programs():
    assert hash(methods.TraDy(budget=5)) == hash(methods.TraDy(budget=5))
    assert methods.TraDy(budget=5) != methods.MeDyate(budget=5)
    with pytest.raises(UserError, match="layers is 'params'; allowed: a tuple"):
        methods.TraDy(budget=5, layers="params")
