"""Velocity on the engine: output channels by their equations, in NumPy; what is at rest keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapting import ADAPT, KERNELS, chosen, kernels, start
from command_lines import fails
from small_runs import copy

from dynhp_jax.finetune import drawing, methods
from dynhp_jax.finetune.output_channels import output_costs
from dynhp_jax.training import config
from dynhp_jax.training.run import loop, resume
from experiments import train

SGD = dataclasses.replace(ADAPT, optimizer=config.Optimizer(name="sgd", learning_rate=0.2))
PRICES = {KERNELS[0]: 65, KERNELS[1]: 21}  # with the bias


def outputs(params, x):
    found = {}
    for path in KERNELS:
        layer = params[path.split("/")[1]]
        found[path] = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = np.maximum(found[path], 0)
    return found


def cosines(old, new, x):
    """Of single numbers: 1 where both have the same sign or are zero, -1 or 0 elsewhere."""
    pairs = zip(outputs(old, x).items(), outputs(new, x).values(), strict=True)
    return {path: np.mean(np.where(a == b, 1, np.sign(a * b)), 0) for (path, a), b in pairs}


def rows_of(run):
    counts = {path: each.layout.count for path, each in run.state.own["rows"].items()}
    found = {path: index[index < counts[path]] for path, index in chosen(run).items()}
    return {path: found.get(path, np.zeros(0, int)) for path in KERNELS}


@pytest.mark.parametrize("budget", [0, 500])
def test_channels_are_those_of_the_equations(budget, tmp_path):
    """Of the rule that the threshold's authors print and that of their program; resumed, too."""
    rule = "paper" if budget else "code"
    method = methods.Velocity(budget=budget, rule=rule, threshold=0.02)
    trainer, run = start(method, SGD)
    seen = trainer.judged_on.first(len(trainer.judged_on) // 32 * 32)
    phi, change, speed = (dict.fromkeys(KERNELS, value) for value in (1.0, 0.0, 0.0))
    _, before = kernels(run)
    for epoch in (1, 2, 3):
        if epoch == 3:
            resume.save(trainer, run, tmp_path)
        run, record = loop.advance(trainer, run)
        found, (_, after) = rows_of(run), kernels(run)
        if epoch > 1:
            if budget:
                masks = drawing.fastest_within(speed, PRICES, budget)
            else:
                masks = {path: np.abs(speed[path]) > 0.02 for path in KERNELS}
            for path in KERNELS:
                np.testing.assert_array_equal(found[path], np.flatnonzero(masks[path]))
        elif not budget:
            assert [len(found[path]) for path in KERNELS] == [20, 12]
        spent = sum(len(found[path]) * PRICES[path] for path in KERNELS)
        assert record["extension_numbers"] == spent and (not budget or 0 < spent <= budget)
        for path in KERNELS:
            name = path.split("/")[1]
            others = np.setdiff1d(np.arange(len(after[name]["bias"])), found[path])
            for leaf in ("kernel", "bias"):
                old, new = before[name][leaf][..., others], after[name][leaf][..., others]
                np.testing.assert_array_equal(old, new)
                there = after[name][leaf] != before[name][leaf]
                assert there[..., found[path]].mean() > 0.2 or not len(found[path])
        now = cosines(before, after, seen.inputs)
        for path in KERNELS:
            last, change[path] = change[path], now[path] - phi[path]
            if rule == "paper":
                speed[path] = change[path] - 0.5 * speed[path]
            else:
                speed[path] = change[path] - last + 0.5 * speed[path]
        phi, before = now, after
    other = resume.run_of(trainer, resume.newest(trainer, tmp_path))
    other, _ = loop.advance(trainer, other)
    jax.tree.map(np.testing.assert_array_equal, copy(other.state), copy(run.state))
    if not budget:
        assert sum(map(len, found.values())) < 32  # some are at rest


def test_costs_of_output_channels():
    """Of its group alone in a grouped convolution; attention's heads; not in loops."""

    def apply(params, x):
        form, same = ("NHWC", "HWIO", "NHWC"), {"window_strides": (1, 1), "padding": "SAME"}
        conv = jax.lax.conv_general_dilated
        x = conv(x, params["plain"], dimension_numbers=form, **same)
        x = conv(x, params["depthwise"], dimension_numbers=form, feature_group_count=6, **same)
        x = jnp.einsum("nhwc,cab->nab", x, params["heads"])
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, params["stacked"])
        return x

    shapes = {"plain": (3, 3, 4, 6), "depthwise": (3, 3, 1, 6), "heads": (6, 2, 5)}
    params = {name: np.ones(shape) for name, shape in shapes.items()}
    params["stacked"] = np.ones((3, 5, 5))
    costs = output_costs(apply, params, np.ones((2, 8, 8, 4)))
    found = {path: (cost.channels, cost.weight) for path, cost in costs.items()}
    assert found == {"plain": (6, 36), "depthwise": (6, 9), "heads": (10, 6)}


@pytest.mark.parametrize(
    "text, said",
    [
        ("velocity(rule='text')", "rule is 'text'; allowed: 'paper' or 'code'"),
        ("velocity(mu=2)", "mu is 2; allowed: a number from 0 to 1"),
        ("velocity(budget=10)", "a budget of 10 numbers trains no row of these 2 layers"),
        ("velocity(layers=('params/none',))", "no output channels of 'params/none' can be chosen"),
        ("velocity(compress='asi')", "velocity needs whole inputs"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")
