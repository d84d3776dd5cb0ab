"""Baselines on the engine: what they train and store, and that nothing else moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapting import ADAPT, FEW, check_resumed, start
from command_lines import fails
from foreign import cases
from small_runs import copy

import dynhp_jax as dp
from dynhp_jax.finetune import methods
from dynhp_jax.finetune.methods.lora import FACTORS
from dynhp_jax.surgery.cut import cut
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop, shape_plans
from dynhp_jax.training.run.trainer import Trainer
from experiments import train

PROGRAMS = Programs()
WHOLE = build.network_of(ADAPT, FEW)
HEAD = {("output", "kernel"), ("output", "bias")}
HIDDEN = {(f"hidden_{k}", name) for k in (1, 2) for name in ("kernel", "bias")}
ALL = {  # and the leaves that they change
    "full": (methods.Full(), HEAD | HIDDEN),
    "kernels": (
        methods.Full(kernels_only=True),
        HEAD | {("hidden_1", "kernel"), ("hidden_2", "kernel")},
    ),
    "head": (methods.Head(), HEAD),
    "last_k": (methods.LastK(k=1), HEAD | {("hidden_2", "kernel"), ("hidden_2", "bias")}),
    "bias_only": (methods.BiasOnly(), HEAD | {("hidden_1", "bias"), ("hidden_2", "bias")}),
    "lora": (methods.LoRA(rank=2), HEAD),
}


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_trained_keeps_its_bits(name):
    """A step of SGD by the parts of the method alone."""
    method, expected = ALL[name]
    network = dataclasses.replace(WHOLE, unbound=method)
    parts = network.extension
    variables = network.model.init(jax.random.key(0))
    own = parts.start(variables, jax.random.key(1))
    forward = parts.forward(lambda variables, x: network.train(variables, x))

    @jax.jit
    def step(variables, own):
        def loss(trained):
            return network.task.loss(forward(variables, trained, own, x)[0], y).mean()

        trained = parts.trained(variables, own)
        change = jax.tree.map(lambda leaf: -0.5 * leaf, jax.grad(loss)(trained))
        return parts.updated(variables, own, trained, change)

    x, y = jnp.asarray(FEW.x_train[:64]).reshape(64, -1), jnp.asarray(FEW.y_train[:64])
    after, own_after = step(variables, own)
    before, after = copy(variables["params"]), copy(after["params"])
    moved = {
        (layer, leaf)
        for layer, leaves in before.items()
        for leaf, old in leaves.items()
        if not np.array_equal(old, after[layer][leaf])
    }
    assert moved == expected
    count = sum(before[layer][leaf].size for layer, leaf in expected)
    if name == "lora":
        count += 2 * (64 + 20 + 20 + 12)
        assert all(np.any(each.b) for each in own_after[FACTORS].values())
    assert parts.record(own_after) == {"parameters": count}


def test_a_run_goes_on_with_its_factors_bit_for_bit(tmp_path):
    check_resumed(ALL["lora"][0], tmp_path)


def test_nothing_is_stored_or_computed_for_what_is_frozen():
    """Bytes of the compiled step above those of the head alone: the temporaries, the optimizer."""
    wide = dataclasses.replace(
        ADAPT,
        model=config.Model(hidden=(512, 512)),
        memory=config.Memory("xla", "none", sp_batch=16),
    )
    bytes_of, flops = {}, {}
    for name in ("last_k", "lora", "head"):
        trainer = Trainer(wide, FEW, PROGRAMS, extension=ALL[name][0])
        bytes_of[name] = trainer.steps.training_bytes(trainer.whole, 16)
        program = trainer.steps.training_program(trainer.whole, 16)
        flops[name] = program.cost_analysis()["flops"]
    floor, kernel = bytes_of["head"], 512 * 512 * 4
    assert bytes_of["last_k"]["temporaries"] - floor["temporaries"] > kernel
    assert bytes_of["lora"]["temporaries"] - floor["temporaries"] < kernel / 8
    assert flops["head"] < flops["lora"] < flops["last_k"]
    moments = {name: parts["optimizer"] for name, parts in bytes_of.items()}
    of_head, of_factors = 513 * 10, 2 * (64 + 512 + 512 + 512)
    assert moments["head"] == pytest.approx(2 * 4 * of_head, abs=64)
    assert moments["lora"] == pytest.approx(2 * 4 * (of_head + of_factors), abs=64)


def net(params, x):
    """A convolution, one in steps of a loop, a depthwise one, and products of several axes."""
    form = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, w, **how: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, dimension_numbers=form, **how
    )
    x = jnp.tanh(conv(x, params["strided"], window_strides=(2, 2), padding=[(0, 1), (1, 0)]))
    x, _ = jax.lax.scan(
        lambda x, w: (jnp.tanh(conv(x, w, window_strides=(1, 1), padding="SAME")), None),
        x, params["stacked"],
    )  # fmt: skip
    x = jnp.tanh(
        conv(x, params["depthwise"], window_strides=(1, 1), padding="SAME", feature_group_count=6)
    )
    x = jnp.einsum("nhwc,cab->nabhw", x, params["dense"])
    x = jnp.tanh(jnp.einsum("bac,nabhw->nhwc", params["left"], x))
    return x.mean((1, 2)) @ params["heads"].reshape(5, 4)


SHAPES = {
    "strided": (3, 3, 3, 6), "stacked": (2, 3, 3, 6, 6), "depthwise": (3, 3, 1, 6),
    "dense": (6, 2, 4), "left": (4, 2, 5), "heads": (5, 2, 2),
}  # fmt: skip
# The oracle's own words: which axes A has, and which B (a rank comes last in A, first in B).
EQUATIONS = {
    "strided": "abcr,rd->abcd", "stacked": "sabcr,srd->sabcd", "depthwise": "abcr,rd->abcd",
    "dense": "cr,rab->cab", "left": "abr,rc->bac", "heads": "cr,rd->cd",
}  # fmt: skip


def lora_case(rank=2):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) / 3 for name, shape in SHAPES.items()}
    x = rng.normal(size=(4, 9, 9, 3))
    factors = dp.finetune.low_rank_factors(
        jax.random.key(0), net, params, x, paths=list(SHAPES), rank=rank
    )
    noise = iter(np.random.default_rng(1).normal(size=4000))
    factors = jax.tree.map(
        lambda leaf: np.array([next(noise) for _ in range(leaf.size)]).reshape(leaf.shape), factors
    )
    return params, x, factors


def oracle(params, factors, scale):
    """W + scale A B by NumPy, in float64."""
    found = {}
    for name, kernel in params.items():
        change = np.einsum(EQUATIONS[name], factors[name].a, factors[name].b)
        found[name] = kernel + scale * change.reshape(kernel.shape)
    return found


def test_low_rank_changes_are_those_of_the_kernels(x64):
    """Outputs and all gradients, against a model whose kernels are made of the factors."""
    params, x, factors = lora_case()
    adapted = dp.finetune.low_rank(net, 0.3)
    merged = oracle(params, factors, 0.3)
    found = dp.finetune.merge_low_rank(params, factors, 0.3)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], merged[name], rtol=0, atol=1e-12)
    weights = np.random.default_rng(2).normal(size=(4, 4))

    def of_factors(factors, x):
        return jnp.sum(weights * adapted(params, factors, x))

    def of_kernels(kernels, x):
        return jnp.sum(weights * net(kernels, x))

    value, (ours, to_x) = jax.value_and_grad(of_factors, (0, 1))(factors, x)
    expected, (whole, to_x_too) = jax.value_and_grad(of_kernels, (0, 1))(merged, x)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(to_x, to_x_too, rtol=0, atol=1e-12)
    for name, each in ours.items():
        left, right = EQUATIONS[name].split(",")
        right, out = right.split("->")
        change = np.asarray(whole[name])
        a, b = factors[name].a, factors[name].b
        made = np.einsum(EQUATIONS[name], a, b).shape
        change = 0.3 * change.reshape(made)
        np.testing.assert_allclose(
            each.a, np.einsum(f"{out},{right}->{left}", change, b), atol=1e-11
        )
        np.testing.assert_allclose(
            each.b, np.einsum(f"{out},{left}->{right}", change, a), atol=1e-11
        )


def test_low_rank_goes_with_other_transforms(x64):
    """Under rows of the same kernel, too: each has its own gradient."""
    params, x, factors = lora_case()
    costs = dp.finetune.channel_costs(net, params, x, prefix="")
    rows = dp.finetune.pad_rows({"strided": [0, 2]}, costs, {"strided": 3})
    probes = dp.finetune.zero_probes(params, rows)
    both = dp.finetune.low_rank(dp.finetune.selected(net, rows), 0.3)
    alone = dp.finetune.low_rank(net, 0.3)
    ours, of_rows = jax.grad(lambda f, p: both(params, f, rows, p, x).sum(), (0, 1))(
        factors, probes
    )
    expected = jax.grad(lambda f: alone(params, f, x).sum())(factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, expected)
    merged = oracle(params, factors, 0.3)
    whole = jax.grad(lambda p: net(p, x).sum())(merged)["strided"]
    np.testing.assert_allclose(of_rows["strided"][:, :, :2], whole[:, :, [0, 2]], atol=1e-12)
    assert not np.any(of_rows["strided"][:, :, 2])


@pytest.mark.parametrize("name", ["transformer", "scanned", "nnx_cnn", "plain_rotary"])
def test_low_rank_changes_in_models_of_others(x64, name):
    """Unmodified: Linen with attention, kernels stacked for a loop, NNX, plain functions."""
    apply, shapes, inputs = cases.CASES[name]()
    rng = np.random.default_rng(3)
    draw = lambda leaf: rng.normal(size=leaf.shape) / 4  # noqa: E731
    variables = jax.tree.map(draw, shapes)
    kernels = list(dp.finetune.channel_costs(apply, variables, *inputs, prefix=""))
    factors = dp.finetune.low_rank_factors(
        jax.random.key(0), apply, variables, *inputs, paths=kernels, rank=2
    )
    factors = jax.tree.map(draw, factors)
    found = jax.jit(dp.finetune.low_rank(apply, 0.5))(variables, factors, *inputs)
    merged = dp.finetune.merge_low_rank(variables, factors, 0.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        found, jax.jit(apply)(merged, *inputs),
    )  # fmt: skip
    assert len(kernels) >= 3


def test_lora_hands_over_merged_kernels_in_any_model():
    """The model by itself computes with them what was trained and evaluated."""
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(64, 16)) / 8, "c": rng.normal(size=(16, 10)) / 4}
    params = jax.tree.map(np.float32, params)

    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["c"]

    x, y = FEW.x_train.reshape(-1, 64), FEW.y_train
    method = methods.LoRA(rank=3, alpha=6.0)
    settings = dataclasses.replace(ADAPT, epochs=2)
    result = dp.fit(apply, params, train=(x, y), test=(x, y), config=settings, extension=method)
    change = np.asarray(result.variables["params"]["a"]) - params["a"]
    assert np.linalg.matrix_rank(change, 1e-6) == 3 and np.any(change)
    logits = result.apply(result.variables, x)
    np.testing.assert_allclose(logits, apply(result.variables["params"], x), atol=1e-6)
    right = float(np.mean(np.argmax(logits, -1) == y))
    assert 100 * (1 - right) == pytest.approx(result.records[-1]["test_error"], abs=0.4)


def test_pruned_units_take_their_parts_of_the_factors_with_them():
    """The merged kernels of the smaller network are the merged kernels, cut."""
    pruning = dataclasses.replace(ADAPT, method="hp")
    trainer, run = start(ALL["lora"][0], pruning, PROGRAMS)
    network, rng = run.network, np.random.default_rng(0)
    own = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), run.state.own
    )
    state = run.state._replace(own=own)
    keeps = {name: np.arange(1, group.size, 2) for name, group in network.groups.items()}
    whole = network.extension.evaluated(state.variables, state.own)
    expected = cut(whole, network.groups, keeps)
    smaller, left = shape_plans.resize(network, state, trainer.tx, keeps)
    found = smaller.extension.evaluated(left.variables, left.own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    assert [each.a.shape for each in left.own[FACTORS].values()] == [(32, 2), (10, 2)]


@pytest.mark.parametrize(
    "text, said",
    [
        ("last_k(k=3)", "k is 3 and the model has 2 kernels beside its head; allowed: from 0 to 2"),
        ("last_k(k=-1)", "k is -1; allowed: a number of layers, 0 or more"),
        (
            "bias_only(names=('beta',))",
            "no leaf is called 'beta', so there is no bias to train; the",
        ),
        ("bias_only(names='bias')", "names is 'bias'; allowed: a tuple"),
        ("head(head='params/none')", "nothing lies below the head 'params/none'"),
        ("lora(rank=0)", "rank is 0; allowed: a whole number, 1 or more"),
        ("lora(layers=('params/hidden_3/kernel',))", "there is no kernel 'params/hidden_3/kernel'"),
        ("lora(layers=('params/output/kernel',))", "is below the head, which is trained whole"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")


def test_a_mean_of_the_weights_has_the_mean_of_the_factors():
    settings = dataclasses.replace(ADAPT, optimizer=config.Optimizer(learning_rate=0.02, ema=1.0))
    trainer, run = start(methods.LoRA(rank=2), settings, PROGRAMS)
    kernel = copy(run.state.variables["params"]["hidden_1"]["kernel"])
    run, _ = loop.advance(trainer, run)
    path = "params/hidden_1/kernel"
    mean, last = (copy(each)[FACTORS][path] for each in (run.state.averages.own, run.state.own))
    assert (mean.a != last.a).mean() > 0.5 and np.abs(mean.b).max() > 0
    variables, *_, own = run.state.evaluated
    merged = run.network.extension.evaluated(variables, own)["params"]["hidden_1"]["kernel"]
    np.testing.assert_allclose(merged, kernel + mean.a @ mean.b, rtol=1e-5, atol=1e-6)
